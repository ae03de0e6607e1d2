"""Rules and verdicts: a rule is data, which pages print and :func:`judge` evaluates on stored records.

A comparison over seeds counts as settled where an exact sign-flip test rejects its opposite at 5 % (one-sided, as the
rule names the direction) on at least six seeds; where a rule asks for some of several, by Holm's procedure over all of
them, which takes more seeds (:func:`least_seeds`). Where it asks for every one, each has to be settled, which needs no
correction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lodo_experiments.analysis import statistics
from lodo_experiments.analysis.best_trials import BEST_TRIALS, LEVEL
from lodo_experiments.analysis.evidence import (
    MOVED,
    NESTED,
    QUANTITIES,
    UNTRAINED,
    Evidence,
    InPlace,
    displacement,
    tuning_failure,
)
from lodo_experiments.results.records import Record

CONFIRMED, PARTLY, REFUTED, UNDECIDED, NOT_TESTED = VERDICTS = (
    "confirmed", "partly", "refuted", "undecided", "not tested",
)  # fmt: skip

#: The fewest seeds that can settle anything.
LEAST_SEEDS = 6

#: The lists of optimizers that a verdict can be about.
PAPER, EXTENDED = LISTS = ("the paper's list", "the extended list")

#: The section of a claim that this project makes.
OURS = "not claimed in the paper"

#: LODO as it is tuned, under the names that it has among its parameterised ablations.
_ABLATED = ("LODO-depth-16", "LODO-block-4", "LODO-beta-7")

#: LODO with G held at α₀ I, among the ablations.
_STILL = "LODO-depth-0"

#: Why a record of LODO is no test of it.
UNMEASURED, STILL, UNTUNED = "whether G moved was not measured", "G moved too little", "tuning failed"

#: Records that need more words than their name.
_CALLED: Mapping[str, str] = {
    "noisy_bowl_frozen/LODO": "LODO with the learned G frozen",
    "noisy_bowl_learning_on/LODO": "LODO that starts from the same G and goes on learning",
    "noisy_bowl_published/LODO": "LODO that starts from α₀ I",
    "rosenbrock_frozen/LODO": "LODO with G = α₀ I frozen, which is momentum descent",
    "rosenbrock_defaults_frozen/LODO": "LODO with G = α₀ I frozen, which is momentum descent",
    "rosenbrock/Momentum": "Momentum",
}

#: Where a rule asks the same of several experiments: what tells them apart.
_WHERE: Mapping[str, str] = {
    "noisy_bowl_anisotropic": "with a drift that is uneven along the coordinates",
    "noisy_bowl_anisotropic_rotated": "with a drift that is uneven along a random basis",
}


def least_seeds(comparisons: int) -> int:
    """Fewest seeds on which Holm's procedure can settle one of so many comparisons: the least p, 2⁻ⁿ, has to pass.

    >>> [least_seeds(comparisons) for comparisons in (1, 3, 4, 7)]
    [6, 6, 7, 8]
    """
    return max(LEAST_SEEDS, math.ceil(math.log2(comparisons / LEVEL)))


_OF = {"every": "each of ", "some": "at least one of ", "half": "at least half of "}


@dataclass(frozen=True)
class Condition:
    """One comparison of a rule."""

    experiment: str  # whose records; empty: computed from the program
    quantity: str  # of :data:`~lodo_experiments.analysis.evidence.QUANTITIES`
    relation: str  # "below" or "above"
    # a number; or the optimizers (or parts) that it is compared with, another experiment's as "experiment/name"
    than: float | tuple[str, ...]
    how_many: str = "every"  # "every", "some" or "half" of them
    name: str = "LODO"  # the record whose quantity it is
    factor: float = 1.0  # what the quantity is multiplied by
    than_quantity: str = ""  # what of the others it is compared with; empty: the same
    seeds: bool = True  # whether a test over seeds settles it; False: it must hold of every number

    def __str__(self) -> str:
        """In words.

        >>> print(Condition("image_generation", "test loss", "below", ("Adam", "Yogi"), "some", factor=2))
        LODO: test loss times 2 is below that of at least one of Adam, Yogi
        >>> print(Condition("noisy_bowl", "loss", "above", 3.5, seeds=False))
        training loss, mean over the last tenth of the steps, is above 3.5 (in each case)
        """
        left = (
            (f"{self.subject()}: " if self.seeds else "")
            + QUANTITIES[self.quantity].words
            + (f" times {self.factor:g}" if self.factor != 1 else "")
        )
        if not isinstance(self.than, tuple):
            return f"{left} is {self.relation} {self.than:g}" + ("" if self.seeds else " (in each case)")
        what = f"the {QUANTITIES[self.than_quantity].words.rstrip(',')}" if self.than_quantity else "that"
        if self.than == (self.name,):
            return f"{left} is {self.relation} {what}"
        others = ", ".join(_CALLED.get(other, other.removeprefix("fit of ")) for other in self.than)
        return f"{left} is {self.relation} {what} of {_OF[self.how_many] * (len(self.than) > 1)}{others}"

    def subject(self) -> str:
        """Whose quantity it is, in words."""
        if self.experiment in _WHERE:
            return f"{self.name} {_WHERE[self.experiment]}"
        return _CALLED.get(f"{self.experiment}/{self.name}", self.name) if "frozen" in self.experiment else self.name

    def needs(self) -> Iterator[tuple[str, str]]:
        """(experiment, name) of every record that it is computed from."""
        if not self.experiment:
            return
        quantity = QUANTITIES[self.quantity]
        yield from quantity.others
        yield from ((self.experiment, name) for name in quantity.also or (self.name,))
        if self.experiment in UNTRAINED:
            yield self.experiment, self.name
        elif isinstance(self.than, tuple):
            yield from (self._place(name) for name in self.than)

    def _place(self, name: str) -> tuple[str, str]:
        experiment, _, own = name.rpartition("/")
        return experiment or self.experiment, own


@dataclass(frozen=True)
class Claim:
    """A claim and its rule: the verdict is the first of the three whose conditions all hold, or else undecided."""

    key: str  # short name
    statement: str  # the claim, in our words
    section: str  # of the paper, or :data:`OURS`
    page: str  # of the book, where the figures are
    confirmed: tuple[Condition, ...]  # what confirms it
    refuted: tuple[Condition, ...] = ()  # what refutes it; looked at before ``partly``
    partly: tuple[Condition, ...] = ()  # what makes it true in part
    about: str = PAPER  # the list of optimizers that it is about
    note: str = ""  # what a reader should know of the test
    untested: str = ""  # why its records do not test it, whatever the rule gives

    @property
    def ours(self) -> bool:
        """Whether the paper does not make it: a question of this project's own."""
        return self.section == OURS

    @property
    def whose(self) -> str:
        """Who makes it, in words."""
        return "our own question" if self.ours else "the paper's claim"

    def link(self) -> str:
        """A Markdown link to the page, from the ledger's."""
        place = "../book/algorithm.md" if self.page == "algorithm" else f"{self.page}.ipynb"
        return f"[{self.page.replace('_', ' ').capitalize()}]({place})"

    def rule(self) -> dict[str, str]:
        """Verdict → what leads to it, in words; verdicts that nothing leads to are left out."""
        parts = {CONFIRMED: self.confirmed, REFUTED: self.refuted, PARTLY: self.partly}
        return {name: "; and ".join(map(str, conditions)) for name, conditions in parts.items() if conditions}

    def conditions(self) -> tuple[Condition, ...]:
        """Every condition of the rule."""
        return (*self.confirmed, *self.refuted, *self.partly)


