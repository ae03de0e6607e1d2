"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place only when all of it is on the disk.

    Until then it has a name of its own beside the target, so that two writers do not meet; after a failure nothing of
    it is left, and what stood at the target before stands there still.

    Args:
      target: the file; its folder is made where needed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written(Path(folder, "a", "b.txt")) as file:
    ...         _ = file.write(b"all of it")
    ...     Path(folder, "a", "b.txt").read_bytes()
    b'all of it'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
