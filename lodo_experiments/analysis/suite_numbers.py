"""What the book quotes of the problem suites, from the kept records alone."""

from __future__ import annotations

import numpy as np

from lodo_experiments.analysis.suite_comparison import (
    Outcome,
    Row,
    outcomes,
    ratios,
    reference_scores,
    summary_table,
    wins_table,
)
from lodo_experiments.config.paths import kept_folder, results_folder
from lodo_experiments.results.records import RecordError
from lodo_experiments.results.store import Store

#: What is judged.
JUDGED = "rlodo"


def kept_outcomes(suite: str = "held_out") -> dict[str, Outcome]:
    """Optimizer → outcome at the preset laptop: from the results folder, or from what comes with the project.

    Args:
      suite: "development" or "held_out".

    Raises:
      RecordError: a record is damaged or foreign, or there is none at all.
    """
    for folder in (results_folder(), kept_folder()):
        if found := outcomes(Store(folder, "laptop", "problem_suites").all(), suite):
            return found
    command = "python -m lodo_experiments.cli.run problem_suites --preset laptop"
    raise RecordError(f"There is no record of the suite {suite!r}; `{command}` makes them.")


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
    found = kept_outcomes()
    (row,) = (row for row in summary_table(found) if row["optimizer"] == JUDGED)
    quoted: dict[str, float | str] = {name: value for name, value in row.items() if name != "optimizer"}
    quoted["share"] = row["within"] / row["problems"]
    quoted["better_than_lodo"] = int((ratios(found[JUDGED], found["LODO tuned"]) < 1 / 1.1).sum())
    for against in wins_table(found, JUDGED):
        plain = against["against"].lower().replace(" ", "_").replace("-", "_")
        quoted |= {f"{name}_{plain}": against[name] for name in ("wins", "ties", "losses")}
    return quoted
