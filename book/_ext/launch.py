"""The theme's options that depend on where the repository is published."""

from __future__ import annotations

import re
from typing import Any

BINDER = "https://mybinder.org"
COLAB = "https://colab.research.google.com"


def theme_options(address: str, branch: str) -> dict[str, Any]:
    """Buttons that open a page's clean notebook, and the link to the repository.

    Args:
      address: The repository's public address, ``https://host/owner/name``; empty where it is not known.
      branch: The branch whose notebooks to open.

    Returns:
      Options of sphinx-book-theme: none that would show a button where the address is empty. Colab opens
      notebooks from GitHub only, so other hosts get the Binder button alone.

    Raises:
      ValueError: If ``address`` has another form.
    """
    if not address:
        return {"launch_buttons": {}, "repository_url": "", "use_repository_button": False}
    if not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w./-]+", address):
        raise ValueError(
            f"the repository's address: got {address!r}; expected https://host/owner/name. "
            "Correct [tool.lodo] repository in pyproject.toml (`make address URL=...`) or LODO_REPOSITORY."
        )
    buttons = {"notebook_interface": "jupyterlab", "binderhub_url": BINDER}
    if address.startswith("https://github.com/"):
        buttons["colab_url"] = COLAB
    return {
        "launch_buttons": buttons,
        "repository_url": address,
        "repository_branch": branch,
        "path_to_docs": "",
        "use_repository_button": True,
    }
