"""Data sets as plain files: the same images in the same order, and nothing damaged is taken."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from lodo_experiments.data import CATALOGUE, DataError, plain_files
from lodo_experiments.data.images import load_images

RNG = np.random.default_rng(0)
SMALL = dataclasses.replace(
    CATALOGUE["cifar10"],
    name="small",
    version="1.0.0",
    image_shape=(4, 6, 3),
    counts={"train": 7, "test": 3},
    validation=2,
)
SPLITS = {
    split: (RNG.integers(0, 256, (count, 4, 6, 3), np.uint8), RNG.integers(0, 10, count).astype(np.uint8))
    for split, count in SMALL.counts.items()
}


def test_what_is_exported_is_read(tmp_path):
    paths = plain_files.export(SMALL, SPLITS, tmp_path, images_a_file=3)
    assert [path.name for path in paths][:2] == ["small-1.0.0-train-00-of-03.npz", "small-1.0.0-train-01-of-03.npz"]
    for split, (images, labels) in SPLITS.items():
        found = plain_files.read_split(SMALL, tmp_path, split)
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1], labels)
    dataset = load_images(SMALL, data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.train.images, SPLITS["train"][0][:5])
    np.testing.assert_array_equal(dataset.validation.images, SPLITS["train"][0][5:])
    np.testing.assert_array_equal(dataset.test.labels, SPLITS["test"][1])


def test_grey_images_have_no_channel(tmp_path):
    grey = dataclasses.replace(SMALL, image_shape=(4, 6, 1))
    plain_files.export(grey, {split: (images[..., 0], labels) for split, (images, labels) in SPLITS.items()}, tmp_path)
    assert load_images(grey, data_dir=tmp_path).train.images.shape == (5, 4, 6)


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    paths = plain_files.export(SMALL, SPLITS, tmp_path, images_a_file=3)
    kept = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(DataError, match=r"holds 2 of 3 files of small's split 'train'.*--export"):
        load_images(SMALL, data_dir=tmp_path)
    paths[1].write_bytes(kept[:-30])
    with pytest.raises(DataError, match=r"train-01-of-03\.npz is damaged"):
        load_images(SMALL, data_dir=tmp_path)
    paths[1].write_bytes(paths[-1].read_bytes())
    with pytest.raises(DataError, match=r"is a record of 'images/small/1\.0\.0/test'"):
        load_images(SMALL, data_dir=tmp_path)
    paths[1].write_bytes(kept)
    with pytest.raises(DataError, match=r"is uint8\(7, 4, 6, 3\); expected uint8\(8, 4, 6, 3\)"):
        plain_files.read_split(dataclasses.replace(SMALL, counts={"train": 8, "test": 3}), tmp_path, "train")


def test_the_runner_needs_neither_notebooks_nor_tensorflow_datasets():
    """On the machine that it is for there is no papermill, no plotly and no tensorflow-datasets."""
    absent = ("papermill", "plotly", "tensorflow_datasets", "tensorflow", "IPython", "nbformat", "matplotlib")
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "from lodo_experiments.cli import run\n"
        "from lodo_experiments.data import CATALOGUE, plain_files as plain\n"
        "try: run.main(['--help'])\nexcept SystemExit as end: sys.exit(end.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout
