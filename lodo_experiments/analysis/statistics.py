"""Statistics of scores, one a run: summaries, exact tests of paired differences, time to a target.

The centre is the mean everywhere, on pages and in verdicts. What an interval covers: the runs of one optimizer differ
by their seeds (initial values, batches, the optimizer's draws) and share one set of tuned hyperparameters. An interval
over seeds describes how far other seeds would move the mean, and says nothing about how far another tuning would.
Optimizers are run on the same seeds, so two of them are compared by :func:`paired_difference`, and verdicts rest on its
sign-flip test, which supposes no distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from lodo._validation import check_real
from lodo_experiments.results.records import Record

#: The horizontal axes of a curve.
AGAINST = ("step", "gradient", "second")

#: The coverage of intervals over seeds, of normal scores.
CONFIDENCE = 0.95

#: Seeds up to which the sign-flip test enumerates every pattern of signs; beyond, it draws so many.
EXACT, DRAWN = 12, 20_000

#: Settings that may differ between two records that are compared: what is tuned, and how much was measured.
_FREE = frozenset({"hyperparameters", "seeds", "measure_every"})


@dataclass(frozen=True)
class Summary:
    """Scores of an optimizer's runs, the smaller the better; see :func:`summarise` for what counts where."""

    runs: int  # how many runs there were, diverged ones included
    diverged: int  # how many of them diverged
    mean: float  # mean over the runs that did not diverge; nan where all did
    std: float  # their standard deviation (ddof = 1); nan for fewer than two
    median: float  # median over all runs, a diverged run being +inf
    interval: tuple[float, float]  # interval over seeds of ``mean``, see :func:`t_interval`


@dataclass(frozen=True)
class PairedDifference:
    """How two optimizers differ on the seeds that both were run on, a − b."""

    seeds: tuple[int, ...]  # the shared seeds, in order
    # a − b at each of them: +inf where only a diverged, −inf where only b did, 0 where both did
    differences: tuple[float, ...]
    a_lower: int  # pairs in which a is lower
    b_lower: int  # pairs in which b is lower
    ties: int  # pairs in which neither is: equal, or both diverged
    a_diverged: int  # shared seeds at which a diverged
    b_diverged: int  # shared seeds at which b diverged
    ended: int  # pairs in which neither diverged, which are those that ``mean`` is taken over
    mean: float  # mean difference over the pairs that ended; nan where there is none
    std: float  # standard deviation (ddof = 1) of their differences; nan for fewer than two
    interval: tuple[float, float]  # interval over seeds of ``mean``, see :func:`t_interval`
    p_below: float  # of the sign-flip test that a is not below b, see :func:`sign_flip`
    p_above: float  # that it is not above


