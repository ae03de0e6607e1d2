"""What an executed notebook depends on, as one number that changes when any of it does."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lodo

#: Parameters that say how to come by something, not what is computed from it.
_IMMATERIAL = {"download"}

#: Settings of JAX that say where compiled programs are kept, not what they compute.
_CACHES = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE")


def fingerprint(source: Path, parameters: Mapping[str, Any]) -> str:
    """The SHA-256 of everything that decides what an executed notebook holds.

    That is the notebook, its parameters (the choice of data set among them), every source file of this library, the
    versions of Python and of the packages that the library's ``notebooks`` extra names, the settings of JAX in the
    environment, and the records that the project keeps. The library counts as a whole: a page is executed once too
    often rather than left stale.

    Args:
      source: The clean notebook.
      parameters: What papermill injects into it.

    Returns:
      64 hexadecimal digits.
    """
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("JAX_", "XLA_")) and not name.startswith(_CACHES)
    }
    material = {
        "notebook": hashlib.sha256(source.read_bytes()).hexdigest(),
        "parameters": {name: value for name, value in parameters.items() if name not in _IMMATERIAL},
        "library": library(),
        "versions": _versions(),
        "settings": settings,
        "records": _records(source.resolve().parent.parent / "results"),
    }
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()


@functools.cache
def library() -> str:
    """The SHA-256 over every source file of the library: 64 hexadecimal digits."""
    root = Path(lodo.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _records(folder: Path) -> str:
    """Records that are kept with the project and that a page may show; those of ``smoke`` are made on the way."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.npz")):
        if path.relative_to(folder).parts[0] != "smoke":
            digest.update(
                f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    return digest.hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in sorted(_requirements("lodo", "notebooks", set())):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


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
