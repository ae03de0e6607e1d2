"""Peak memory of a step, as the operating system sees it: each case in a process of its own.

    python -m benchmarks.speed.memory lodo.lodo 94696 float32

prints one line of JSON: the largest resident size before anything of this size was allocated, and after three steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.speed.steps import Row

ROOT = Path(__file__).resolve().parents[2]


def measure(form: str, n: int, dtype: str) -> Row:
    """The row of one form at one n and dtype.

    Raises:
      RuntimeError: the process failed; with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.speed.memory", form, str(n), dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return {"form": form, "n": n, "dtype": dtype, **json.loads(done.stdout)}


def main(form: str, n: str, dtype: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    from benchmarks.speed import forms
    from benchmarks.speed.steps import Amount, Prepared
    from lodo_experiments.analysis.step_times import CALL

    chosen = replace(next(one for one in forms.FORMS if one.name == form), ways=(CALL,))
    # What the libraries and a compiler at work take is no memory of the step.
    Prepared(chosen, Amount(100, 1, 1, 1, 1), dtype)
    before = _peak_resident()
    prepared = Prepared(chosen, Amount(int(n), 1, 1, 1, 1), dtype)
    prepared.allocate(dtype)
    prepared.check()
    print(json.dumps({"before_bytes": before, "peak_bytes": _peak_resident(), "xla_peak_bytes": prepared.peak_bytes}))


def _peak_resident() -> int:
    """Bytes; the largest so far."""
    import resource

    # Linux hands the largest size that getrusage tells on to a process that is started; this one is the process's own.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


if __name__ == "__main__":
    main(*sys.argv[1:])
