"""Image classification with a ResNet-18 (paper §5.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np

from lodo_experiments.config.presets import IMAGE_CLASSIFICATION, ImageClassificationPreset
from lodo_experiments.models import ResNet, initial_variables
from lodo_experiments.optimizers.names import OTHERS, RELATIVE, UNTUNED
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.experiments.image_data import images_of, setup_on, shape_of
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks import image_classification
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.curvature import curvature_of_runs


def network_of(preset: ImageClassificationPreset) -> ResNet:
    """The network that a preset trains."""
    return ResNet(classes=10, width=preset.width, stages=preset.stages)


def _parameters(preset: ImageClassificationPreset) -> int:
    side, channels, _ = shape_of(preset)
    network = network_of(preset)
    shapes, _ = jax.eval_shape(lambda key: initial_variables(network, key, side, side, channels), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _setup(preset: ImageClassificationPreset, data: DataOptions) -> Setup:
    images = images_of(preset, *data)
    task = image_classification.image_classification(
        images, preset.batch_size, network=network_of(preset), l2=preset.l2, measured_images=preset.measured_images
    )
    return setup_on(images, task)


_CLASSIFICATION = Experiment(
    name="image_classification", presets=IMAGE_CLASSIFICATION, setup=_setup, parameters=_parameters,
    notebooks=("image_classification",),
    wide=True,
)  # fmt: skip

#: The Hessian is measured on so many batches, drawn as a step draws them: BatchNorm makes an example's loss depend on
#: the others in its batch.
BATCHES = 8


def _curvature(preset: ImageClassificationPreset, task: Task, run: Run) -> Mapping[str, np.ndarray]:
    """How G lies to the Hessian of the training loss, penalty included, of those batches."""
    statistics = task.init_data(task.data, jax.random.key(0))  # which training never reads
    keys = jax.random.split(jax.random.key(variants.CURVATURE_SEED), BATCHES)
    batches = jax.jit(jax.vmap(lambda key: task.sample(task.data, statistics, key)[0]))(keys)
    return curvature_of_runs(task.loss, batches, run.params, run.optimizer_state)


EXPERIMENTS = (
    _CLASSIFICATION,
    variants.other_optimizers(
        _CLASSIFICATION, UNTUNED.name, RELATIVE.name, *OTHERS, listed=("laptop", "desktop", "paper")
    ),
    variants.network_curvature(_CLASSIFICATION, _curvature),
)
