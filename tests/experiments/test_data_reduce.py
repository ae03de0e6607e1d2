"""Images shrunk by block means."""

import numpy as np
import pytest
from image_cases import tiny_dataset

from lodo_experiments.data import ImageDataset, Split, fingerprint, load_images, shrink


def colour_dataset(side: int = 6) -> ImageDataset:
    random = np.random.default_rng(3)

    def split(count: int) -> Split:
        return Split(random.integers(0, 256, (count, side, side, 3), np.uint8), random.integers(0, 10, count, np.uint8))

    return ImageDataset("colour", "1", 256, split(5), split(0), split(2), "none")


def slow_mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Pixel by pixel in exact halves."""
    side = image.shape[0] // factor
    out = np.zeros((side, side, *image.shape[2:]), np.uint8)
    for i in range(side):
        for j in range(side):
            block = image[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].astype(float)
            out[i, j] = np.floor(block.mean((0, 1)) + 0.5)
    return out


@pytest.mark.parametrize(
    ("dataset", "factor"), [(tiny_dataset(17, 4), 2), (colour_dataset(), 2), (colour_dataset(), 3)]
)
def test_every_pixel_is_the_rounded_mean_of_its_block(dataset, factor):
    small = shrink(dataset, factor)
    for name in ("train", "validation", "test"):
        before, after = getattr(dataset, name), getattr(small, name)
        expected = [slow_mean(image, factor) for image in before.images]
        assert len(after.images) == len(expected)
        assert all(np.array_equal(got, want) for got, want in zip(after.images, expected, strict=True))
        assert after.images.dtype == np.uint8
        assert after.labels is before.labels
    assert (small.name, small.levels) == (f"{dataset.name}/{factor}", dataset.levels)
    assert small.fingerprint == fingerprint(small.train, small.validation, small.test)


def test_halves_go_up_and_the_brightest_stays():
    images = np.array([[[0, 1, 255, 255], [1, 0, 255, 255]]], np.uint8)
    dataset = ImageDataset("x", "1", 256, *[Split(images, np.zeros(1, np.uint8))] * 3, "none")
    assert shrink(dataset, 2).train.images.tolist() == [[[1, 255]]]


def test_factors_that_do_not_fit_are_refused():
    digits = load_images("digits")
    with pytest.raises(ValueError, match="digits's have 8×8 pixels, got 3"):
        shrink(digits, 3)
    with pytest.raises(ValueError, match="at least 2"):
        shrink(digits, 1)
