"""What of the results is stale or missing, why, and what refreshing it costs: ``python -m
lodo_experiments.cli.status``.

Nothing is computed. For one record, as a batch would ask: ``status.verdict(record)``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import RecordSpec
from lodo_experiments.studies.provenance import keys
from lodo_experiments.studies.provenance.sources import Sources
from lodo_experiments.studies.provenance.staleness import FRESH, STALE, UNKNOWN, Verdict, page_verdict, verdict

__all__ = ["FRESH", "STALE", "UNKNOWN", "Item", "Status", "Verdict", "main", "page_verdict", "status_of", "verdict"]

MISSING, INCOMPLETE, REFUSED = "missing", "incomplete", "refused"

#: In this order they are counted and listed.
STATES = (FRESH, STALE, UNKNOWN, INCOMPLETE, MISSING, REFUSED)


@dataclass(frozen=True)
class Item:
    """A record or a page, and what is known of it.

    Attributes:
      group: the experiment; "pages" for a page.
      preset: smoke, laptop or paper.
      name: the record's file without its ending, or the notebook's.
      state: "fresh", "stale", "not known", "incomplete" (runs are missing), "missing" or "refused" (damaged).
      reasons: why, a phrase each.
      note: how it is known, where that is not by its own key.
      seconds: what making it took, as measured then; None: not known.
    """

    group: str
    preset: str
    name: str
    state: str
    reasons: tuple[str, ...] = ()
    note: str = ""
    seconds: float | None = None

    def wanted(self) -> bool:
        """Whether it is to be made (again) to be sure of it."""
        return self.state != FRESH


@dataclass(frozen=True)
class Status:
    """The state of all results.

    Attributes:
      items: every expected record and page.
      others: records that belong to no experiment that is known here.
    """

    items: tuple[Item, ...]
    others: tuple[Path, ...] = ()

    def groups(self) -> dict[tuple[str, str], list[Item]]:
        """(preset, group) → its items."""
        found: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            found.setdefault((item.preset, item.group), []).append(item)
        return found

    def all_fresh(self) -> bool:
        """Whether nothing is stale, missing, or not known."""
        return not any(item.wanted() for item in self.items)


def status_of(
    folder: Path,
    *,
    presets: Sequence[str] = PRESETS,
    notebooks: Path = Path("notebooks"),
    executed: Path = Path("_build/executed"),
    sources: Sources | None = None,
) -> Status:
    """The state of every record and page.

    Args:
      folder: the results folder.
      presets: which.
      notebooks: folder of the clean notebooks.
      executed: folder of the executed ones, with a folder for each preset.
      sources: the library; None: the one that is running.
    """
    items: list[Item] = []
    for preset in presets:
        items += [_of_record(one, folder, sources) for one in registry.records(preset, folder)]
        for source in sorted(notebooks.glob("*.ipynb")):
            items.append(_of_page(source, executed / preset / source.name, preset, sources))
    strangers = registry.unknown_records(folder) if set(presets) == set(PRESETS) else ()
    return Status(tuple(items), tuple(strangers))


def _of_record(one: RecordSpec, folder: Path, sources: Sources | None) -> Item:
    path = folder / one.path
    if not path.exists():
        return Item(one.experiment, one.preset, one.name, MISSING)
    try:
        record = records.load(path, one.kind)
    except RecordError as error:
        return Item(one.experiment, one.preset, one.name, REFUSED, (str(error),))
    found = verdict(record, settings=one.settings, sources=sources)
    state, reasons = found.state, found.reasons
    there = len(record.provenance.get("seeds", ()))
    if one.seeds > there:
        reasons = (*reasons, f"{there} of {one.seeds} runs")
        state = state if state == STALE else INCOMPLETE
    return Item(one.experiment, one.preset, one.name, state, reasons, found.note, seconds_of(record))


def seconds_of(record: Record) -> float | None:
    """What computing a record took: training and compiling, as it states them; None where it does not.

    >>> seconds_of(Record("a/b", {}, {}, {"wall_seconds": 2.0, "compile_seconds": 0.5}))
    2.5
    """
    stated = record.provenance
    if "wall_seconds" not in stated or "compile_seconds" not in stated:
        return None
    return float(stated["wall_seconds"]) + float(stated["compile_seconds"])


def _of_page(source: Path, executed: Path, preset: str, sources: Sources | None) -> Item:
    if not executed.exists():
        return Item("pages", preset, source.stem, MISSING)
    found = page_verdict(source, executed, sources)
    return Item("pages", preset, source.stem, found.state, found.reasons, found.note, _page_seconds(executed))


def _page_seconds(executed: Path) -> float | None:
    try:
        return float(json.loads(executed.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cost(items: Iterable[Item]) -> str:
    """What refreshing items costs, for people.

    >>> cost([Item("a", "paper", "x", "stale", seconds=90.0), Item("a", "paper", "y", "missing")])
    '1.5 min, and 1 of unknown cost'
    """
    wanted = [item for item in items if item.wanted()]
    known = [item.seconds for item in wanted if item.seconds is not None]
    unknown = len(wanted) - len(known)
    if not wanted:
        return "nothing to do"
    if not known:
        return "not known"
    return f"{_minutes(sum(known))}" + (f", and {unknown} of unknown cost" if unknown else "")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5999 else f"{seconds / 3600:.1f} h"


def counted(items: Iterable[Item]) -> str:
    """How many items are in each state.

    >>> counted([Item("a", "paper", "x", "stale"), Item("a", "paper", "y", "fresh"), Item("a", "paper", "z", "stale")])
    '1 fresh, 2 stale'
    """
    given = [item.state for item in items]
    return ", ".join(f"{given.count(state)} {state}" for state in STATES if state in given)


def reasons_of(items: Iterable[Item], shown: int) -> list[tuple[str, list[str]]]:
    """What is not fresh, in words, with the names of those that it is true of.

    Args:
      items: of one group.
      shown: how many reasons to give at most; 0: all.
    """
    found: dict[tuple[str, tuple[str, ...]], list[Item]] = {}
    for item in items:
        if item.wanted():
            found.setdefault((item.state, item.reasons), []).append(item)
    lines = []
    for (state, reasons), own in found.items():
        text = Verdict(state, reasons).short(shown or len(reasons))
        notes = list(dict.fromkeys(item.note for item in own if item.note))
        lines.append((text + (f" ({'; '.join(notes)})" if notes else ""), [item.name for item in own]))
    return lines


def lines_of(status: Status, shown: int = 3) -> list[str]:
    """The status as plain lines, for a terminal."""
    lines: list[str] = []
    last = ""
    for (preset, group), items in status.groups().items():
        if preset != last:
            lines += [""] * bool(lines) + [f"preset {preset}"]
            last = preset
        lines.append(f"  {group}: {counted(items)}; to refresh: {cost(items)}")
        for text, names in reasons_of(items, shown):
            whole = " all of them" if len(names) == len(items) > 1 else f" {', '.join(names)}"
            lines.append(f"    {text}:{whole}" if ": " not in text else f"    {text} —{whole}")
    if status.others:
        lines += ["", f"{len(status.others)} records of experiments that are not known here, not judged:"]
        lines += [f"  {path}" for path in status.others]
    lines += ["", f"in all: {counted(status.items)}; to refresh: {cost(status.items)}"]
    return lines


def markdown(status: Status, shown: int = 3) -> str:
    """The status as Markdown tables, one for each preset."""
    lines: list[str] = []
    last = ""
    for (preset, group), items in status.groups().items():
        if preset != last:
            lines += ["", f"**{preset}**", "", "| results | state | to refresh | why |", "|---|---|---|---|"]
            last = preset
        why = []
        for text, names in reasons_of(items, shown):
            whole = "all" if len(names) == len(items) > 1 else ", ".join(f"`{name}`" for name in names)
            why.append(f"{_escaped(text)} ({whole})")
        lines.append(f"| `{group}` | {counted(items)} | {cost(items)} | {'<br>'.join(why)} |")
    if status.others:
        lines += ["", f"Records of experiments that are not known to this page, not judged: {len(status.others)}."]
    lines += ["", f"In all: {counted(status.items)}; to refresh: {cost(status.items)}."]
    return "\n".join(lines).strip() + "\n"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*`<$[]_" else c for c in text.replace("\n", " "))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lodo_experiments.cli.status``.

    Returns:
      0; with ``--strict`` 1 where anything is not fresh.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.status",
        description="What of the results is stale or missing, why, and what refreshing it costs.",
    )
    parser.add_argument("--preset", action="append", choices=PRESETS, help="this one alone (repeatable)")
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="folder of the clean notebooks")
    parser.add_argument("--executed", type=Path, default=Path("_build/executed"), help="folder of the executed ones")
    parser.add_argument("--all", action="store_true", help="every reason, instead of three for each result")
    parser.add_argument("--strict", action="store_true", help="exit status 1 unless everything is fresh")
    options = parser.parse_args(arguments)
    found = status_of(
        results_folder(options.results_dir),
        presets=options.preset or PRESETS,
        notebooks=options.notebooks,
        executed=options.executed,
        sources=keys.read_sources(),
    )
    print("\n".join(lines_of(found, 0 if options.all else 3)))
    return 1 if options.strict and not found.all_fresh() else 0


if __name__ == "__main__":
    sys.exit(main())
