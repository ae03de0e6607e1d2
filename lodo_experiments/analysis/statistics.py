"""Statistics of scores, one a run: summaries with bootstrap intervals, paired differences, time to a target.

What an interval covers: the runs of one optimizer differ by their seeds (initial values, batches, the optimizer's
draws) and share one set of tuned hyperparameters. An interval says how far other seeds would move the number, and
nothing about how far another tuning would. Optimizers are run on the same seeds, so two of them are compared more
sharply by :func:`paired_difference` than by looking whether their intervals overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodo._validation import check_integer, check_real
from lodo_experiments.results.records import Record

#: The horizontal axes of a curve.
AGAINST = ("step", "gradient", "second")

#: The coverage of intervals, and the number of bootstrap samples.
CONFIDENCE = 0.95
RESAMPLES = 10_000

#: Scores that the bootstrap draws at a time, which bounds its memory.
_DRAWN_AT_ONCE = 4_000_000

#: Settings that may differ between two records that are compared: what is tuned, and how much was measured.
_FREE = frozenset({"hyperparameters", "seeds", "measure_every"})


@dataclass(frozen=True)
class Summary:
    """Scores of an optimizer's runs, the smaller the better; see :func:`summarise` for what counts where.

    Attributes:
      runs: how many runs there were, diverged ones included.
      diverged: how many of them diverged.
      mean: mean over the runs that did not diverge; nan where all did.
      std: their standard deviation (ddof = 1); nan for fewer than two.
      median: median over all runs, a diverged run being +inf.
      iqm: interquartile mean over all runs, likewise.
      mean_interval: bootstrap interval of ``mean``, (low, high); (nan, nan) for fewer than two runs.
      iqm_interval: the same of ``iqm``; its ends may be +inf.
      confidence: of the intervals.
      resamples: bootstrap samples that they were taken from.
    """

    runs: int
    diverged: int
    mean: float
    std: float
    median: float
    iqm: float
    mean_interval: tuple[float, float]
    iqm_interval: tuple[float, float]
    confidence: float
    resamples: int


@dataclass(frozen=True)
class PairedDifference:
    """How two optimizers differ on the seeds that both were run on, a − b.

    Attributes:
      seeds: the shared seeds, in order.
      differences: a − b at each of them: +inf where only a diverged, −inf where only b did, 0 where both did.
      a_lower: pairs in which a is lower.
      b_lower: pairs in which b is lower.
      ties: pairs in which neither is: equal, or both diverged.
      a_diverged: shared seeds at which a diverged.
      b_diverged: shared seeds at which b diverged.
      ended: pairs in which neither diverged, which are those that ``mean`` is taken over.
      mean: mean difference over the pairs that ended; nan where there is none.
      std: standard deviation (ddof = 1) of their differences; nan for fewer than two.
      interval: its bootstrap interval, (low, high); (nan, nan) for fewer than two such pairs.
      median: median difference over all pairs, infinite ones included; nan where it lies between −inf and +inf.
      confidence: of the interval.
      resamples: bootstrap samples that it was taken from.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    a_lower: int
    b_lower: int
    ties: int
    a_diverged: int
    b_diverged: int
    ended: int
    mean: float
    std: float
    interval: tuple[float, float]
    median: float
    confidence: float
    resamples: int


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the values along the last axis (IQM).

    A quarter of the *weight* is cut at each end, so for n values the outermost that are left count in part: for n = 5
    the weights are 0, ¾, 1, ¾, 0. Where 4 divides n this is ``scipy.stats.trim_mean(values, 0.25)``, which rliable
    uses; elsewhere that rounds the cut down to whole values, which for n < 4 cuts nothing.

    Args:
      values: [..., n], +inf allowed (−inf and nan are not); n ≥ 1.

    Returns:
      [...]; +inf where more than a quarter of the values is.

    References:
      Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021, §4.3.

    >>> float(interquartile_mean(np.array([1.0, 2.0, 4.0, 100.0])))
    3.0
    >>> float(interquartile_mean(np.array([1.0, 2.0, 4.0, 6.0, np.inf])))  # (¾·2 + 4 + ¾·6) / 2.5
    4.0
    """
    values = np.sort(np.asarray(values, dtype=float), axis=-1)
    count = values.shape[-1]
    if count == 0:
        raise ValueError("The interquartile mean of no values is not defined.")
    whole, part = divmod(count, 4)
    middle = values[..., whole : count - whole]
    weights = np.ones(middle.shape[-1])
    weights[0] -= part / 4
    weights[-1] -= part / 4
    # Every weight is above 0, so an infinite value makes the mean infinite and never nan.
    return (middle * weights).sum(axis=-1) / weights.sum()


def summarise(
    scores: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Summary:
    """Summary of an optimizer's runs, for a reader who does not take a mean on trust.

    A run that diverged (its score is not finite) is counted and never left out in silence:

    * the mean and the standard deviation exist for finite scores only. They are taken over the runs that ended, and so
      flatter an optimizer that diverges: read them beside ``diverged`` and ``runs``, or use the next two instead;
    * the median and the interquartile mean take a diverged run as +inf, the worst. They stay finite as long as few
      enough runs diverge, and are +inf otherwise.

    Intervals are percentile bootstrap intervals: runs are drawn with replacement, the statistic is taken of each draw,
    and the interval leaves (1 − confidence)/2 of the draws out at each end (rounded outwards to a whole draw, since
    there is nothing between a number and +inf). For few runs such an interval is too narrow: with n runs its width is
    that of a normal interval with the variance divided by n instead of n − 1. Of a single run nothing can be said, and
    the interval is (nan, nan). The result does not depend on the order of the runs, and is the same every time.

    Args:
      scores: [runs], the smaller the better; not finite: diverged.
      confidence: of both intervals, in (0, 1).
      resamples: bootstrap samples.
      seed: of the bootstrap.

    Raises:
      ValueError: no scores, not one number a run, or too few resamples for the confidence.

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; Agarwal et al. 2021 (as above).

    >>> text(summarise(np.array([8.9, 8.8, 9.1, 8.8])))
    '8.90 ± 0.14 [8.80, 9.03]'
    >>> summarise(np.array([1.0, 2.0, 3.0, 4.0, np.nan])).median
    3.0
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"scores must be [runs], one number a run and at least one run; got shape {scores.shape}.")
    resamples = _checked_resamples(confidence, resamples, seed)
    # Sorted, so that neither the sums nor the draws depend on the order in which the runs were made.
    finite = np.sort(scores[np.isfinite(scores)])
    worst = np.concatenate([finite, np.full(len(scores) - len(finite), np.inf)])
    return Summary(
        runs=len(scores),
        diverged=len(scores) - len(finite),
        mean=float(finite.mean()) if len(finite) else math.nan,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=float(np.median(worst)),
        iqm=float(interquartile_mean(worst)),
        mean_interval=_bootstrap(finite, _mean, confidence, resamples, seed),
        iqm_interval=_bootstrap(worst, interquartile_mean, confidence, resamples, seed),
        confidence=float(confidence),
        resamples=resamples,
    )


