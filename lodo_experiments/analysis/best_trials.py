"""Whether a search found what it had tried: an optimizer as tuned, beside itself at the values of its best trial.

The paper's rule takes the mean of a generation's better half. Where good values lie along a bent valley, their mean is
not among them, and the optimizer looks worse than it is. So each one also runs at the values of its best trial, with
the seeds that are reported, and comparisons take the better of the two, for every optimizer alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.analysis import statistics
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results

#: Experiment → the one in which its optimizers ran at the values of the best trial of their search.
BEST_TRIALS: Mapping[str, str] = {
    "noisy_bowl": "noisy_bowl_best_trial", "rosenbrock": "rosenbrock_best_trial",
    "rosenbrock_frozen": "rosenbrock_best_trial_frozen",
    "noisy_bowl_anisotropic": "noisy_bowl_anisotropic_best_trial",
    "noisy_bowl_anisotropic_rotated": "noisy_bowl_anisotropic_rotated_best_trial",
}  # fmt: skip

#: What a test's p may be at most for a difference to count as settled.
LEVEL = 0.05


def better(tuned: Record, best: Record | None) -> Record:
    """The record that counts: the best trial's where that ends lower by more than chance makes it, else the tuned one.

    Args:
      tuned: of runs at the values that the paper's rule found.
      best: at those of the best trial, on the same seeds; None where there is no such record.

    >>> facts = {"preset": "paper", "seeds": list(range(6))}
    >>> a, b = (Record(f"bowl/{name}", {"scores": np.full(6, loss)}, {}, facts)
    ...         for name, loss in (("A", 2.0), ("B", 1.0)))
    >>> better(a, b).kind, better(b, a).kind, better(a, None).kind
    ('bowl/B', 'bowl/B', 'bowl/A')
    """
    if best is None or statistics.paired_difference(tuned, best).p_above > LEVEL:
        return tuned
    return best


def load(folder: Path, experiment: str, preset: str = "paper") -> dict[str, Record]:
    """Optimizer → the record of its runs that counts, where there is one.

    Args:
      folder: the results folder; what it has none of comes from the project's own.
      experiment: one of :data:`BEST_TRIALS`.
      preset: at which they were made.

    Raises:
      RecordError: a record is damaged or foreign.
    """
    tuned, best = (
        stored_results.load_or_bundled(folder, name, preset).runs for name in (experiment, BEST_TRIALS[experiment])
    )
    return {name: better(record, best.get(name)) for name, record in tuned.items()}


def rows(tuned: Mapping[str, Record], best: Mapping[str, Record]) -> list[dict[str, Any]]:
    """A row for each optimizer that has both: its loss as tuned and at its best trial, the lowest first.

    Args:
      tuned: optimizer → record of its runs at the values that the paper's rule found.
      best: likewise, at those of its best trial.
    """
    found = []
    for name in tuned.keys() & best.keys():
        first, second = (float(np.mean(of[name].arrays["scores"])) for of in (tuned, best))
        chosen = better(tuned[name], best[name])
        found.append(
            {
                "optimizer": name,
                "as tuned": first,
                "at its best trial": second,
                "best trial minus tuned": statistics.text(statistics.paired_difference(best[name], tuned[name])),
                "counts": "the best trial" if chosen is best[name] else "as tuned",
            }
        )
    return sorted(found, key=lambda row: np.nan_to_num(min(row["as tuned"], row["at its best trial"]), nan=np.inf))
