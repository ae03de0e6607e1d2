"""What a batch shows to people: its jobs before it starts, its news, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lodo_experiments.cli.batch import failures
from lodo_experiments.cli.batch.failures import Tried
from lodo_experiments.cli.batch.plan import Cost, Job, total
from lodo_experiments.utils.progress import duration

_LOG_LINES = 8


def dry_run_table(
    jobs: Sequence[Job], done: frozenset[str], refused: Mapping[str, str], expected: Mapping[str, Cost]
) -> str:
    """The jobs of a dry run as a table, with the time and memory that each is expected to take, where it is known."""
    width = max([len(job.name) for job in jobs], default=4)
    lines = [f"{'job':{width}}  {'state':8} {'minutes':>9} {'memory':>9}"]
    for job in jobs:
        state = "done" if job.name in done else "refused" if job.name in refused else "to do"
        seconds, memory = ("-", "-") if state != "to do" else expected[job.name].as_text()
        lines.append(f"{job.name:{width}}  {state:8} {seconds:>9} {memory:>9}")
    left = [expected[job.name].seconds for job in jobs if job.name not in done and job.name not in refused]
    together, unknown = total(left)
    lines.append(
        f"{len(left)} jobs to do, {len(done)} done, {len(refused)} refused. Together about {together / 60:.1f} "
        f"minutes of one core{unknown}."
    )
    return "\n".join(lines)


def disk_note(sizes: Sequence[float | None], free: float, folder: Path) -> str:
    """Disk space that jobs need, in MB each, and how much is free."""
    needed, unknown = total(sizes)
    scarce = " This may not be enough." if free < 2 * needed + 100 else ""
    return f"Disk: about {needed:,.1f} MB needed{unknown}, {free:,.0f} MB free in {folder}.{scarce}"


def news(tried: Tried, told: dict[str, int], expected: Mapping[str, Cost], cores: int) -> Iterator[str]:
    """What has happened to the jobs since it was last asked, as ``told`` remembers, and the time left for the rest."""
    done = sum(failures.state(attempts) == "done" for attempts in tried.values())
    for name, attempts in tried.items():
        lines = []
        for attempt in attempts:
            lines.append(f"started {name}")
            if (kind := attempt.get("kind")) is not None:
                said = f" ({attempt['seconds']:.1f} s)" if kind == failures.DONE else f": {attempt['message']}"
                lines.append(f"{kind} {name}{said}")
        head = f"[{done}/{len(expected)}, {_time_left(tried, expected, cores)}]"
        yield from (f"{head} {line}" for line in lines[told.get(name, 0) :])
        told[name] = len(lines)


def _time_left(tried: Tried, expected: Mapping[str, Cost], cores: int) -> str:
    """What the jobs that are not over are expected to take, less what those that run have taken, on so many cores."""
    left: list[float | None] = []
    for name, cost in expected.items():
        attempts = tried.get(name, [])
        if (state := failures.state(attempts)) not in ("done", "failed"):
            spent = time.time() - attempts[-1]["started"] if state == "running" else 0.0
            left.append(None if cost.seconds is None else max(0.0, cost.seconds - spent))
    seconds, unknown = total(left)
    return f"about {duration(seconds / cores)} left{unknown}" if seconds or not left else "time left not known"


def summary(jobs: Sequence[Job], done: frozenset[str], refused: Mapping[str, str], tried: Tried) -> tuple[str, int]:
    """What became of each job, for people, and the exit code: 0 all is there, 1 failures, 75 to be called again."""
    state = {name: failures.state(attempts) for name, attempts in tried.items()}
    made = [name for name in tried if state[name] == "done"]
    failed = [name for name in tried if state[name] == "failed"]
    retried = [name for name in (*made, *failed) if len(tried[name]) > 1]
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
    lines = [
        f"retried {name} after " + "; ".join(f"{one['kind']}: {one['message']}" for one in tried[name][:-1])
        for name in retried
    ]
    lines += [
        f"diverged, which is a result: {found['diverged']} of {found['runs']} runs of {found['record']}"
        for name in made
        for found in tried[name][-1]["told"]
        if "diverged" in found
    ]
    for name, cause in skipped.items():
        lines.append(f"skipped {name}: it needs {cause}")
    for name, why in refused.items():
        lines.append(f"failed {name}: {failures.REFUSED}: {why}")
    lines += [_of_failure(name, tried[name][-1]) for name in failed]
    lines += [f"not done {name}: the same command goes on with it" for name in open_]
    lines.append(
        f"{len(made)} done now, {len(done)} done before, {len(retried)} retried, {len(skipped)} skipped, "
        f"{len(broken)} failed" + (f", {len(open_)} to be called again" if open_ else "") + "."
    )
    return "\n".join(lines), 1 if broken else 75 if open_ else 0


def _of_failure(name: str, last: Mapping[str, Any]) -> str:
    text = f"failed {name}: {last['kind']}: {last['message']}"
    log = Path(last["log"])
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_LOG_LINES:]
        text += "".join(f"\n  | {line}" for line in lines)
    return f"{text}\n  the whole log: {log}"
