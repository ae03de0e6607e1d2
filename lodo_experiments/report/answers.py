"""Sentences that answer a page's question from its records: who ends lower than LODO, and whether its G moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lodo_experiments.analysis.evidence import MOVED, displacement, tuning_failure
from lodo_experiments.analysis.network_curvature import RANKS, curvature_table
from lodo_experiments.analysis.statistics import paired_values
from lodo_experiments.report.tables import INTERVAL_FROM
from lodo_experiments.results.records import Record

#: What is told as a run's late growth: more than this factor over the last steps, from this share of the run on.
GREW, LATE = 2.0, 0.7


def scores(record: Record) -> np.ndarray:
    """[runs] mean training loss over the last tenth of the steps."""
    return np.asarray(record.arrays["scores"])


def sides(
    runs: Mapping[str, Record], of: Callable[[Record], np.ndarray] = scores, reference: str = "LODO"
) -> dict[str, list[str]]:
    """On which side of one optimizer each other one ends, by the paired 95 % interval over the shared seeds.

    Args:
      runs: optimizer → record of its runs.
      of: record → [runs] a number, the smaller the better.
      reference: the optimizer that the others are compared with.

    Returns:
      "below", "above", "between" (the interval contains 0), "few" (fewer than
      :data:`~lodo_experiments.report.tables.INTERVAL_FROM` pairs ended, too few for an interval) and "diverged" (at
      least one run of the shared seeds, so that a mean over the rest would flatter it) → names, by their mean
      difference.
    """
    found: dict[str, list[str]] = {"below": [], "above": [], "between": [], "few": [], "diverged": []}
    differences = {
        name: paired_values(record, of(record), runs[reference], of(runs[reference]))
        for name, record in runs.items()
        if name != reference and reference in runs
    }
    for name in sorted(differences, key=lambda name: (np.isnan(differences[name].mean), differences[name].mean)):
        one = differences[name]
        low, high = one.interval
        side = "below" if high < 0 else "above" if low > 0 else "between"
        found["diverged" if one.a_diverged else "few" if one.ended < INTERVAL_FROM else side].append(name)
    return found


def standing(
    runs: Mapping[str, Record],
    quantity: str = "training loss",
    of: Callable[[Record], np.ndarray] = scores,
    reference: str = "LODO",
) -> str | None:
    """Who ends lower than one optimizer, who higher, and who cannot be told apart; None with nobody to compare.

    Args:
      runs: see :func:`sides`.
      quantity: what ``of`` gives, in words.
      of: see :func:`sides`.
      reference: see :func:`sides`.

    >>> facts = {"preset": "smoke", "seeds": [0, 1, 2, 3]}
    >>> runs = {name: Record(f"bowl/{name}", {"scores": np.array(scores)}, {}, facts) for name, scores in
    ...         {"LODO": [2.0, 2.1, 2.2, 2.3], "Adam": [1.0, 1.1, 1.3, 1.2], "Yogi": [2.0, 2.2, 2.1, 2.3]}.items()}
    >>> standing(runs).partition("each, ")[2]
    'Adam ends below LODO; none ends above it; Yogi cannot be told apart from it.'
    """
    found = sides(runs, of, reference)
    if not any(found.values()):
        return None
    parts = []
    if found["below"] or found["above"] or found["between"]:
        parts = [
            f"{listed(found[side])} end{'s' * (len(found[side]) == 1)} {where}" if found[side] else f"none ends {where}"
            for side, where in (("below", f"below {reference}"), ("above", "above it"))
        ]
    if found["between"]:
        parts.append(f"{listed(found['between'])} cannot be told apart from it")
    if found["diverged"]:
        parts.append(f"runs of {listed(found['diverged'])} diverged, so no mean of theirs is compared")
    failed = "This ranks no method, as the tuning failed: " if tuning_failure(runs) else ""
    few = [_of_few(name, runs, of, reference) for name in found["few"]]
    if not parts:
        return f"{failed}{'in' if failed else 'In'} {quantity} {'; '.join(few)}: too few for an interval."
    compared = f"{'by' if failed else 'By'} {quantity}, compared seed by seed with a 95 % interval for each, "
    return f"{failed}{compared}{'; '.join(parts)}." + (f" {'; '.join(few)}: too few for an interval." if few else "")


def _of_few(name: str, runs: Mapping[str, Record], of: Callable[[Record], np.ndarray], reference: str) -> str:
    """Where an optimizer ends on seeds that are too few for an interval."""
    pairs = paired_values(runs[name], of(runs[name]), runs[reference], of(runs[reference]))
    if pairs.ended == 1:
        return f"{name} ends {'below' if pairs.a_lower else 'above'} {reference} on the one shared seed"
    shares = {0: "none of the ", pairs.ended: "both " if pairs.ended == 2 else "all "}
    count = "" if pairs.a_lower == pairs.ended == 2 else f"{pairs.ended} "
    share = shares.get(pairs.a_lower, f"{pairs.a_lower} of the ")
    return f"{name} ends below {reference} on {share}{count}shared seeds"


def on_the_way(runs: Mapping[str, Record]) -> str:
    """The validation loss of each optimizer half-way and at the end, mean over its runs that ended; LODO first.

    Args:
      runs: optimizer → record with ``measured.validation_loss`` and ``measured_steps``; others are left out.
    """
    told = []
    for name in sorted(runs, key=lambda name: name != "LODO"):
        if "measured.validation_loss" in runs[name].arrays:
            steps, values = (runs[name].arrays[key] for key in ("measured_steps", "measured.validation_loss"))
            ended = values[np.isfinite(values).all(axis=1)]
            half = int(np.argmin(np.abs(steps - steps[-1] / 2)))
            count = "1 run" if len(ended) == 1 else f"{len(ended)} runs"
            if len(ended):
                means = ended.mean(axis=0)
                told.append(
                    f"{name} {means[half]:.3f} at step {steps[half]:,} and {means[-1]:.3f} at the end ({count})"
                )
    return f"In validation loss: {'; '.join(told)}." if told else ""


def of_search(runs: Mapping[str, Record], tuning: Mapping[str, Record]) -> str:
    """How far apart optimizers were in the last trials of their search, and are in the reported runs.

    And where the tuned values lead over as many steps: above the best trial by much, and the search missed what it had.

    Args:
      runs: optimizer → record of its runs.
      tuning: optimizer → record of its trials.

    Returns:
      Sentences; empty where fewer than two have both, or where their last trials differ in length.
    """
    best, ends = {}, {}
    for name in runs.keys() & tuning.keys():
        trials = tuning[name].arrays
        if "generation" not in trials:
            continue
        last = trials["generation"] == trials["generation"].max(initial=0)
        if len(last) and np.isfinite(trials["score"][last]).any() and np.isfinite(runs[name].arrays["scores"]).all():
            best[name] = int(trials["steps"][last][0]), float(np.nanmin(trials["score"][last]))
            ends[name] = float(runs[name].arrays["scores"].mean())
    if len(best) < 2 or len({steps for steps, _ in best.values()}) > 1:
        return ""
    order = sorted(best, key=lambda name: (name != "LODO", best[name][1]))
    told = listed([f"{name} {best[name][1]:.3f}" for name in order])
    there, here = (max(values) / min(values) - 1 for values in ([one for _, one in best.values()], list(ends.values())))
    return (
        f"In the last trials of the search, of {best[order[0]][0]:,} steps, the best losses were {told}: the "
        f"greatest is {there:.1%} above the least there, and {here:.1%} in the runs. Over as many steps the tuned "
        f"values have {listed([f'{name} {_until(runs[name], best[name][0]):.3f}' for name in order])}."
    )


def _until(record: Record, last: int) -> float:
    """Mean loss of a record's runs over the last tenth of their first so many steps."""
    steps, curve = np.asarray(record.arrays["curve_steps"]), np.asarray(record.arrays["curve"])
    return float(curve[:, (steps > 0.9 * last) & (steps <= last)].mean())


