"""One writer at a time for a result: a lock that ends with the process that holds it.

The lock is the system's (:mod:`lodo_experiments.utils.file_locks`) on a small file beside the result, so a holder that
is killed keeps nothing, and neither does a machine that is switched off. The file says who holds it, for the message to
those who wait.

A lock saves work, and no more than that: writers have partial names of their own and publish by one rename, so
where a file system has no locks, or does not carry them from one machine to another, two writers of one result both
compute it, and the same bits are published twice.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lodo_experiments.results.records import StorageError
from lodo_experiments.utils import atomic_files, file_locks
from lodo_experiments.utils.time_limit import OutOfTime, ending

_POLL = (0.05, 1.0)  # seconds between two looks at a lock: at first, and at most


@contextmanager
def held(target: Path, *, until: float = math.inf) -> Iterator[None]:
    """Be the one who makes a result; wait while another does.

    Who had to wait finds the result made, most often: look again once inside. On entering, what dead writers have left
    of the result half written is removed. A message on standard error says for whom one waits, or who died.

    Args:
      target: the result, e.g. ``results/smoke/noisy_bowl/LODO.npz``.
      until: ``time.monotonic()`` at which to stop waiting; infinity: never.

    Raises:
      OutOfTime: the time was over before the lock was free.
      StorageError: nothing can be written there, so there is no use in computing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, held(Path(folder, "a.npz")):
    ...     holder(Path(folder, "a.npz"))["process"] == os.getpid()
    True
    """
    path = lock_of(target)
    descriptor = _acquired(path, target, until)
    try:
        for folder, name in ((target.parent, target.name), (path.parent, "")):
            atomic_files.swept(folder, name)
        yield
    finally:
        # Removed while it is still held: who waits for it sees that, and makes another.
        try:
            path.unlink(missing_ok=True)
        except OSError:  # Windows removes no file that is open: it says at least that nobody is at it
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        os.close(descriptor)


def tidied(target: Path, remove: Callable[[], None]) -> None:
    """Removes what was kept on the way to a result that is there, unless somebody is at it, or it may not be done."""
    try:
        with held(target, until=-math.inf):
            remove()
    except (OutOfTime, StorageError):
        pass


def lock_of(target: Path) -> Path:
    """The file on which a result's lock is held."""
    return target.parent / ".partial" / f"{target.stem}.lock"


def holder(target: Path) -> dict[str, Any]:
    """What the holder of a result's lock has said of itself; empty where there is none, or nothing to be read."""
    try:
        stated = json.loads(lock_of(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _acquired(path: Path, target: Path, until: float) -> int:
    told, pause = False, _POLL[0]
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StorageError.of(target, error) from error
        try:
            if _locked(descriptor, path):
                _claim(descriptor, target)
                return descriptor
            if until > 0:
                told = told or _tell_wait(target)
            if ending.is_set() or time.monotonic() >= until:
                raise OutOfTime(f"{target} is being made by another process, and the time given is over.")
        except OSError as error:
            os.close(descriptor)
            raise StorageError.of(target, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(max(0.0, min(pause, until - time.monotonic())))
        pause = min(2 * pause, _POLL[1])


def _locked(descriptor: int, path: Path) -> bool:
    """Whether the lock was free and now is ours, on the file that still has the name."""
    try:
        if not file_locks.taken(descriptor):
            return False
    except OSError as error:
        if error.errno not in file_locks.UNSUPPORTED:
            raise
        warnings.warn(
            f"The file system of {path.parent} has no locks ({error.strerror}). Two processes that make one result "
            "would both compute it; the result is the same.",
            stacklevel=5,
        )
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _claim(descriptor: int, target: Path) -> None:
    before = os.read(descriptor, 4096)
    if before:
        print(f"{_named(before)}, which was making {target}, is no more; going on from what it kept.", file=sys.stderr)
    stated = {
        "process": os.getpid(),
        "host": platform.node(),
        "place": atomic_files.place(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(stated).encode())


def _tell_wait(target: Path) -> bool:
    who = _named(json.dumps(holder(target)).encode())
    print(f"{who} is making {target}; waiting for it, to use what it makes.", file=sys.stderr, flush=True)
    return True


def _named(stated: bytes) -> str:
    try:
        known = json.loads(stated)
        where = "" if known["place"] == atomic_files.place() else f" on {known['host']}"
        return f"Process {known['process']}{where} (since {known['since']})"
    except (ValueError, KeyError, TypeError):
        return "Another process"
