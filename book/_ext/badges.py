"""What each page says of where it comes from and whether its records still replay; and the table of all results."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from lodo_experiments.cli import status
from lodo_experiments.results.records import load
from lodo_experiments.results.replays import OTHER_NUMBERS, Replays, made_and_replayed
from lodo_experiments.studies import notebooks

#: Packages whose versions a badge names.
_PACKAGES = ("python", "jax", "jaxlib", "optax", "flax", "numpy")


def badge(source: Path, executed: Path, results: Path) -> str:
    """The badge of an executed notebook's page, as HTML.

    Args:
      source: the clean notebook.
      executed: the executed one.
      results: the results folder, for the stored records that the page shows.

    Raises:
      RecordError: a stored record, or what its replay found, is damaged.
    """
    stated = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["lodo"]
    state, changed = notebooks.state_of(source, executed)
    made = stated.get("made", {})
    versions = stated.get("content", {}).get("versions", {})
    facts = {
        "preset": stated["parameters"].get("preset"),
        "device": "; ".join(made.get("devices", ())) or "nothing is computed here",
        "seeds": made.get("seeds"),
        "versions": ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions),
        "commit": short_commit(str(stated.get("commit", ""))),
        "date": str(stated.get("date", ""))[:10],
    }
    listed = " · ".join(
        f"{name} {html.escape(str(value))}" for name, value in facts.items() if value and name != "preset"
    )
    since = f" since it was executed: {', '.join(changed)}" if changed else ""
    kept = kept_records(source, results)
    shown = "differs" if OTHER_NUMBERS in kept else state.replace(" ", "-")
    lines = [
        f'<details class="lodo-badge lodo-badge-{shown}"><summary><strong>{html.escape(state)}</strong>'
        f"{html.escape(since)} · preset {html.escape(str(facts['preset']))}</summary>",
        f"<p>{listed}</p>",
    ]
    if kept:
        lines.append(f'<p>Stored records shown here: {html.escape(kept)}; <a href="../book/status.html">which</a>.</p>')
    return "\n".join([*lines, "</details>"])


def short_commit(commit: str) -> str:
    """A commit's beginning, and whether there were changes to it.

    >>> short_commit("0123456789abcdef+changes")
    '0123456789ab+changes'
    """
    return commit.partition("+")[0][:12] + ("+changes" if commit.endswith("+changes") else "")


def kept_records(source: Path, results: Path) -> str:
    """By which commits the stored records that a page may show were made and replayed; empty where there are none."""
    paths = [path for path in notebooks.records_shown(source, results) if path.parts[-3] != "benchmarks"]
    return made_and_replayed([load(path) for path in paths], Replays(results))


def with_badge(notebook: dict[str, Any], text: str) -> None:
    """Puts a badge below the title of a notebook's page."""
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{text}\n{rest}"


class StatusTable(SphinxDirective):
    """The state of every record and page, as `make status` prints it, at the time of the build."""

    def run(self) -> list[nodes.Node]:
        """A table for each preset."""
        self.env.note_reread()
        root = Path(self.config.lodo_root)
        found = status.status_of(root / "results", pages=root / "notebooks", executed=root / self.config.lodo_executed)
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(status.markdown(found).splitlines(), source="status"), 0, container, True)
        return container.children
