"""The records of one experiment at one preset: looked up, computed once, published whole, and what is half done."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodo_experiments.results import locks, records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.utils import atomic_files, environment


@dataclass(frozen=True)
class Store:
    """Where records of one kind of question lie: ``folder/preset/experiment/name.npz``.

    What is half done lies in the folder ``.partial`` beside them, and is never read as a result.
    """

    folder: Path  # the results folder
    preset: str  # smoke, laptop, desktop or paper
    experiment: str  # the records' folder, and the beginning of their kinds
    dataset: str = ""  # SHA-256 of the data set that they are made from; empty: there is none, or it is not read
    until: float = math.inf  # ``time.monotonic()`` at which to stop waiting for another process; infinity: never

    def path(self, name: str) -> Path:
        """The file of a record."""
        return self.folder / self.preset / self.experiment / f"{name}.npz"

    def partial(self, name: str) -> Path:
        """The file of what is half done of a record."""
        return self.path(name).with_name(".partial") / f"{name}.npz"

    def state(self, name: str) -> Path:
        """The folder of the checkpoints on the way to a record."""
        return self.path(name).with_name(".partial") / f"{name}-state"

    def load(self, name: str, kind: str, settings: Mapping[str, Any]) -> Record | None:
        """The stored record where it answers the same question; None where it is to be computed.

        At the preset ``smoke``, which takes minutes, a record of other settings, data or code is computed again. The
        others take hours, so their code does not count (``make replay`` says whether it still computes the same
        numbers), and they are replaced only where LODO_RECOMPUTE is set.

        Raises:
          RecordError: it is damaged or foreign, or answers another question and is not to be replaced.
        """
        path = self.path(name)
        if not path.exists():
            return None
        record = records.load(path, kind)
        difference = difference_of(record.values, settings)
        before = record.provenance.get("dataset_sha256", "")
        if self.dataset and before and before != self.dataset:
            changed = f"the data set's fingerprint was {before[:12]}, now {self.dataset[:12]}"
            difference = "; ".join(filter(None, (difference, changed)))
        if not difference:
            return record if self.preset != "smoke" or is_current(record) else None
        if self.preset != "smoke" and not os.environ.get("LODO_RECOMPUTE"):
            raise RecordError(
                f"{path} was made with other settings than asked for now: {difference}. "
                "Use another results folder, or set LODO_RECOMPUTE=1 to replace it."
            )
        return None

    def get_or_compute(
        self, name: str, kind: str, settings: Mapping[str, Any], compute: Callable[[], Record]
    ) -> Record:
        """The stored record where it answers the question, else a new one, stored.

        The holder of the record's lock calls ``compute`` once.

        Raises:
          RecordError: as :meth:`load`; or LODO_REDRAW says to compute nothing.
          OutOfTime: another process is at it for longer than there is time.
          StorageError: it cannot be written.
        """
        record = self.load(name, kind, settings)
        if record is None:
            with self.lock(name):
                record = self.load(name, kind, settings)  # another process may have made it while this one waited
                record = record or self.publish(name, compute())
        return record

    def lock(self, name: str) -> AbstractContextManager[None]:
        """The lock of the one who computes a record, see :func:`~lodo_experiments.results.locks.hold`.

        Raises:
          RecordError: LODO_REDRAW says to compute nothing.
        """
        records.refuse_when_redrawing(self.path(name))
        return locks.hold(self.path(name), until=self.until)

    def publish(self, name: str, record: Record) -> Record:
        """The record, stored and read again: what was stored on the way to it may be removed only then."""
        return records.load(records.save(self.path(name), record), record.kind)

    def all(self) -> dict[str, Record]:
        """Every record that is there, by name; empty where there is none.

        Raises:
          RecordError: a record that is damaged or foreign.
        """
        paths = sorted(self.path("").parent.glob("*.npz"))
        return {path.stem: records.load(path, f"{self.experiment}/{path.stem}") for path in paths}

    def parts(
        self, name: str, kind: str, settings: Mapping[str, Any], seeds: Sequence[int]
    ) -> dict[tuple[int, ...], Record]:
        """Records of runs with some of these seeds and no others, not joined yet, that answer the same question.

        One that is damaged is named by a warning and left out.

        Returns:
          Seeds → record.
        """
        found: dict[tuple[int, ...], Record] = {}
        for path in sorted(self.partial(name).parent.glob(f"{name}-seeds-*.npz")):
            if not _seeds_in(path.stem, name) <= set(seeds):
                continue
            try:
                record = records.load(path, kind)
            except RecordError as error:
                warnings.warn(f"{path} is not used: {error} Its seeds are run again.", stacklevel=2)
                continue
            own = tuple(record.provenance["seeds"])
            if set(own) <= set(seeds) and not difference_of(record.values, settings):
                found[own] = record
        return found

    def parts_to_join(
        self, name: str, kind: str, settings: Mapping[str, Any], seeds: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """The seeds of those :meth:`parts` that are to be joined: no seed twice, the longest part first.

        One that has a seed of a longer one is named by a warning and left out.
        """
        part_of: dict[int, tuple[int, ...]] = {}
        for part in sorted(self.parts(name, kind, settings, seeds), key=lambda part: (-len(part), part)):
            if both := [seed for seed in part if seed in part_of]:
                one, other = (self.partial(name_of_part(name, some)) for some in (part, part_of[both[0]]))
                warnings.warn(
                    f"{one} is not used: {other} has runs with seeds {both} too. It is removed once all of its seeds "
                    "are in the record; there is nothing to do.",
                    stacklevel=2,
                )
                continue
            part_of |= dict.fromkeys(part, part)
        return list(dict.fromkeys(part_of.values()))

    def forget(self, name: str) -> None:
        """Removes what was stored on the way to a record that is published."""
        for path in (self.partial(name), self.state(name)):
            atomic_files.remove(path)

    def tidy(self, name: str, seeds: Sequence[int] = ()) -> None:
        """Removes what is left of the way to a record, of these seeds: its maker died just after it was published.

        Parts with other seeds stay: another process made them, and they are not joined yet.
        """
        left = {path.stem.removesuffix("-state") for path in self.partial(name).parent.glob(f"{name}-seeds-*")}
        for part in [name, *sorted(part for part in left if _seeds_in(part, name) <= set(seeds))]:
            paths = (self.partial(part), self.state(part), locks.lock_of(self.path(part)))
            if any(path.exists() for path in paths):
                locks.remove_if_unused(self.path(part), functools.partial(self.forget, part))


def name_of_part(name: str, seeds: Sequence[int]) -> str:
    """The name of a record of some of an optimizer's seeds, which follow each other.

    >>> name_of_part("Adam", [2, 3])
    'Adam-seeds-2-3'
    """
    return f"{name}-seeds-{seeds[0]}-{seeds[-1]}"


def _seeds_in(part: str, name: str) -> set[int]:
    """The seeds that a part's name states; {−1}, which is no seed, where it is no part of this record."""
    found = re.fullmatch(re.escape(name) + r"-seeds-(\d+)-(\d+)", part)
    return set(range(int(found[1]), int(found[2]) + 1)) if found is not None else {-1}


def is_current(record: Record) -> bool:
    """Whether a record was made by the code that is running, with the packages that are installed."""
    stated: Mapping[str, str] = record.provenance.get("versions", {})
    same = record.provenance.get("library") == environment.library()
    return same and all(version == records.version_of(package) for package, version in stated.items())


def difference_of(stated: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In which settings a record differs from what is wanted, for people; empty where in none.

    >>> difference_of({"settings": {"steps": 40, "size": 4}}, {"steps": 60, "size": 4})
    'steps was 40, now 60'
    """
    stored, wanted = stated.get("settings") or {}, json.loads(json.dumps(wanted))
    names = [name for name in {**stored, **wanted} if not alike(stored.get(name), wanted.get(name))]
    return "; ".join(f"{name} was {stored.get(name)!r}, now {wanted.get(name)!r}" for name in names)


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same setting: equal, but for the last digits of numbers that were computed.

    A tuned rate differs in its last digit from machine to machine; a setting that anyone chooses differs by more.

    >>> alike({"rate": 0.00186}, {"rate": 0.00186 * (1 + 4e-16)}), alike([0.1], [0.1000001])
    (True, False)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)
