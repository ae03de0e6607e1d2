"""Time the Pallas kernels against XLA's path, in turns, and compare what they compute.

    python -m benchmarks.kernels --accelerator       n = 94,696 and 10,000,000 on a GPU; stores a record
    python -m benchmarks.kernels --interpret --n 40  the same program by Pallas' interpreter: that it runs, no timing

Printed and stored are the median and the quartiles of a call, its share of the time that its memory traffic takes at
the bandwidth measured beside it, and the largest difference between the two paths.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.speed.bandwidth import ELEMENTS, Bandwidth
from benchmarks.turns import Timed, take_turns
from lodo.operators import BlockPermutation
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.utils import environment

SIZES = (94_696, 10_000_000)
KIND = "benchmarks/speed/kernels"
#: Passes over arrays of θ's size that each call needs: θ up and down; the same and the product written; θ read twice
#: and written, both moments read and written.
PASSES = {"apply": 2, "hypergradient": 3, "hypergradient and Adam": 7}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--accelerator", action="store_true", help="on a GPU; refused where there is none")
    where.add_argument("--interpret", action="store_true", help="by the interpreter; nothing is timed or stored")
    parser.add_argument("--n", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--print", action="store_true", help="store nothing")
    parser.add_argument("--results-dir", default="", help="folder of the records; default: results")
    options = parser.parse_args(argv)
    if options.accelerator and jax.default_backend() not in ("gpu", "cuda", "rocm"):
        parser.error(f"--accelerator: JAX's default device here is {jax.default_backend()}, not a GPU. See `make gpu`.")
    began, rows = time.perf_counter(), []
    for n in options.n:
        found = measure(n, options.interpret, options.turns)
        for row in found:
            print(row, flush=True)
        rows += found
    if options.accelerator and not options.print:
        stated = records.provenance(
            "python -m benchmarks.kernels --accelerator",
            preset="bench",
            seeds=[0],
            wall_seconds=time.perf_counter() - began,
            compile_seconds=sum(row["compile_seconds"] for row in rows),
            library=environment.library(),
        )
        path = results_folder(options.results_dir) / "benchmarks" / "speed" / "kernels.npz"
        print(records.save(path, Record(KIND, {}, {"rows": rows}, stated)))
    return 0


def measure(n: int, interpret: bool, turns: int) -> list[dict[str, Any]]:
    """One size: a row for each call and path."""
    kernel = "experimental-pallas-interpret" if interpret else "experimental-pallas"
    forms = {"xla": BlockPermutation(), kernel: BlockPermutation(kernel=kernel)}
    theta, fixed = jax.jit(lambda key: forms["xla"].init(key, n, jnp.float32))(jax.random.key(0))
    m, g = jax.random.normal(jax.random.key(1), (2, n))
    run: dict[str, Any] = {}
    compiled, results = {}, {}
    for path, form in forms.items():
        for call, function in {"apply": applied, "hypergradient": multiplied}.items():
            start = time.perf_counter()
            program = jax.jit(function, static_argnums=0).lower(form, theta, fixed, m, g).compile()
            name = f"{call} | {path}"
            run[name] = lambda program=program: program(theta, fixed, m, g)
            compiled[name], results[name] = time.perf_counter() - start, run[name]()
        # The state is donated, as in a training: it is updated in place where a path can do so.
        name, start = f"hypergradient and Adam | {path}", time.perf_counter()
        state = [jnp.copy(theta), 0.1 * theta, 0.01 * theta * theta]
        step = jax.jit(updated, static_argnums=(0, 1), donate_argnums=(2, 3, 4))
        program = step.lower(form, interpret, *state, fixed, m, g).compile()

        def again(program: Any = program, state: list[Any] = state) -> Any:
            state[:] = program(*state, fixed, m, g)
            return state

        run[name] = again
        compiled[name], results[name] = time.perf_counter() - start, [jnp.copy(leaf) for leaf in again()]
    rows = []
    for call in PASSES:
        ours, reference = results[f"{call} | {kernel}"], results[f"{call} | xla"]
        apart = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference)))
        size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(reference))
        if not apart <= 1e-4 * max(size, 1.0):
            raise SystemExit(f"n = {n:,}: {call} differs by {apart:g} between the two paths; its entries are {size:g}.")
        for path in forms:
            compiling = compiled[f"{call} | {path}"]
            rows.append({"n": n, "call": call, "path": path, "differs_by": apart, "compile_seconds": compiling})
    if interpret:
        return rows
    results.clear()
    bandwidth = Bandwidth(ELEMENTS)
    timed = {name: Timed(call) for name, call in run.items()}
    samples = take_turns({**timed, **bandwidth.timed()}, turns)
    fastest = max(nbytes / samples[f"bandwidth: {name}"].median for name, nbytes in bandwidth.bytes.items())
    for row in rows:
        took = samples[f"{row['call']} | {row['path']}"]
        low, high = took.quartiles()
        floor = PASSES[row["call"]] * theta.nbytes / fastest
        row |= {"seconds": took.median, "seconds_low": low, "seconds_high": high, "by_floor": took.median / floor}
        row["bytes_per_second"] = fastest
    return rows


def applied(form: BlockPermutation, theta: jax.Array, fixed: Any, m: jax.Array, g: jax.Array) -> jax.Array:
    return form.apply(theta, fixed, m)


def multiplied(form: BlockPermutation, theta: jax.Array, fixed: Any, m: jax.Array, g: jax.Array) -> jax.Array:
    return form.hypergradient(theta, fixed, m, g)


def updated(
    form: BlockPermutation,
    interpret: bool,
    theta: jax.Array,
    first: jax.Array,
    second: jax.Array,
    fixed: Any,
    m: jax.Array,
    g: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """θ and Adam's moments after a first step of Adam from moments that are given."""
    if form.kernel != "xla":
        from lodo.operators import _pallas
        from lodo.operators._pallas.layers import Adam

        numbers = Adam(1e-3, 0.9, 0.999, 1e-8, 1 - 0.9, 1 - 0.999)
        return _pallas.adam_step(theta, first, second, fixed, m, g, numbers, interpret)
    adam = optax.adam(1e-3)
    state = adam.init(theta)
    state = (state[0]._replace(mu=first, nu=second), *state[1:])
    change, state = adam.update(form.hypergradient(theta, fixed, m, g), state)
    return theta + change, state[0].mu, state[0].nu


if __name__ == "__main__":
    sys.exit(main())
