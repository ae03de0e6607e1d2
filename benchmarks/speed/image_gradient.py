"""The loss and gradient of image generation at the paper's size, on one core: batch 256, 28×28 pixels, float32.

    python -m benchmarks.speed.image_gradient [TURNS]

runs on one core in a process of its own, and prints JSON: form → seconds of each turn. The project's aim is the 2.7 s
that the authors' code took in TensorFlow, on one core of another machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.turns import Samples, Timed, take_turns

ROOT = Path(__file__).resolve().parents[2]
BATCH, SIDE = 256, 28
EARLIER = "earlier form: nine shifted products, channels last"


def measure(quick: bool, turns: int) -> list[dict[str, Any]]:
    """A row for each form.

    Args:
      quick: a small network and batch.
      turns: samples of each form.

    Raises:
      RuntimeError: the process failed; with what it said.
    """
    from benchmarks.speed.steps import summary

    command = [sys.executable, "-m", "benchmarks.speed.image_gradient", str(turns), *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    seconds = {name: Samples(np.array(values)) for name, values in found["seconds"].items()}
    return [
        {
            "form": name,
            "batch": found["batch"],
            "cores": found["cores"],
            "compile_seconds": found["compile_seconds"][name],
        }
        | summary("seconds", samples)
        | summary("by_ours", samples.ratio(seconds["ours"]))
        for name, samples in seconds.items()
    ]


def nine_shifted_products(x: Any, kernel: Any) -> Any:
    """The depthwise layer as it was first written: channels last, the whole batch, derivatives left to JAX."""
    import jax.numpy as jnp

    size, _, channels, multiplier = kernel.shape
    r, (height, width) = size // 2, x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    y = jnp.zeros((*x.shape[:3], channels, multiplier), x.dtype)
    for i in range(size):
        for j in range(size):
            y = y + padded[:, i : i + height, j : j + width, :, None] * kernel[i, j]
    return y.reshape(*x.shape[:3], channels * multiplier)


def main(turns: int, quick: bool) -> None:
    # Before JAX starts its threads.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax

    from benchmarks.speed.tasks import random_images
    from lodo_experiments.models import AutoregressiveNetwork, autoregressive
    from lodo_experiments.tasks.image_generation import image_generation

    jax.config.update("jax_enable_compilation_cache", False)
    batch, side = (4, 2) if quick else (BATCH, SIDE)
    width, hidden, blocks = (4, 6, 1) if quick else (20, 40, 4)
    timed, compiling = {}, {}
    for name, form, microbatch in (("ours", None, None), (EARLIER, "grouped", batch)):
        network = AutoregressiveNetwork(width=width, hidden=hidden, blocks=blocks, form=form)
        task = image_generation(random_images(batch, (side, side)), batch, network=network, microbatch=microbatch)
        params = jax.jit(task.init)(jax.random.key(0))
        drawn, _ = task.sample(task.data, (), jax.random.key(1))
        # The network has no such form any more: it takes the place of another one with the same shapes.
        with mock.patch.object(autoregressive, "grouped_convolution", nine_shifted_products):
            began = time.perf_counter()
            program = jax.jit(jax.value_and_grad(task.loss)).lower(params, drawn).compile()
            compiling[name] = time.perf_counter() - began
        timed[name] = Timed(lambda program=program, params=params, drawn=drawn: program(params, drawn))
    samples = take_turns(timed, 3 if quick else turns)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seconds = {name: found.seconds.tolist() for name, found in samples.items()}
    print(json.dumps({"batch": batch, "cores": cores, "compile_seconds": compiling, "seconds": seconds}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5, "--quick" in sys.argv)
