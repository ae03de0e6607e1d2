"""Whether the chunks in which training is compiled, and donating what they carry, matter to its speed.

    python -m benchmarks.chunks                       the bowl as at the paper's scale, and the image tasks at laptop
    python -m benchmarks.chunks --only bowl --steps 2000

Each line trains the same steps, all in turns: chunks of different lengths, with the carry donated as
``lodo_experiments.training.compiled_steps`` does it, and without. Printed are medians over turns of the time on the
wall and of the processor's time (which a busy machine changes less), and whether the parameters are the same to the
last bit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.tasks import tasks
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.compiled_steps import lane_program


def training(task: Task, lanes: int, steps: int, chunk: int, donate: bool) -> Callable[[], Any]:
    """LODO's training of ``steps`` from the start, ``chunk`` at a time, compiled; returns the parameters."""
    optimizer = optimizer_named("LODO")
    values = {name: jnp.full((lanes,), value, jnp.result_type(float)) for name, value in optimizer.defaults.items()}
    values["initial_learning_rate"] = jnp.full((lanes,), 0.1, jnp.result_type(float))
    keys = jnp.stack([jax.random.key(seed) for seed in range(lanes)])

    def batched(piece: tuple[int, int, bool]) -> Any:
        lane = lane_program(task, optimizer, 0, piece)
        return jax.vmap(lane, in_axes=(None, 0, 0) if piece[0] == 0 else (None, 0, 0, 0, None))

    begin = jax.jit(batched((0, 0, False)))
    carry, _ = begin(task.data, values, keys)
    program = (
        jax.jit(batched((1, chunk, False)), donate_argnums=(3,) if donate else ())
        .lower(task.data, values, keys, carry, jnp.asarray(0))
        .compile()
    )

    def call() -> Any:
        carry, _ = begin(task.data, values, keys)
        for done in range(0, steps, chunk):
            carry, losses, _ = program(task.data, values, keys, carry, jnp.asarray(done))
            np.asarray(losses)  # as training keeps them
        return jax.block_until_ready(carry[0])

    return call


def compare(name: str, task: Task, lanes: int, steps: int, chunks: list[int], turns: int) -> None:
    """Print a line for each chunk length, with and without donation."""
    calls = {
        (chunk, donate): training(task, lanes, steps, chunk, donate) for chunk in chunks for donate in (True, False)
    }
    found = {case: call() for case, call in calls.items()}
    wall: dict[Any, list[float]] = {case: [] for case in calls}
    work: dict[Any, list[float]] = {case: [] for case in calls}
    for _ in range(turns):
        for case, call in calls.items():
            before = time.perf_counter(), time.process_time()
            call()
            wall[case].append(time.perf_counter() - before[0])
            work[case].append(time.process_time() - before[1])
    print(f"\n{name}: {lanes} lanes, {steps} steps, {turns} turns")
    print(f"{'chunk':>8} {'donated':>8} {'wall ms a step':>15} {'processor ms a step':>20}  same bits")
    first = next(iter(found.values()))
    for case in calls:
        same = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found[case]), jax.tree.leaves(first)))
        per_step = [1e3 * float(np.median(times[case])) / steps for times in (wall, work)]
        donated = "yes" if case[1] else "no"
        print(
            f"{case[0]:>8} {donated:>8} {per_step[0]:>15.4g} {per_step[1]:>20.4g}  {'yes' if same else 'no'}",
            flush=True,
        )


CASES = {
    "bowl": ("noisy bowl, 8 runs", 2_000, [100, 1000, 2000]),
    "generation": ("image generation, laptop", 16, [1, 4, 16]),
    "classification": ("image classification, laptop", 16, [1, 4, 16]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=0, help="of each training; default: each case's own")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    made = tasks(False, {CASES[one][0] for one in options.only})
    for one in options.only:
        name, steps, chunks = CASES[one]
        steps = options.steps or steps
        task, lanes, _, double = made[name]
        with jax.enable_x64(double):
            compare(name, task, lanes, steps, [chunk for chunk in chunks if steps % chunk == 0], options.turns)


if __name__ == "__main__":
    main()