def t_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of the mean, mean ± t s/√n, along the last axis.

    It covers the mean of normal values with exactly the stated probability, for every n. Of skewed values it covers
    less: that of exponential ones, where 95 % is asked for, with 91 % for n = 2, 88 % for 3 to 7, 90 % for 8 to 12.

    Args:
      values: [..., n] finite.
      confidence: in (0, 1).

    Returns:
      Low and high ends, [...]; nan for n < 2.

    References:
      Student, The Probable Error of a Mean, Biometrika 6, 1908.

    >>> low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(float(low), 3), round(float(high), 3)
    (-0.484, 4.484)
    """
    check_real("confidence", confidence, minimum=0.0, below=1.0, exclusive_minimum=True)
    values = np.asarray(values, float)
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], math.nan), np.full(values.shape[:-1], math.nan)
    mean, half = values.mean(axis=-1), values.std(axis=-1, ddof=1) / math.sqrt(count)
    half = half * stdtrit(count - 1, (1 + confidence) / 2)
    return mean - half, mean + half


def sign_flip(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sign-flip test of paired differences along the last axis: is their centre below 0, is it above?

    If the differences are symmetric about 0, as they are where two optimizers do equally well, every pattern of their
    signs is as likely as the one that was seen. The p-value is the share of the 2ⁿ patterns whose sum is as far on that
    side: its level holds for every symmetric distribution, and it is at least 2⁻ⁿ, so four seeds never reach 5 %. It is
    no test of the mean of skewed differences: exponential ones are rejected too often on one side, 13 % for 5 %. Beyond
    n = 12 it is estimated from 20,000 patterns. Where a run diverged its difference is infinite; the whole test is then
    done on signed ranks of absolute values (Wilcoxon's), in which divergence is the largest difference and no more.

    Args:
      differences: [..., n], ±inf allowed, nan is not.

    Returns:
      p-values of the hypotheses that the centre is not below 0, and that it is not above, [...] each.

    References:
      Fisher, The Design of Experiments, 1935, §21; Wilcoxon, Biometrics Bulletin 1, 1945.

    >>> below, above = sign_flip(np.array([-1.0, -2.0, -1.5, -0.5, -1.0, -np.inf]))
    >>> float(below), float(above)
    (0.015625, 1.0)
    """
    differences = np.asarray(differences, float)
    if np.isnan(differences).any():
        raise ValueError("A difference is nan; use +inf or -inf where a run diverged, and 0 where both did.")
    size, count = np.abs(differences), differences.shape[-1]
    lost = np.isinf(size).any(axis=-1, keepdims=True)
    lower = (size[..., None, :] < size[..., :, None]).sum(axis=-1)
    equal = (size[..., None, :] == size[..., :, None]).sum(axis=-1)
    size = np.where(lost, (lower + (equal + 1) / 2) * (size > 0), np.where(lost, 0, size))
    if count <= EXACT:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        drawn = np.random.default_rng(0).choice([-1, 1], (DRAWN - 1, count))
        signs = np.concatenate([np.ones((1, count), int), drawn])
    # Taken as they are, the differences are one of the patterns: the first, all signs kept.
    sums = np.where(differences < 0, -size, size) @ signs.T
    slack = 1e-12 * size.sum(axis=-1, keepdims=True)
    seen = sums[..., :1]
    return (sums <= seen + slack).mean(axis=-1), (sums >= seen - slack).mean(axis=-1)


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected, the chance of any false rejection being at most ``level``.

    References:
      Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.03, 0.01, 0.02], 0.05), holm([0.01, 0.04, 0.04], 0.05)
    ([True, True, True], [True, False, False])
    """
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def summarise(scores: np.ndarray) -> Summary:
    """Summary of an optimizer's runs, for a reader who does not take a mean on trust.

    A run that diverged (its score is not finite) is counted and never left out in silence. The mean, the standard
    deviation and the interval are of the runs that ended, and so flatter an optimizer that diverges: read them beside
    ``diverged`` and ``runs``, or use the median, which takes a diverged run as +inf, the worst.

    Args:
      scores: [runs], the smaller the better; not finite: diverged.

    Raises:
      ValueError: no scores, or not one number a run.

    >>> text(summarise(np.array([8.9, 8.8, 9.1, 8.8])))
    '8.90 ± 0.14 [8.67, 9.13]'
    >>> summarise(np.array([1.0, 2.0, 3.0, 4.0, np.nan])).median
    3.0
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"scores must be [runs], one number a run and at least one run; got shape {scores.shape}.")
    # Sorted, so that no sum depends on the order in which the runs were made.
    finite = np.sort(scores[np.isfinite(scores)])
    worst = np.concatenate([finite, np.full(len(scores) - len(finite), np.inf)])
    mean, std, interval = _moments(finite)
    return Summary(len(scores), len(scores) - len(finite), mean, std, float(np.median(worst)), interval)


