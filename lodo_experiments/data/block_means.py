"""Data sets of smaller images: each block of pixels replaced by its mean, for quick experiments on a CPU."""

from __future__ import annotations

import numpy as np

from lodo._validation import check_integer
from lodo_experiments.data.images import ImageDataset, Split, fingerprint


def shrink(dataset: ImageDataset, factor: int) -> ImageDataset:
    """Shrink the images of a data set: every factor×factor block of pixels becomes its mean.

    The mean is rounded to the nearest level, a half upwards, channel by channel; levels, labels and splits stay.

    Raises:
      ValueError: a factor below 2, or one that does not divide the sides.

    >>> from lodo_experiments.data import load_images
    >>> small = shrink(load_images("digits"), 2)
    >>> small.name, small.train.images.shape
    ('digits/2', (1373, 4, 4))
    """
    factor = check_integer("factor", factor, 2)
    height, width = dataset.train.images.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(
            f"factor must divide both sides of the images; {dataset.name}'s have {height}×{width} pixels, got {factor}."
        )
    train, validation, test = (
        Split(_block_means(split.images, factor), split.labels)
        for split in (dataset.train, dataset.validation, dataset.test)
    )
    name = f"{dataset.name}/{factor}"
    print_of_all = fingerprint(train, validation, test)
    return ImageDataset(name, dataset.version, dataset.levels, train, validation, test, print_of_all)


def _block_means(images: np.ndarray, factor: int) -> np.ndarray:
    count, height, width = images.shape[:3]
    blocks = images.reshape(count, height // factor, factor, width // factor, factor, *images.shape[3:])
    # In integers, so that a half is a half.
    total, pixels = blocks.sum((2, 4), dtype=np.int32), factor * factor
    return ((2 * total + pixels) // (2 * pixels)).astype(np.uint8)
