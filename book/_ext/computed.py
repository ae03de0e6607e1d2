"""Numbers and tables on a page that a function of the library computes when the book is built."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lodo_experiments.report import tables


def value(reference: str) -> str:
    """What ``module:function:key:format`` stands for: an entry of the mapping that a function returns, formatted.

    Raises:
      ExtensionError: there is no such function or key.
    """
    name, function, key, form = reference.split(":", 3)
    found = called(f"{name}:{function}")
    if key not in found:
        raise ExtensionError(f"{name}.{function}() has no {key!r}; it has {', '.join(found)}.")
    return format(found[key], form)


@functools.cache  # pages quote one function many times, and a build is a process of its own
def called(reference: str) -> Any:
    """What the function ``module:function`` returns."""
    name, _, function = reference.partition(":")
    try:
        return getattr(importlib.import_module(name), function)()
    except (ImportError, AttributeError) as error:
        raise ExtensionError(f"{reference}: {error}. Expected module:function.") from error


class Computed(SphinxRole):
    """The role ``computed``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number, as text."""
        return [nodes.Text(value(self.text))], []


class ComputedHtml(SphinxDirective):
    """The directive ``computed-html``: HTML that ``module:function`` returns, a picture for one."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The HTML, as it is."""
        return [nodes.raw("", called(self.arguments[0]), format="html")]


def table(reference: str) -> str:
    """The rows that ``module:function`` returns, as HTML with a link to their CSV file.

    Where one direction of a column is right, its module says so: ``BEST`` has function → column → "low" or "high". Such
    a function counts a diverged run as the worst.

    Raises:
      ExtensionError: there is no such function, or ``BEST`` names a column that its rows do not have.
    """
    name, _, function = reference.partition(":")
    rows = called(reference)
    best = getattr(importlib.import_module(name), "BEST", {}).get(function, {})
    columns = {column for row in rows for column in row}
    if unknown := set(best) - columns:
        raise ExtensionError(f"{name}.BEST has {', '.join(sorted(unknown))}; {function}() has no such column.")
    html = tables.to_html(rows, best=best, divergence_counted=True)
    return tables.with_download(rows, f"{name.rpartition('.')[2]}_{function}.csv", html)


class ComputedTable(SphinxDirective):
    """The directive ``computed-table``: a table of the rows that ``module:function`` returns; see :func:`table`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, which readers can sort and download."""
        return [nodes.raw("", table(self.arguments[0]), format="html")]
