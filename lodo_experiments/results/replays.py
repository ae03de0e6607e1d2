"""What the latest replay of each stored record found: ``results/replay.json``, written by ``make replay``.

A record's result is looked up by the record's SHA-256, so that a record that is made again has none.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lodo_experiments.results.records import Record, RecordError, StorageError
from lodo_experiments.utils.atomic_files import open_atomically

#: The file's name in the results folder.
FILE = "replay.json"

#: What a replay can find: the same bits; the same numbers up to rounding; other numbers; nothing, and why.
EQUAL, CLOSE, DIFFERS, SKIPPED = "equal", "close", "differs", "skipped"
STATES = (EQUAL, CLOSE, DIFFERS, SKIPPED)


@dataclass(frozen=True)
class Pass:
    """One execution of ``make replay``."""

    commit: str  # of the code that replayed, "+changes" where files differed from it
    date: str  # ISO 8601, UTC
    versions: Mapping[str, str]  # of the packages that do the arithmetic
    device: str  # that it ran on
    seconds: float = 0.0  # that it took


@dataclass(frozen=True)
class Replay:
    """What the replay of one record found."""

    sha256: str  # the record's digest
    state: str  # "equal", "close", "differs" or "skipped"
    steps: int = 0  # updates that were made again, of each run
    runs: int = 0  # how many runs were
    # relative difference that counts as rounding, before training makes it grow; 0: nothing was compared
    tolerance: float = 0.0
    first_difference: int | None = None  # the step from which the numbers differ by more; None: nowhere
    words: str = ""  # what differs, or why it was skipped
    by: Pass | None = None  # the execution that found it

    def __str__(self) -> str:
        """In words.

        >>> str(Replay("", EQUAL, steps=400, runs=8)), str(Replay("", SKIPPED, words="no mnist"))
        ('same numbers, to the bit (400 steps, 8 runs)', 'skipped: no mnist')
        """
        amount = f" ({self.steps} steps, {self.runs} run{'s' if self.runs != 1 else ''})" if self.steps else ""
        if self.state == EQUAL:
            return f"same numbers, to the bit{amount}"
        if self.state == CLOSE:
            return f"same numbers, up to rounding{amount}"
        if self.state == DIFFERS:
            return f"differs from step {self.first_difference} on{amount}: {self.words}"
        return f"skipped: {self.words}"


class Replays:
    """The results of a folder's replays.

    Raises:
      RecordError: the file is damaged.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.by_name: dict[str, Replay] = {}
        if not self.path.exists():
            return
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            passes = [Pass(**one) for one in stored["passes"]]
            self.by_name = {
                name: Replay(**{**entry, "by": passes[entry["by"]]}) for name, entry in stored["records"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise RecordError(f"{self.path} is damaged: {error!r}. Remove it, and run `make replay` again.") from error

    def of(self, record: Record) -> Replay | None:
        """What the latest replay of this very record found; None where it was not replayed."""
        digest = record.digest()
        return next((replay for replay in self.by_name.values() if replay.sha256 == digest), None)

    def differing(self, found: Iterable[Record]) -> list[str]:
        """The kinds of those records whose replay differs."""
        replays = [(record.kind, self.of(record)) for record in found]
        return sorted(kind for kind, replay in replays if replay is not None and replay.state == DIFFERS)

    def save(self, found: Mapping[str, Replay]) -> None:
        """Write new results in place of older ones of the same records, the whole file or nothing.

        Results of records that are no longer there are dropped.

        Raises:
          StorageError: it cannot be written.
        """
        folder = self.path.parent
        kept = {n: replay for n, replay in {**self.by_name, **found}.items() if (folder / f"{n}.npz").exists()}
        passes: list[Pass] = []
        entries: dict[str, dict[str, Any]] = {}
        for name, replay in sorted(kept.items()):
            assert replay.by is not None
            if replay.by not in passes:
                passes.append(replay.by)
            entries[name] = {**asdict(replay), "by": passes.index(replay.by)}
        content = {"passes": [asdict(one) for one in passes], "records": entries}
        try:
            with open_atomically(self.path) as file:
                file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise StorageError.of(self.path, error) from error
        self.by_name = kept


#: What is said of the records that a replay has found to differ.
OTHER_NUMBERS = "other numbers"
_SAID = {EQUAL: "same numbers", CLOSE: "same numbers", DIFFERS: OTHER_NUMBERS, SKIPPED: "could not be replayed"}


def made_and_replayed(found: Iterable[Record], replays: Replays) -> str:
    """By which commits records were made, by which they were replayed, and what that found; empty for none.

    >>> made = {"commit": "a" * 40, "date": "2026-11-26T01:02:03+00:00"}
    >>> made_and_replayed([Record("a/b", {}, {}, made)], Replays(Path("/nowhere")))
    'made by commit aaaaaaa on 26 Nov 2026; not replayed'
    """
    made: dict[str, None] = {}
    by: dict[str, None] = {}
    counts: Counter[str] = Counter()
    for record in found:
        stated = record.provenance
        made[_commit_and_date(stated.get("commit", "unknown"), stated.get("date", ""))] = None
        replay = replays.of(record)
        counts[_SAID[replay.state] if replay is not None else "not replayed"] += 1
        if replay is not None and replay.by is not None:
            by[_commit_and_date(replay.by.commit, replay.by.date)] = None
    if not made:
        return ""
    said = next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {state}" for state, n in counts.items())
    replayed = f"replayed by {_listed(by)}: {said}" if by else said
    return f"made by {_listed(made)}; {replayed}"


def _listed(commits: Iterable[str]) -> str:
    """Commits in words: all of them where they are few, else how many."""
    ordered = sorted(commits)
    return ", ".join(ordered) if len(ordered) <= 3 else f"{len(ordered)} commits"


def _commit_and_date(commit: str, date: str) -> str:
    name, changes, _ = commit.partition("+changes")
    day = datetime.datetime.fromisoformat(date) if date else None
    return f"commit {name[:7]}{changes}" + (f" on {day.day} {day:%b %Y}" if day else "")
