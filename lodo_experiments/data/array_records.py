"""A reader for data that tensorflow-datasets prepared as array_record, without TensorFlow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from lodo_experiments.data.catalogue import DataError, Source
from lodo_experiments.utils.log_filters import absl_from

FILE_FORMAT = "array_record"

# One call for a thousand examples is several times faster than a thousand calls.
_SLICE = 1000


def is_prepared(entry: Source, data_dir: Path) -> bool:
    """Whether the data lie ready under ``data_dir``; looks at files only, so it answers at once.

    Raises:
      DataError: there is something else in their place.
    """
    folder = entry.folder(data_dir)
    if not folder.exists():
        return False
    remedy = f"Move {folder} away, or give another data_dir (TFDS_DATA_DIR)."
    try:
        about = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no prepared data: dataset_info.json: {error}. {remedy}") from error
    # tensorflow-datasets leaves the format out where it is its default.
    file_format = about.get("fileFormat", "tfrecord")
    if file_format != FILE_FORMAT:
        raise DataError(
            f"{folder} is prepared as {file_format}, which cannot be read without TensorFlow; "
            f"{FILE_FORMAT} is needed. {remedy}"
        )
    for split in entry.counts:
        if not any(folder.glob(f"{entry.name}-{split}.{FILE_FORMAT}-*")):
            raise DataError(f"{folder} lacks the files of the split {split!r}. {remedy}")
    return True


def read_split(entry: Source, data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, uint8, in the order of the files; grey images lose their channel axis.

    Raises:
      DataError: they cannot be read, or are not of the shape and number that the catalogue says.
    """
    import tensorflow_datasets as tfds

    folder = entry.folder(data_dir)
    count = entry.counts[split]
    images = np.empty((count, *entry.image_shape), np.uint8)
    labels = np.empty(count, np.uint8)
    try:
        with absl_from(logging.ERROR):
            records = tfds.builder_from_directory(folder).as_data_source(split=split)
            if len(records) != count:
                raise ValueError(f"{len(records)} images instead of {count}")
            for start in range(0, count, _SLICE):
                rows = range(start, min(start + _SLICE, count))
                for row, example in zip(rows, records.__getitems__(list(rows)), strict=True):
                    image = example["image"]
                    if image.shape != entry.image_shape or image.dtype != np.uint8:
                        raise ValueError(f"image {row} is {image.dtype}{image.shape}")
                    images[row], labels[row] = image, example["label"]
    # The readers below tensorflow-datasets raise whatever they like on damaged files.
    except Exception as error:
        raise DataError(
            f"cannot read the split {split!r} of {entry.name} in {folder}: {error}. If the files are damaged, "
            f"remove that folder and run: python -m lodo_experiments.data {entry.name} --download"
        ) from error
    return (images[..., 0] if entry.image_shape[2] == 1 else images), labels
