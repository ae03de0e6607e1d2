"""The library as a whole, and the packages around it, as they are now."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

#: The folder that holds the library and the experiments.
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def library() -> str:
    """The SHA-256 over every source file of the library and of the experiments: 64 hexadecimal digits."""
    return read_library()


def read_library() -> str:
    """The same, as the files are on the disk now."""
    root = ROOT
    digest = hashlib.sha256()
    files = (path for package in ("lodo", "lodo_experiments") for path in (root / package).rglob("*"))
    for path in sorted(path for path in files if path.suffix in (".py", ".cc")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that the library's extras name."""
    found = {"python": platform.python_version()}
    for line in importlib.metadata.requires("lodo") or []:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return dict(sorted(found.items()))
