"""Image data sets in memory, loaded by name: splits, grey levels and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lodo_experiments.data import array_records, plain_files, prepare
from lodo_experiments.data.catalogue import CATALOGUE, DataError, Source

DIGITS_VALIDATION, DIGITS_TEST = 64, 360


@dataclass(frozen=True, eq=False)
class Split:
    """Images [count, height, width] (colour: [count, height, width, 3]) and labels [count], uint8."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set in memory."""

    name: str  # "digits", "mnist" or "cifar10"; after `shrink` by 2 "mnist/2"
    version: str  # of the data
    levels: int  # levels of a pixel (in each channel): values are 0 … levels − 1
    train: Split  # what is trained on
    # held out of the training split; no images in CIFAR-10, whose test split serves for it in the paper
    validation: Split
    test: Split  # the test split
    fingerprint: str  # SHA-256 over shapes, pixels and labels of the three, in order; for provenance


def names() -> tuple[str, ...]:
    """The data sets there are."""
    return ("digits", *CATALOGUE)


def default_data_dir() -> Path:
    """TFDS_DATA_DIR where it is set, else tensorflow-datasets' own default, ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_images(
    name: str | Source,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    source: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """Load a data set. Downloads nothing unless told to.

    ``digits`` (1,797 images of 8×8 pixels, 17 grey levels) comes with scikit-learn; a fixed permutation makes
    360 of them the test split and 64 the validation split. ``mnist`` (70,000 of 28×28, 256 levels) is read
    from what tensorflow-datasets prepared as array_record, without TensorFlow; its validation split is the
    last 64 of the 60,000 training images in tensorflow-datasets' order, which is a fixed shuffle. ``cifar10``
    (60,000 of 32×32 in colour, 256 levels) is read likewise; its validation split is empty, since the paper
    validates on the test split.

    Args:
      name: "digits", "mnist" or "cifar10", or an entry as the catalogue has them.
      data_dir: folder of prepared data; default the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets.
      download: fetch and prepare the data if they are not there.
      source: with ``download``, a local folder (or file:// address) with the original files instead of the
        mirrors.

    Raises:
      ValueError: no data set of that name, or a ``source`` without ``download``.
      DataError: data that are not there, cannot be fetched, or are damaged.

    >>> digits = load_images("digits")
    >>> digits.train.images.shape, digits.validation.images.shape, digits.test.images.shape, digits.levels
    ((1373, 8, 8), (64, 8, 8), (360, 8, 8), 17)
    """
    if isinstance(name, str) and name not in names():
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(map(repr, names()))}.")
    if source is not None and not download:
        raise ValueError("source says where to fetch from, so it needs download=True.")
    if name == "digits":
        return _load_digits()
    entry = CATALOGUE[name] if isinstance(name, str) else name
    where = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    arrays = read_splits(entry, where, download=download, source=source)
    cut = entry.counts["train"] - entry.validation
    images, labels = arrays["train"]
    train, validation = Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    return _dataset(entry.name, entry.version, entry.levels, train, validation, Split(*arrays["test"]))


def read_splits(
    entry: Source, data_dir: Path, *, download: bool = False, source: str | os.PathLike[str] | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A data set's two splits as they are stored: from plain files where the folder has them, else as prepared.

    Raises:
      DataError: see :func:`load_images`.
    """
    if plain_files.is_exported(entry, data_dir):
        return {split: plain_files.read_split(entry, data_dir, split) for split in ("train", "test")}
    if not array_records.is_prepared(entry, data_dir):
        if not download:
            raise DataError(_missing(entry, data_dir))
        prepare.prepare(entry, data_dir, source=source)
    return {split: array_records.read_split(entry, data_dir, split) for split in ("train", "test")}


def check_present(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Refuses a data set that is not there; looks at files' names only, so it answers at once.

    Raises:
      DataError: it is not there, or there is something else in its place.

    >>> check_present("digits")
    """
    entry, where = CATALOGUE.get(name), Path(data_dir or default_data_dir()).expanduser()
    if entry is not None and not plain_files.is_exported(entry, where) and not array_records.is_prepared(entry, where):
        raise DataError(_missing(entry, where))


def fingerprint(*splits: Split) -> str:
    """SHA-256 over shapes, pixels and labels of the splits, in order.

    >>> fingerprint(Split(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.uint8)))[:12]
    '3e464a806659'
    """
    digest = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            digest.update(f"{array.dtype.name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _dataset(name: str, version: str, levels: int, train: Split, validation: Split, test: Split) -> ImageDataset:
    print_of_all = fingerprint(train, validation, test)
    return ImageDataset(name, version, levels, train, validation, test, print_of_all)


def _missing(entry: Source, where: Path) -> str:
    megabytes = sum(file.size for file in entry.files) / 1e6
    return (
        f"{entry.name} {entry.version} is not prepared in {where}. Two ways to get it:\n"
        f"  1. download it ({megabytes:.0f} MB): download=True, or\n"
        f"     python -m lodo_experiments.data {entry.name} --download\n"
        f"  2. if it is prepared (as array_record) elsewhere, set TFDS_DATA_DIR, or data_dir, to the folder "
        f"that holds {entry.name}/{entry.version}."
    )


def _load_digits() -> ImageDataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    # The order of scikit-learn goes by writers. Sorting by a hash shuffles it alike on every machine and in
    # every version of NumPy.
    order = sorted(range(len(images)), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    images, labels = images[order], labels[order]
    first, second = DIGITS_TEST, DIGITS_TEST + DIGITS_VALIDATION
    return _dataset(
        "digits",
        "1",
        17,
        Split(images[second:], labels[second:]),
        Split(images[first:second], labels[first:second]),
        Split(images[:first], labels[:first]),
    )
