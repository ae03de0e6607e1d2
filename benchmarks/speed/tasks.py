"""What an optimizer adds to a whole training step of each task: loss, gradient, update, as training runs them.

The image tasks have the laptop preset's sizes and random pixels: a step costs the same on any.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.steps import Row, summary
from benchmarks.turns import Timed, take_turns
from lodo_experiments.config import presets
from lodo_experiments.data import ImageDataset, Split
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.studies.experiments import image_classification as classification
from lodo_experiments.studies.experiments import image_generation as generation
from lodo_experiments.tasks import image_classification, image_generation, noisy_bowl, rosenbrock
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.compiled_steps import compile_piece, start_lanes

#: SGD without momentum is the gradient and hardly anything else.
OPTIMIZERS = ("LODO", "Adam", "Momentum")


def tasks(quick: bool, only: Container[str] | None = None) -> dict[str, tuple[Task, int, int, bool]]:
    """Name → (task, lanes side by side, steps in a program, whether in float64).

    Args:
      quick: the cheapest alone.
      only: names of those to make; None: all.
    """
    found = {"noisy bowl": (noisy_bowl.noisy_bowl, 1, 200, True)}
    if not quick:
        found |= {
            "noisy bowl, 8 runs": (noisy_bowl.noisy_bowl, 8, 100, True),
            "Rosenbrock": (rosenbrock.rosenbrock, 1, 200, True),
            "image generation, laptop": (_generation, 1, 2, False),
            "image classification, laptop": (_classification, 1, 2, False),
        }
    made = {}
    for name, (make, lanes, steps, double) in found.items():
        if only is not None and name not in only:
            continue
        with jax.enable_x64(double):
            made[name] = (make(), lanes, steps, double)
    return made


def measure(quick: bool, turns: int) -> list[Row]:
    """A row for each task and optimizer; quick: the cheapest task in few turns."""
    rows = []
    for name, (task, lanes, steps, double) in tasks(quick).items():
        print(f"  {name}", flush=True)
        with jax.enable_x64(double):
            timed = {one: Timed(_training(task, one, lanes, steps), steps) for one in OPTIMIZERS}
            samples = take_turns(timed, 3 if quick else turns)
            n = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))
        for optimizer in OPTIMIZERS:
            row = {"task": name, "n": n, "lanes": lanes, "optimizer": optimizer}
            row |= summary("seconds", samples[optimizer])
            rows.append({**row, **summary("by_adam", samples[optimizer].ratio(samples["Adam"]))})
    return rows


def _training(task: Task, name: str, lanes: int, steps: int) -> Any:
    """A chunk of training, each call going on where the last one ended."""
    optimizer = optimizer_named(name)
    values = {key: jnp.full((lanes,), value, jnp.result_type(float)) for key, value in optimizer.defaults.items()}
    if name == "LODO":
        values["initial_learning_rate"] = jnp.full((lanes,), 0.1, jnp.result_type(float))
    keys = jnp.stack([jax.random.key(seed) for seed in range(lanes)])
    box = [start_lanes(task, optimizer, 0, (task.data, values, keys)), 0]
    program, _ = compile_piece(task, optimizer, 0, (1, steps, False), (task.data, values, keys, box[0], jnp.asarray(0)))

    def call() -> Any:
        box[0], losses, _ = program(task.data, values, keys, box[0], jnp.asarray(box[1]))
        box[1] += steps
        return losses

    return call


def random_images(count: int, shape: tuple[int, ...]) -> ImageDataset:
    """A data set of random pixels with 256 grey levels."""
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        return Split(random.integers(0, 256, (count, *shape), dtype=np.uint8), np.zeros(count, np.uint8))

    return ImageDataset("random", "1", 256, split(count), split(1), split(1), "")


def _generation() -> Task:
    preset = presets.IMAGE_GENERATION["laptop"]
    images = random_images(1024, (14, 14))
    return image_generation.image_generation(
        images, preset.batch_size, network=generation.network_of(preset, images.levels)
    )


def _classification() -> Task:
    preset = presets.IMAGE_CLASSIFICATION["laptop"]
    images = random_images(1024, (16, 16, 3))
    network = classification.network_of(preset)
    return image_classification.image_classification(images, preset.batch_size, network=network, l2=preset.l2)
