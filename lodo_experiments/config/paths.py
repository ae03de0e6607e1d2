"""Folders: where records are stored, and where those that come with the project are."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


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


def kept_folder() -> Path:
    """The records that come with the project: the checkout's ``results``, or the copy that an installed package has.

    Nothing is written there but by who works in the checkout.

    >>> (kept_folder() / "paper" / "noisy_bowl" / "LODO.npz").exists()
    True
    """
    checkout = _PACKAGE.parent / "results"
    return checkout if (_PACKAGE.parent / "pyproject.toml").exists() else _PACKAGE / "kept_results"


def shown_folder(results_dir: str = "") -> Path:
    """The folder that a page draws from which computes nothing.

    It is that of :func:`results_folder`; where no folder is named and there is none here, :func:`kept_folder`.
    """
    found = results_folder(results_dir)
    named = results_dir or os.environ.get("LODO_RESULTS", "")
    return found if named or any((found / scale).is_dir() for scale in ("paper", "laptop")) else kept_folder()
