"""``python -m lodo_experiments.cli.batch --preset smoke --cores 2``: all of the paper's matrix, or some of it."""

from __future__ import annotations

import argparse
import os
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
from lodo_experiments.cli.batch.plan import Job, Options, jobs
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.data import DataError

_LOOK_EVERY = 0.5  # seconds
_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """Somebody asked the batch to stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
      0 when all asked for is there, 1 where something failed, 75 when the same command is to be called again, 2 when
      the request is refused.
    """
    given = _parser().parse_args(arguments)
    if lacking := _lacking():
        print(lacking, file=sys.stderr)
        return 2
    options = Options(
        given.preset, tuple(given.only), given.seeds, given.seeds_per_job, given.results_dir, given.data_dir,
        given.download, None if given.no_notebooks else given.notebooks, given.output, given.timeout,
    )  # fmt: skip
    how = snakemake_engine.How(given.cores, given.executor, given.profile, given.minutes)
    state = options.folder / options.preset / ".batch"
    try:
        wanted = jobs(options)
        _check(how, options.folder)
        if given.dry_run:
            found = finished_jobs.standing(wanted, options)
            print(summary.listed(wanted, found.done, found.refused, costs.predicted(wanted, options, state)))
            return 0
        with _stoppable(), batch_lock.held(state):
            return _run(wanted, options, how, state)
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
        print(f"{state} cannot be worked in: {error}", file=sys.stderr)
        return 1


def _run(wanted: Sequence[Job], options: Options, how: snakemake_engine.How, state: Path) -> int:
    """Runs what is left to do; the folder is held."""
    if orphan := batch_lock.end_orphan(state):
        print(orphan)
    found = finished_jobs.standing(wanted, options)
    left = [job for job in wanted if job.name not in found.done]
    if not left:
        print(f"Nothing to do: all {len(wanted)} jobs at the preset {options.preset} are done.")
        return 0
    snakemake_engine.check_installed()
    finished_jobs.check_data(left, options)
    expected = costs.predicted(left, options, state)
    print(f"{len(left)} jobs to do, {len(found.done)} done before, in {state.parent}", flush=True)
    able = [job for job in left if job.name not in _blocked(left, found.refused)]
    tried: summary.Tried = {}
    broken = False
    if able:
        batch = snakemake_engine.write_plan(state, able, found.done, expected, options, how)

        def tried_so_far() -> summary.Tried:
            return snakemake_engine.tried(state, [job.name for job in able], batch)

        ended = _watched(snakemake_engine.start(state, how), tried_so_far, len(able))
        tried = tried_so_far()
        if ended and not any(_says_why(attempts) for attempts in tried.values()):
            print(_end_of_engine(state, ended), file=sys.stderr)
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


def _watched(process: subprocess.Popen[bytes], tried: Callable[[], summary.Tried], count: int) -> int:
    """Tells the news until Snakemake has ended; returns its exit code, 0 where it was asked to stop."""
    told: dict[str, int] = {}
    try:
        while process.poll() is None:
            time.sleep(_LOOK_EVERY)
            for line in summary.news(tried(), told, count):
                print(line, flush=True)
    except Stopped:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
        print("stopping; what is done is kept", file=sys.stderr, flush=True)
        snakemake_engine.stop(process, tried())
        return 0
    return process.returncode


def _blocked(left: Sequence[Job], refused: dict[str, str]) -> set[str]:
    """Jobs that cannot be done, and those that need one of them."""
    blocked = set(refused)
    for job in left:
        if blocked.intersection(job.needs):
            blocked.add(job.name)
    return blocked


def _end_of_engine(state: Path, code: int) -> str:
    log = state / "snakemake.log"
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-20:]
    shown = "".join(f"\n  | {line}" for line in lines)
    how = f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"
    return f"Snakemake ended {how} before all jobs were done.{shown}\n  the whole log: {log}"


def _lacking() -> str:
    """What a batch needs of the system and does not find, for people; empty where all is there."""
    needed = {"os.fork": os, "signal.SIGALRM": signal, "signal.SIGHUP": signal, "signal.SIGKILL": signal}
    missing = [name for name, module in needed.items() if not hasattr(module, name.partition(".")[2])]
    if sys.platform != "win32" and not missing:
        return ""
    return (
        f"A batch needs a POSIX system, such as Linux or macOS; this one is {sys.platform}"
        f"{f', without {missing[0]}' if missing else ''}. On Windows start it in WSL, or compute without a batch: "
        "python -m lodo_experiments.cli.run and python -m lodo_experiments.cli.execute."
    )


def _check(how: snakemake_engine.How, folder: Path) -> None:
    if braces := set("{}").intersection(str(folder)):
        raise ValueError(
            f"--results-dir: got {folder}; Snakemake takes what stands between braces in a path for a wildcard, so a "
            f"batch needs a folder without {' and '.join(sorted(braces))}. Name another one by --results-dir or "
            "LODO_RESULTS; records can be moved there."
        )
    if how.cores < 1:
        raise ValueError(f"--cores must be at least 1; got {how.cores}.")
    if how.minutes < 0:
        raise ValueError(f"--minutes must be 0 or more; got {how.minutes}.")
    if how.profile and not (Path(how.profile) / "config.yaml").exists():
        raise ValueError(f"--profile {how.profile}: there is no config.yaml in it; see workflow/profiles.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.batch",
        description="Run the paper's experiments as jobs: tuning, runs, notebooks. What is done is not done again.",
    )
    parser.add_argument("--preset", choices=PRESETS, default="smoke", help="how much to compute")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="notebooks, parts or jobs, also by pattern ('rosenbrock/*')",
    )
    parser.add_argument("--cores", type=int, default=2, help="jobs at a time; on a cluster, jobs submitted at a time")
    parser.add_argument("--executor", default="", help="Snakemake's executor plugin, e.g. slurm; default: this machine")
    parser.add_argument("--profile", default="", help="folder of a Snakemake profile, e.g. workflow/profiles/slurm")
    parser.add_argument("--minutes", type=float, default=0, help="stop, all saved, after so long (exit code 75)")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and what they are expected to take")
    parser.add_argument("--seeds", type=int, default=0, help="runs for each optimizer; 0: the preset's number")
    parser.add_argument("--seeds-per-job", type=int, default=0, help="runs in one job; 0: as suits the experiment")
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--data-dir", default="", help="folder of the data sets")
    parser.add_argument("--download", action="store_true", help="allow missing data sets to be downloaded")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="folder of the clean notebooks")
    parser.add_argument("--no-notebooks", action="store_true", help="records only")
    parser.add_argument("--output", type=Path, default=Path("_build/executed"), help="folder of the executed notebooks")
    parser.add_argument("--timeout", type=float, default=None, help="seconds for a whole notebook; 0: no limit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
