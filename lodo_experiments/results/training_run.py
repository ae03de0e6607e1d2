"""The arrays that a training produces, before they become a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """What a training produced; a lane is one run with its own seed and hyperparameters."""

    # [lanes, steps] loss at each step's batch, before the step's update; nan or inf after divergence
    losses: np.ndarray
    measured: Mapping[str, np.ndarray]  # name → [lanes, M], the task's measurements
    measured_steps: np.ndarray  # [M] how many updates had been made at each measurement
    wall_steps: np.ndarray  # [C] updates made at the end of each chunk
    wall_seconds: np.ndarray  # [C] synchronised seconds from the first step's start to then, compilation left out
    compile_seconds: float  # seconds spent tracing and compiling
    params: Any  # final parameters, each leaf with a leading axis of lanes
    optimizer_state: Any  # final state of the optimizer, likewise
    data_state: Any = ()  # final data state (the bowl's centre, BatchNorm's running statistics), likewise
    # [lanes, D] LODO's ‖G − α₀ I‖_F / (α₀ √n), where it was asked for; [lanes, 0] otherwise
    displacement: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    displacement_steps: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # [D] updates made at each

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