def mean_scores(runs: Mapping[str, Record]) -> dict[str, float]:
    """Mean score of each optimizer over the runs that did not diverge; one whose runs all did is left out.

    Args:
      runs: optimizer → record of its runs.
    """
    scores = {name: record.arrays["scores"] for name, record in runs.items()}
    return {name: float(np.nanmean(own)) for name, own in scores.items() if np.isfinite(own).any()}


def paired_difference(
    a: Record,
    b: Record,
    quantity: str = "scores",
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compare two optimizers seed by seed: a − b on the seeds that both were run on.

    Runs with one seed share the task's draws, so most of what differs between seeds cancels in the difference.
    Divergence counts as +inf: a run that diverged loses against one that did not, and two that diverged tie. The mean
    difference is taken over the pairs in which neither diverged (``ended``); like the mean of :func:`summarise` it
    flatters the optimizer that diverges, so read it beside ``a_lower`` and ``b_lower``, which count every pair.

    One interval is for one comparison: of twenty optimizers compared at 95 %, expect one to stand out by chance.

    Args:
      a: record of one optimizer's runs.
      b: record of another's, of the same preset.
      quantity: an array of both records with one number a run, such as "scores" or "test_loss".
      confidence: of the interval, in (0, 1).
      resamples: bootstrap samples; pairs are drawn, not runs.
      seed: of the bootstrap.

    Raises:
      ValueError: a record lacks the quantity or does not say which seed each of its runs has, no seed is shared, or the
        records are of different presets, task settings or data.

    >>> facts = {"preset": "smoke", "seeds": [0, 1, 2]}
    >>> a = Record("bowl/A", {"scores": np.array([1.0, 2.0, 3.0])}, {}, facts)
    >>> b = Record("bowl/B", {"scores": np.array([2.0, 4.0, np.nan])}, {}, facts)
    >>> text(paired_difference(a, b))
    '-1.50 ± 0.71 [-2.00, -1.00], lower in 3 of 3 pairs, 1 pair with divergence'
    """
    resamples = _checked_resamples(confidence, resamples, seed)
    _require_comparable(a, b)
    first, second = _by_seed(a, quantity), _by_seed(b, quantity)
    shared = sorted(set(first) & set(second))
    if not shared:
        raise ValueError(
            f"{a.kind} and {b.kind} share no seed: {sorted(first)} and {sorted(second)}. "
            "Run both with the same seeds, or compare their summaries instead."
        )
    left, right = (np.array([values[s] for s in shared], dtype=float) for values in (first, second))
    a_bad, b_bad = ~np.isfinite(left), ~np.isfinite(right)
    left, right = np.where(a_bad, np.inf, left), np.where(b_bad, np.inf, right)
    differences = np.subtract(left, right, out=np.zeros(len(shared)), where=~(a_bad & b_bad))
    ended = np.sort(differences[~(a_bad | b_bad)])
    return PairedDifference(
        seeds=tuple(shared),
        differences=tuple(differences.tolist()),
        a_lower=int((differences < 0).sum()),
        b_lower=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        a_diverged=int(a_bad.sum()),
        b_diverged=int(b_bad.sum()),
        ended=len(ended),
        mean=float(ended.mean()) if len(ended) else math.nan,
        std=float(ended.std(ddof=1)) if len(ended) > 1 else math.nan,
        interval=_bootstrap(ended, _mean, confidence, resamples, seed),
        median=_median(differences),
        confidence=float(confidence),
        resamples=resamples,
    )


def axis(record: Record, against: str = "step") -> np.ndarray:
    """Where the points of a record's curve stand on an axis.

    Args:
      record: of runs, with "curve_steps".
      against: "step" (updates); "gradient" (evaluations of the gradient in one run); or "second" (synchronised seconds,
        compilation left out, of all runs of the record together, interpolated between the clock's readings).

    Returns:
      [points], the end of each point's window.

    Raises:
      ValueError: ``against`` is none of the three, or the record is not one of runs.

    >>> clock = {"wall_steps": np.array([10, 20]), "wall_seconds": np.array([1.0, 3.0])}
    >>> axis(Record("bowl/A", {"curve_steps": np.array([5, 15, 20]), **clock}), "second")
    array([0.5, 2. , 3. ])
    """
    if against not in AGAINST:
        raise ValueError(f"against must be one of {', '.join(AGAINST)}; got {against!r}.")
    steps = _array(record, "curve_steps").astype(float)
    if against == "gradient":
        return steps * record.values["gradients_per_step"]
    if against == "second":
        # The clock starts with the first step.
        clock_steps = np.concatenate([[0], _array(record, "wall_steps")])
        return np.interp(steps, clock_steps, np.concatenate([[0.0], _array(record, "wall_seconds")]))
    return steps


def time_to_target(record: Record, target: float, against: str = "step") -> np.ndarray:
    """When each run first reached a loss.

    The time is known to one window of the curve: it is the end of the first window whose mean loss is at or below the
    target. Reaching it is not staying there: a run that diverges later has still reached it, and where a task starts
    at a low loss (the noisy bowl starts at its minimum), a target that the first windows meet says nothing.

    Args:
      record: of runs.
      target: a finite loss.
      against: the unit of the answer, see :func:`axis`.

    Returns:
      [runs]; inf for a run that never got there. Never leave those out of a mean: use a median, or count them.

    Raises:
      ValueError: a target that is not finite, or an unknown unit.

    >>> record = Record("bowl/A", {"curve": np.array([[5.0, 2.0, 1.0], [5.0, 4.0, np.nan]]),
    ...                            "curve_steps": np.array([10, 20, 30])})
    >>> time_to_target(record, 2.0)
    array([20., inf])
    """
    check_real("target", target)
    places, curve = axis(record, against), _array(record, "curve")
    with np.errstate(invalid="ignore"):
        reached = np.isfinite(curve) & (curve <= target)
    return np.where(reached.any(axis=1), places[reached.argmax(axis=1)], np.inf)


def text(summary: Summary | PairedDifference) -> str:
    """A summary or a difference for people: mean ± standard deviation [interval of the mean], and what it leaves out.

    The standard deviation has two significant digits, and the other numbers as many decimals as it.

    >>> text(summarise(np.array([1.0, 1.2, 1.4, np.nan])))
    '1.20 ± 0.20 [1.00, 1.40], 1 of 4 runs diverged'
    >>> text(summarise(np.array([1.25]))), text(summarise(np.array([np.nan, np.nan])))
    ('1.25 (1 run)', 'all 2 runs diverged')
    """
    if isinstance(summary, PairedDifference):
        pairs, lost = len(summary.seeds), len(summary.seeds) - summary.ended
        number = _number(summary.mean, summary.std, summary.interval) if summary.ended else "no pair ended"
        return f"{number}, lower in {summary.a_lower} of {_count(pairs, 'pair')}" + (
            f", {_count(lost, 'pair')} with divergence" if lost else ""
        )
    if summary.diverged == summary.runs:
        return "the only run diverged" if summary.runs == 1 else f"all {summary.runs} runs diverged"
    number = _number(summary.mean, summary.std, summary.mean_interval)
    if summary.runs == 1:
        number += " (1 run)"
    return number + (f", {summary.diverged} of {_count(summary.runs, 'run')} diverged" if summary.diverged else "")


def _bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of a statistic that takes [draws, n] to [draws]; values may be +inf."""
    count = len(values)
    if count < 2:
        return (math.nan, math.nan)
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    batch = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        drawn[start : start + size] = statistic(values[generator.integers(count, size=(size, count))])
    drawn.sort()
    # Whole draws instead of interpolation, which is nan between two infinities. Not SciPy's: its default interval (BCa)
    # is nan where any score is infinite.
    low = math.floor((1 - confidence) / 2 * (resamples - 1))
    return (float(drawn[low]), float(drawn[resamples - 1 - low]))


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def _median(values: np.ndarray) -> float:
    """Median of values of which some may be infinite, of either sign."""
    low, high = (float(np.sort(values)[place]) for place in ((len(values) - 1) // 2, len(values) // 2))
    return low if low == high else (low + high) / 2  # −inf + inf is nan, as documented


def _checked_resamples(confidence: float, resamples: int, seed: int) -> int:
    check_real("confidence", confidence, minimum=0.0, below=1.0, exclusive_minimum=True)
    check_integer("seed", seed, 0)
    least = math.ceil(2 / (1 - confidence))
    return int(check_integer("resamples", resamples, least, f"fewer cannot tell the ends of a {confidence:g} interval"))


def _array(record: Record, name: str) -> np.ndarray:
    if name not in record.arrays:
        raise ValueError(
            f"The record of {record.kind} has no array {name!r}; it has {', '.join(sorted(record.arrays))}."
        )
    return np.asarray(record.arrays[name])


def _by_seed(record: Record, quantity: str) -> dict[int, float]:
    values, seeds = _array(record, quantity), record.provenance.get("seeds")
    if not isinstance(seeds, list | tuple) or values.shape != (len(seeds),):
        raise ValueError(
            f"{record.kind}: {quantity!r} must have one number for each seed in the provenance; got shape "
            f"{values.shape} and seeds {seeds!r}."
        )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{record.kind} has a seed twice, so its runs cannot be paired: {seeds}.")
    return dict(zip(seeds, values.tolist()))


def _require_comparable(a: Record, b: Record) -> None:
    """Refuse to pair runs of different presets, lengths, task settings or data."""

    def facts(record: Record) -> dict[str, Any]:
        settings = {name: value for name, value in record.values.get("settings", {}).items() if name not in _FREE}
        return {**settings, **{name: record.provenance.get(name) for name in ("preset", "dataset_sha256")}}

    first, second = facts(a), facts(b)
    differing = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if differing:
        differences = "; ".join(f"{name} {first.get(name)!r} and {second.get(name)!r}" for name in differing)
        raise ValueError(
            f"{a.kind} and {b.kind} were made with different settings, so their runs are no pairs: {differences}. "
            "Compare records of one preset."
        )


def _number(mean: float, std: float, interval: tuple[float, float]) -> str:
    if math.isnan(std):
        return f"{mean:.4g}"
    exponent = math.floor(math.log10(float(f"{std:.1e}"))) if std > 0 else -99
    decimals = max(0, 1 - exponent)
    # Digits after the point are readable for ordinary numbers only.
    style = f".{decimals}f" if decimals <= 6 and abs(mean) < 1e6 else ".3g"
    return f"{mean:{style}} ± {std:{style}} [{interval[0]:{style}}, {interval[1]:{style}}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
