"""The arrays that a training produces, before they become a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """What a training produced; a lane is one run with its own seed and hyperparameters.

    Attributes:
      losses: [lanes, steps] loss at each step's batch, before the step's update; nan or inf after divergence.
      measured: name → [lanes, M], the task's measurements.
      measured_steps: [M] how many updates had been made at each measurement.
      wall_steps: [C] updates made at the end of each chunk.
      wall_seconds: [C] synchronised seconds from the first step's start to then, compilation left out.
      compile_seconds: seconds spent tracing and compiling.
      params: final parameters, each leaf with a leading axis of lanes.
      optimizer_state: final state of the optimizer, likewise.
      data_state: final data state (the bowl's centre, BatchNorm's running statistics), likewise.
      displacement: [lanes, D] LODO's ‖G − α₀ I‖_F / (α₀ √n), where it was asked for; [lanes, 0] otherwise.
      displacement_steps: [D] how many updates had been made at each.
    """

    losses: np.ndarray
    measured: Mapping[str, np.ndarray]
    measured_steps: np.ndarray
    wall_steps: np.ndarray
    wall_seconds: np.ndarray
    compile_seconds: float
    params: Any
    optimizer_state: Any
    data_state: Any = ()
    displacement: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    displacement_steps: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def diverged_at(self) -> np.ndarray:
        """[lanes] the first step whose loss is not finite, −1 where there is none."""
        bad = ~np.isfinite(self.losses)
        return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)

    @property
    def scores(self) -> np.ndarray:
        """[lanes] mean loss over the last 10 % of steps (at least one); nan for a diverged lane."""
        tail = self.losses[:, -max(1, self.losses.shape[1] // 10) :]
        return np.where(self.diverged_at < 0, np.where(np.isfinite(tail), tail, 0).mean(axis=1), np.nan)

    @property
    def steps_per_second(self) -> float:
        """Updates of every lane a second, compilation left out."""
        return float(self.wall_steps[-1] / self.wall_seconds[-1])