def mean_scores(runs: Mapping[str, Record]) -> dict[str, float]:
    """Mean score of each optimizer over the runs that did not diverge; one whose runs all did is left out."""
    means = {name: summarise(record.arrays["scores"]).mean for name, record in runs.items()}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def paired_difference(a: Record, b: Record, quantity: str = "scores") -> PairedDifference:
    """Compare two optimizers seed by seed: a − b on the seeds that both were run on.

    Runs with one seed share the task's draws, so most of what differs between seeds cancels in the difference.
    Divergence counts as +inf: a run that diverged loses against one that did not, and two that diverged tie. The mean
    difference is taken over the pairs in which neither diverged (``ended``); like the mean of :func:`summarise` it
    flatters the optimizer that diverges, so read it beside ``a_lower`` and ``b_lower``, which count every pair.

    Args:
      a: record of one optimizer's runs.
      b: record of another's, of the same preset.
      quantity: an array of both records with one number a run, such as "scores" or "test_loss".

    Raises:
      ValueError: a record lacks the quantity or does not say which seed each of its runs has, no seed is shared, or the
        records are of different presets, task settings or data.

    >>> facts = {"preset": "smoke", "seeds": [0, 1, 2]}
    >>> a = Record("bowl/A", {"scores": np.array([1.0, 2.0, 3.0])}, {}, facts)
    >>> b = Record("bowl/B", {"scores": np.array([2.0, 4.0, np.nan])}, {}, facts)
    >>> text(paired_difference(a, b))
    '-1.50 ± 0.71 [-7.85, 4.85], lower in 3 of 3 pairs, 1 pair with divergence'
    """
    return paired_values(a, _array(a, quantity), b, _array(b, quantity))


def paired_values(a: Record, of_a: np.ndarray, b: Record, of_b: np.ndarray) -> PairedDifference:
    """As :func:`paired_difference`, of numbers [runs] that were computed from each of the records."""
    require_comparable(a, b)
    first, second = _by_seed(a, of_a), _by_seed(b, of_b)
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
        tuple(shared), tuple(differences.tolist()), int((differences < 0).sum()), int((differences > 0).sum()),
        int((differences == 0).sum()), int(a_bad.sum()), int(b_bad.sum()), len(ended), *_moments(ended),
        *(float(p) for p in sign_flip(differences)),
    )  # fmt: skip


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
    """A summary or a difference for people: mean ± standard deviation [interval over seeds], and what it leaves out.

    The standard deviation has two significant digits, and the other numbers as many decimals as it.

    >>> text(summarise(np.array([1.0, 1.2, 1.4, np.nan])))
    '1.20 ± 0.20 [0.70, 1.70], 1 of 4 runs diverged'
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
    number = _number(summary.mean, summary.std, summary.interval)
    if summary.runs == 1:
        number += " (1 run)"
    return number + (f", {summary.diverged} of {_count(summary.runs, 'run')} diverged" if summary.diverged else "")


def _moments(values: np.ndarray) -> tuple[float, float, tuple[float, float]]:
    """Mean, standard deviation and interval of finite values."""
    low, high = t_interval(values)
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan, (float(low), float(high))


def _array(record: Record, name: str) -> np.ndarray:
    if name not in record.arrays:
        raise ValueError(
            f"The record of {record.kind} has no array {name!r}; it has {', '.join(sorted(record.arrays))}."
        )
    return np.asarray(record.arrays[name])


def _by_seed(record: Record, values: np.ndarray) -> dict[int, float]:
    seeds = record.provenance.get("seeds")
    if not isinstance(seeds, list | tuple) or values.shape != (len(seeds),):
        raise ValueError(
            f"{record.kind} must have one number for each seed in the provenance; got shape {values.shape} and seeds "
            f"{seeds!r}."
        )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{record.kind} has a seed twice, so its runs cannot be paired: {seeds}.")
    return dict(zip(seeds, values.tolist()))


def require_comparable(a: Record, b: Record) -> None:
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
    if std <= 1e-12 * abs(mean):  # rounding, which another machine has otherwise
        std, interval = 0.0, (mean, mean)
    exponent = math.floor(math.log10(float(f"{std:.1e}"))) if std > 0 else -99
    decimals = max(0, 1 - exponent)
    # Digits after the point are readable for ordinary numbers only.
    style = f".{decimals}f" if decimals <= 6 and abs(mean) < 1e6 else ".3g"
    return f"{mean:{style}} ± {std:{style}} [{interval[0]:{style}}, {interval[1]:{style}}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
