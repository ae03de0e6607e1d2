"""A training's state on disk, so that a run that was stopped goes on where it was, to the same bits.

A checkpoint is a record (:mod:`lodo.experiments.records`): whole or absent, checksummed, no pickle. It states which
run it is of; one of another run, or one that is damaged, is never used.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lodo.experiments import fingerprint, records
from lodo.experiments.records import Record, RecordError

KIND = "checkpoint"


class OutOfTime(RuntimeError):
    """The time given is over. What was computed is saved: the same command goes on from there."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and when a training's state is kept.

    Attributes:
      path: the file, ending in ``.npz``.
      every: seconds between two saves, at least.
      until: ``time.monotonic()`` at which to save and stop with :class:`OutOfTime`; infinity: never.
    """

    path: Path
    every: float = 300.0
    until: float = math.inf

    def out_of_time(self) -> bool:
        """Whether the time given is over."""
        return time.monotonic() >= self.until

    def save(self, identity: Mapping[str, Any], carry: Any, progress: Mapping[str, Any]) -> None:
        """Keep a training's state.

        Args:
          identity: JSON values that say which run this is.
          carry: parameters and states, a pytree of arrays.
          progress: arrays of what was computed so far.
        """
        leaves = {f"carry.{i}": _bytes(leaf) for i, leaf in enumerate(jax.tree.leaves(carry))}
        record = Record(KIND, {**leaves, **progress}, {"identity": _stated(identity)}, {"preset": "none"})
        records.save(self.path, record, compress=False)

    def load(self, identity: Mapping[str, Any], template: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
        """The state kept for this very run: (carry, progress); None where there is none that can be trusted.

        Args:
          identity: as it was given to :meth:`save`.
          template: a carry of the same structure, shapes and types.
        """
        if not self.path.exists():
            return None
        try:
            record = records.load(self.path, KIND)
        except RecordError as error:
            self._refuse(f"it is unreadable ({error})")
            return None
        stored, wanted = record.values.get("identity") or {}, _stated(identity)
        if stored != wanted:
            names = sorted(name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name))
            self._refuse(f"it is of another run (other {', '.join(names)})")
            return None
        leaves, structure = jax.tree.flatten(template)
        carry = [_restored(record.arrays[f"carry.{i}"], leaf) for i, leaf in enumerate(leaves)]
        progress = {name: array for name, array in record.arrays.items() if not name.startswith("carry.")}
        return jax.tree.unflatten(structure, carry), progress

    def remove(self) -> None:
        """Forget the state: the run is done, and its result is kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _refuse(self, reason: str) -> None:
        warnings.warn(f"{self.path} is not used: {reason}. The run starts from its beginning.", stacklevel=3)


def _stated(identity: Mapping[str, Any]) -> dict[str, Any]:
    """With what decides the bits of a run beside its parameters: source, versions and device."""
    device = jax.devices()[0]
    surroundings = {
        "library": fingerprint.library(),
        "versions": {name: records.version_of(name) for name in ("jax", "jaxlib", "optax", "flax", "numpy")},
        "device": f"{device.platform}: {device.device_kind}",
        "x64": bool(jax.config.read("jax_enable_x64")),
    }
    return json.loads(json.dumps({**identity, **surroundings}))


def _bytes(leaf: Any) -> np.ndarray:
    """An array as bytes: types that NumPy's files do not know, such as bfloat16, are kept exactly too."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.frombuffer(np.ascontiguousarray(leaf).tobytes(), np.uint8)


def _restored(stored: np.ndarray, like: Any) -> Any:
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(like)
        return jax.random.wrap_key_data(_restored(stored, data), impl=jax.random.key_impl(like))
    return jax.numpy.asarray(np.frombuffer(stored.tobytes(), like.dtype).reshape(like.shape))
