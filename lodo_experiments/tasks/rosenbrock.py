"""The Rosenbrock function (paper §5.2), without noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lodo_experiments.tasks.base import Task

#: x and y at the start, as in the paper.
START = (-0.5, 2.0)


def rosenbrock_loss(x: jax.Array, batch: Any = None) -> jax.Array:
    """f(x, y) = 0.01 (1 − x)² + (y − x²)², with its minimum 0 at (1, 1).

    >>> float(rosenbrock_loss(jnp.array([1.0, 1.0])))
    0.0
    """
    return 0.01 * (1 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2


def rosenbrock(dtype: Any = jnp.float64, start: tuple[float, float] = START) -> Task:
    """The task: from a point, the same loss at every step; measured at every step: the point itself.

    References:
      Liao et al. 2023, §5.2.
    """

    return Task(
        "rosenbrock",
        (),
        init=lambda key: jnp.asarray(start, dtype),
        init_data=lambda data, key: (),
        sample=lambda data, state, key: ((), ()),
        loss=rosenbrock_loss,
        measure=lambda data, x, state, data_state: {"x": x[0], "y": x[1]},
        hessian=jax.hessian(rosenbrock_loss),
    )
