"""One batch at a time in a results folder: who holds it, and how the next one gets it when the holder is dead."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import platform
import signal
import subprocess
import sys
import time
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
    """Holds a batch's folder; the system lets go of it when this process ends, however it ends.

    Args:
      state: the batch's folder.

    Raises:
      Held: another process holds it; the message says which one.
      OSError: the folder cannot be written to.
    """
    path = state / "holder.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.exclusive(path, _this_process()))
        except OutOfTime:
            who = _described(locks.note_of(path) or {})
            raise Held(f"{who} holds {state}. Wait for it, stop it, or use another --results-dir.") from None
        yield


def record_engine(state: Path, process: subprocess.Popen[Any]) -> None:
    """Notes the engine's process, for a later batch that finds it orphaned."""
    found = {"pid": process.pid, "host": platform.node(), "born": _born(process.pid)}
    (state / "engine.json").write_text(json.dumps(found), encoding="utf-8")


def end_orphan(state: Path, grace: float = 10.0) -> str:
    """Ends the engine that a killed batch has left behind, if it is still there. To be called by the folder's holder.

    Returns:
      What was done, for people; empty where there was nothing to do.
    """
    path = state / "engine.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pid, born = int(found["pid"]), found["born"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    path.unlink(missing_ok=True)
    if found.get("host") != platform.node() or not born or _born(pid) != born:
        return ""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + grace
        while _born(pid) == born and time.monotonic() < until:
            time.sleep(0.1)
    return f"ended the Snakemake (process {pid}) that a killed batch had left behind"


def _this_process() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # the first where there is no `pwd`
        user = "unknown"
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = " ".join(["python -m lodo_experiments.cli.batch", *sys.argv[1:]])
    return {"pid": os.getpid(), "host": platform.node(), "user": user, "since": started, "command": command}


def _described(note: Mapping[str, Any]) -> str:
    try:
        return (
            f"The batch `{note['command']}` (process {note['pid']} of {note['user']} on {note['host']}, "
            f"since {note['since']})"
        )
    except KeyError:
        return "Another batch, which is just starting or ending,"


def _born(pid: int) -> str:
    """When a process was started, in whatever unit the system has; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = text.rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    except (OSError, IndexError):
        pass
    if sys.platform == "linux":
        return ""
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()