@dataclass(frozen=True)
class Finding:
    """What the records say of a claim."""

    verdict: str  # one of :data:`VERDICTS`
    reason: str = ""  # why it was not tested; empty elsewhere
    evidence: tuple[str, ...] = ()  # sentences with the numbers
    records: Mapping[str, Record] = field(default_factory=dict)  # name → record that they were computed from

    def scale(self) -> str:
        """The presets of the records."""
        return ", ".join(sorted({str(record.provenance["preset"]) for record in self.records.values()}, reverse=True))

    def devices(self) -> str:
        """The devices that made the records."""
        return "; ".join(sorted({str(record.provenance["device"]) for record in self.records.values()}))


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on a claim.

    Not tested is what has no records of the paper's size, what says so itself, what rests on a failed tuning, on a G
    that moved too little in one of the runs or on one of which that is not known, what was run at a smaller scale than
    the paper's, and what too few seeds leave undecided. That a tuning failed is seen only where there are runs of
    LODO-No-Momentum that beat it: as tuned both, or both at their best trial; and where one of these two alone beats
    LODO, the verdict has to be the same with that record in LODO's place.

    Raises:
      RecordError: a record is damaged or foreign.
    """
    presets, missing = _presets(claim, evidence)
    if missing:
        return Finding(NOT_TESTED, "no records of the paper's size", (f"No record of {', '.join(missing)}.",))
    needed = dict.fromkeys(need for condition in claim.conditions() for need in condition.needs())
    records = {f"{e}/{n}": evidence.record(presets[e], e, n) for e, n in needed}
    found = {name: record for name, record in records.items() if record is not None}
    reason, sentences = _invalid(found, presets, evidence)
    replaced = [name for name, record in found.items() if record.kind.split("/")[0] in BEST_TRIALS.values()]
    if replaced:
        sentences = [*sentences, f"At the values of their best trial, as they end lower there: {', '.join(replaced)}."]
    verdict, outcomes = _by_rule(claim, evidence, presets)
    lower = {} if reason else _nested_below(found, presets, evidence)
    for place, (name, told) in lower.items():
        other, _ = _by_rule(claim, InPlace(evidence, {place: name}), presets)
        sentences = [*sentences, f"{told} With that record in LODO's place the rule gives: {other}."]
        if other != verdict:
            reason = UNTUNED
            sentences.append(f"With LODO's own it gives: {verdict}.")
    shown = (*sentences, *dict.fromkeys(s for outcome in outcomes.values() for s in outcome.sentences))
    if claim.untested:
        return Finding(NOT_TESTED, claim.untested, (f"The rule gives: {verdict}.", *shown), found)
    smaller = sorted({preset for e, preset in presets.items() if e not in UNTRAINED and preset != "paper"})
    if not reason and smaller:
        reason = "a smaller scale than the paper's"
        shown = (f"At {', '.join(smaller)} the rule gives: {verdict}.", *shown)
    if not reason and verdict == UNDECIDED and any(0 < outcome.seeds < outcome.least for outcome in outcomes.values()):
        reason = "too few seeds"
    return Finding(NOT_TESTED if reason else verdict, reason, shown, found)


def _by_rule(claim: Claim, evidence: Evidence, presets: Mapping[str, str]) -> tuple[str, dict[Condition, _Outcome]]:
    """What the rule gives on some records, whether or not they test the claim."""
    outcomes = {condition: _evaluate(condition, evidence, presets) for condition in claim.conditions()}
    for name, conditions in ((CONFIRMED, claim.confirmed), (REFUTED, claim.refuted), (PARTLY, claim.partly)):
        if conditions and all(outcomes[condition].holds for condition in conditions):
            return name, outcomes
    return UNDECIDED, outcomes


@dataclass(frozen=True)
class _Outcome:
    """Whether a condition holds, on how many seeds (0: on none), and the numbers."""

    holds: bool
    seeds: int
    sentences: tuple[str, ...]
    least: int = LEAST_SEEDS  # seeds that it takes


def _presets(claim: Claim, evidence: Evidence) -> tuple[dict[str, str], list[str]]:
    """Experiment → preset that the claim's records of it are taken from, and the records that are nowhere."""
    needs: dict[str, list[str]] = {}
    for experiment, name in dict.fromkeys(need for condition in claim.conditions() for need in condition.needs()):
        needs.setdefault(experiment, []).append(name)
    found = {experiment: evidence.preset_of(experiment, names) for experiment, names in needs.items()}
    missing = [
        f"{name} on {experiment}"
        for experiment, names in needs.items()
        for name in names
        if found[experiment] is None and evidence.preset_of(experiment, (name,)) is None
    ] or [
        f"{', '.join(needs[experiment])} together on {experiment}" for experiment in needs if found[experiment] is None
    ]
    return {experiment: preset for experiment, preset in found.items() if preset is not None}, missing


