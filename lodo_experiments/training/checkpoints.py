"""A training's state on disk, so that a run that was stopped goes on where it was, to the same bits.

A save is one record (:mod:`lodo_experiments.results.records`), which replaces the one before it whole or not at all,
states which run it is of, and has a checksum over every byte. One of another run, or one that is damaged, is named in a
warning and not used.
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

from lodo_experiments.results import records
from lodo_experiments.utils import atomic_files, environment
from lodo_experiments.utils.lodo_kernel import lodo_kernel
from lodo_experiments.utils.time_limit import ending

KIND = "checkpoint"

#: How much of the time saving may take, as a fraction; a large state is saved less often.
SHARE = 0.02


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or of something else."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and when a training's state is kept."""

    path: Path  # a folder, in which the last save is ``state.npz``
    every: float = 60.0  # seconds between two saves, at least; 0: save whenever asked
    until: float = math.inf  # ``time.monotonic()`` at which to save and stop with ``OutOfTime``; infinity: never

    def out_of_time(self) -> bool:
        """Whether the time given is over, or the process was asked to end."""
        return ending.is_set() or time.monotonic() >= self.until

    def pause(self, took: float) -> float:
        """Seconds until the next save, after one that took so many.

        >>> Checkpoint(Path("state"), every=60.0).pause(0.1), Checkpoint(Path("state"), every=60.0).pause(3.0)
        (60.0, 150.0)
        """
        return max(self.every, took / SHARE) if self.every else 0.0

    def save(self, identity: Mapping[str, Any], step: int, carry: Any, progress: Mapping[str, Any]) -> None:
        """Keep a training's state in place of the one kept before.

        Raises:
          StorageError: it cannot be written; what was kept before is still there.
        """
        named: list[tuple[str | None, np.ndarray]] = [(None, _on_host(leaf)) for leaf in jax.tree.leaves(carry)]
        named += [(name, np.asarray(value)) for name, value in progress.items()]
        # As bytes: a record holds no bfloat16.
        arrays = {f"_{i}": np.ascontiguousarray(a).reshape(-1).view(np.uint8) for i, (_, a) in enumerate(named)}
        described = [[name, array.dtype.name, array.shape] for name, array in named]
        values = {"step": int(step), "identity": _with_surroundings(identity), "arrays": described}
        if self.path.is_file():
            self.path.unlink()
        records.save(self._file, records.Record(KIND, arrays, values), compress=False)
        atomic_files.remove_leftovers(self.path)

    def load(self, identity: Mapping[str, Any], template: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
        """The state kept for this very run: (carry, progress); None where there is none that can be trusted."""
        if not self.path.exists() or (self.path.is_dir() and not self._file.exists()):
            return None
        try:
            return _read(self._file, _with_surroundings(identity), template)
        except CheckpointError as error:
            warnings.warn(f"{self.path} is not used: {error}. The run starts from its beginning.", stacklevel=3)
            return None

    def remove(self) -> None:
        """Forget the state: the run is done, and its result is kept elsewhere."""
        atomic_files.remove(self.path)

    @property
    def _file(self) -> Path:
        return self.path / "state.npz"


def _read(path: Path, wanted: Mapping[str, Any], template: Any) -> tuple[Any, dict[str, np.ndarray]]:
    if not path.parent.is_dir():
        raise CheckpointError("it is no folder of checkpoints")
    try:
        record = records.load(path, KIND)
    except records.RecordError as error:
        raise CheckpointError("it is unreadable, or was changed after it was written") from error
    stored = record.values["identity"]
    if stored != wanted:
        names = sorted(name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name))
        raise CheckpointError(f"it is of another run (other {', '.join(names)})")
    carry, progress = [], {}
    for i, (name, dtype, shape) in enumerate(record.values["arrays"]):
        array = record.arrays[f"_{i}"].view(dtype).reshape(shape)
        if name is None:
            carry.append(array)
        else:
            progress[name] = array
    leaves, structure = jax.tree.flatten(template)
    if [(a.dtype, a.shape) for a in carry] != [(like.dtype, like.shape) for like in map(_on_host, leaves)]:
        raise CheckpointError("its arrays have other shapes or types than the run's")
    return jax.tree.unflatten(structure, map(_like, leaves, carry)), progress


def _with_surroundings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """With what decides the bits of a run beside its parameters: source, versions and device."""
    return json.loads(json.dumps({**identity, **surroundings()}))


def surroundings() -> dict[str, Any]:
    """What decides the bits of a run beside its parameters: source, versions and device, as JSON values."""
    device = jax.devices()[0]
    return {
        "library": environment.library(),
        "versions": {name: records.version_of(name) for name in ("jax", "jaxlib", "optax", "flax", "numpy")},
        "device": f"{device.platform}: {device.device_kind}",
        "x64": bool(jax.config.read("jax_enable_x64")),
        "kernel": lodo_kernel(),
    }


def _on_host(leaf: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _like(like: Any, stored: np.ndarray) -> Any:
    """A stored array as one that stands where another stood: a key as a key, a sharded one on the same devices."""
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_like(jax.random.key_data(like), stored), impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array) and len(like.sharding.device_set) > 1:
        return jax.device_put(stored, like.sharding)
    return jax.numpy.asarray(stored)
