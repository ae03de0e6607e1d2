"""The library's source as it was at a commit, where this is a checkout whose history has it."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import lodo
from lodo_experiments.studies.provenance.sources import BESIDE, PACKAGE, Sources

#: Seconds that git may take for a question; it answers in a fraction of one.
_PATIENCE = 30


@functools.lru_cache(maxsize=64)
def sources_at(commit: str, root: Path | None = None) -> Sources | None:
    """The library's files at a commit; None where that cannot be known.

    A folder that is no checkout of this project (an installed package, an unpacked archive) has no history, and a
    shallow clone has its end only.

    Args:
      commit: a full commit hash.
      root: the checkout; None: the one that the library was imported from.

    >>> sources_at("0" * 40) is None
    True
    """
    folder = (root or Path(lodo.__file__).parents[1]).resolve()
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip()).resolve() != folder:
            return None
        listed = _git(folder, "ls-tree", "-r", "--full-tree", commit, "--", PACKAGE, BESIDE).decode().splitlines()
        blobs = {path: line.split()[2] for line, path in (entry.split("\t", 1) for entry in listed)}
        blobs = {path: blob for path, blob in blobs.items() if path.endswith(".py")}
        answer = _git(folder, "cat-file", "--batch", given="\n".join(blobs.values()) + "\n")
    except (OSError, subprocess.SubprocessError):
        return None
    files, place = {}, 0
    for path in blobs:
        end = answer.index(b"\n", place)
        size = int(answer[place:end].split()[2])
        files[path.removeprefix(f"{PACKAGE}/")] = answer[end + 1 : end + 1 + size].decode("utf-8")
        place = end + size + 2
    return Sources(files) if files else None


def _git(folder: Path, *arguments: str, given: str = "") -> bytes:
    # An explicit directory wins over variables that a hook may have set.
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=given.encode(), capture_output=True, check=True, timeout=_PATIENCE).stdout
