"""The binary form of CIFAR-10's original archive: records of a label byte and an image, channel after channel."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: Height, width and channels of an image.
SHAPE = (32, 32, 3)
#: Bytes of a record: the label, then the red plane, the green and the blue, each row by row.
RECORD = 1 + 32 * 32 * 3
#: Records of one member of the archive.
BATCH = 10_000

TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
TEST = ("cifar-10-batches-bin/test_batch.bin",)


def read(path: Path, classes: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the archive in memory; nothing is extracted, and members of other names are passed over.

    Returns:
      "train" and "test", each images [count, 32, 32, 3] and labels [count], uint8, in the archive's order.

    Raises:
      ValueError: not a whole gzipped tar archive, a member that is missing, given twice, not a regular file or
        not made of whole records, or a label out of range.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.name not in TRAIN + TEST:
                    continue
                _check(path, member, contents)
                stream = archive.extractfile(member)
                assert stream is not None  # a regular file has one
                contents[member.name] = stream.read()
                if len(contents[member.name]) != member.size:
                    raise ValueError(f"{path} ends within {member.name}.")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzipped tar archive: {error}") from error
    return {split: _split(path, contents, names, classes) for split, names in (("train", TRAIN), ("test", TEST))}


def _check(path: Path, member: tarfile.TarInfo, contents: dict[str, bytes]) -> None:
    if not member.isreg():
        raise ValueError(f"{member.name} in {path} is not a regular file.")
    if member.name in contents:
        raise ValueError(f"{path} holds {member.name} twice.")
    # Looked at before it is read, so that what is read is bounded.
    if not 0 < member.size <= BATCH * RECORD or member.size % RECORD:
        raise ValueError(
            f"{member.name} in {path} has {member.size:,} bytes; expected 1 to {BATCH:,} records of {RECORD:,} bytes."
        )


def _split(path: Path, contents: dict[str, bytes], names: Sequence[str], classes: int) -> tuple[np.ndarray, np.ndarray]:
    missing = [name for name in names if name not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    records = np.concatenate([np.frombuffer(contents[name], np.uint8).reshape(-1, RECORD) for name in names])
    labels = records[:, 0].copy()
    if labels.max() >= classes:
        raise ValueError(f"{path} has the label {labels.max()}; expected labels below {classes}.")
    height, width, channels = SHAPE
    planes = records[:, 1:].reshape(-1, channels, height, width)
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1)), labels
