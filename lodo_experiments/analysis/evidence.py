"""Evidence for the ledger's verdicts: stored records, and comparisons of scores that the verdicts share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lodo_experiments.analysis import statistics
from lodo_experiments.results.records import Record
from lodo_experiments.studies.stored_results import Stored, load_all

#: The presets whose records the repository has, largest first. A page's smoke run is no evidence.
BUNDLED = ("paper", "laptop")

CONFIRMED, PARTLY, NOT_HERE, REFUTED, OPEN = "confirmed", "partly", "not at this scale", "refuted", "no records yet"


@dataclass(frozen=True)
class Finding:
    """What the records say of a claim.

    Attributes:
      verdict: one of confirmed, partly, not at this scale, refuted, no records yet.
      evidence: sentences with the numbers.
      records: name → record that they were computed from.
    """

    verdict: str
    evidence: tuple[str, ...]
    records: dict[str, Record]

    def scale(self) -> str:
        """The presets of the records."""
        return ", ".join(sorted({str(record.provenance["preset"]) for record in self.records.values()}, reverse=True))

    def devices(self) -> str:
        """The devices that made the records."""
        return "; ".join(sorted({str(record.provenance["device"]) for record in self.records.values()}))


class Evidence:
    """Stored records by experiment, each at the largest preset that the repository has, read once.

    Args:
      folder: the results folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[tuple[str, str], Stored] = {}

    def of(self, experiment: str, needed: tuple[str, ...] = ("LODO",)) -> Stored | None:
        """An experiment's records at the largest preset with all the optimizers needed; None where there is none."""
        for preset in BUNDLED:
            if (experiment, preset) not in self._read:
                self._read[experiment, preset] = load_all(self.folder, experiment, preset)
            results = self._read[experiment, preset]
            if all(name in results.runs for name in needed):
                return results
        return None


def no_evidence(what: str) -> Finding:
    """The finding where there are no records."""
    return Finding(OPEN, (f"No record of {what} at the presets {' or '.join(BUNDLED)}.",), {})


def refutation(results: Stored) -> str:
    """The verdict on a claim that the records contradict: only the paper's scale can refute."""
    return REFUTED if results.preset == "paper" else NOT_HERE


@dataclass(frozen=True)
class Comparison:
    """Others against one optimizer on shared seeds.

    Attributes:
      higher: whose scores are higher, with 95 % confidence.
      lower: whose are lower.
      unsettled: whose intervals hold 0.
      sentences: the numbers, one sentence each.
    """

    higher: tuple[str, ...]
    lower: tuple[str, ...]
    unsettled: tuple[str, ...]
    sentences: tuple[str, ...]


def compare(results: Stored, reference: str, others: Iterable[str]) -> Comparison:
    """Whether others score higher (worse) than a reference, on the seeds that they share.

    Args:
      results: stored records of all of them.
      reference: the optimizer that the others are compared with.
      others: those to compare; names without a record are left out.
    """
    groups: dict[str, list[str]] = {"higher": [], "lower": [], "unsettled": []}
    sentences = []
    for name in others:
        if name not in results.runs:
            continue
        difference = statistics.paired_difference(results.runs[name], results.runs[reference])
        group = direction(difference)
        groups[group].append(name)
        mean = statistics.text(statistics.summarise(results.runs[name].arrays["scores"]))
        sentences.append(f"{name}: {mean}; minus {reference}: {statistics.text(difference)}")
    higher, lower, unsettled = (tuple(groups[group]) for group in ("higher", "lower", "unsettled"))
    return Comparison(higher, lower, unsettled, tuple(sentences))


def direction(difference: statistics.PairedDifference) -> str:
    """Whether a difference is settled: "higher", "lower" or "unsettled".

    A pair in which one run diverged counts for the other run. A difference is settled if the interval of the mean
    and every such pair agree on its sign.
    """
    low, high = difference.interval
    a_only, b_only = (
        int(np.sum(np.isposinf(difference.differences))),
        int(np.sum(np.isneginf(difference.differences))),
    )
    worse = difference.ended == 0 or (np.isfinite(low) and low > 0)
    better = difference.ended == 0 or (np.isfinite(high) and high < 0)
    if worse and not b_only and (difference.ended or a_only):
        return "higher"
    if better and not a_only and (difference.ended or b_only):
        return "lower"
    return "unsettled"


def mean_text(record: Record) -> str:
    """Mean ± standard deviation and interval of a record's scores."""
    return statistics.text(statistics.summarise(record.arrays["scores"]))
