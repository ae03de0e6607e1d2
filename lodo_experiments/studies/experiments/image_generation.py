"""Autoregressive image generation (paper §5.3), and LODO there with other values and in fewer bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo_experiments.config.presets import IMAGE_GENERATION, ImageGenerationPreset
from lodo_experiments.models import AutoregressiveNetwork
from lodo_experiments.models.autoregressive import INPUT_CHANNELS
from lodo_experiments.optimizers.names import OTHERS, RELATIVE, UNTUNED
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.experiments.image_data import images_of, setup_on, shape_of
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks import image_generation
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.curvature import curvature_of_runs


def network_of(preset: ImageGenerationPreset, levels: int) -> AutoregressiveNetwork:
    """The network that a preset trains on images with so many grey levels."""
    return AutoregressiveNetwork(levels, preset.width, preset.hidden, blocks=preset.blocks)


def _parameters(preset: ImageGenerationPreset) -> int:
    side, _, levels = shape_of(preset)
    image = jax.ShapeDtypeStruct((1, side, side, INPUT_CHANNELS), "float32")
    shapes = jax.eval_shape(network_of(preset, levels).init, jax.random.key(0), image)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _setup(preset: ImageGenerationPreset, data: DataOptions) -> Setup:
    images = images_of(preset, *data)
    network = network_of(preset, images.levels)
    task = image_generation.image_generation(images, preset.batch_size, network=network)
    return setup_on(images, task, image_generation.evaluator(images, network, preset.samples, preset.test_images))


_GENERATION = Experiment(
    name="image_generation",
    presets=IMAGE_GENERATION,
    setup=_setup,
    parameters=_parameters,
    notebooks=("image_generation",),
    wide=True,
)

#: The Hessian is measured on so many slices of so many training images, one pixel drawn in each.
SLICES, SLICE = 32, 16


def _curvature(preset: ImageGenerationPreset, task: Task, run: Run) -> Mapping[str, np.ndarray]:
    """How G lies to the Hessian of the loss of those examples."""
    network, images = network_of(preset, shape_of(preset)[2]), task.data.train
    which, where = jax.random.split(jax.random.key(variants.CURVATURE_SEED))
    rows = jax.random.randint(which, (SLICES, SLICE), 0, images.shape[0])
    positions = jax.random.randint(where, (SLICES, SLICE), 0, math.prod(images.shape[1:]), jnp.int32)

    def loss(params: Any, batch: image_generation.PixelBatch) -> jax.Array:
        return jnp.mean(image_generation.cross_entropy(network, params, batch))

    return curvature_of_runs(
        loss, image_generation.PixelBatch(images[rows], positions), run.params, run.optimizer_state
    )


#: Without Sophia, whose estimate differentiates the gradient forwards: the network's layers, which have derivatives of
#: their own, only go backwards.
_REVERSE_MODE = tuple(name for name in OTHERS if name != "Sophia")

EXPERIMENTS = (
    _GENERATION,
    variants.parameter_ablations(
        _GENERATION, _GENERATION, notebooks=("ablations",), listed=("laptop", "desktop", "paper")
    ),
    variants.other_optimizers(
        _GENERATION, UNTUNED.name, RELATIVE.name, *_REVERSE_MODE, listed=("laptop", "desktop", "paper")
    ),
    variants.compact_forms(_GENERATION),
    variants.network_curvature(_GENERATION, _curvature),
)
