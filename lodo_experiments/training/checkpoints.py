"""A training's state on disk, so that a run that was stopped goes on where it was, to the same bits.

orbax writes and reads the arrays. Around it stands what a run needs to trust them: each save is a folder of its own
that appears whole or not at all, states which run it is of, and has a SHA-256 of every array and of its own manifest.
One of another run, or one that is damaged, is named in a warning and not used.

orbax is loaded at the first save, and not before: a run that is over sooner never needs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from lodo_experiments.results import records
from lodo_experiments.utils import atomic_files, environment, log_filters
from lodo_experiments.utils.time_limit import ending

FORMAT, VERSION = "lodo-checkpoint", 1

#: How much of the time saving may take, as a fraction; a large state is saved less often.
SHARE = 0.02


_T = TypeVar("_T")


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or of something else."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and when a training's state is kept.

    Attributes:
      path: a folder; each save is one in it, ``<step>-<8 digits>``, and the last one stays.
      every: seconds between two saves, at least; 0: save whenever asked.
      until: ``time.monotonic()`` at which to save and stop with ``OutOfTime``; infinity: never.
    """

    path: Path
    every: float = 60.0
    until: float = math.inf

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
        """Keep a training's state; those kept before are removed once it is there.

        Args:
          identity: JSON values that say which run this is.
          step: updates made so far.
          carry: parameters and states, a pytree of arrays.
          progress: arrays of what was computed so far.

        Raises:
          StorageError: it cannot be written; what was kept before is still there.
        """
        leaves = {str(i): _on_host(leaf) for i, leaf in enumerate(jax.tree.leaves(carry))}
        arrays = {"carry": leaves, "progress": {name: np.asarray(value) for name, value in progress.items()}}
        manifest = {"format": FORMAT, "version": VERSION, "step": int(step), "identity": _stated(identity)}
        manifest["arrays"] = {group: {n: _described(a) for n, a in named.items()} for group, named in arrays.items()}
        manifest["sha256"] = _digest(manifest)
        target = self.path / f"{step:012d}-{uuid.uuid4().hex[:8]}"
        try:
            if self.path.exists() and not self.path.is_dir():
                self.path.unlink()
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_files.partial(target) as partial:
                _apart(lambda: _write(partial, arrays, manifest))
                _sync_all(partial)
                os.rename(partial, target)
            atomic_files.synced(self.path)
        except OSError as error:
            raise records.StorageError.of(target, error) from error
        except Exception as error:  # orbax tells of a full disk by errors of other kinds
            # tensorstore's own code for a full disk is also that of too many open files: the system's number decides.
            if found := re.search(r"os_error_code='(\d+)'", str(error)):
                number = int(found[1])
                raise records.StorageError.of(target, OSError(number, os.strerror(number))) from error
            raise records.StorageError(f"{target} cannot be written: {error}") from error
        for path in self.path.iterdir():
            if path != target and not path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
        atomic_files.swept(self.path)

    def load(self, identity: Mapping[str, Any], template: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
        """The state kept for this very run: (carry, progress); None where there is none that can be trusted.

        Args:
          identity: as it was given to :meth:`save`.
          template: a carry of the same structure, shapes and types.
        """
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            _refuse(self.path, "it is no folder of checkpoints", True)
            return None
        kept = sorted((path for path in self.path.iterdir() if not path.name.startswith(".")), reverse=True)
        for index, path in enumerate(kept):
            try:
                return _read(path, _stated(identity), template)
            except CheckpointError as error:
                _refuse(path, str(error), index == len(kept) - 1)
        return None

    def remove(self) -> None:
        """Forget the state: the run is done, and its result is kept elsewhere."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def _refuse(path: Path, reason: str, last: bool) -> None:
    then = "The run starts from its beginning." if last else "One that is older is tried."
    warnings.warn(f"{path} is not used: {reason}. {then}", stacklevel=4)


def _apart(work: Callable[[], _T]) -> _T:
    """Does something in a thread of its own: orbax runs an event loop, and in a notebook this thread has one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _write(folder: Path, arrays: Mapping[str, Mapping[str, np.ndarray]], manifest: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp

    # orbax takes no empty arrays; the manifest says enough of them.
    state = {group: {name: a for name, a in named.items() if a.size} for group, named in arrays.items()}
    # orbax logs a traceback of what it raises as well, and leaves others behind: who saves says it in a sentence.
    log_filters.closed_loops()
    with log_filters.absl_from(logging.CRITICAL):
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                parts = ocp.args.Composite(state=ocp.args.PyTreeSave(state), manifest=ocp.args.JsonSave(dict(manifest)))
                checkpointer.save(folder.resolve(), args=parts)
        except Exception:  # of any kind, and raised again below
            # Where one part fails, orbax's threads still write the others, into a folder that is about to go.
            for thread in threading.enumerate():
                if type(thread).__module__.startswith("orbax."):
                    threading.Thread.join(thread, timeout=60)  # its own would raise what it raised
            raise


def _read(path: Path, wanted: Mapping[str, Any], template: Any) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        manifest, arrays = _apart(lambda: _restored(path))
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged file makes orbax raise is of any kind
        raise CheckpointError(f"it is unreadable ({type(error).__name__}: {str(error)[:200]})") from error
    stored = manifest["identity"]
    if stored != wanted:
        names = sorted(name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name))
        raise CheckpointError(f"it is of another run (other {', '.join(names)})")
    leaves, structure = jax.tree.flatten(template)
    carry = arrays["carry"]
    shapes = [(carry[name].dtype, carry[name].shape) for name in sorted(carry, key=int)]
    if shapes != [(like.dtype, like.shape) for like in map(_on_host, leaves)]:
        raise CheckpointError("its arrays have other shapes or types than the run's")
    return jax.tree.unflatten(structure, [_like(leaf, carry[str(i)]) for i, leaf in enumerate(leaves)]), arrays[
        "progress"
    ]


def _restored(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """A checkpoint's manifest and arrays, every byte of them checked."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(path.resolve(), args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))
        manifest = found["manifest"]
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise CheckpointError("it is no checkpoint of this version of this project")
        if _digest(manifest) != manifest["sha256"]:
            raise CheckpointError("it is unreadable (its manifest was changed after it was written)")
        described = manifest["arrays"]
        whole = {group: {n for n, d in named.items() if math.prod(d["shape"])} for group, named in described.items()}
        kinds = {group: {n: ocp.RestoreArgs(restore_type=np.ndarray) for n in names} for group, names in whole.items()}
        parts = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=kinds))
        state = checkpointer.restore(path.resolve(), args=parts)["state"]
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for group, named in described.items():
        arrays[group] = {}
        for name, stated in named.items():
            empty = np.zeros(stated["shape"], stated["dtype"])
            array = np.asarray(state[group][name]) if name in whole[group] else empty
            if _described(array) != stated:
                raise CheckpointError(f"it is unreadable (the checksum of {group} {name} does not match)")
            arrays[group][name] = array
    return manifest, arrays


def _stated(identity: Mapping[str, Any]) -> dict[str, Any]:
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
    }


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _described(array: np.ndarray) -> dict[str, Any]:
    sha = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": sha}


def _sync_all(folder: Path) -> None:
    """Asks the disk to keep all of a folder: orbax syncs the arrays, not what stands beside them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            atomic_files.synced(path)
    atomic_files.synced(folder)


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
