"""Runs a command that ends when the process that started it ends, however that ends.

``python leash.py PARENT COMMAND…``: a file by itself, run by its path, so that nothing is imported for it. On Linux
the kernel kills the command when its parent, of process id PARENT, is gone; elsewhere the command runs as it is, and
what it does after its parent's end is wasted and does no harm.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def with_parent(command: Sequence[str]) -> list[str]:
    """The command that runs ``command`` on a leash held by the process that calls this.

    >>> with_parent(["echo", "done"])[-2:]
    ['echo', 'done']
    """
    if sys.platform == "win32":  # no process can become another one there
        return list(command)
    return [sys.executable, "-S", "-E", os.path.abspath(__file__), str(os.getpid()), *command]


def main() -> None:
    """Puts this process on the leash, and becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the leash was on
            sys.exit(128 + signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
