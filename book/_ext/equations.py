"""Which function computes a numbered equation and which test checks it, as the book's pages say.

A page says "**Computed by** {source}`a`, {source}`b` {eq}`x` and {source}`c` {eq}`y`", likewise "**Checked by**", and
"**Computed and checked by**" where a test has the formula itself. An equation belongs to the names before it: here x
to a and b, and y to c. From this the API reference gets its links back, and a test what docstrings have to say.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx

_NUMBERED = re.compile(r"^\$\$ \(([\w-]+)\)$", re.MULTILINE)
_STATEMENT = re.compile(r"\*\*(Computed|Checked|Computed and checked) by\*\*(.*?)(?=\*\*|\n\n|\Z)", re.DOTALL)
_ROLE = re.compile(r"\{(eq|source|test|py:\w+)\}`([^`]+)`")


class Link(NamedTuple):
    """A name that a page gives an equation."""

    page: str  # its path, as ``book/algorithm.md``
    equation: str  # its label
    verb: str  # "Computed", "Checked" or "Computed and checked"
    role: str  # "source", "test", "py:func" and so on
    name: str  # what the role names


def numbered(text: str) -> list[str]:
    """The labels of a page's numbered equations.

    >>> numbered("$$\\nx = y\\n$$ (an-equation)\\n")
    ['an-equation']
    """
    return _NUMBERED.findall(text)


def links_of(page: str, text: str) -> list[Link]:
    """The links that a page's text has.

    >>> [(link.equation, link.name) for link in links_of("p.md", "**Computed by** {source}`f` {eq}`x`, {source}`g`.")]
    [('x', 'f')]
    """
    found = []
    for verb, said in _STATEMENT.findall(text):
        names: list[tuple[str, str]] = []
        begun = False
        for role, name in _ROLE.findall(said):
            if role == "eq":
                found += [Link(page, name, verb, *one) for one in names]
            else:
                names = [*([] if begun else names), (role, name)]
            begun = role == "eq"
    return found


@functools.cache
def pages(root: Path) -> dict[str, str]:
    """The book's prose pages: path → text."""
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in sorted(root.glob("book/**/*.md"))}


@functools.cache
def links(root: Path) -> list[Link]:
    """The links of all pages."""
    return [link for page, text in pages(root).items() for link in links_of(page, text)]


def sentence(page: str, labels: Iterable[str]) -> str:
    """How a docstring names equations of a page.

    >>> sentence("book/a.md", ["x", "y"])
    'Equations `x`, `y` of book/a.md.'
    """
    listed = [f"`{label}`" for label in labels]
    return f"Equation{'s'[: len(listed) > 1]} {', '.join(listed)} of {page}."


def end_with_equations(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Ends an entry of the reference with links to the equations that it computes."""
    root = Path(app.config.lodo_root)
    for page in pages(root):
        labels = [
            link.equation for link in links(root) if link[0] == page and link.role[:3] == "py:" and link.name == name
        ]
        if labels:
            app.env.note_dependency(str(root / page))
            listed = ", ".join(f":eq:`{label}`" for label in labels)
            lines += ["", f"Equation{'s'[: len(labels) > 1]} {listed} of :doc:`/{page.removesuffix('.md')}`.", ""]