def _invalid(found: Mapping[str, Record], presets: Mapping[str, str], evidence: Evidence) -> tuple[str, list[str]]:
    """Why the records of LODO do not test it, and what is known of that."""
    sentences = []
    for name, record in found.items():
        experiment, optimizer = name.split("/")
        if optimizer not in ("LODO", *_ABLATED) or record.values["hyperparameters"]["meta_learning_rate"] == 0:
            continue
        tuned_in = record.kind.split("/")[0]
        if optimizer in _ABLATED:
            base = evidence.record(presets[experiment], experiment.removesuffix("_ablations"), "LODO")
            if base is not None and base.values["hyperparameters"] == record.values["hyperparameters"]:
                tuned_in = experiment.removesuffix("_ablations")
        # Like with like: as tuned, or at their best trials both.
        nested = {other: evidence.one(presets[experiment], tuned_in, other) for other in ("LODO", *NESTED)}
        failure = tuning_failure({other: one for other, one in nested.items() if one is not None})
        if failure:
            return UNTUNED, [failure]
        # The least: a mean hides runs in which G stayed. Of those that finished: a lost run is a result by itself.
        finished = np.isfinite(record.arrays["scores"])
        measured = displacement(record)
        if not finished.any():
            sentences.append(f"No run of LODO on {experiment} finished.")
            continue
        if measured is None or not np.isfinite(measured[finished]).all():
            return UNMEASURED, [f"How far G moved on {experiment} was not measured."]
        least = measured[finished].min()
        told = f"‖G − α₀I‖_F/(α₀√n) is {least:.2g} at the end, the least of the runs"
        if least < MOVED:
            return STILL, [f"On {experiment} {told}."]
        sentences.append(f"G moved on {experiment}: {told}.")
        if optimizer == "LODO":
            sentences += _beside_still(record, evidence.one(presets[experiment], f"{experiment}_ablations", _STILL))
    return "", list(dict.fromkeys(sentences))


