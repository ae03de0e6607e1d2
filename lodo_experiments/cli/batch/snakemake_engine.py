"""Snakemake, started on the jobs that are left, and stopped again."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import platform
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import lodo
from lodo_experiments.cli.batch import failures, job_supervisor
from lodo_experiments.cli.batch.failures import Tried
from lodo_experiments.cli.batch.plan import Cost, Job, Options
from lodo_experiments.utils import kill_with_parent
from lodo_experiments.utils.atomic_files import open_atomically

#: Minutes that a cluster gives a job of which nothing is known, by preset. A job that needs longer goes on from its
#: checkpoint when it is tried again.
RUNTIMES = {"smoke": 60, "laptop": 12 * 60, "desktop": 24 * 60, "paper": 24 * 60}

#: Memory, in MB, that a cluster gives a job that was not measured before.
MEMORY = 8_000


class EngineError(RuntimeError):
    """Snakemake or its workflow is not there."""


def check(options: Options) -> None:
    """Refuses what Snakemake would stumble over.

    Raises:
      ValueError: a folder whose name it takes for a pattern, no profile where one should be, or an executor that is
        not installed.
    """
    if braces := set("{}").intersection(str(options.folder)):
        raise ValueError(
            f"--results-dir: got {options.folder}; Snakemake takes what stands between braces in a path for a "
            f"wildcard, so a batch needs a folder without {' and '.join(sorted(braces))}. Name another one by "
            "--results-dir or LODO_RESULTS; records can be moved there."
        )
    executor = options.executor or _executor_of(options.profile)
    prefix = "snakemake_executor_plugin_"  # as Snakemake looks for them
    plugins = [found.name for found in pkgutil.iter_modules() if found.name.startswith(prefix)]
    known = ["local", *(name.removeprefix(prefix).replace("_", "-") for name in plugins)]
    if executor and executor not in known:
        given = f"--executor {executor}" if options.executor else f"--profile {options.profile}, executor: {executor}"
        raise ValueError(
            f"{given}: Snakemake has {', '.join(known)} here. Choose one of them, or install the plugin: pip install "
            f"snakemake-executor-plugin-{executor}."
        )


def write_plan(jobs: Sequence[Job], done: frozenset[str], costs: Mapping[str, Cost], options: Options) -> str:
    """Writes down the jobs that are left, for Snakemake and for their supervisors; receipts of theirs are removed.

    Returns:
      The batch's own name.
    """
    state, batch = options.state, f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    shutil.rmtree(state / "status", ignore_errors=True)  # of earlier batches
    left = {job.name: _plan_of_job(job, done, costs.get(job.name, Cost()), options.preset) for job in jobs}
    for name in left:
        (state / "receipts" / f"{name}.done").unlink(missing_ok=True)
    plan = {
        "batch": batch,
        "until": time.time() + 60 * options.minutes if options.minutes else None,
        "python": sys.executable,
        "leash": str(Path(kill_with_parent.__file__).resolve()),
        "supervisor": str(Path(job_supervisor.__file__).resolve()),
        "cwd": str(Path.cwd()),
        "jobs": left,
        **_arguments(options),
    }
    with open_atomically(state / "plan.json") as file:
        file.write(json.dumps(plan, indent=1).encode())
    return batch


def _plan_of_job(job: Job, done: frozenset[str], cost: Cost, preset: str) -> dict[str, object]:
    memory = cost.memory_mb or 0
    return {
        "rule": job.rule,
        "needs": [name for name in job.needs if name not in done],
        "lanes": job.lanes,
        "mem_mb": max(2_000, round(1.5 * memory)) if cost.measured else max(MEMORY, round(memory)),
        "runtime": RUNTIMES[preset] if cost.seconds is None else max(15, round(4 * cost.seconds / 60)),
    }


def _arguments(options: Options) -> dict[str, list[str]]:
    """What the commands of the Snakefile's rules are given beside what a rule says."""
    both = ["--preset", options.preset, *(["--seeds", str(options.seeds)] if options.seeds else [])]
    data = ["--data-dir", str(Path(options.data_dir).expanduser().resolve())] if options.data_dir else []
    execute = ["--output", str(options.output.resolve()), *(["--data-dir", options.data_dir] if data else [])]
    execute += ["--notebooks", str(options.notebooks.resolve())] if options.notebooks is not None else []
    execute += ["--download"] if options.download else []
    execute += ["--results-dir", options.results_dir] if options.results_dir else []
    execute += ["--timeout", f"{options.timeout:g}"] if options.timeout is not None else []
    fixed = ["--set", *options.set] if options.set else []
    return {
        "run": [*both, "--results-dir", str(options.folder), *data],
        "data": data,
        "execute": [*both, *execute, *fixed],
    }


def start(options: Options) -> subprocess.Popen[bytes]:
    """Starts Snakemake on the plan; it ends with this process.

    Raises:
      EngineError: Snakemake or the workflow is not there.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise EngineError(
            "A batch needs Snakemake, which is not installed: pip install 'lodo[batch]', or make install."
        )
    roots = (Path(lodo.__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents)
    snakefiles = [root / "workflow" / "Snakefile" for root in roots if (root / "workflow" / "Snakefile").exists()]
    if not snakefiles:
        raise EngineError("There is no workflow/Snakefile: a batch runs in a clone of the project.")
    # The lock that counts is batch_lock's, which says who holds it and ends with its holder; Snakemake's own does not.
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefiles[0])]
    command += ["--directory", str(options.state), "--nolock", "--rerun-incomplete", "--keep-going"]
    command += ["--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor", "--profile"]
    command += [str(Path(options.profile).resolve()) if options.profile else "none"]
    elsewhere = (options.executor or _executor_of(options.profile) or "local") != "local"
    command += ["--jobs" if elsewhere else "--cores", str(options.cores)]
    command += ["--executor", options.executor] if options.executor else []
    with (options.state / "snakemake.log").open("ab") as log:
        return subprocess.Popen(
            kill_with_parent.with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], tried: Tried, grace: float = 20.0) -> None:
    """Stops Snakemake and the jobs it runs: those of a cluster it cancels, those here end themselves."""
    process.send_signal(signal.SIGINT)
    for attempts in tried.values():
        if failures.state(attempts) == "running" and attempts[-1]["host"] == platform.node():
            try:
                os.kill(attempts[-1]["pid"], signal.SIGTERM)
            except ProcessLookupError:
                continue
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def attempts_so_far(state: Path, names: Sequence[str], batch: str) -> Tried:
    """The attempts at this batch's jobs so far, by job; those not begun are left out."""
    paths = {name: state / "status" / batch / f"{name}.jsonl" for name in names}
    return {name: failures.attempts(path) for name, path in paths.items() if path.exists()}


def _executor_of(profile: str) -> str:
    """Where a profile sends its jobs; empty: it does not say, or there is no profile.

    Raises:
      ValueError: its config.yaml is missing, is not YAML, or is no list of options.
    """
    if not profile:
        return ""
    import yaml  # which comes with Snakemake

    try:
        options = yaml.safe_load(Path(profile, "config.yaml").read_text(encoding="utf-8")) or {}
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"--profile {profile}: there is no config.yaml in it; see workflow/profiles.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--profile {profile}: its config.yaml cannot be read: {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"--profile {profile}: its config.yaml has no options; see workflow/profiles.")
    return str(options.get("executor") or "")
