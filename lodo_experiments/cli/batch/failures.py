"""What became of a job's attempts, told apart by how they ended: only some failures are worth another try.

Standard library only: the supervisor of a job imports it without the rest of the package.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE = "done"
#: Its time was over, all saved: the same call goes on.
AGAIN = "to be called again"
#: As somebody asked, all saved.
STOPPED = "stopped"
#: What was asked for cannot be done as asked: bad parameters, a damaged record, missing data. Never tried again.
REFUSED = "refused"
#: Tried once more, with fewer runs side by side.
OUT_OF_MEMORY = "out of memory"
#: Ended from outside: a killed kernel, a preemption, a machine that went down. Tried again.
KILLED = "killed"
TIMEOUT = "timeout"
#: The disk is full, or the folder may not be written to.
UNWRITTEN = "cannot be written"
#: Anything else: a defect, most of the time. Its log is what helps.
ERROR = "error"

#: How often a job is tried again after each kind of failure; Snakemake's `retries` are the largest of them.
RETRIES = {OUT_OF_MEMORY: 1, KILLED: 2}

#: Of each job that was begun: its attempts, as :func:`attempts` reads them.
Tried = Mapping[str, list[dict[str, Any]]]

# By number, as POSIX has them: Windows lacks the first two. SIGHUP, SIGKILL, SIGINT, SIGTERM.
_FROM_OUTSIDE = {1, 9, 2, 15}

# How lodo_experiments.cli.run says these three, and argparse the second.
_GO_ON, _REFUSED, _UNWRITTEN = 75, 2, 74

#: Where a traceback's last line begins, in a log or in the part of one that `execute` quotes.
_RAISED = re.compile(r"^\s*(?:\|\s*)?(?:[\w.]+\.)?(\w+(?:Error|Exception|Exhausted|Interrupt))\b(.*)$")
_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|\bMemoryError\b|std::bad_alloc|Cannot allocate memory|CUDA_ERROR_OUT_OF_MEMORY"
)
_REFUSALS = {"ParameterError", "NotebookError", "RecordError", "DataError", "PapermillMissingParameterException"}
_DISK = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system|\bStorageError\b")
_KILLED_KERNEL = re.compile(r"DeadKernelError|Kernel died")


@dataclass(frozen=True)
class Verdict:
    """What became of a job's process."""

    kind: str
    message: str = ""


def attempts(events: Path, over: bool = False) -> list[dict[str, Any]]:
    """The attempts at a job, from the lines that its supervisors and the job itself have noted.

    A line cut off is left out. With ``over`` the last attempt is over, even if nobody noted how it ended.

    Returns:
      One dictionary each: ``started``, ``log``, …, what the job ``told``; of one that is over ``kind``, ``message``, ….
    """
    found: list[dict[str, Any]] = []
    killed = {"kind": KILLED, "message": "ended with its supervisor"}
    for line in events.read_text(encoding="utf-8").splitlines() if events.exists() else ():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if "started" in facts:
            found = [killed | attempt for attempt in found] + [facts | {"told": []}]
        elif found and "kind" in facts:
            found[-1] |= facts
        elif found:
            found[-1]["told"].append(facts)
    return [killed | attempt for attempt in found] if over else found


def state(tried: Sequence[Mapping[str, Any]]) -> str:
    """How a job stands after some attempts: waiting (to be tried, perhaps again), running, done or failed.

    >>> state([]), state([{}]), state([{"kind": KILLED}]), state([{"kind": KILLED}, {"kind": REFUSED}])
    ('waiting', 'running', 'waiting', 'failed')
    """
    if not tried or (kind := tried[-1].get("kind", "running")) in (AGAIN, STOPPED):
        return "waiting"
    if kind in ("running", DONE):
        return str(kind)
    return "failed" if sum(one["kind"] == kind for one in tried) > RETRIES.get(kind, 0) else "waiting"


def judge(code: int, text: str, killed_for_memory: bool = False, told: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """The verdict on a process that ended.

    Args:
      code: its exit code; negative: the signal that ended it.
      text: the end of what it printed.
      killed_for_memory: whether the system killed a process for want of memory while it ran.
      told: what it has told of itself; see :func:`attempts`.

    >>> judge(-9, "").kind, judge(-9, "", killed_for_memory=True).kind, judge(2, "no such optimizer").kind
    ('killed', 'out of memory', 'refused')
    >>> judge(1, "  | nbclient.exceptions.DeadKernelError: Kernel died").kind
    'killed'
    """
    last = _last_line(text)
    if code == 0:
        return Verdict(DONE)
    if code == _GO_ON:
        return Verdict(AGAIN, last)
    if code == _REFUSED:
        return Verdict(REFUSED, last)
    number = -code if code < 0 else code - 128
    by_signal = number if 0 < number < 65 else 0
    if _MEMORY.search(text):
        return Verdict(OUT_OF_MEMORY, _first_match(_MEMORY, text))
    failed = {one["failure"]: str(one["message"]) for one in told if "failure" in one}
    kernel = KILLED in failed or bool(_KILLED_KERNEL.search(text))
    if killed_for_memory and (by_signal == 9 or kernel):
        return Verdict(OUT_OF_MEMORY, "the system killed it for want of memory")
    if by_signal in _FROM_OUTSIDE:
        return Verdict(KILLED, f"ended by {_signal_name(by_signal)}")
    if code == _UNWRITTEN or _DISK.search(text):
        return Verdict(UNWRITTEN, _first_match(_DISK, text) or last)
    if TIMEOUT in failed:
        return Verdict(TIMEOUT, failed[TIMEOUT])
    if kernel:
        return Verdict(KILLED, failed.get(KILLED, "its kernel died"))
    # What a notebook's cell raised is in papermill's log alone, which `execute` quotes.
    raised = [found for line in text.splitlines() if (found := _RAISED.match(line))]
    if raised and raised[-1][1] in _REFUSALS:
        return Verdict(REFUSED, raised[-1][0].strip(" |"))
    if by_signal:
        return Verdict(ERROR, f"ended by {_signal_name(by_signal)}")
    return Verdict(ERROR, raised[-1][0].strip(" |") if raised else last or f"exit code {code}")


def memory_kills() -> int:
    """How many processes the system has killed so far for want of memory; those of control groups are among them."""
    vmstat = Path("/proc/vmstat")
    lines = vmstat.read_text(encoding="utf-8").splitlines() if vmstat.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _first_match(pattern: re.Pattern[str], text: str) -> str:
    return next((line.strip(" |")[:300] for line in text.splitlines() if pattern.search(line)), "")


def _last_line(text: str) -> str:
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "")
