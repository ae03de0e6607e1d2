"""``python -m lodo_experiments.cli.batch --preset smoke --cores 2``: all of the paper's matrix, or some of it."""

from __future__ import annotations

import argparse
import functools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lodo_experiments.cli.batch import batch_lock, costs, failures, finished_jobs, snakemake_engine, summary
from lodo_experiments.cli.batch.plan import Cost, Job, Options, jobs
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.data.catalogue import DataError

_LOOK_EVERY = 0.5  # seconds
_NOT_HERE = (
    "A batch needs a POSIX system, such as Linux or macOS. On Windows start it in WSL, or compute without a batch: "
    "python -m lodo_experiments.cli.run and python -m lodo_experiments.cli.execute."
)
_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """Somebody asked the batch to stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
      0 when all asked for is there, 1 where something failed, 75 when the same command is to be called again, 2 when
      the request is refused.
    """
    given = vars(_parser().parse_args(arguments))
    if sys.platform == "win32":
        print(_NOT_HERE, file=sys.stderr)
        return 2
    dry_run = given.pop("dry_run")
    options = Options(**given | {name: tuple(given[name]) for name in ("only", "sweep", "set")})
    try:
        wanted = jobs(options)
        snakemake_engine.check(options)
        if dry_run:
            found = finished_jobs.find_finished(wanted, options)
            print(summary.dry_run_table(wanted, found.done, found.refused, costs.predict(wanted, options)))
            left = [job for job in wanted if job.name not in found.done and job.name not in found.refused]
            print(summary.disk_note(*costs.disk(left, options), options.folder))
            return 0
        with _stoppable(), batch_lock.acquire(options.state):
            return _run(wanted, options)
    except Stopped:
        print("stopped before anything was started; the same command starts it", file=sys.stderr)
        return 75
    except (ValueError, DataError, snakemake_engine.EngineError) as error:
        print(error, file=sys.stderr)
        return 2
    except batch_lock.Held as error:
        print(error, file=sys.stderr)
        return 75
    except OSError as error:
        print(f"{options.state} cannot be worked in: {error}", file=sys.stderr)
        return 1


def _run(wanted: Sequence[Job], options: Options) -> int:
    """Runs what is left to do; the folder is held."""
    found = finished_jobs.find_finished(wanted, options)
    left = [job for job in wanted if job.name not in found.done]
    if not left:
        print(f"Nothing to do: all {len(wanted)} jobs at the preset {options.preset} are done.")
        return 0
    finished_jobs.check_data(left, options)
    print(f"{len(left)} jobs to do, {len(found.done)} done before, in {options.state.parent}", flush=True)
    print(summary.disk_note(*costs.disk(left, options), options.folder), flush=True)
    blocked = set(found.refused)  # with those that need one of them
    for job in left:
        if blocked.intersection(job.needs):
            blocked.add(job.name)
    able = [job for job in left if job.name not in blocked]
    tried: failures.Tried = {}
    broken = False
    if able:
        expected = costs.predict(able, options)
        batch = snakemake_engine.write_plan(able, found.done, expected, options)
        now = functools.partial(snakemake_engine.attempts_so_far, options.state, list(expected), batch)
        ended = _watch(snakemake_engine.start(options), now, expected, options.cores)
        tried = now()
        if ended and not any(_says_why(attempts) for attempts in tried.values()):
            print(_end_of_engine(options.state / "snakemake.log", ended), file=sys.stderr)
            broken = ended > 0 and not tried  # it cannot even start; calling again would not help
    text, code = summary.summary(wanted, found.done, found.refused, tried)
    print(text)
    return 1 if broken else code


def _says_why(attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a job explains why Snakemake ended before all was done: it failed, or its time was over."""
    return failures.state(attempts) == "failed" or not attempts or attempts[-1].get("kind") == failures.AGAIN


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns a request to stop into :class:`Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    process: subprocess.Popen[bytes], tried: Callable[[], failures.Tried], expected: Mapping[str, Cost], cores: int
) -> int:
    """Tells the news until Snakemake has ended; returns its exit code, 0 where it was asked to stop."""
    told: dict[str, int] = {}
    over = False
    try:
        while not over:
            over = process.poll() is not None
            for line in summary.news(tried(), told, expected, cores):
                print(line, flush=True)
            time.sleep(0 if over else _LOOK_EVERY)
    except Stopped:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
        print("stopping; what is done is kept", file=sys.stderr, flush=True)
        snakemake_engine.stop(process, tried())
        return 0
    return process.returncode


def _end_of_engine(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-20:]
    shown = "".join(f"\n  | {line}" for line in lines)
    how = f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"
    return f"Snakemake ended {how} before all jobs were done.{shown}\n  the whole log: {log}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.batch",
        description="Run the paper's experiments as jobs: tuning, runs, notebooks. What is done is not done again.",
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="smoke", help="how much to compute")
    add(
        "--only", nargs="+", default=[], action="extend", metavar="NAME",
        help="notebooks, parts or jobs, or patterns ('rosenbrock/*')",
    )  # fmt: skip
    add(
        "--sweep", nargs="+", default=[], action="extend", metavar="WORD",
        help="a notebook, one of its parameters and its values: one job for each value (noisy_bowl drift 0 1 2)",
    )  # fmt: skip
    add(
        "--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE",
        help="what else differs from the preset in a sweep",
    )  # fmt: skip
    add("--cores", type=int, default=2, help="jobs at a time; on a cluster, jobs submitted at a time")
    add("--executor", default="", help="Snakemake's executor plugin, e.g. slurm; default: this machine")
    add("--profile", default="", help="folder of a Snakemake profile, e.g. workflow/profiles/slurm")
    add("--minutes", type=float, default=0, help="stop, all saved, after so long (exit code 75)")
    add("--dry-run", action="store_true", help="list the jobs and what they are expected to take")
    add("--seeds", type=int, default=0, help="runs for each optimizer; 0: the preset's number")
    add("--seeds-per-job", type=int, default=0, help="runs in one job; 0: as suits the experiment")
    add("--results-dir", default="", help="folder of the records")
    add("--data-dir", default="", help="folder of the data sets")
    add("--download", action="store_true", help="allow missing data sets to be downloaded")
    add("--notebooks", type=Path, default=Path("notebooks"), help="folder of the clean notebooks")
    add("--no-notebooks", action="store_const", const=None, dest="notebooks", help="records only")
    add("--output", type=Path, default=Path("_build/executed"), help="folder of the executed notebooks")
    add("--timeout", type=float, default=None, help="seconds for a whole notebook; 0: no limit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
