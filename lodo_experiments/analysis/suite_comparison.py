"""The comparison on the problem suites, from records: who is within 10 %, who wins, and how soon a target is met.

A record holds one optimizer's runs on all problems of a suite. Rows of arrays are problems in the record's order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodo_experiments.config.paths import kept_folder, results_folder
from lodo_experiments.optimizers.peers import PEERS
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.store import Store
from lodo_experiments.studies.suites.parts import part_name

#: Scores below this share of the loss at the start count as equal to it.
LEAST = 1e-10
#: A score that is larger by no more than this share is as good.
SHARE = 0.1
#: Whose score is the target that the others' times are told for.
TARGET = "Adam"
#: What is judged.
JUDGED = "rlodo"
#: What the goal compares with: the better of these on each problem, as what one seed has chosen may fail on others.
REFERENCES = ("LODO tuned", "LODO")

#: Function → column → which of its values is the best; the book's tables mark it. A diverged run counts as ∞ there.
BEST: Mapping[str, Mapping[str, str]] = {"summary": {"within": "high", "best": "high"}}

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One optimizer on one suite."""

    name: str  # of the optimizer
    problems: tuple[str, ...]  # names, in order
    # [problems] median over the seeds of the loss of the last tenth, at least the resolution; ∞ where the median run
    # diverged
    scores: np.ndarray
    diverged: np.ndarray  # [problems, seeds]
    curve: np.ndarray  # [problems, seeds, points] means over windows of steps
    ends: np.ndarray  # [problems, seeds, points] evaluations of loss and gradient at the end of each window
    steps: np.ndarray  # [problems] of a run
    state_share: np.ndarray  # [problems] bytes of the optimizer's state a byte of parameters


def outcome_of(name: str, record: Record) -> Outcome:
    """What an optimizer's record says.

    A run diverged if a loss is not finite, or if the loss of its last tenth is above the loss at its start.
    """
    arrays = record.arrays
    initial, final = arrays["initial"], arrays["final"]
    with np.errstate(invalid="ignore"):
        diverged = (arrays["not_finite_at"] >= 0) | ~(final <= initial)
    least = np.maximum(np.asarray(record.values["resolutions"]), LEAST * np.median(initial, axis=1))
    scores = np.maximum(np.median(np.where(diverged, np.inf, final), axis=1), least)
    return Outcome(
        name, tuple(record.values["settings"]["problems"]), scores, diverged, arrays["curve"], arrays["evaluations"],
        np.asarray(record.values["steps"]), arrays["state_bytes"] / arrays["parameter_bytes"],
    )  # fmt: skip


def outcomes(found: Mapping[str, Record], suite: str) -> dict[str, Outcome]:
    """Optimizer → outcome, of those of which there is a record, in the order of the peers."""
    parts = {name: part_name(suite, name) for name in PEERS}
    return {name: outcome_of(name, found[part]) for name, part in parts.items() if part in found}


def ratios(one: Outcome, other: Outcome) -> np.ndarray:
    """[problems] how many times the other's score one's is: 0 where the other diverged alone, ∞ where one did alone.

    Where both diverged, 1.

    Raises:
      ValueError: they are of different problems or lengths.
    """
    if one.problems != other.problems or not np.array_equal(one.steps, other.steps):
        raise ValueError(f"{one.name} and {other.name} ran on different problems, or for different numbers of steps.")
    both = np.isinf(one.scores) & np.isinf(other.scores)
    with np.errstate(invalid="ignore"):
        return np.where(both, 1.0, one.scores / other.scores)


def reference_scores(found: Mapping[str, Outcome]) -> np.ndarray | None:
    """[problems] the score of tuned LODO, or of its defaults where that is better; None without a record of both."""
    if not all(name in found for name in REFERENCES):
        return None
    return np.min([found[name].scores for name in REFERENCES], axis=0)


def within(one: Outcome, scores: np.ndarray) -> np.ndarray:
    """[problems] whether one's score is finite and at most 1.1 times those."""
    return np.asarray(np.isfinite(one.scores) & (one.scores <= (1 + SHARE) * scores))


