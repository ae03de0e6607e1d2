"""CIFAR-10: the archive's reader, and the order that tensorflow-datasets gives the examples."""

import dataclasses
import gzip
import hashlib
import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.data import CATALOGUE, DataError, RemoteFile, array_records, load_images, original_files, prepare
from lodo_experiments.utils.log_filters import absl_from

PREPARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
CIFAR10 = CATALOGUE["cifar10"]
# The first labels of the two splits in their authors' order: frog, truck, truck, deer, …; cat, ship, ship, …
FIRST = {"train": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], "test": [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]}

needs_cifar10 = pytest.mark.skipif(
    not (CIFAR10.folder(PREPARED) / "dataset_info.json").exists(), reason="no prepared CIFAR-10 beside the project"
)


def records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Label byte, red plane, green, blue: written out image by image, unlike the reader."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def archive(members: dict[str, bytes]) -> bytes:
    """A gzipped tar with these members."""
    stream = io.BytesIO()
    zipped = gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0)
    with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def batches(train, test, per_batch: int) -> dict[str, bytes]:
    """The archive's members for the images and labels of both splits, with two others among them."""
    members: dict[str, bytes] = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}
    for number, name in enumerate(original_files.TRAIN):
        part = slice(number * per_batch, (number + 1) * per_batch)
        members[name] = records(train[0][part], train[1][part])
    return {**members, "../readme.html": b"<p>", original_files.TEST[0]: records(*test)}


@pytest.fixture
def tiny():
    random = np.random.default_rng(0)
    return {
        split: (random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count, np.uint8))
        for split, count in (("train", 15), ("test", 4))
    }


def written(folder: Path, content: bytes, **changes):
    """The catalogue's entry for an archive of our own, which is written into the folder."""
    folder.mkdir(exist_ok=True)
    name = CIFAR10.files[0].name
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(CIFAR10, files=(RemoteFile(name, len(content), digest),), mirrors=(), **changes)


def test_the_reader_gives_every_batch_in_turn(tiny, tmp_path):
    entry = written(tmp_path, archive(batches(tiny["train"], tiny["test"], per_batch=3)))
    read = entry.read(tmp_path)
    for split, (images, labels) in tiny.items():
        assert np.array_equal(read[split][0], images)
        assert read[split][1].tolist() == labels.tolist()


def test_a_local_archive_becomes_prepared_data(tiny, tmp_path):
    content = archive(batches(tiny["train"], tiny["test"], per_batch=3))
    entry = written(tmp_path / "original", content, counts={"train": 15, "test": 4})
    dataset = load_images(entry, data_dir=tmp_path / "data", download=True, source=tmp_path / "original")
    assert dataset.validation.images.shape == (0, 32, 32, 3)
    assert dataset.validation.labels.shape == (0,)
    for split, (images, labels) in tiny.items():
        got = getattr(dataset, split)
        pairs = sorted((image.tobytes(), int(label)) for image, label in zip(got.images, got.labels, strict=True))
        assert pairs == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    # What tensorflow-datasets' own definition has: an id, which counts in the original order, and named labels.
    import tensorflow_datasets as tfds

    with absl_from(logging.ERROR):
        builder = tfds.builder_from_directory(entry.folder(tmp_path / "data"))
        examples = list(builder.as_data_source(split="train"))
    assert builder.info.features["label"].names == list(CIFAR10.label_names)
    for example in examples:
        split, number = example["id"].decode().split("_")
        assert split == "train"
        assert len(number) == 5
        assert np.array_equal(example["image"], tiny["train"][0][int(number)])


def test_an_archive_with_too_few_images_is_refused(tiny, tmp_path):
    entry = written(tmp_path / "original", archive(batches(tiny["train"], tiny["test"], per_batch=3)))
    with pytest.raises(DataError, match=r"expected 50000 of \(32, 32, 3\)"):
        prepare.prepare(entry, tmp_path / "data", source=tmp_path / "original")
    assert list((tmp_path / "data").iterdir()) == []


def test_the_file_is_the_one_that_tensorflow_datasets_expects():
    """Its own table of lengths and SHA-256 digests, out of the installed package."""
    import tensorflow_datasets as tfds

    table = Path(tfds.__file__).parent / "url_checksums" / "cifar10.txt"
    url, size, sha256 = table.read_text().split()[:3]
    (file,) = CIFAR10.files
    assert (url, int(size), sha256) == (CIFAR10.mirrors[0] + file.name, file.size, file.sha256)


def test_missing_data_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("network was asked"))
    with pytest.raises(DataError, match=r"170 MB(.|\n)*lodo_experiments\.data cifar10 --download"):
        load_images("cifar10", data_dir=tmp_path)


def order(tmp_path: Path, split: str) -> np.ndarray:
    """Where each prepared example stands in the original order: from a data set of one pixel that says it."""
    count = CIFAR10.counts[split]
    numbers = np.arange(count)
    pixels = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1).astype(np.uint8)
    examples = {split: (pixels[:, None, None], np.zeros(count, np.uint8))}
    entry = dataclasses.replace(CIFAR10, image_shape=(1, 1, 3), counts={split: count})
    prepare._build(entry, examples, tmp_path / split)
    read = array_records.read_split(entry, tmp_path / split, split)[0][:, 0, 0].astype(np.int64)
    return read[:, 0] << 16 | read[:, 1] << 8 | read[:, 2]


@pytest.mark.exhaustive
@needs_cifar10
@pytest.mark.parametrize("split", ["test", "train"])
def test_the_prepared_order_hides_the_original_one(tmp_path, split):
    """Undoing the shuffle of tensorflow-datasets gives the labels in the order that everybody knows."""
    where = order(tmp_path, split)
    images, labels = array_records.read_split(CIFAR10, PREPARED, split)
    assert sorted(where) == list(range(CIFAR10.counts[split]))
    original = np.empty_like(labels)
    original[where] = labels
    assert original[:10].tolist() == FIRST[split]
    assert original[:10].tolist() != labels[:10].tolist()
    assert np.bincount(labels).tolist() == [CIFAR10.counts[split] // 10] * 10
    if split == "test":
        rebuilt = np.empty_like(images)
        rebuilt[where] = images
        check_that_the_archive_gives(tmp_path, rebuilt, original, images, labels)


def check_that_the_archive_gives(tmp_path, original_images, original_labels, images, labels):
    """An archive in the original order, prepared from the start, has the examples as they lie prepared elsewhere."""
    few = original_images[:50], original_labels[:50]
    content = archive(batches(few, (original_images, original_labels), per_batch=10))
    entry = written(tmp_path / "original", content, counts={"train": 50, "test": 10_000})
    prepare.prepare(entry, tmp_path / "data", source=tmp_path / "original")
    ours = array_records.read_split(entry, tmp_path / "data", "test")
    assert np.array_equal(ours[0], images)
    assert np.array_equal(ours[1], labels)
    features = [
        json.loads((entry.folder(folder) / "features.json").read_text()) for folder in (PREPARED, tmp_path / "data")
    ]
    assert features[0] == features[1]
