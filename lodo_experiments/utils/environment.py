"""The library as a whole, and the packages around it, as they are now."""

from __future__ import annotations

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
    """Versions of Python and of the packages that the library's ``notebooks`` extra names."""
    found = {"python": platform.python_version()}
    for name in sorted(_requirements("lodo", "notebooks", set())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _requirements(package: str, extra: str, seen: set[str]) -> set[str]:
    """The names that a package asks for, itself or by an extra that may name others of its own extras."""
    names: set[str] = set()
    seen.add(extra)
    for line in importlib.metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", requirement)
        wanted = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        if match is None or (wanted is not None and wanted.group(1) != extra):
            continue
        if match.group(1) != package:
            names.add(match.group(1))
            continue
        for other in (match.group(2) or "").split(","):
            if other.strip() and other.strip() not in seen:
                names |= _requirements(package, other.strip(), seen)
    return names
