"""Folders: where records are stored."""

from __future__ import annotations

import os
from pathlib import Path


def results_folder(results_dir: str = "") -> Path:
    """Where records are kept: the folder given, else LODO_RESULTS, else ``results`` in the checkout or here.

    >>> results_folder("somewhere").name
    'somewhere'
    """
    given = results_dir or os.environ.get("LODO_RESULTS", "")
    if given:
        return Path(given).expanduser()
    here = Path.cwd()
    checkout = next((folder for folder in (here, *here.parents) if (folder / "lodo" / "_version.py").exists()), here)
    return checkout / "results"
