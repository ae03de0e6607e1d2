"""The loss and gradient of image generation at the paper's size, on one core: batch 256, 28×28 pixels, float32.

    python -m benchmarks.speed.image_gradient

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

import numpy as np

from benchmarks.turns import Samples, Timed, take_turns

ROOT = Path(__file__).resolve().parents[2]
BATCH, SIDE = 256, 28


def measure(quick: bool) -> list[dict[str, object]]:
    """A row for each form.

    Raises:
      RuntimeError: the process failed; with what it said.
    """
    from benchmarks.speed.steps import summary

    command = [sys.executable, "-m", "benchmarks.speed.image_gradient", *(["--quick"] if quick else [])]
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


def main(quick: bool) -> None:
    # Before JAX starts its threads.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax

    from benchmarks.speed.tasks import random_images
    from lodo.experiments.networks import AutoregressiveNetwork
    from lodo.experiments.tasks.image_generation import image_generation

    jax.config.update("jax_enable_compilation_cache", False)
    batch, side = (4, 2) if quick else (BATCH, SIDE)
    network = AutoregressiveNetwork(width=4, hidden=6, blocks=1) if quick else AutoregressiveNetwork()
    timed, compiling = {}, {}
    for name, microbatch in {"ours": None, "whole batch at once": batch}.items():
        task = image_generation(random_images(batch, (side, side)), batch, network=network, microbatch=microbatch)
        params = jax.jit(task.init)(jax.random.key(0))
        drawn, _ = task.sample(task.data, (), jax.random.key(1))
        began = time.perf_counter()
        program = jax.jit(jax.value_and_grad(task.loss)).lower(params, drawn).compile()
        compiling[name] = time.perf_counter() - began
        timed[name] = Timed(lambda program=program, params=params, drawn=drawn: program(params, drawn))
    samples = take_turns(timed, 3 if quick else 5)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seconds = {name: found.seconds.tolist() for name, found in samples.items()}
    print(json.dumps({"batch": batch, "cores": cores, "compile_seconds": compiling, "seconds": seconds}))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
