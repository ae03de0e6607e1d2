"""A batch on the tests' SLURM, watched while it works, and what it leaves, compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import Cluster

from lodo_experiments.cli.batch import failures
from lodo_experiments.results import records
from lodo_experiments.studies import notebooks

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which something that should have happened is given up. No test asserts on how long anything took.
PATIENCE = 3600
#: What the project's profile leaves to each cluster: this one keeps no accounts, and is asked often.
OWN = """
slurm-status-command: squeue
slurm-no-account: true
slurm-init-seconds-before-status-checks: 1
seconds-between-status-checks: 1
"""
#: Of a record: what a clock says.
TIMED = {"wall_seconds", "wall_steps", "steps_per_second"}


def profile(folder: Path) -> Path:
    """The project's SLURM profile, completed for this cluster."""
    text = (ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text + OWN, encoding="utf-8")
    return folder


class Batch:
    """One call of the batch's command, its jobs on a cluster; a context manager, at whose end it is stopped.

    Args:
      slurm: The cluster.
      folder: For records, executed notebooks, the profile and what the command prints.
      more: Arguments that say which jobs.
    """

    def __init__(self, slurm: Cluster, folder: Path, more: Sequence[str]):
        self._slurm = slurm
        self.state = folder / "results" / "smoke" / ".batch"
        command = [sys.executable, "-m", "lodo_experiments.cli.batch", "--preset", "smoke", "--executor", "slurm"]
        command += ["--profile", str(profile(folder / "profile")), "--results-dir", str(folder / "results")]
        command += ["--output", str(folder / "executed"), "--cores", "2", *more]
        self._log = folder / f"{time.time_ns()}.out"
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | slurm.environment, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def end(self) -> int:
        """Waits for the command's end; returns its exit code."""
        try:
            return self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over after {PATIENCE} s\n{self.printed()}") from None

    def children(self) -> list[int]:
        """The processes that the batch has started: Snakemake."""
        return children(self._process.pid)

    def printed(self) -> str:
        """What the command has printed so far, and the end of Snakemake's log."""
        log = self.state / "snakemake.log"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:] if log.exists() else []
        return "\n".join([self._log.read_text(encoding="utf-8", errors="replace"), *tail])

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits until a condition holds; returns what it gave."""
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self._process.poll() is None, f"the batch is over before this was so: {what}\n{self.printed()}"
            assert time.monotonic() < end, f"not so after {PATIENCE} s: {what}\n{self.printed()}"
            time.sleep(0.02)
        return found

    def attempts(self, job: str) -> list[dict[str, Any]]:
        """The attempts at a job, of the newest batch here; none where it has not begun."""
        try:
            batch = json.loads((self.state / "plan.json").read_text(encoding="utf-8"))["batch"]
        except (OSError, ValueError):
            return []
        return failures.attempts(self.state / "status" / batch / f"{job}.jsonl")

    def at_work(self, job: str) -> dict[str, Any]:
        """Waits until a job's process, which its supervisor started, is there; returns its attempt and ``process``."""

        def working() -> dict[str, Any]:
            attempts = self.attempts(job)
            started = children(attempts[-1]["pid"]) if failures.state(attempts) == "running" else []
            return attempts[-1] | {"process": started[0]} if started else {}

        return dict(self.until(working, f"{job} is at work"))

    def until_empty(self, slurm: Cluster) -> None:
        """Waits until the cluster has nothing more to do."""
        end = time.monotonic() + PATIENCE
        while jobs := slurm.queue():
            assert time.monotonic() < end, f"still there after {PATIENCE} s: {jobs}"
            time.sleep(0.1)

    def number(self, rule: str, *wildcards: str) -> str:
        """SLURM's number of a rule's job that runs."""
        lines = self._slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
        ending = "_".join([f"rule_{rule}_wildcards", *wildcards])
        (found,) = [
            number for number, _, comment in (line.partition(" ") for line in lines) if comment.endswith(ending)
        ]
        return str(found)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def results(folder: Path) -> dict[str, Any]:
    """All that a batch has left beside its own notes, by path: records without their clocks, notebooks by their key."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "results" / "smoke").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "/.batch/" in name:
            continue
        record = records.load(path)
        arrays = {key: array for key, array in record.arrays.items() if key not in TIMED}
        found[name] = {
            "values": {key: value for key, value in record.values.items() if key not in TIMED},
            "seeds": record.provenance["seeds"],
            "arrays": {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in arrays.items()},
        }
    for path in sorted((folder / "executed").rglob("*.ipynb")):
        found[path.relative_to(folder).as_posix()] = notebooks.stored_hash(path)
    return found
