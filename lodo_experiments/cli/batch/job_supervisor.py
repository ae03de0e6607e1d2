"""One job of a batch: run, judged by how it ends, tried again where that can help, and its outcome written down.

``python supervise.py STATE JOB``: called by Snakemake, by its path and with the standard library alone, so that a job
costs one import of JAX and not two. What it writes under STATE, each file whole or not at all:

* ``status/BATCH/JOB.json``: the attempts so far, and what runs now. Each call of the batch has its own, for jobs of one
  that was killed may still be at work;
* ``receipts/JOB.json``: when it is done; this is what Snakemake waits for;
* ``logs/JOB.….log``: what each attempt printed; beside it, in ``.jsonl``, what it told by
  :mod:`lodo_experiments.utils.outcome`.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

if __package__:
    from lodo_experiments.cli.batch import failures
    from lodo_experiments.utils.atomic_files import written
    from lodo_experiments.utils.kill_with_parent import leashed
else:  # run by its path: its neighbours are found beside it
    import failures  # type: ignore[import-not-found,no-redef]

    sys.path.append(str(Path(__file__).parents[2] / "utils"))
    from atomic_files import written  # type: ignore[import-not-found,no-redef]
    from kill_with_parent import leashed  # type: ignore[import-not-found,no-redef]

_GO_ON, _STOPPED = 75, 143
_GRACE = 15.0  # seconds that a job gets to end after a polite stop


class Supervisor:
    """Runs one job of a batch.

    Args:
      state: the batch's folder.
      name: the job's name.
    """

    def __init__(self, state: Path, name: str):
        self._state, self._name = state, name
        self._plan = json.loads((state / "plan.json").read_text(encoding="utf-8"))
        self._job = self._plan["jobs"][name]
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._status: dict[str, Any] = self._so_far()

    def run(self) -> int:
        """Runs the job; returns the exit code: 0 done, 75 to be called again, 143 stopped, 1 failed."""
        if self._status["state"] == "failed":
            return 1  # Snakemake asks again after any failure; this one was final
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        while True:
            if self._left() is not None and self._left() <= 0:  # type: ignore[operator]
                return self._end("again", _GO_ON)
            verdict = self._attempt()
            if verdict.kind == failures.DONE:
                last = self._status["attempts"][-1]
                self._write("costs", {"seconds": last["seconds"], "peak_mb": last["peak_mb"]})
                self._write("receipts", {"job": self._name, "attempts": len(self._status["attempts"])})
                return self._end("done", 0)
            if self._stopped:
                return self._end("stopped", _STOPPED)
            if verdict.kind == failures.AGAIN:
                return self._end("again", _GO_ON)
            tried = sum(attempt["kind"] == verdict.kind for attempt in self._status["attempts"])
            if tried > failures.RETRIES.get(verdict.kind, 0):
                return self._end("failed", 1)
            print(f"{self._name}: {verdict.kind} ({verdict.message}); another try", flush=True)

    def _so_far(self) -> dict[str, Any]:
        """What earlier calls of this batch wrote down of this job."""
        fresh = {"job": self._name, "batch": self._plan["batch"], "state": "waiting", "attempts": []}
        try:
            found = json.loads(self._path("status").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return fresh
        if found["state"] == "running":
            # Nobody wrote how that attempt ended: whoever supervised it was killed with it.
            found["attempts"][-1] |= {"kind": failures.KILLED, "message": "ended with its supervisor"}
            tried = sum(attempt["kind"] == failures.KILLED for attempt in found["attempts"])
            found["state"] = "failed" if tried > failures.RETRIES[failures.KILLED] else "waiting"
        return dict(found)

    def _attempt(self) -> failures.Verdict:
        attempts = self._status["attempts"]
        lanes = self._lanes(attempts)
        log = self._state / "logs" / f"{self._name}.{self._plan['batch']}-{len(attempts) + 1}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        attempt: dict[str, Any] = {"started": time.time(), "log": str(log), "lanes": lanes}
        attempts.append(attempt | {"kind": "running"})
        self._status |= {"state": "running", "pid": os.getpid(), "host": platform.node()}
        self._write("status", self._status)
        kills = failures.memory_kills()
        outcome = log.with_suffix(".jsonl")
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "LODO_OUTCOME": str(outcome.resolve())}
        if lanes:
            environment |= {"LODO_LANES": str(lanes), "LODO_RETRIED_AFTER": failures.OUT_OF_MEMORY}
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                leashed([self._plan["python"], *self._job["arguments"], *self._minutes()]), stdin=subprocess.DEVNULL,
                stdout=sink, stderr=subprocess.STDOUT, cwd=self._plan["cwd"], env=environment,
            )  # fmt: skip
            _, state, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(state)
        self._process.returncode = code
        told = failures.told(outcome)
        verdict = failures.judged(code, _end_of(log), failures.memory_kills() > kills, told)
        peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        attempts[-1] = attempt | {
            "kind": verdict.kind, "message": verdict.message, "code": code, "peak_mb": round(peak),
            "seconds": round(time.time() - attempt["started"], 1),
            "diverged": [one for one in told if "diverged" in one],
        }  # fmt: skip
        return verdict

    def _lanes(self, attempts: list[dict[str, Any]]) -> int:
        """Runs side by side at most: 0, no bound of the batch's own; after a want of memory, a quarter."""
        if not any(attempt["kind"] == failures.OUT_OF_MEMORY for attempt in attempts):
            return 0
        return max(1, int(self._job["lanes"]) // 4)

    def _left(self) -> float | None:
        """Seconds left of the time given to the batch; None: there is no end."""
        until = self._plan["until"]
        return None if until is None else until - time.time()

    def _minutes(self) -> list[str]:
        left = self._left()
        return ["--minutes", f"{left / 60:.3f}"] if left is not None and self._job["in_slices"] else []

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """A polite stop of the whole job: passed on, and made impolite when it takes long."""
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            signal.signal(signal.SIGALRM, self._kill)
            signal.setitimer(signal.ITIMER_REAL, _GRACE)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _end(self, state: str, code: int) -> int:
        self._status["state"] = state
        self._status.pop("pid", None)
        self._write("status", self._status)
        return code

    def _path(self, kind: str) -> Path:
        folder = self._state / kind
        return (folder / self._plan["batch"] if kind == "status" else folder) / f"{self._name}.json"

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        with written(self._path(kind)) as file:
            file.write(json.dumps(content).encode())


def _end_of(log: Path, size: int = 20_000) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1]), sys.argv[2]).run())
