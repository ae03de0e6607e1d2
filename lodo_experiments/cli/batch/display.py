"""What a batch shows to people: its jobs before it starts, its progress, and what became of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lodo_experiments.cli.batch import failures
from lodo_experiments.cli.batch.costs import Cost, total
from lodo_experiments.cli.batch.plan import Job
from lodo_experiments.utils.progress import duration

_BAR = 24
_LOG_LINES = 8


def listed(jobs: Sequence[Job], done: frozenset[str], refused: Mapping[str, str], costs: Mapping[str, Cost]) -> str:
    """The jobs of a dry run as a table, with what each is expected to take and what all do."""
    width = max([len(job.name) for job in jobs], default=4)
    lines = [f"{'job':{width}}  {'state':8} {'minutes':>9} {'memory':>9} {'disk':>9}"]
    for job in jobs:
        state = "done" if job.name in done else "refused" if job.name in refused else "to do"
        cost = costs[job.name] if state == "to do" else None
        shown = ("-", "-", "-") if cost is None else _shown(cost)
        lines.append(f"{job.name:{width}}  {state:8} {shown[0]:>9} {shown[1]:>9} {shown[2]:>9}")
    left = [costs[job.name] for job in jobs if job.name not in done and job.name not in refused]
    seconds, unknown = total([cost.seconds for cost in left])
    disk, no_disk = total([cost.disk_mb for cost in left])
    memory = max((cost.memory_mb for cost in left if cost.memory_mb is not None), default=None)
    lines.append(
        f"{len(left)} jobs to do, {len(done)} done, {len(refused)} refused. Together about {seconds / 60:.1f} minutes "
        f"of one core{_not_known(unknown)}; {disk:.1f} MB of disk{_not_known(no_disk)}; the largest job's memory: "
        f"{'not known' if memory is None else f'{memory:,.0f} MB'}."
    )
    return "\n".join(lines)


def _shown(cost: Cost) -> tuple[str, str, str]:
    return (
        "not known" if cost.seconds is None else f"{cost.seconds / 60:.1f}",
        "not known" if cost.memory_mb is None else f"{cost.memory_mb:,.0f} MB",
        "not known" if cost.disk_mb is None else f"{cost.disk_mb:.2f} MB",
    )


def _not_known(count: int) -> str:
    return f" (and {count} that nothing is known of)" if count else ""


class Watch:
    """Shows the progress of a batch: one line that moves in a terminal, plain lines where none can.

    Args:
      names: the jobs that are left.
      costs: what each is expected to take.
      cores: how many run at a time.
      stream: where to write; default standard output.
      clock: seconds since the epoch, for tests.
      every: seconds between two plain lines, at least, while nothing ends.
    """

    def __init__(
        self, names: Sequence[str], costs: Mapping[str, Cost], cores: int, stream: TextIO | None = None,
        clock: Callable[[], float] = time.time, every: float = 60.0,
    ):  # fmt: skip
        self._names, self._costs, self._cores = names, costs, cores
        self._stream, self._clock, self._every = stream or sys.stdout, clock, every
        self._told: dict[str, tuple[str, int]] = {}
        self._last = clock()
        self._moves = getattr(self._stream, "isatty", lambda: False)()

    def __call__(self, statuses: Mapping[str, dict[str, Any]]) -> None:
        """Shows how the jobs stand now."""
        for name, status in statuses.items():
            state = (status["state"], len(status["attempts"]))
            before = self._told.get(name)
            if state == before:
                continue
            self._told[name] = state
            text = self._news(name, status, before)
            if text:
                self._line(f"{self._share(statuses)} {text}")
        running = [name for name, status in statuses.items() if status["state"] == "running"]
        text = f"{self._share(statuses)} {self._left(statuses)}; now {', '.join(running) or 'starting'}"
        if self._moves:
            ended = sum(status["state"] == "done" for status in statuses.values())
            filled = _BAR * ended // max(1, len(self._names))
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (_BAR - filled)}] {text}"[:200])
            self._stream.flush()
        elif self._clock() - self._last >= self._every:
            self._line(text)

    def close(self) -> None:
        """Leaves the line that moves."""
        if self._moves:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._moves else f"{text}\n")
        self._stream.flush()
        self._last = self._clock()

    def _share(self, statuses: Mapping[str, dict[str, Any]]) -> str:
        return f"[{sum(status['state'] == 'done' for status in statuses.values())}/{len(self._names)}]"

    def _news(self, name: str, status: dict[str, Any], before: tuple[str, int] | None) -> str:
        attempts = status["attempts"]
        if status["state"] == "done":
            return f"done {name} ({attempts[-1].get('seconds', 0):.1f} s)"
        if status["state"] == "failed":
            return f"FAILED {name}: {attempts[-1]['kind']}: {attempts[-1].get('message', '')}"
        if status["state"] == "running" and len(attempts) > 1 and before != ("running", len(attempts)):
            return f"again {name}, after {attempts[-2]['kind']}: {attempts[-2].get('message', '')}"
        return f"started {name}" if status["state"] == "running" and not self._moves else ""

    def _left(self, statuses: Mapping[str, dict[str, Any]]) -> str:
        """The time left, from what the jobs are expected to take and how long those that run have been running."""
        seconds: list[float | None] = []
        for name in self._names:
            status = statuses.get(name)
            if status is not None and status["state"] not in ("running", "waiting"):
                continue
            cost = self._costs[name].seconds
            if cost is not None and status is not None and status["state"] == "running":
                cost = max(0.0, cost - (self._clock() - status["attempts"][-1]["started"]))
            seconds.append(cost)
        known, unknown = total(seconds)
        if len(seconds) == unknown:
            return f"{len(seconds)} left, time not known"
        return f"{len(seconds)} left, about {duration(known / self._cores)}{_not_known(unknown)}"


def summary(
    jobs: Sequence[Job], done: frozenset[str], refused: Mapping[str, str], statuses: Mapping[str, dict[str, Any]]
) -> tuple[str, int]:
    """What became of each job, for people, and the exit code: 0 all is there, 1 failures, 75 to be called again.

    Args:
      jobs: all jobs of the batch.
      done: those that were done before.
      refused: those whose results cannot be made, and why.
      statuses: what the supervisors wrote.
    """
    made = [name for name, status in statuses.items() if status["state"] == "done"]
    failed = {name: status for name, status in statuses.items() if status["state"] == "failed"}
    retried = [name for name in (*made, *failed) if len(statuses[name]["attempts"]) > 1]
    broken = {*failed, *refused}
    skipped: dict[str, str] = {}
    open_: list[str] = []
    for job in jobs:
        if job.name in done or job.name in made or job.name in broken:
            continue
        cause = next((need for need in job.needs if need in broken or need in skipped), "")
        if cause:
            skipped[job.name] = cause
        else:
            open_.append(job.name)
    lines = []
    for name in retried:
        tries = "; ".join(
            f"{attempt['kind']}: {attempt.get('message', '')}" for attempt in statuses[name]["attempts"][:-1]
        )
        lines.append(f"retried {name} after {tries}")
    lines += [
        f"diverged, which is a result: {found['diverged']} of {found['runs']} runs of {found['record']}"
        for name in made
        for found in statuses[name]["attempts"][-1].get("diverged", ())
    ]
    for name, cause in skipped.items():
        lines.append(f"skipped {name}: it needs {cause}")
    for name, why in refused.items():
        lines.append(f"failed {name}: {failures.REFUSED}: {why}")
    for name, status in failed.items():
        lines.append(_of_failure(name, status))
    lines += [f"not done {name}: the same command goes on with it" for name in open_]
    lines.append(
        f"{len(made)} done now, {len(done)} done before, {len(retried)} retried, {len(skipped)} skipped, "
        f"{len(broken)} failed" + (f", {len(open_)} to be called again" if open_ else "") + "."
    )
    return "\n".join(lines), 1 if broken else 75 if open_ else 0


def _of_failure(name: str, status: dict[str, Any]) -> str:
    last = status["attempts"][-1]
    text = f"failed {name}: {last['kind']}: {last.get('message', '')}"
    log = Path(last["log"])
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_LOG_LINES:]
        text += "".join(f"\n  | {line}" for line in lines)
    return f"{text}\n  the whole log: {log}"
