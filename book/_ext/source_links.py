"""References from the book into the sources: modules to document, and tests that are named and must exist."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

LOGGER = logging.getLogger(__name__)


def modules(pattern: str) -> list[str]:
    """The modules that a pattern names.

    Args:
        pattern: ``a.b``, or ``a.b.*`` for every public module below the package ``a.b``, at any depth, except those of
            a package that lists its public names in ``__all__`` itself: its own section has them.

    Returns:
        Names of modules, sorted.
    """
    if not pattern.endswith(".*"):
        return [pattern]
    root = importlib.import_module(pattern.removesuffix(".*"))
    found, packages = [], [root]
    while packages:
        package = packages.pop()
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
            if module.name.rpartition(".")[2].startswith("_"):
                continue
            found.append(module.name)
            if module.ispkg:
                inner = importlib.import_module(module.name)
                packages += [] if hasattr(inner, "__all__") else [inner]
    return sorted(found)


def missing_test(root: Path, reference: str) -> str:
    """Why ``file.py::test_name`` (or ``file.py`` alone) names no test; empty where it does."""
    file, _, name = reference.partition("::")
    path = root / file
    if not path.is_file():
        return f"there is no file {file}"
    defined = {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    missing = [part for part in name.split("::") if part and part not in defined]
    return f"{file} defines no {missing[0]}" if missing else ""


class TestRole(SphinxRole):
    """``{test}`tests/x.py::test_y` ``: the name of a test, linked to its file where the address is known."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The nodes that stand for the role, and no messages."""
        if complaint := missing_test(Path(self.config.lodo_root), self.text):
            LOGGER.warning(f"test role: {complaint}", location=self.get_location())
        file = self.text.partition("::")[0]
        self.env.note_dependency(str(Path(self.config.lodo_root, file)))
        # The name alone is what a reader needs; a long path would not fit on a narrow page.
        literal = nodes.literal(self.text, self.text.rpartition("::")[2] or file, classes=["test-name"])
        address = self.config.lodo_repository
        if not address:
            literal["classes"].append("no-link")
            return [literal], []
        return [nodes.reference("", "", literal, refuri=f"{address}/blob/{self.config.lodo_branch}/{file}")], []
