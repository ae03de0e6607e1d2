"""Whether a run has tested what LODO learns: how far G has moved from α₀ I, and what a short tuning does to that.

Where G stays at α₀ I, LODO is momentum SGD, and a comparison of LODO with anything says nothing of LODO. A tuning by
short trials favours that: a small meta-learning rate does no harm at any length, a large one may diverge, and one that
is right for a long run shows nothing in a short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lodo_experiments.analysis.statistics import paired_difference
from lodo_experiments.results.records import Record


def final_displacement(record: Record) -> np.ndarray:
    """‖G − α₀ I‖_F / (α₀ √n) of each run's last G, [runs]; [0] where the record does not say.

    As measured in the run, or of the spectrum that the bowl's records have: G and α₀ I share their eigenvectors, so
    that the distance is √mean (λ/α₀ − 1)².
    """
    if "inverse_hessian_displacement" in record.arrays:
        measured: np.ndarray = record.arrays["inverse_hessian_displacement"][:, -1]
        return measured
    rate = record.values["hyperparameters"].get("initial_learning_rate")
    if "spectrum" not in record.arrays or rate is None:
        return np.zeros(0)
    distance: np.ndarray = np.sqrt(np.mean((record.arrays["spectrum"] / rate - 1) ** 2, axis=1))
    return distance


def displacement_table(runs: Mapping[str, Record]) -> list[dict[str, Any]]:
    """A row for each record that says how far G moved: its rates, its steps, and the displacement over the runs."""
    rows = []
    for name, record in runs.items():
        moved = final_displacement(record)
        if moved.size:
            values = record.values["hyperparameters"]
            rows.append(
                {
                    "run": name,
                    "α₀": values["initial_learning_rate"],
                    "α": values["meta_learning_rate"],
                    "steps": record.values["steps"],
                    "‖G − α₀ I‖ / (α₀ √n), mean": float(np.nanmean(moved)),
                    "least": float(np.nanmin(moved)),
                    "most": float(np.nanmax(moved)),
                }
            )
    return rows


def still_table(runs: Mapping[str, Record], still: str = "LODO-depth-0") -> list[dict[str, Any]]:
    """How far each of the runs is from those in which G cannot move, on the seeds that both have.

    Args:
      runs: name → record, the depths of an ablation among them.
      still: the record with a G that is α₀ I, momentum SGD; without it there are no rows.
    """
    if still not in runs:
        return []
    rows = []
    for name, record in runs.items():
        if name != still:
            difference = paired_difference(record, runs[still])
            rows.append(
                {
                    "run": name,
                    "mean loss": float(np.nanmean(record.arrays["scores"])),
                    f"minus {still}, mean": difference.mean,
                    "largest on a seed": float(np.max(np.abs(difference.differences))),
                    "seeds": len(difference.seeds),
                }
            )
    return rows
