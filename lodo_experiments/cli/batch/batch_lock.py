"""One batch at a time in a results folder: who holds it, and how the next one gets it when the holder is dead."""

from __future__ import annotations

import datetime
import getpass
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lodo_experiments.results import locks
from lodo_experiments.utils.time_limit import OutOfTime


class Held(RuntimeError):
    """Another batch that is alive holds the folder."""


@contextmanager
def acquire(state: Path) -> Iterator[None]:
    """Hold a batch's folder; the system lets go of it when this process ends, however it ends.

    Raises:
      Held: another process holds it; the message says which one.
      OSError: the folder cannot be written to.
    """
    path = state / "holder.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.exclusive(path, _this_process()))
        except OutOfTime:
            who = _describe(locks.note_of(path) or {})
            raise Held(f"{who} holds {state}. Wait for it, stop it, or use another --results-dir.") from None
        yield


def _this_process() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # the first where there is no `pwd`
        user = "unknown"
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = " ".join(["python -m lodo_experiments.cli.batch", *sys.argv[1:]])
    return {"pid": os.getpid(), "host": platform.node(), "user": user, "since": started, "command": command}


def _describe(note: Mapping[str, Any]) -> str:
    try:
        return (
            f"The batch `{note['command']}` (process {note['pid']} of {note['user']} on {note['host']}, "
            f"since {note['since']})"
        )
    except KeyError:
        return "Another batch, which is just starting or ending,"
