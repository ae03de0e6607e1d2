"""What the two experiments on images share: their data, and how many networks train side by side."""

from __future__ import annotations

from typing import Any

import jax

from lodo_experiments.config.presets import ImageClassificationPreset, ImageGenerationPreset
from lodo_experiments.data.block_means import shrink
from lodo_experiments.data.images import ImageDataset, load_images
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.base import Task

#: Data set → side, channels and grey levels of its images.
_SHAPES = {"digits": (8, 1, 17), "mnist": (28, 1, 256), "cifar10": (32, 3, 256)}


def shape_of(preset: ImageGenerationPreset | ImageClassificationPreset) -> tuple[int, int, int]:
    """Side, channels and grey levels of the images that a preset works on; no data set is read."""
    side, channels, levels = _SHAPES[preset.dataset]
    return side // preset.reduce, channels, levels


def images_of(
    preset: ImageGenerationPreset | ImageClassificationPreset, data_dir: str = "", download: bool = False
) -> ImageDataset:
    """The images that a preset works on, shrunk where it says so.

    Raises:
      DataError: the data set is not there.
    """
    images = load_images(preset.dataset, data_dir=data_dir or None, download=download)
    return shrink(images, preset.reduce) if preset.reduce > 1 else images


def setup_on(images: ImageDataset, task: Task, after: Any = None) -> Setup:
    """The set-up of a task on images, for this machine."""
    facts = {"dataset": f"{images.name} {images.version}", "dataset_sha256": images.fingerprint}
    # One network keeps a CPU busy; on an accelerator as many train side by side as fit in most of its memory.
    if jax.default_backend() == "cpu":
        return Setup(task=task, after=after, facts=facts, lanes=1, chunk=20)
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return Setup(task=task, after=after, facts=facts, memory=limit * 7 // 10, chunk=500)
