"""The catalogue of data sets to download: original files, mirrors, digests, and what the data must look like.

Another data set is another `Source` here, with a function that reads its original files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lodo_experiments.data.original_files import CIFAR_SHAPE, read_cifar, read_idx

#: What a reader gives for each split: images [count, height, width, channels] and labels [count], uint8.
Examples = Mapping[str, tuple[np.ndarray, np.ndarray]]


class DataError(RuntimeError):
    """Data that are missing, damaged, or cannot be fetched; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One original file: its name at every mirror, its length in bytes, and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A data set as tensorflow-datasets knows it."""

    name: str  # its name in tensorflow-datasets, also the folder's
    version: str  # its version there
    description: str  # one line
    image_shape: tuple[int, int, int]  # (height, width, channels)
    classes: int  # number of labels
    counts: Mapping[str, int]  # images of each split
    levels: int  # grey levels of a pixel, stored as 0 … levels − 1
    validation: int  # images taken off the end of the training split; 0: the validation split is empty
    files: tuple[RemoteFile, ...]  # the original files
    mirrors: tuple[str, ...]  # addresses of the folders that hold them, tried in this order
    read: Callable[[Path], Examples]  # folder with the original files → arrays of each split
    # what the labels stand for, in order; empty where tensorflow-datasets names them by numbers
    label_names: tuple[str, ...] = ()
    # whether every example has an "id", its split and number in the original order: "train_00042"
    identified: bool = False

    def folder(self, data_dir: Path) -> Path:
        """Where the prepared data lie under a data folder: ``data_dir/name/version``."""
        return data_dir / self.name / self.version


def read_mnist(folder: Path) -> Examples:
    """Arrays of MNIST's two splits from the four idx files."""
    return {
        split: (
            read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")[..., None],
            read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz"),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


MNIST = Source(
    name="mnist",
    version="3.0.1",
    description="The MNIST database of handwritten digits.",
    image_shape=(28, 28, 1),
    classes=10,
    counts={"train": 60_000, "test": 10_000},
    levels=256,
    validation=64,
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    ),
    # The Computer Vision Foundation's copy (also tensorflow-datasets' own source), then torchvision's.
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    read=read_mnist,
)


CIFAR10 = Source(
    name="cifar10",
    version="3.0.2",
    description="The CIFAR-10 data set of 32×32 colour images in 10 classes.",
    image_shape=CIFAR_SHAPE,
    classes=10,
    counts={"train": 50_000, "test": 10_000},
    levels=256,
    # The paper trains on all 50,000 and validates on the test split.
    validation=0,
    # The binary form: the other one is a pickle. Length and SHA-256 as in tensorflow-datasets.
    files=(
        RemoteFile(
            "cifar-10-binary.tar.gz", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
    ),
    # Its authors' own copy, also tensorflow-datasets' source.
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    read=lambda folder: read_cifar(folder / "cifar-10-binary.tar.gz"),
    label_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    identified=True,
)

CATALOGUE: dict[str, Source] = {entry.name: entry for entry in (MNIST, CIFAR10)}
