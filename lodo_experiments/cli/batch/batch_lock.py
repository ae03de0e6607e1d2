"""One batch at a time in a results folder: who holds it, and how the next one gets it when the holder is dead."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
    path, started = state / "holder.lock", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = " ".join(["python -m lodo_experiments.cli.batch", *sys.argv[1:]])
    user = os.environ.get("USER") or os.environ.get("USERNAME", "unknown")
    who = f"The batch `{command}` (process {os.getpid()} of {user} on {platform.node()}, since {started})"
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.exclusive(path, {"pid": os.getpid(), "who": who}))
        except OutOfTime:
            other = (locks.note_of(path) or {}).get("who", "Another batch, which is just starting or ending,")
            raise Held(f"{other} holds {state}. Wait for it, stop it, or use another --results-dir.") from None
        yield
