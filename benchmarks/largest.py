"""Find the largest n that runs in a given memory, by running, and compare it with what cost_table says.

    python -m benchmarks.largest --memory 4            GiB; stores results/benchmarks/scale/largest.npz
    python -m benchmarks.largest --memory 4 --print    measure and print only

Each size is tried in a process of its own whose data segment the system limits (RLIMIT_DATA, Linux): it draws a
start and makes steps with a donated state. The search halves the interval, in logarithm, between the last n that ran
and the first that did not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lodo_experiments.analysis import scaling
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.utils import environment

GIB = 2**30


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.largest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that a process may have; default 4")
    parser.add_argument("--within", type=float, default=0.05, help="stop where the two ends are this close, relatively")
    parser.add_argument("--steps", type=int, default=2, help="steps made at each size")
    parser.add_argument("--print", action="store_true", help="store nothing")
    parser.add_argument("--results-dir", default="", help="folder of the records; default: results")
    parser.add_argument("--attempt", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not (options.memory > 0.5 and 0 < options.within < 1 and options.steps > 0):
        parser.error("--memory must be above 0.5 (JAX alone needs that), --within between 0 and 1, --steps at least 1")
    if options.attempt:
        set_limit(int(options.memory * GIB))
        print(json.dumps(attempt(options.attempt, options.steps)))
        return 0
    began, limit = time.perf_counter(), int(options.memory * GIB)
    rows = search(limit, options.within, options.steps)
    for row in rows:
        print(row)
    largest = max(row["n"] for row in rows if row["ran"])
    print(f"largest n that ran in {options.memory:g} GiB: {largest:,}")
    if not options.print:
        stated = records.provenance(
            f"python -m benchmarks.largest --memory {options.memory:g}",
            preset="bench",
            seeds=[0],
            wall_seconds=time.perf_counter() - began,
            compile_seconds=sum(row.get("compile_seconds", 0.0) for row in rows),
            library=environment.library(),
            load_after=round(os.getloadavg()[0], 2),
        )
        values = {"rows": rows, "memory_bytes": limit, "largest": largest}
        path = scaling.path_of(results_folder(options.results_dir), "largest")
        print(records.save(path, Record(scaling.kind_of("largest"), {}, values, stated)))
    return 0


def search(limit: int, within: float, steps: int) -> list[dict[str, Any]]:
    """Every size that was tried, with what it needed."""
    rows: list[dict[str, Any]] = []

    def runs(n: int) -> bool:
        rows.append(limited(n, limit, steps))
        print(f"n = {n:,}: {'ran' if rows[-1]['ran'] else 'did not run: ' + rows[-1]['why']}", flush=True)
        return bool(rows[-1]["ran"])

    small = runs(1000)
    if not small:
        raise SystemExit(f"Not even n = 1000 runs in {limit / GIB:g} GiB. Give more --memory.")
    # What the state alone would need; a step needs more.
    high = scaling.largest_fitting(limit - rows[0]["peak_bytes"])
    low = high // 4
    while not runs(low):
        high, low = low, low // 2
    if runs(high):
        raise SystemExit(f"n = {high:,} ran, whose state cost_table says does not fit: the limit is not kept here.")
    while high / low > 1 + within:
        middle = round(math.sqrt(low * high))
        low, high = (middle, high) if runs(middle) else (low, middle)
    return rows


def limited(n: int, limit: int, steps: int) -> dict[str, Any]:
    """One size in a process of its own."""
    ran = process(n, limit, steps)
    if ran.returncode == 0:
        return {"n": n, "ran": True, **json.loads(ran.stdout.splitlines()[-1])}
    lines = ran.stderr.strip().splitlines() or ["no message"]
    message = next((line for line in lines if is_shortage(line)), "")
    # Libraries below XLA have other words for it. What runs in more memory failed for want of memory.
    if not message and process(n, 2 * limit, steps).returncode == 0:
        message = f"{lines[-1]} (it ran in twice the memory)"
    if not message:
        raise SystemExit(f"n = {n:,} failed, and not for want of memory:\n{ran.stderr[-2000:]}")
    return {"n": n, "ran": False, "why": message.strip()[:160]}


def process(n: int, limit: int, steps: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.largest", "--memory", str(limit / GIB)]
    return subprocess.run(
        [*command, "--attempt", str(n), "--steps", str(steps)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def set_limit(limit: int) -> None:
    """Have the system refuse this process more memory than so many bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def is_shortage(line: str) -> bool:
    """Whether a line of an error says that memory was short.

    >>> is_shortage("RESOURCE_EXHAUSTED: Out of memory allocating 512 bytes."), is_shortage("ValueError: depth")
    (True, False)
    """
    words = (
        "RESOURCE_EXHAUSTED",
        "bad_alloc",
        "MemoryError",
        "Cannot allocate memory",
        "Out of memory",
        "allocate of <",
    )
    return any(word in line for word in words)


def attempt(n: int, steps: int) -> dict[str, Any]:
    """Draw a start, make steps, and say what that took."""
    import resource

    import jax
    import jax.numpy as jnp

    import lodo

    optimizer, params = lodo.lodo(), jnp.zeros(n, jnp.float32)
    began = time.perf_counter()
    state = jax.block_until_ready(jax.jit(optimizer.init)(params))
    drawn = time.perf_counter()
    step = jax.jit(optimizer.update, donate_argnums=1).lower(params, state).compile()
    compiled = time.perf_counter()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    memory = step.memory_analysis()
    for _ in range(steps):
        update, state = step(params + 1.0, state)
        jax.block_until_ready(update)
    done = time.perf_counter()
    if not bool(jnp.isfinite(update).all()):
        raise RuntimeError("The step is not finite.")
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "state_bytes": held,
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "init_seconds": drawn - began,
        "compile_seconds": compiled - drawn,
        "step_seconds": (done - compiled) / steps,
    }


if __name__ == "__main__":
    sys.exit(main())
