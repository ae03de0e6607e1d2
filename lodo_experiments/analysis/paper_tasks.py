"""Relative LODO and its peers on the paper's own tasks, from the records that the paper's optimizers have there too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lodo_experiments.analysis import best_trials
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
ROWS = (UNTUNED.name, RELATIVE.name, "LODO", "Adam", "Momentum", "RMSprop", "Yogi", "L-BFGS", *OTHERS)
#: Whose score is a target, and over how many windows of a run losses are averaged before they are held against it.
TARGET, WINDOWS = "Adam", 20

#: Function → column → which of its values is the best; the book's tables mark it.
BEST: Mapping[str, Mapping[str, str]] = {"scores": dict.fromkeys(TASKS, "low")}

Row = dict[str, Any]


def scores() -> list[Row]:
    """Each optimizer's final training loss on each task, everybody but ``rlodo-untuned`` tuned by the paper's strategy.

    On the bowl with the values that it found or those of its best trial, whichever end lower.

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


def numbers() -> dict[str, int]:
    """The size of image generation in the table: pixels on a side, the network's channels, steps of a run.

    Raises:
      RecordError: a record is damaged.
      KeyError: there is no record of LODO.
    """
    record = stored_results.load_or_bundled(results_folder(), *TASKS["image generation"]).runs["LODO"]
    return {
        "generation_side": record.arrays["samples"].shape[-1],
        "generation_width": record.values["settings"]["width"],
        "generation_steps": record.values["steps"],
    }


def steps_to_adam() -> list[Row]:
    """How soon each optimizer is, on the images, where Adam ends.

    On the bowl, which starts at its minimum, every optimizer is below Adam's score at once: it is left out.

    Returns:
      Rows with "optimizer" and one entry a task: the median over the runs of the share of the steps after which the
      mean over a twentieth of the run is at most Adam's final loss, ∞ where it never is, None without a record.

    Raises:
      RecordError: a record is damaged.
    """
    found = {task: _shares(*where) for task, where in TASKS.items() if where[0] != "noisy_bowl"}
    return [
        {"optimizer": name} | {task: shares.get(name) for task, shares in found.items()}
        for name in ROWS
        if any(name in shares for shares in found.values())
    ]


def _shares(experiment: str, preset: str) -> dict[str, float]:
    """Optimizer → share of the steps."""
    runs = stored_results.load_or_bundled(results_folder(), experiment, preset).runs
    if TARGET not in runs:
        return {}
    target = float(np.mean(runs[TARGET].arrays["scores"]))
    return {name: share_until(runs[name].arrays["curve"], target) for name in ROWS if name in runs}


def share_until(curve: np.ndarray, target: float) -> float:
    """The share of a run after which the mean over one of :data:`WINDOWS` windows is at most the target.

    Args:
      curve: [runs, points], loss by step, points that lie equally far apart.
      target: a loss.

    Returns:
      The median over the runs, ∞ counted.

    >>> share_until(np.array([np.linspace(2, 1, 100)] * 2 + [np.full(100, np.nan)]), 1.5)
    0.55
    """
    windows = np.stack([part.mean(axis=1) for part in np.array_split(curve, WINDOWS, axis=1)], axis=1)
    reached = windows <= target  # false where a run diverged
    first = np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1) / windows.shape[1], np.inf)
    return float(np.median(first))


def _scores(experiment: str, preset: str) -> dict[str, float]:
    """Optimizer → mean over as many seeds as everybody has: losses differ more by seed than by optimizer."""
    if experiment == "noisy_bowl":
        runs = best_trials.load(results_folder(), experiment, preset) | {UNTUNED.name: relative()}
    else:
        runs = dict(stored_results.load_or_bundled(results_folder(), experiment, preset).runs)
    found = {name: np.asarray(runs[name].arrays["scores"], float) for name in ROWS if name in runs}
    shared = min(map(len, found.values()), default=0)
    means = {name: float(one[:shared].mean()) for name, one in found.items()}
    return {name: mean if np.isfinite(mean) else float("inf") for name, mean in means.items()}
