"""A data set as a few plain files, for machines without tensorflow-datasets and without a network.

``python -m lodo_experiments.data mnist --export FOLDER`` writes them from the prepared data; ``load_images`` reads
them where they lie in the data folder. Each file is a record (:mod:`lodo_experiments.results.records`): checksummed, no
pickle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lodo._validation import check_integer
from lodo_experiments.data.catalogue import DataError, Source
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError

#: Images of one file at most: some 30 MB of CIFAR-10, so that files travel through tools with limits.
IMAGES_A_FILE = 10_000

Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def export(entry: Source, splits: Splits, folder: Path, images_a_file: int = IMAGES_A_FILE) -> list[Path]:
    """Write a data set's splits."""
    check_integer("images_a_file", images_a_file, 1)
    paths = []
    for split, (images, labels) in splits.items():
        starts = range(0, len(images), images_a_file)
        for part, start in enumerate(starts):
            piece = slice(start, start + images_a_file)
            record = Record(
                _kind(entry, split),
                {"images": images[piece], "labels": labels[piece]},
                {"part": part, "parts": len(starts), "count": len(images)},
            )
            paths.append(records.save(_path(entry, folder, split, part, len(starts)), record))
    return paths


def is_exported(entry: Source, folder: Path) -> bool:
    """Whether a folder holds any of a data set's plain files; looks at names only."""
    return any(folder.glob(f"{entry.name}-{entry.version}-*-of-*.npz"))


def read_split(entry: Source, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, uint8, in the order that they were exported in.

    Raises:
      DataError: files are missing, damaged, or not of the shape and number that the catalogue says.
    """
    again = f"Export it again: python -m lodo_experiments.data {entry.name} --export {folder}"
    paths = sorted(folder.glob(f"{entry.name}-{entry.version}-{split}-*-of-*.npz"))
    try:
        parts = [records.load(path, _kind(entry, split)) for path in paths]
    except RecordError as error:
        raise DataError(f"{error} {again}") from error
    expected = parts[0].values["parts"] if parts else 0
    if not parts or [part.values["part"] for part in parts] != list(range(expected)):
        raise DataError(
            f"{folder} holds {len(parts)} of {expected or 'the'} files of {entry.name}'s split {split!r}. {again}"
        )
    images, labels = (np.concatenate([part.arrays[name] for part in parts]) for name in ("images", "labels"))
    height, width, channels = entry.image_shape
    shape = (entry.counts[split], height, width, *([channels] if channels > 1 else []))
    if images.shape != shape or labels.shape != shape[:1] or images.dtype != np.uint8:
        raise DataError(
            f"{folder}: {entry.name}'s split {split!r} is {images.dtype}{images.shape}; expected uint8{shape}. {again}"
        )
    return images, labels


def _kind(entry: Source, split: str) -> str:
    return f"images/{entry.name}/{entry.version}/{split}"


def _path(entry: Source, folder: Path, split: str, part: int, parts: int) -> Path:
    return folder / f"{entry.name}-{entry.version}-{split}-{part:02d}-of-{parts:02d}.npz"
