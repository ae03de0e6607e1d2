"""The Rosenbrock function (paper §5.2), without noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lodo_experiments.tasks.base import Task

START = (-0.5, 2.0)


def rosenbrock_loss(x: jax.Array, batch: Any = None) -> jax.Array:
    """f(x, y) = 0.01 (1 − x)² + (y − x²)², with its minimum 0 at (1, 1).

    >>> float(rosenbrock_loss(jnp.array([1.0, 1.0])))
    0.0
    """
    return 0.01 * (1 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2


def rosenbrock(dtype: Any = jnp.float64, start: tuple[float, float] = START) -> Task:
    """The task: from a point, the same loss at every step; measured at every step: the point itself.

    Args:
      dtype: of the parameters.
      start: x and y; the paper's is (−0.5, 2).

    References:
      Liao et al. 2023, §5.2.
    """

    def init(key: jax.Array) -> jax.Array:
        return jnp.asarray(start, dtype)

    hessian = jax.hessian(rosenbrock_loss)
    return Task("rosenbrock", (), init, _init_data, _sample, rosenbrock_loss, _measure, hessian=hessian)


def _init_data(data: Any, key: jax.Array) -> tuple[()]:
    return ()


def _sample(data: Any, data_state: Any, key: jax.Array) -> tuple[tuple[()], tuple[()]]:
    return (), ()


def _measure(data: Any, x: jax.Array, state: Any, data_state: Any) -> dict[str, jax.Array]:
    return {"x": x[0], "y": x[1]}
