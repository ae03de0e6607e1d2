"""What of the results is there, whether it still replays, and what making the rest costs: ``make status``.

Nothing is computed: what replays is read from what the latest ``make replay`` stored.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records, replays
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.replays import Replays, made_and_replayed
from lodo_experiments.results.store import difference_of, is_current
from lodo_experiments.studies import notebooks, registry
from lodo_experiments.studies.experiment import RecordSpec

# Of a record; "same numbers" and "differs" are by its replay, "of other code" is at smoke, where it is made again.
SAME, OF_THIS_CODE, UNREPLAYED, DIFFERS = "same numbers", "of this code", "not replayed", "differs"
OF_OTHER_CODE, OTHER_SETTINGS, INCOMPLETE = "of other code", "of other settings", "incomplete"
MISSING, REFUSED = "missing", "refused"

#: Those of which nothing is to be made (again).
DONE = (SAME, OF_THIS_CODE, UNREPLAYED, notebooks.CURRENT)
#: In this order they are counted and listed.
STATES = (
    *DONE, DIFFERS, OF_OTHER_CODE, OTHER_SETTINGS, INCOMPLETE, MISSING, REFUSED, notebooks.CHANGED, notebooks.UNKNOWN,
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A record or a page, and what is known of it."""

    group: str  # the experiment; "pages" for a page
    preset: str  # smoke, laptop, desktop or paper
    name: str  # the record's file without its ending, or the notebook's
    state: str  # one of STATES
    reasons: tuple[str, ...] = ()  # why, a phrase each
    seconds: float | None = None  # what making it took, as measured then; None: not known
    record: Record | None = None  # as loaded

    def is_wanted(self) -> bool:
        """Whether it is to be made (again)."""
        return self.state not in DONE


@dataclass(frozen=True)
class Status:
    """The state of all results."""

    items: tuple[Item, ...]
    replays: Replays
    others: tuple[Path, ...] = ()

    def by_preset(self) -> Iterator[tuple[str, list[tuple[str, list[Item], str]]]]:
        """Each preset with its groups: name, items, and by which commits their records were made and replayed."""
        for preset, items in itertools.groupby(self.items, lambda item: item.preset):
            own = [(name, list(some)) for name, some in itertools.groupby(items, lambda item: item.group)]
            records_of = {name: [item.record for item in some if item.record is not None] for name, some in own}
            yield preset, [(name, some, made_and_replayed(records_of[name], self.replays)) for name, some in own]


def status_of(
    folder: Path,
    *,
    presets: Sequence[str] = PRESETS,
    pages: Path = Path("notebooks"),
    executed: Path = Path("_build/executed"),
) -> Status:
    """The state of every record and page.

    Raises:
      RecordError: what the replays have found cannot be read.
      NotebookError: a notebook cannot be.
    """
    items: list[Item] = []
    found = Replays(folder)
    for preset in presets:
        items += [_of_record(one, folder, found) for one in registry.records(preset, folder)]
        items += [_of_page(source, executed / preset / source.name, preset) for source in sorted(pages.glob("*.ipynb"))]
    strangers = registry.unknown_records(folder) if set(presets) == set(PRESETS) else ()
    return Status(tuple(items), found, tuple(strangers))


def _of_record(one: RecordSpec, folder: Path, found: Replays) -> Item:
    path = folder / one.path
    if not path.exists():
        return Item(one.experiment, one.preset, one.name, MISSING)
    try:
        record = records.load(path, one.kind)
    except RecordError as error:
        return Item(one.experiment, one.preset, one.name, REFUSED, (str(error),))
    state, reasons = _state_of(one, record, found)
    return Item(one.experiment, one.preset, one.name, state, reasons, seconds_of(record), record)


def _state_of(one: RecordSpec, record: Record, found: Replays) -> tuple[str, tuple[str, ...]]:
    there = len(record.provenance.get("seeds", ()))
    difference = difference_of(record.values, one.settings) if one.settings is not None else ""
    if difference:
        return OTHER_SETTINGS, (difference,)
    replay = found.of(record)
    if replay is not None and replay.state == replays.DIFFERS:
        return DIFFERS, (str(replay),)
    if one.seeds > there:
        return INCOMPLETE, (f"{there} of {one.seeds} runs",)
    if replay is not None and replay.state in (replays.EQUAL, replays.CLOSE):
        return SAME, ()
    if is_current(record):
        return OF_THIS_CODE, ()
    if one.preset == "smoke":
        return OF_OTHER_CODE, ()
    return UNREPLAYED, (replay.words,) if replay is not None else ()


def seconds_of(record: Record) -> float | None:
    """What computing a record took: training and compiling, as it states them; None where it does not.

    >>> seconds_of(Record("a/b", {}, {}, {"wall_seconds": 2.0, "compile_seconds": 0.5}))
    2.5
    """
    try:
        return float(record.provenance["wall_seconds"]) + float(record.provenance["compile_seconds"])
    except KeyError:
        return None


