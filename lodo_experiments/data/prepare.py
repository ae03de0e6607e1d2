"""Preparation of a data set as tensorflow-datasets does it, without TensorFlow, and atomically.

tensorflow-datasets' builders extract and encode with TensorFlow. The builder here has the same name,
version, features and keys, so that its files hold the same examples in the same order, and
``tfds.data_source`` reads them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.data import array_records
from lodo_experiments.data.catalogue import DataError, Examples, Source
from lodo_experiments.data.downloads import fetch, report
from lodo_experiments.utils.atomic_files import fsync_folder
from lodo_experiments.utils.log_filters import absl_from


def prepare(entry: Source, data_dir: Path, source: str | os.PathLike[str] | None = None) -> Path:
    """Fetch (:func:`fetch`), check and prepare a data set under ``data_dir``, unless it is there already.

    All is done in a temporary folder inside ``data_dir``, and renamed at the end: whatever fails, nothing
    is left behind. Of two processes that prepare at once the second to finish drops its copy.

    Returns:
      The folder of the prepared data.

    Raises:
      DataError: it cannot be fetched, is damaged, or cannot be written.
    """
    target = entry.folder(data_dir)
    if array_records.is_prepared(entry, data_dir):
        return target
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=data_dir) as temporary:
            original, built = Path(temporary, "original"), Path(temporary, "built")
            original.mkdir()
            fetch(entry, original, source)
            examples = _read(entry, original)
            report(f"{entry.name}: preparing {sum(entry.counts.values()):,} images")
            _build(entry, examples, built)
            result = entry.folder(built)
            for path in result.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            fsync_folder(result)
            target.parent.mkdir(exist_ok=True)
            try:
                os.rename(result, target)
            except OSError:
                # Another process was first: a folder that is not empty is never replaced.
                if not array_records.is_prepared(entry, data_dir):
                    raise
            fsync_folder(target.parent)
    except OSError as error:
        raise DataError(
            f"cannot prepare {entry.name} in {data_dir}: {error.strerror or error}. "
            "Give another folder with data_dir (--data-dir) or TFDS_DATA_DIR."
        ) from error
    report(f"{entry.name}: ready in {target}\n")
    return target


def _read(entry: Source, folder: Path) -> Examples:
    examples = entry.read(folder)
    for split, count in entry.counts.items():
        images, labels = examples[split]
        if images.shape != (count, *entry.image_shape) or labels.shape != (count,):
            raise DataError(
                f"{entry.name}'s original files give images {images.shape} and labels {labels.shape} for the "
                f"split {split!r}; expected {count} of {entry.image_shape}."
            )
    return examples


def _build(entry: Source, examples: Examples, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = entry.name
        VERSION = tfds.core.Version(entry.version)
        # Not the package's folder, which it would search for metadata.
        pkg_dir_path = data_dir

        def _info(self) -> Any:
            # Not both: tensorflow-datasets refuses a number beside names.
            names = {"names": entry.label_names} if entry.label_names else {"num_classes": entry.classes}
            features = {
                "image": tfds.features.Image(shape=entry.image_shape),
                "label": tfds.features.ClassLabel(**names),
            }
            if entry.identified:
                features["id"] = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self,
                description=entry.description,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split, *examples[split]) for split in entry.counts}

        def _generate_examples(self, split: str, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, Any]]:
            # The order of the files hangs on the keys: tensorflow-datasets' own are these numbers too.
            for key, (image, label) in enumerate(zip(images, labels, strict=True)):
                identifier = {"id": f"{split}_{key:05d}"} if entry.identified else {}
                yield key, {"image": _png(image), "label": int(label), **identifier}

    data_dir.mkdir()
    # tensorflow-datasets draws dozens of progress bars, and prints the temporary folder as the final one.
    with contextlib.ExitStack() as stack:
        tfds.disable_progress_bar()
        stack.callback(tfds.enable_progress_bar)
        stack.enter_context(absl_from(logging.ERROR))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        builder = Builder(data_dir=data_dir, file_format=array_records.FILE_FORMAT)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            download_dir=data_dir / "downloads",
        )


def _png(image: np.ndarray) -> io.BytesIO:
    """Encoded by Pillow: given an array, tensorflow-datasets would encode with TensorFlow."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format="png")
    stream.seek(0)
    return stream
