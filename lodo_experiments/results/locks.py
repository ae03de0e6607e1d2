"""One writer at a time for a result: filelock's lock, and beside it a note that says who holds it.

The system drops a lock when its holder ends, however it ends, so nobody waits for the dead.

A lock saves work, and no more than that: writers have partial names of their own and publish by one rename, so
where a file system has no locks, or does not carry them from one machine to another, two writers of one result both
compute it, and the same bits are published twice.
"""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from lodo_experiments.results.records import StorageError
from lodo_experiments.utils import atomic_files
from lodo_experiments.utils.time_limit import OutOfTime, ending

_POLL = 0.1  # seconds between two looks at a lock
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def hold(target: Path, *, until: float = math.inf) -> Iterator[None]:
    """Hold the lock on a result while making it; wait while another process holds it.

    Who had to wait finds the result made, most often: look again once inside. On entering, what dead writers have left
    of the result half written is removed. A message on standard error says for whom one waits, or who died.

    Args:
      target: the result, e.g. ``results/smoke/noisy_bowl/LODO.npz``.
      until: ``time.monotonic()`` at which to stop waiting; infinity: never.

    Raises:
      OutOfTime: the time was over before the lock was free.
      StorageError: nothing can be written there, so there is no use in computing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold(Path(folder, "a.npz")):
    ...     read_holder(Path(folder, "a.npz"))["process"] == os.getpid()
    True
    """
    path = lock_of(target)

    def tell(note: Mapping[str, Any]) -> None:
        print(
            f"{_name_of(note)} is making {target}; waiting for it, to use what it makes.", file=sys.stderr, flush=True
        )

    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"process": os.getpid(), "host": platform.node(), "place": atomic_files.process_space(), "since": since}
    with ExitStack() as stack:
        try:
            before = stack.enter_context(exclusive(path, about, until=until, waiting=tell))
        except OutOfTime:
            raise OutOfTime(f"{target} is being made by another process, and the time given is over.") from None
        except OSError as error:
            raise StorageError.of(target, error) from error
        if before is not None:
            who = _name_of(before)
            print(f"{who}, which was making {target}, is no more; going on from what it kept.", file=sys.stderr)
        for folder, name in ((target.parent, target.name), (path.parent, "")):
            atomic_files.remove_leftovers(folder, name)
        yield


def remove_if_unused(target: Path, remove: Callable[[], None]) -> None:
    """Removes what was kept on the way to a result that is there, unless somebody is at it, or it may not be done."""
    try:
        with hold(target, until=-math.inf):
            remove()
    except (OutOfTime, StorageError):
        pass


def lock_of(target: Path) -> Path:
    """The file on which a result's lock is held."""
    return target.parent / ".partial" / f"{target.stem}.lock"


def read_holder(target: Path) -> Mapping[str, Any]:
    """What the holder of a result's lock has said of itself; empty where there is none, or nothing to be read."""
    return note_of(lock_of(target)) or {}


@contextmanager
def exclusive(
    path: Path,
    about: Mapping[str, Any],
    *,
    until: float = -math.inf,
    waiting: Callable[[Mapping[str, Any]], None] = lambda note: None,
) -> Iterator[Mapping[str, Any] | None]:
    """Hold the lock on a file; yields what a holder that died had said of itself, None where none did.

    Args:
      path: the file; it is there as long as the lock is held, and its folder is made.
      about: JSON values that the others can read by :func:`note_of`.
      until: ``time.monotonic()`` at which to stop waiting.
      waiting: called once with the holder's note, before the first wait.

    Raises:
      OutOfTime: another held it for that long.
      OSError: nothing can be written there.
    """
    lock, note = filelock.FileLock(path), path.with_suffix(".note")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _acquire(lock, 0.0):
        if until > 0:
            waiting(note_of(path) or {})
        if not _acquire(lock, -1.0 if until == math.inf else max(0.0, until - time.monotonic())):
            raise OutOfTime(f"{path} is locked by another process, and the time given is over.")
    try:
        before = note_of(path)
        note.write_text(json.dumps(about), encoding="utf-8")
        yield before
    finally:
        # Removed while it is still held: filelock sees that the file has lost its name, and makes another.
        for left in (note, path):
            with suppress(OSError):  # Windows removes no file that is open
                left.unlink(missing_ok=True)
        lock.release()


def note_of(path: Path) -> Mapping[str, Any] | None:
    """What the holder of the lock on a file has said of itself, empty where it is unreadable; None without a note."""
    try:
        found = json.loads(path.with_suffix(".note").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _acquire(lock: filelock.BaseFileLock, seconds: float) -> bool:
    """Waits so long for the lock, at -1 without end; whether it is held then. Without locks, true with a warning."""
    free, why = True, ""
    try:
        lock.acquire(timeout=seconds, poll_interval=_POLL, cancel_check=ending.is_set)
    except filelock.Timeout:
        free = False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        why = str(error.strerror)
    if isinstance(lock, filelock.SoftFileLock):  # filelock's own way out, files that stay when their holder is killed
        why = "none that end with their holder"
    if not why:
        return free
    warnings.warn(
        f"The file system of {Path(lock.lock_file).parent} has no locks ({why}). Two processes that make one result "
        "would both compute it; the result is the same.",
        stacklevel=5,
    )
    return True


def _name_of(note: Mapping[str, Any]) -> str:
    try:
        where = "" if note["place"] == atomic_files.process_space() else f" on {note['host']}"
        return f"Process {note['process']}{where} (since {note['since']})"
    except KeyError:
        return "Another process"
