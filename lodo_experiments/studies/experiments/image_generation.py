"""Autoregressive image generation (paper §5.3), and LODO there with other values and in fewer bytes."""

from __future__ import annotations

from lodo_experiments.config.presets import IMAGE_GENERATION, ImageGenerationPreset
from lodo_experiments.data import ImageDataset
from lodo_experiments.models import AutoregressiveNetwork
from lodo_experiments.studies.experiment import DataOptions, Experiment, Setup
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.experiments.image_data import images_of, setup_on
from lodo_experiments.tasks import image_generation


def network_of(preset: ImageGenerationPreset, images: ImageDataset) -> AutoregressiveNetwork:
    """The network that a preset trains on such images."""
    return AutoregressiveNetwork(images.levels, preset.width, preset.hidden, blocks=preset.blocks)


def _setup(preset: ImageGenerationPreset, data: DataOptions) -> Setup:
    images = images_of(preset, *data)
    network = network_of(preset, images)
    task = image_generation.image_generation(images, preset.batch_size, network=network)
    return setup_on(images, task, image_generation.evaluator(images, network, preset.samples, preset.test_images))


_GENERATION = Experiment(
    name="image_generation", presets=IMAGE_GENERATION, setup=_setup, notebooks=("image_generation",), wide=True
)

EXPERIMENTS = (
    _GENERATION,
    variants.parameter_ablations(_GENERATION, _GENERATION, notebooks=("ablations",), listed=("laptop", "paper")),
    variants.compact_forms(_GENERATION),
)