def steps_to(one: Outcome, targets: np.ndarray) -> np.ndarray:
    """[problems] evaluations until the mean over a window is at most the target, the median over the seeds.

    ∞ where the median run never gets there; a run that diverges later got there all the same.

    Args:
      one: the outcome.
      targets: [problems]; ∞ where there is none, which gives nan.
    """
    met = one.curve <= np.asarray(targets)[:, None, None]
    first = np.where(met.any(axis=2), np.take_along_axis(one.ends, met.argmax(axis=2)[..., None], 2)[..., 0], np.inf)
    return np.where(np.isfinite(targets), np.median(first, axis=1), np.nan)


def sign_test(wins: int, losses: int) -> float:
    """p of a two-sided sign test: how often chance alone gives as unequal a share of wins, ties left out.

    >>> round(sign_test(9, 3), 3), sign_test(0, 0)
    (0.146, 1.0)
    """
    n = wins + losses
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n)


def wins_table(found: Mapping[str, Outcome], of: str) -> list[Row]:
    """Wins, ties and losses of one optimizer against each other one at equal steps.

    Args:
      found: optimizer → outcome.
      of: whose; a win is a score below 1/1.1 of the other's.

    Returns:
      Rows with "against", "wins", "ties", "losses", "p" of :func:`sign_test`, and "ratio", the median over the
      problems of how many times the other's score its own is.
    """
    rows = []
    for name, other in found.items():
        if name == of:
            continue
        ratio = ratios(found[of], other)
        won, lost = ratio < 1 / (1 + SHARE), ratio > 1 + SHARE
        wins, losses = int(won.sum()), int(lost.sum())
        rows.append(
            {
                "against": name, "wins": wins, "ties": int((~won & ~lost).sum()), "losses": losses,
                "p": sign_test(wins, losses), "ratio": float(np.median(ratio)),
            }
        )  # fmt: skip
    return rows


def summary_table(found: Mapping[str, Outcome]) -> list[Row]:
    """One row an optimizer: how often it diverged, how often it is within 10 % of tuned LODO and of the best of all.

    Returns:
      Rows with "optimizer", "diverged" (runs), "runs", "within" (of tuned LODO, problems; None without a record of
      it),
      "best" (within 10 % of the best of all, problems), "problems", "memory" (the median over problems of bytes of
      state a byte of parameters).
    """
    best = np.min([one.scores for one in found.values()], axis=0)
    reference = reference_scores(found)
    return [
        {
            "optimizer": name, "diverged": int(one.diverged.sum()), "runs": int(one.diverged.size),
            "within": None if reference is None else int(within(one, reference).sum()),
            "best": int(within(one, best).sum()),
            "problems": len(one.problems), "memory": float(np.median(one.state_share)),
        }
        for name, one in found.items()
    ]  # fmt: skip


def scores_table(found: Mapping[str, Outcome]) -> list[Row]:
    """One row a problem, one column an optimizer: the score, ∞ where the median run diverged."""
    problems = next(iter(found.values())).problems
    return [
        {"problem": problem} | {name: float(one.scores[i]) for name, one in found.items()}
        for i, problem in enumerate(problems)
    ]


def seconds_a_step(record: Record) -> dict[str, np.ndarray]:
    """Optimizer → [problems] seconds an evaluation, of the fastest block; nan: it was not installed."""
    names, seconds = record.values["settings"]["optimizers"], record.arrays["seconds"]
    return {name: seconds[:, i].min(axis=1) for i, name in enumerate(names)}


def times_table(found: Mapping[str, Outcome], seconds: Mapping[str, np.ndarray] | None = None) -> list[Row]:
    """Who meets tuned Adam's score, and how soon, in steps and in time.

    Args:
      found: optimizer → outcome; tuned Adam's is the target.
      seconds: optimizer → [problems] seconds a step; the tuned form of an optimizer takes those of the other.

    Returns:
      Rows with "optimizer", "met" (problems), "problems", "steps" (the median over problems of the share of the run,
      ∞ counted), and with ``seconds`` "faster" (problems on which it meets the target in less time than Adam does).
    """
    targets = found[TARGET].scores
    rows: list[Row] = []
    own = steps_to(found[TARGET], targets)
    for name, one in found.items():
        steps = steps_to(one, targets)
        known = ~np.isnan(steps)
        row: Row = {
            "optimizer": name, "met": int(np.isfinite(steps[known]).sum()), "problems": int(known.sum()),
            "steps": float(np.median(steps[known] / one.steps[known])) if known.any() else np.nan,
        }  # fmt: skip
        if seconds is not None:
            mine, adams = (_seconds_of(seconds, who) for who in (name, TARGET))
            if mine is not None and adams is not None:
                row["faster"] = int((steps * mine < own * adams)[known].sum())
        rows.append(row)
    return rows


