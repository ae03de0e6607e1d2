"""Locks on open files that the system drops when their holder ends: POSIX's ``flock``, or that of Windows."""

from __future__ import annotations

import errno
import os

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # not Windows
    msvcrt = None  # type: ignore[assignment]

#: Of a lock that another holds, and of a system or file system that has none.
_HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

# On Windows nobody else can read the bytes that are locked: one far behind what any holder says of itself.
_FAR = 2**30


def taken(descriptor: int) -> bool:
    """Takes the lock on an open file at once; false where another holds it.

    Closing the file frees the lock, and so does the end of the process, however it ends.

    Args:
      descriptor: of a file that is open for reading and writing.

    Raises:
      OSError: one of ``UNSUPPORTED`` where there are no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            raise OSError(errno.ENOSYS, "this system's Python has neither fcntl nor msvcrt")
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True
