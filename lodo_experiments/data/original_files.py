"""The formats of the original files: MNIST's idx, and the binary form of CIFAR-10's archive.

What they read was compared with the catalogue's SHA-256 before (:func:`~lodo_experiments.data.downloads.fetch`), so it
is whole and of that format.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: Height, width and channels of CIFAR-10's images.
CIFAR_SHAPE = (32, 32, 3)
TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
TEST = ("cifar-10-batches-bin/test_batch.bin",)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped idx file of unsigned bytes: a magic number, the sizes (big-endian), then the bytes."""
    content = gzip.decompress(path.read_bytes())
    header = 4 + 4 * content[3]
    return np.frombuffer(content, np.uint8, offset=header).reshape(struct.unpack(f">{content[3]}I", content[4:header]))


def read_cifar(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CIFAR-10's archive, read in memory; nothing is extracted.

    Returns:
      "train" and "test", each images [count, 32, 32, 3] and labels [count], uint8, in the archive's order.
    """
    with tarfile.open(path, "r:gz") as archive:
        streams = {member.name: archive.extractfile(member) for member in archive if member.name in TRAIN + TEST}
        contents = {name: stream.read() for name, stream in streams.items() if stream is not None}
    return {split: _records([contents[name] for name in names]) for split, names in (("train", TRAIN), ("test", TEST))}


def _records(batches: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of records: a label byte, then the red plane, the green and the blue, each row by row."""
    height, width, channels = CIFAR_SHAPE
    records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, 1 + height * width * channels)
    planes = records[:, 1:].reshape(-1, channels, height, width)
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1)), records[:, 0].copy()
