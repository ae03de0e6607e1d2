"""Relative LODO and its peers on the paper's own tasks, from the records that the paper's optimizers have there too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lodo_experiments.analysis.headline import relative
from lodo_experiments.config.paths import results_folder
from lodo_experiments.optimizers.names import OTHERS, RELATIVE, UNTUNED
from lodo_experiments.studies import stored_results

#: Column → experiment and preset.
TASKS: Mapping[str, tuple[str, str]] = {
    "noisy bowl": ("noisy_bowl", "paper"),
    "image generation": ("image_generation", "laptop"),
    "image classification": ("image_classification", "laptop"),
}
#: Rows: relative LODO, the paper's optimizers that all tasks have, and the others.
ROWS = (UNTUNED.name, RELATIVE.name, "LODO", "Adam", "Momentum", "RMSprop", "Yogi", *OTHERS)

#: Function → column → which of its values is the best; the book's tables mark it.
BEST: Mapping[str, Mapping[str, str]] = {"scores": dict.fromkeys(TASKS, "low")}

Row = dict[str, Any]


def scores() -> list[Row]:
    """Each optimizer's final training loss on each task, everybody but ``rlodo-untuned`` tuned by the paper's strategy.

    Returns:
      Rows with "optimizer" and one entry a task: the mean over the runs of the seeds that all of them have, ∞ where one
      of these diverged, None without a record.

    Raises:
      RecordError: a record is damaged.
    """
    found = {task: _scores(*where) for task, where in TASKS.items()}
    return [
        {"optimizer": name} | {task: means.get(name) for task, means in found.items()}
        for name in ROWS
        if any(name in means for means in found.values())
    ]


def _scores(experiment: str, preset: str) -> dict[str, float]:
    """Optimizer → mean over as many seeds as everybody has: losses differ more by seed than by optimizer."""
    runs = dict(stored_results.load_or_bundled(results_folder(), experiment, preset).runs)
    if experiment == "noisy_bowl":
        runs[UNTUNED.name] = relative()
    found = {name: np.asarray(runs[name].arrays["scores"], float) for name in ROWS if name in runs}
    shared = min(map(len, found.values()), default=0)
    means = {name: float(one[:shared].mean()) for name, one in found.items()}
    return {name: mean if np.isfinite(mean) else float("inf") for name, mean in means.items()}
