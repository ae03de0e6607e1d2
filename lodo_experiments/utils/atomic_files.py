"""Files that are written whole or not at all, and what dead writers have left of theirs.

Written here for the second half: a partial file says in its name who writes it, so that others know when to remove it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Seconds after which a partial file counts as left behind where nobody can ask its writer.
FORGOTTEN = 7 * 24 * 3600.0

# Partial files and folders that this process is writing now.
_own: set[str] = set()


@contextmanager
def open_atomically(target: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place only when all of it is on the disk.

    Until then it has a name of its own beside the target, so that two writers do not meet; after a failure nothing of
    it is left, and what stood at the target before stands there still.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open_atomically(Path(folder, "a", "b.txt")) as file:
    ...         _ = file.write(b"all of it")
    ...     Path(folder, "a", "b.txt").read_bytes()
    b'all of it'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(target) as path:
        with open(path, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, target)
        fsync_folder(target.parent)


@contextmanager
def temporary_path(target: Path) -> Iterator[Path]:
    """A name beside the target that no other writer has; what is still there under it at the end is removed."""
    path = target.with_name(f".{target.name}.{process_space()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    _own.add(path.name)
    try:
        yield path
    finally:
        remove(path)
        _own.discard(path.name)


def fsync_folder(folder: Path) -> None:
    """Asks the disk to keep the names in a folder; a system that cannot do that for folders is let off."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "") -> list[Path]:
    """Removes what writers that are dead have left half written.

    A partial file says in its name who writes it. One of a process on this machine is removed if that process is no
    more; one from another machine, which cannot be asked, after a week, and so on Windows.

    Args:
      folder: where to look, not deeper.
      name: of what the parts are, e.g. "LODO.npz"; empty: anything.
    """
    pattern = re.compile(rf"\.({re.escape(name) if name else '.+'})\.([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}\.partial.*")
    found = []
    for path in folder.glob(".*.partial*"):
        match = pattern.fullmatch(path.name)
        if match is None or _writing(path, match[2], int(match[3])):
            continue
        remove(path)
        found.append(path)
    return found


@functools.cache
def process_space() -> str:
    """Eight hexadecimal digits for where process numbers mean something: this machine, since it was started."""
    parts = [platform.node()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read())
        except OSError:  # not Linux
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def alive(process: int) -> bool:
    """Whether there is a process of that number on this machine, which must not be Windows: a signal ends it there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def _writing(path: Path, where: str, process: int) -> bool:
    if path.name in _own:
        return True
    if where == process_space() and sys.platform != "win32":
        # A number comes back, in a container nearly always: of one's own one knows what one writes.
        return process != os.getpid() and alive(process)
    try:
        return time.time() - path.stat().st_mtime < FORGOTTEN
    except OSError:
        return True


def remove(path: Path) -> None:
    """Removes a file or a folder with all in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