def _nested_below(
    found: Mapping[str, Record], presets: Mapping[str, str], evidence: Evidence
) -> dict[tuple[str, str], tuple[str, str]]:
    """Where a nested form's record that counts is below LODO's: place of LODO's → the form, and by how much, in words.

    LODO's search covers those values, and missed them.
    """
    below = {}
    for name, record in found.items():
        experiment, optimizer = name.split("/")
        for other in NESTED if optimizer == "LODO" else ():
            nested = evidence.record(presets[experiment], experiment, other)
            if nested is not None and tuning_failure({"LODO": record, other: nested}):
                difference = statistics.paired_difference(record, nested)
                whose = (
                    "as tuned" if nested.kind.startswith(f"{experiment}/") else "at the best trial of its own search"
                )
                told = (
                    f"LODO's search missed values that it covers: {other}, {whose}, has "
                    f"{statistics.text(statistics.summarise(nested.arrays['scores']))}; LODO minus it: "
                    f"{statistics.text(difference)}, {_nearer(difference)}."
                )
                below[experiment, optimizer] = other, told
    return below


def _beside_still(lodo: Record, still: Record | None) -> list[str]:
    """LODO beside itself with G held at α₀ I, where that was run at the same values: whether learning G matters."""
    if still is None or still.values["hyperparameters"] != lodo.values["hyperparameters"]:
        return []
    difference = statistics.paired_difference(lodo, still)
    return [
        f"With G held at α₀ I, at the same values ({_STILL}), the training loss is "
        f"{statistics.text(statistics.summarise(still.arrays['scores']))}; LODO minus it: "
        f"{statistics.text(difference)}, {_nearer(difference)}."
    ]