def of_learning(record: Record, still: Record | None) -> str:
    """What learning G changes: LODO beside itself at the same values with a G that cannot move, on the shared seeds.

    Args:
      record: of runs of LODO.
      still: of LODO at depth 0, which is momentum SGD; empty is what comes back for None, or for other values.
    """
    names = ("initial_learning_rate", "momentum")
    if still is None or any(still.values["hyperparameters"][k] != record.values["hyperparameters"][k] for k in names):
        return ""
    pairs = paired_values(still, scores(still), record, scores(record))
    if not pairs.ended:
        return ""
    seeds = "the one shared seed" if pairs.ended == 1 else f"the {pairs.ended} shared seeds"
    where = "above" if pairs.mean > 0 else "below"
    return (
        f"At the same $\\alpha_0$ and $\\beta$ with nothing learned (depth 0) the training loss ends "
        f"{abs(pairs.mean):.3f} {where} LODO's on {seeds}."
    )


def movement(record: Record, name: str = "LODO") -> str:
    """How far a record's G moved from α₀ I by the end; that it was not measured, where it was not.

    Args:
      record: of runs of LODO or of a variant of it.
      name: what to call it.
    """
    moved = displacement(record)
    if moved is None:
        rate = record.values["hyperparameters"].get("meta_learning_rate")
        known = "" if rate is None else f" Its meta-learning rate is {rate:.1e}."
        return (
            f"How far the $G$ of {name} moved from $\\alpha_0 I$ was not measured in this record, so it is not known "
            f"whether {name} was more than momentum SGD here.{known}"
        )
    # As the ledger has it: one run that is not finite is left out of the mean.
    mean = float(np.nanmean(moved)) if np.isfinite(moved).any() else float("nan")
    text = f"At the end $\\lVert G - \\alpha_0 I\\rVert/(\\alpha_0\\sqrt n)$ of {name} is {_spread(moved)}."
    if not mean >= MOVED:
        text += " So $G$ hardly moved: this is momentum SGD, and no test of what LODO learns."
    return text


