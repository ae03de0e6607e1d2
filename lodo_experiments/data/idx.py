"""The idx format of MNIST's original files: a magic number, the sizes, then the bytes (all big-endian)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 0x08


def read(path: Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes.

    Raises:
      ValueError: not gzip, not idx, another element type, or another length than the header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or not content[3]:
        raise ValueError(f"{path} is not an idx file of unsigned bytes: it starts with {content[:4].hex()!r}.")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise ValueError(f"{path} ends within its header of {header} bytes.")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise ValueError(f"{path} holds {len(content) - header} bytes of data; its header says {expected}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
