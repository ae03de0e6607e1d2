"""The noisy bowl by the centre's drift: how far each optimizer stays above the floor of Newton's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lodo_experiments.results.records import Record
from lodo_experiments.studies.experiments.anisotropic_bowl import FACTOR, OPTIMIZERS
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor
from lodo_experiments.tasks.other_bowls import anisotropic_directions


class Drift(NamedTuple):
    """A drift that there are records of."""

    words: str  # what it is
    speed: float  # its standard deviation, root mean square over directions
    rotated: bool | None  # whether its axes are a random basis; None: it is the same in every direction
    values: str = ""  # whose hyperparameters, where they are not those of the tuning for it

    def floor(self, size: int = 100) -> float:
        """The mean loss of Newton's method.

        >>> [round(drift.floor(), 2) for drift in DRIFTS.values()]
        [7.41, 7.41, 7.41, 7.45, 7.45, 7.45, 7.43, 7.43, 745.43]
        """
        directions = None if self.rotated is None else anisotropic_directions(size, rotated=self.rotated)
        return newton_floor(hessian(size), self.speed, directions)


#: Experiment → its drift.
DRIFTS: Mapping[str, Drift] = {
    "noisy_bowl": Drift("the same in every direction", 1.0, None),
    "noisy_bowl_best_trial": Drift("the same in every direction", 1.0, None, "best trial"),
    "noisy_bowl_published": Drift("the same in every direction", 1.0, None, "authors' values"),
    "noisy_bowl_anisotropic": Drift("e⁻² to e² along the coordinates", 1.0, False),
    "noisy_bowl_anisotropic_best_trial": Drift("e⁻² to e² along the coordinates", 1.0, False, "best trial"),
    "noisy_bowl_anisotropic_authors": Drift("e⁻² to e² along the coordinates", 1.0, False, "authors' values"),
    "noisy_bowl_anisotropic_rotated": Drift("e⁻² to e² along a random basis", 1.0, True),
    "noisy_bowl_anisotropic_rotated_best_trial": Drift("e⁻² to e² along a random basis", 1.0, True, "best trial"),
    "noisy_bowl_anisotropic_tenfold": Drift("e⁻² to e² along the coordinates, ten times as fast", FACTOR, False),
}


def excess_table(runs_of: Callable[[str], Mapping[str, Record]]) -> list[dict[str, Any]]:
    """A row for each optimizer and drift that there is a record of.

    Args:
      runs_of: experiment's name → optimizer → record of its runs.
    """
    rows = []
    for name, drift in DRIFTS.items():
        found, floor = runs_of(name), drift.floor()
        for optimizer in OPTIMIZERS:
            if optimizer in found:
                scores = found[optimizer].arrays["scores"]
                mean = float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
                rows.append(
                    {
                        "drift": drift.words,
                        "optimizer": f"{optimizer}, {drift.values}" if drift.values else optimizer,
                        "mean loss": mean,
                        "std": float(np.nanstd(scores, ddof=1)) if len(scores) > 1 else float("nan"),
                        "above the floor": mean - floor,
                        "in units of the floor": mean / floor - 1,
                        "runs": len(scores),
                        "diverged": int(np.sum(~np.isfinite(scores))),
                    }
                )
    return rows
