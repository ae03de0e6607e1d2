"""References from the book into the sources: to definitions and to tests, which must exist."""

from __future__ import annotations

import ast
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

LOGGER = logging.getLogger(__name__)


def missing(root: Path, reference: str) -> str:
    """Why ``file.py::name`` (or ``file.py`` alone) names no function or class; empty where it does."""
    file, _, name = reference.partition("::")
    path = root / file
    if not path.is_file():
        return f"there is no file {file}"
    defined = {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    absent = [part for part in name.split("::") if part and part not in defined]
    return f"{file} defines no {absent[0]}" if absent else ""


def in_file(root: Path, dotted: str) -> str:
    """``package.module.name`` as ``package/module.py::name``; a module as its file alone."""
    parts = dotted.split(".")
    whole = root.joinpath(*parts)
    if (whole / "__init__.py").is_file() or whole.with_suffix(".py").is_file():
        return f"{'/'.join(parts)}/__init__.py" if whole.is_dir() else f"{'/'.join(parts)}.py"
    return f"{'/'.join(parts[:-1])}.py::{parts[-1]}"


class SourceRole(SphinxRole):
    """``{source}`package.module.name` ``: a definition, linked to its file where the address is known.

    The library's own definitions are in the reference; these are read where they are written.
    """

    def reference(self) -> tuple[str, str]:
        """The file and the name in it, as ``file.py::name``, and the words that the page shows."""
        reference = in_file(Path(self.config.lodo_root), self.text)
        return reference, ".".join(self.text.split(".")[-2 if "::" in reference else -1 :])

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The nodes that stand for the role, and no messages."""
        reference, shown = self.reference()
        root, file = Path(self.config.lodo_root), reference.partition("::")[0]
        if complaint := missing(root, reference):
            LOGGER.warning(f"{self.name} role: {complaint}", location=self.get_location())
        self.env.note_dependency(str(root / file))
        literal = nodes.literal(self.text, shown, classes=[f"{self.name}-name"])
        address = self.config.lodo_repository
        if not address:
            literal["classes"].append("no-link")
            return [literal], []
        return [nodes.reference("", "", literal, refuri=f"{address}/blob/{self.config.lodo_branch}/{file}")], []


class TestRole(SourceRole):
    """``{test}`tests/x.py::test_y` ``: the name of a test, linked to its file where the address is known."""

    def reference(self) -> tuple[str, str]:
        """The role's text, and the test's name: a long path would not fit on a narrow page."""
        return self.text, self.text.rpartition("::")[2]