def _seconds_of(seconds: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """Those of an optimizer, or of the one that it is the tuned or untuned form of."""
    for known in (name, name.partition(" ")[0]):
        if known in seconds and np.isfinite(seconds[known]).all():
            return seconds[known]
    return None


def names_missing(found: Sequence[str]) -> list[str]:
    """The compared optimizers of which there is no record, with what they need."""
    return [f"{name} ({peer.missing})" if peer.missing else name for name, peer in PEERS.items() if name not in found]


def kept_records(suite: str = "held_out") -> Mapping[str, Record]:
    """The records at the preset laptop: from the results folder, or from what comes with the project.

    Raises:
      RecordError: a record is damaged or foreign, or there is none of the suite at all.
    """
    for folder in (results_folder(), kept_folder()):
        found = Store(folder, "laptop", "problem_suites").all()
        if outcomes(found, suite):
            return found
    command = "python -m lodo_experiments.cli.run problem_suites --preset laptop"
    raise RecordError(f"There is no record of the suite {suite!r}; `{command}` makes them.")


def kept_outcomes(suite: str = "held_out") -> dict[str, Outcome]:
    """Optimizer → outcome, of :func:`kept_records`."""
    return outcomes(kept_records(suite), suite)


def summary() -> list[Row]:
    """The summary of the held-out suite, one row an optimizer."""
    return summary_table(kept_outcomes())


def wins() -> list[Row]:
    """Wins, ties and losses of `lodo.rlodo()` on the held-out suite."""
    return wins_table(kept_outcomes(), JUDGED)


def scores() -> list[Row]:
    """The score of `lodo.rlodo()` on each held-out problem, beside the reference's and the best of all."""
    found = kept_outcomes()
    reference = reference_scores(found)
    if reference is None:
        raise RecordError("The records of LODO, tuned and at its defaults, are not both there.")
    names, all_scores = list(found), np.array([one.scores for one in found.values()])
    return [
        {
            "problem": problem, "rlodo": float(found[JUDGED].scores[i]), "LODO, tuned or not": float(reference[i]),
            "ratio": float(found[JUDGED].scores[i] / reference[i]), "best of all": float(all_scores[:, i].min()),
            "by": names[int(all_scores[:, i].argmin())],
        }
        for i, problem in enumerate(found[JUDGED].problems)
    ]  # fmt: skip


def numbers() -> dict[str, float | str]:
    """What pages quote of the held-out suite, by name."""
    stored = kept_records()
    found, timed = outcomes(stored, "held_out"), stored.get(part_name("held_out", "step_times"))
    summaries = {row["optimizer"]: row for row in summary_table(found)}
    row = summaries[JUDGED]
    quoted: dict[str, float | str] = {name: value for name, value in row.items() if name != "optimizer"}
    quoted |= {f"within_{name.lower()}": summaries[name]["within"] for name in (TARGET, "Prodigy") if name in summaries}
    quoted["share"] = row["within"] / row["problems"]
    quoted["better_than_lodo"] = int((ratios(found[JUDGED], found["LODO tuned"]) < 1 / 1.1).sum())
    if guarded := summaries.get(f"{JUDGED} guarded"):
        quoted |= {f"guarded_{name}": guarded[name] for name in ("diverged", "runs", "within")}
        worst = int(found[JUDGED].diverged.sum(axis=1).argmax())
        of_worst = {"": f"{JUDGED} guarded", "_adam": TARGET, "_lodo": "LODO tuned"}
        quoted |= {f"guarded_worst{name}": float(found[who].scores[worst]) for name, who in of_worst.items()}
    for against in wins_table(found, JUDGED):
        plain = against["against"].lower().replace(" ", "_").replace("-", "_")
        quoted |= {f"{name}_{plain}": against[name] for name in ("wins", "ties", "losses")}
    if timed:
        seconds = seconds_a_step(timed)
        rows = {row["optimizer"]: row for row in times_table(found, seconds)}
        quoted |= {"met": rows[JUDGED]["met"], "faster": rows[JUDGED]["faster"]}
        quoted["faster_lodo"] = rows["LODO tuned"]["faster"]
        quoted["step_ratio"] = float(np.median(seconds[JUDGED] / seconds[TARGET]))
    return quoted