def late_growth(record: Record) -> str:
    """The runs whose G moved most of its way in the last steps; empty where there is none, or too little was measured.

    Args:
      record: with ``displacement_steps`` and ``inverse_hessian_displacement``.
    """
    if "inverse_hessian_displacement" not in record.arrays:
        return ""
    steps = np.asarray(record.arrays["displacement_steps"])
    place = int(np.searchsorted(steps, LATE * steps[-1], side="right")) - 1
    if place <= 0 or place == len(steps) - 1:
        return ""
    told = []
    for seed, values in zip(record.provenance["seeds"], record.arrays["inverse_hessian_displacement"], strict=True):
        before, end = float(values[place]), float(values[-1])
        if end > GREW * before:
            told.append(
                f"In the run of seed {seed} it goes from {before:.2g} to {end:.2g} in the last "
                f"{int(steps[-1] - steps[place]):,} of {int(steps[-1]):,} steps."
            )
    return " ".join(told)


def of_curvature(record: Record) -> str:
    """What G does to the steepest directions of a network's loss, beside what it does on the whole.

    Args:
      record: as :func:`~lodo_experiments.analysis.network_curvature.curvature_table` takes it.
    """
    rows = curvature_table(record)
    if not rows:
        return "no run has eigenvectors of the Hessian, so nothing is known of what $G$ has learned."

    def spread(key: str) -> str:
        return listed([f"{row[key]:.2g}" for row in rows])

    along, fewest = "$q^\\top G q/\\alpha_0$", min(row["eigenvectors found"] for row in rows)
    falls, grows = spread("first λ over the last"), spread("last qᵀGq over the first")
    later_falls, later_grows = spread("second λ over the last"), spread("last qᵀGq over the second")
    each = f", in its {len(rows)} runs in turn," if len(rows) > 1 else ""
    text = (
        f"after {record.values['steps']:,} steps{each} {along} is {spread('qᵀGq/α₀ along its q')} along the steepest "
        f"direction, and {spread('mean eigenvalue of G/α₀')} in the mean over all directions. Over the {fewest} "
        f"steepest $\\lambda$ falls by a factor of {falls} and {along} grows by a factor of {grows}; without the "
        f"first of them the factors are {later_falls} for the one and {later_grows} for the "
        "other. With Newton's method the two would be "
        f"equal. The rank correlation of $\\lambda$ and {along} is {spread(RANKS)}, where $-1$ is the inverse "
        "Hessian's."
    )
    turned = all(row[RANKS] < -0.5 and row["last qᵀGq over the first"] > 1.2 for row in rows)
    far = all(row["last qᵀGq over the first"] < row["first λ over the last"] / 5 for row in rows)
    return text + (
        " So $G$ has begun to turn towards the inverse Hessian, and is far from it." if turned and far else ""
    )


def listed(names: Sequence[str]) -> str:
    """Names as a text.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _spread(values: np.ndarray) -> str:
    """The numbers of a few runs, or the mean and the ends of many."""
    told = [f"{value:.2g}" for value in values]
    if len(told) < INTERVAL_FROM:
        return listed(told) + (f" in its {len(told)} runs" if len(told) > 1 else "")
    return (
        f"{np.nanmean(values):.2g} (mean; {np.nanmin(values):.2g} to {np.nanmax(values):.2g} over {len(values)} runs)"
    )