def _of_page(source: Path, executed: Path, preset: str) -> Item:
    state, changed = notebooks.state_of(source, executed)
    seconds = notebooks.noted(executed, "papermill", "duration")
    return Item("pages", preset, source.stem, state, changed, None if seconds is None else float(seconds))


def cost(items: Iterable[Item]) -> str:
    """What making (again) costs what is wanted, for people.

    >>> cost([Item("a", "paper", "x", "differs", seconds=90.0), Item("a", "paper", "y", "missing")])
    '1.5 min, and 1 of unknown cost'
    """
    wanted = [item.seconds for item in items if item.is_wanted()]
    known = [seconds for seconds in wanted if seconds is not None]
    if not known:
        return "not known" if wanted else "nothing to do"
    total, unknown = sum(known), len(wanted) - len(known)
    told = f"{total / 60:.1f} min" if total < 5999 else f"{total / 3600:.1f} h"
    return told + (f", and {unknown} of unknown cost" if unknown else "")


def count_states(items: Iterable[Item]) -> str:
    """How many items are in each state.

    >>> count_states([Item("a", "paper", "x", "differs"), Item("a", "paper", "y", "same numbers")])
    '1 same numbers, 1 differs'
    """
    given = [item.state for item in items]
    return ", ".join(f"{given.count(state)} {state}" for state in STATES if state in given)


def reasons_of(items: Iterable[Item]) -> list[tuple[str, list[str]]]:
    """What is said of items of one group, with the names of those that it is true of."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item in items:
        if item.reasons or item.is_wanted():
            found.setdefault((item.state, item.reasons), []).append(item.name)
    return [(state + (f": {'; '.join(why)}" if why else ""), names) for (state, why), names in found.items()]


def lines_of(status: Status) -> list[str]:
    """The status as plain lines, for a terminal."""
    lines: list[str] = []
    for preset, groups in status.by_preset():
        lines += [""] * bool(lines) + [f"preset {preset}"]
        for group, items, story in groups:
            lines.append(f"  {group}: {count_states(items)}; to make: {cost(items)}")
            lines += [f"    {story}"] * bool(story)
            for text, names in reasons_of(items):
                whole = "all of them" if len(names) == len(items) > 1 else ", ".join(names)
                lines.append(f"    {text} — {whole}")
    if status.others:
        lines += ["", f"{len(status.others)} records of experiments that are not known here, not judged:"]
        lines += [f"  {path}" for path in status.others]
    return [*lines, "", f"in all: {count_states(status.items)}; to make: {cost(status.items)}"]


def markdown(status: Status) -> str:
    """The status as Markdown tables, one for each preset."""
    lines: list[str] = []
    for preset, groups in status.by_preset():
        lines += ["", f"**{preset}**", "", "| results | state | made, replayed | to make | which |", "|" + "---|" * 5]
        for group, items, story in groups:
            why = []
            for text, names in reasons_of(items):
                whole = "all" if len(names) == len(items) > 1 else ", ".join(f"`{name}`" for name in names)
                why.append(f"{_escape(text)} ({whole})")
            cells = (f"`{group}`", count_states(items), _escape(story), cost(items), "<br>".join(why))
            lines.append(f"| {' | '.join(cells)} |")
    if status.others:
        lines += ["", f"Records of experiments that are not known to this page, not judged: {len(status.others)}."]
    lines += ["", f"In all: {count_states(status.items)}; to make: {cost(status.items)}."]
    return "\n".join(lines).strip() + "\n"


def _escape(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*`<$[]_" else c for c in text.replace("\n", " "))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lodo_experiments.cli.status``.

    Returns:
      0; with ``--strict`` 1 where anything is to be made (again); 2 where what replays have found cannot be
      read, or a notebook cannot.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.status",
        description="What of the results is there, whether it still replays, and what making the rest costs.",
    )
    parser.add_argument("--preset", action="append", choices=PRESETS, help="this one alone (repeatable)")
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="folder of the clean notebooks")
    parser.add_argument("--executed", type=Path, default=Path("_build/executed"), help="folder of the executed ones")
    parser.add_argument("--strict", action="store_true", help="exit status 1 unless all is there and replays")
    options = parser.parse_args(arguments)
    try:
        found = status_of(
            results_folder(options.results_dir),
            presets=options.preset or PRESETS,
            pages=options.notebooks,
            executed=options.executed,
        )
    except (RecordError, notebooks.NotebookError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines_of(found)))
    return 1 if options.strict and any(item.is_wanted() for item in found.items) else 0


if __name__ == "__main__":
    sys.exit(main())
