"""One try at a job of a batch: run, judged by how it ends, and its outcome written down for people and the next try.

``python job_supervisor.py receipts/JOB.done COMMAND…``: called by Snakemake in the batch's folder, by its path and with
the standard library alone, so that a job costs one import of JAX and not two. Snakemake tries again what failed; where
that cannot help, the next try ends at once. What is written there:

* ``status/BATCH/JOB.jsonl``: each attempt, what the job told by `lodo_experiments.utils.outcome`, and how it ended.
  Each call of the batch has its own, for jobs of one that was killed may still be at work;
* ``receipts/JOB.done``: when it is done; this is what Snakemake waits for;
* ``logs/JOB.….log``: what each attempt printed.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

if __package__:
    from lodo_experiments.cli.batch import failures
    from lodo_experiments.utils.kill_with_parent import with_parent
else:  # run by its path: its neighbours are found beside it
    import failures  # type: ignore[import-not-found,no-redef]

    sys.path.append(str(Path(__file__).parents[2] / "utils"))
    from kill_with_parent import with_parent  # type: ignore[import-not-found,no-redef]

_GRACE = 15  # seconds that a job gets to end after a polite stop
_CODES = {failures.DONE: 0, failures.AGAIN: 75, failures.STOPPED: 143}


def main(receipt: Path, command: Sequence[str]) -> int:
    """Tries the job once; returns 0 where it is done, 75 to be called again, 143 stopped, 1 failed."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    job = receipt.relative_to("receipts").as_posix().removesuffix(".done")
    events = Path("status", plan["batch"], f"{job}.jsonl").resolve()
    earlier = failures.attempts(events, over=True)
    if failures.state(earlier) == "failed":
        return 1  # Snakemake asks again after any failure; this one was final
    left = None if plan["until"] is None else plan["until"] - time.time()
    if left is not None and left <= 0:
        _note(events, kind=failures.AGAIN)
        return _CODES[failures.AGAIN]
    if left is not None and "lodo_experiments.cli.run" in command:
        command = [*command, "--minutes", f"{left / 60:.3f}"]
    # After a want of memory, a quarter of the runs side by side; 0: no bound of the batch's own.
    starved = any(attempt.get("kind") == failures.OUT_OF_MEMORY for attempt in earlier)
    lanes = max(1, int(plan["jobs"][job]["lanes"]) // 4) if starved else 0
    log = Path("logs", f"{job}.{plan['batch']}-{len(earlier) + 1}-{os.getpid()}.log").resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    _note(events, started=started, pid=os.getpid(), host=platform.node(), log=str(log), lanes=lanes)
    code, killed_for_memory, stopped = _run(command, plan["cwd"], log, events, lanes)
    verdict = failures.judge(code, _end_of(log), killed_for_memory, failures.attempts(events)[-1]["told"])
    kind = failures.STOPPED if stopped and verdict.kind != failures.DONE else verdict.kind
    _note(events, kind=kind, message=verdict.message, code=code, seconds=round(time.time() - started, 1))
    if kind == failures.DONE:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.touch()
    return _CODES.get(kind, 1)


def _run(command: Sequence[str], cwd: str, log: Path, events: Path, lanes: int) -> tuple[int, bool, bool]:
    """Runs a command: its exit code, whether the system killed for memory meanwhile, whether a stop was asked for."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "LODO_OUTCOME": str(events)}
    if lanes:
        environment |= {"LODO_LANES": str(lanes), "LODO_RETRIED_AFTER": failures.OUT_OF_MEMORY}
    kills, stopped = failures.memory_kills(), []

    def stop(number: int, frame: FrameType | None) -> None:
        """Passes a polite stop on to the job, and makes it impolite when it takes long."""
        stopped.append(number)
        process.send_signal(signal.SIGTERM)
        signal.alarm(_GRACE)

    with log.open("wb") as sink:
        process = subprocess.Popen(
            with_parent(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            cwd=cwd, env=environment,
        )  # fmt: skip
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    code = process.wait()
    return code, failures.memory_kills() > kills, bool(stopped)


def _note(events: Path, **facts: Any) -> None:
    events.parent.mkdir(parents=True, exist_ok=True)
    with events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def _end_of(log: Path, size: int = 20_000) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
