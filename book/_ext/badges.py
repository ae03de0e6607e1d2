"""What each page says of where it comes from and whether that has changed since; and the table of all results."""

from __future__ import annotations

import functools
import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from lodo_experiments.cli import status
from lodo_experiments.results.records import RecordError, load
from lodo_experiments.studies.provenance import keys
from lodo_experiments.studies.provenance.staleness import Verdict, page_verdict, verdict

#: Reasons that a badge gives at most; the status page and `make status` give more.
SHOWN = 4


def badge(source: Path, executed: Path, results: Path) -> str:
    """The badge of an executed notebook's page, as HTML.

    Args:
      source: the clean notebook.
      executed: the executed one.
      results: the results folder, for the kept records that the page shows.
    """
    stated = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["lodo"]
    found = page_verdict(source, executed)
    made = stated.get("made", {})
    versions = stated.get("key", {}).get("versions", {})
    facts = {
        "preset": stated["parameters"].get("preset"),
        "device": "; ".join(made.get("devices", ())) or "nothing is computed here",
        "seeds": made.get("seeds"),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("python", *keys.ARITHMETIC) if name in versions),
        "commit": short_commit(str(stated.get("commit", ""))),
        "date": str(stated.get("date", ""))[:10],
    }
    listed = " · ".join(f"{name} {html.escape(str(value))}" for name, value in facts.items() if value)
    lines = [
        f'<div class="lodo-badge lodo-badge-{_class(found)}">',
        f"<p><strong>{html.escape(found.state)}</strong> · {listed}</p>",
        *[f"<p>{html.escape(reason)}</p>" for reason in _some(found.reasons)],
    ]
    if kept := kept_records(results, tuple(stated.get("key", {}).get("records", ()))):
        lines.append(f'<p>Kept records shown here: {html.escape(kept)}; <a href="../book/status.html">why</a>.</p>')
    return "\n".join([*lines, "</div>"])


def short_commit(commit: str) -> str:
    """A commit's beginning, and whether there were changes to it.

    >>> short_commit("0123456789abcdef+changes")
    '0123456789ab+changes'
    """
    return commit.partition("+")[0][:12] + ("+changes" if commit.endswith("+changes") else "")


@functools.cache
def kept_records(results: Path, experiments: tuple[str, ...]) -> str:
    """How many of the records of larger presets are fresh, stale, or of unknown origin; empty where there are none."""
    counts: Counter[str] = Counter()
    for experiment in experiments:
        for preset in ("paper", "laptop"):
            for path in sorted((results / preset / experiment).glob("*.npz")):
                try:
                    counts[verdict(load(path)).state] += 1
                except RecordError:
                    counts[status.REFUSED] += 1
    return ", ".join(f"{counts[state]} {state}" for state in status.STATES if counts[state])


def with_badge(notebook: dict[str, Any], text: str) -> None:
    """Puts a badge below the title of a notebook's page."""
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{text}\n{rest}"


def _class(found: Verdict) -> str:
    return found.state.replace(" ", "-")


def _some(reasons: tuple[str, ...]) -> list[str]:
    more = len(reasons) - SHOWN
    return [*reasons[:SHOWN], *([f"and {more} more; `make status` lists them"] if more > 0 else [])]


class StatusTable(SphinxDirective):
    """The state of every record and page, as `make status` prints it, at the time of the build."""

    def run(self) -> list[nodes.Node]:
        """A table for each preset."""
        self.env.note_reread()
        root = Path(self.config.lodo_root)
        found = status.status_of(
            root / "results", notebooks=root / "notebooks", executed=root / self.config.lodo_executed
        )
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(status.markdown(found).splitlines(), source="status"), 0, container, True)
        return container.children
