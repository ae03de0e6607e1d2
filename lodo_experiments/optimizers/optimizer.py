"""What a compared optimizer is: how it is built, and which hyperparameters it is tuned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

#: (hyperparameters, key, steps of the run) → transformation.
Build = Callable[[Mapping[str, Any], jax.Array, int], optax.GradientTransformation]


@dataclass(frozen=True, eq=False)
class Optimizer:
    """One of the compared optimizers."""

    name: str  # as in the paper
    build: Build  # (hyperparameters, key, steps) → optax transformation
    defaults: Mapping[str, float]  # hyperparameters and the values from which the paper tunes them
    about: str  # what it is, and where its definition comes from
    gradients_per_step: int = 1  # gradient evaluations a step, for comparisons by evaluation
    needs_hessian: bool = False  # whether its update takes the task's Hessian
    uses_steps: bool = False  # whether it depends on the length of the run


#: From which the paper tunes LODO.
LODO_DEFAULTS: Mapping[str, float] = {"initial_learning_rate": 1.0, "meta_learning_rate": 1e-3, "momentum": 0.9}