def _evaluate(condition: Condition, evidence: Evidence, presets: Mapping[str, str]) -> _Outcome:
    preset = presets.get(condition.experiment, "")
    quantity = QUANTITIES[condition.quantity]
    name = condition.name if not quantity.also or condition.experiment in UNTRAINED else quantity.also[0]
    record = evidence.record(preset, condition.experiment, name) if condition.experiment else None
    sign = -1 if condition.relation == "above" else 1

    def values_against(other: str) -> np.ndarray:
        values = condition.factor * np.asarray(quantity.of(record, evidence, other), float)
        return np.where(np.isfinite(values), values, quantity.lost)

    if not condition.seeds:
        return _in_each_case(condition, values_against(""), record, evidence, sign)
    assert record is not None
    if not isinstance(condition.than, tuple):
        values = values_against("")
        p_below, p_above = statistics.sign_flip(values - condition.than)
        p = float(p_above if sign < 0 else p_below)
        summary = statistics.text(statistics.summarise(values))
        settled = p <= LEVEL and len(values) >= LEAST_SEEDS
        side = int(np.sum(sign * (values - condition.than) < 0))
        sentence = f"{condition.relation} {condition.than:g} in {side} of {len(values)} runs, p = {p:.2g}"
        return _Outcome(settled, len(values), (_clean(f"{_named(condition)}: {summary}; {sentence}"),))
    first = values_against(condition.than[0].rpartition("/")[2])
    ps, sentences, fewest = [], [], len(first)
    other_quantity = QUANTITIES[condition.than_quantity or condition.quantity]
    if quantity.told is None:
        sentences.append(_clean(f"{_named(condition)}: {statistics.text(statistics.summarise(first))}"))
    for other in condition.than:
        experiment, own = condition._place(other)
        if quantity.told is not None:
            summary = statistics.text(statistics.summarise(values_against(own)))
            told = quantity.told(record, evidence, own)
            sentences.append(_clean(f"{condition.subject()} in the time of {own}, {told}: {summary}"))
        against = evidence.record(presets[experiment], experiment, own)
        assert against is not None
        of_other = np.asarray(other_quantity.of(against, evidence, condition.name), float)
        difference = statistics.paired_values(record, values_against(own), against, of_other)
        p = difference.p_above if sign < 0 else difference.p_below
        ps.append(p)
        fewest = min(fewest, len(difference.seeds))
        factor = f"{condition.factor:g} × " if condition.factor != 1 else ""
        another = condition.than_quantity and other == condition.name
        label = QUANTITIES[condition.than_quantity].words.rstrip(",") if another else _CALLED.get(other, other)
        sentences.append(
            f"{label}: {statistics.text(statistics.summarise(of_other))}; {factor}{condition.name} "
            f"minus it: {statistics.text(difference)}, {_nearer(difference)}."
        )
    found = [p <= LEVEL for p in ps] if condition.how_many == "every" else statistics.holm(ps, LEVEL)
    needed = {"every": len(ps), "some": 1, "half": len(ps) / 2}[condition.how_many]
    least = LEAST_SEEDS if condition.how_many == "every" else least_seeds(len(ps))
    return _Outcome(sum(found) >= needed and fewest >= least, fewest, tuple(sentences), least)


def _in_each_case(
    condition: Condition, values: np.ndarray, record: Record | None, evidence: Evidence, sign: int
) -> _Outcome:
    """Without seeds: in each of a few numbers."""
    words = QUANTITIES[condition.quantity].words
    shown = ", ".join(f"{value:.4g}" for value in values)
    if not isinstance(condition.than, tuple):
        return _Outcome(bool(np.all(sign * (values - condition.than) < 0)), 0, (_clean(f"{words}: {shown}"),))
    sentences, holds = [_clean(f"{words}: {shown}")], []
    for other in condition.than:
        against = np.asarray(QUANTITIES[other].of(record, evidence, ""), float)
        holds.append(bool(np.all(sign * (values - against) < 0)))
        sentences.append(_clean(f"{QUANTITIES[other].words}: {', '.join(f'{value:.4g}' for value in against)}"))
    enough = {"every": len(holds), "some": 1, "half": len(holds) / 2}[condition.how_many]
    return _Outcome(sum(holds) >= enough, 0, tuple(sentences))


def _nearer(difference: statistics.PairedDifference) -> str:
    """The smaller of the two one-sided p-values, and of which side it is."""
    below = difference.p_below <= difference.p_above
    return f"p = {min(difference.p_below, difference.p_above):.2g} (one-sided, {'lower' if below else 'higher'})"


def _named(condition: Condition) -> str:
    factor = f"{condition.factor:g} × " if condition.factor != 1 else ""
    return f"{condition.subject()}: {factor}{QUANTITIES[condition.quantity].words.rstrip(',')}"


def _clean(sentence: str) -> str:
    sentence = sentence.replace(",:", ":").strip()
    return sentence[0].upper() + sentence[1:] + "."
