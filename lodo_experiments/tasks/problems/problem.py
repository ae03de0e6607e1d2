"""What a problem is: pure functions of parameters and a key, with all data made from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

Params = Any

#: A loss whose minimum was subtracted is known to this share of that minimum, in float32.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Problem:
    """A loss to minimize, whose infimum is at least about 0.

    Example:
      >>> from lodo_experiments.tasks.problems.suites import problem_named
      >>> problem = problem_named("rosenbrock_2")
      >>> float(problem.loss(jnp.ones(2), jax.random.key(0)))
      0.0
    """

    name: str  # in records and tables
    # (key) → parameters at the start, a pytree of float32 unless the problem is about another type. Start points
    # differ from key to key
    init: Callable[[jax.Array], Params]
    # (parameters, key) → loss, [], float32; computed in the parameters' precision. The key draws the batch
    loss: Callable[[Params, jax.Array], jax.Array]
    steps: int  # updates in a run
    stochastic: bool = False  # whether the loss depends on the key
    resolution: float = 0.0  # losses below it are told apart by rounding alone, and count as equal to it

    def scaled(self, name: str, factor: float) -> Problem:
        """The same problem with its loss multiplied by a factor."""

        def loss(params: Params, key: jax.Array) -> jax.Array:
            return factor * self.loss(params, key)

        return replace(self, name=name, loss=loss, resolution=factor * self.resolution)

    def size(self) -> int:
        """n, the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(self.init, jax.random.key(0))))


def like(array: np.ndarray, params: Params) -> jax.Array:
    """Data in the precision of the parameters, so that a float64 twin of every loss is computed in float64."""
    return jnp.asarray(array, jax.tree.leaves(params)[0].dtype)


def around(start: np.ndarray, deviation: float = 0.1) -> Callable[[jax.Array], jax.Array]:
    """(key) → the start plus normal noise of that standard deviation, float32."""

    def init(key: jax.Array) -> jax.Array:
        return jnp.asarray(start, jnp.float32) + deviation * jax.random.normal(key, start.shape, jnp.float32)

    return init


def minimum(loss: Callable[[jax.Array], jax.Array], start: np.ndarray) -> float:
    """The least value of a smooth function near a start, by BFGS in float64.

    Args:
      loss: (x) → [], computed in the precision of x.
      start: [n].

    Raises:
      RuntimeError: the gradient does not vanish where the search ends.

    >>> minimum(lambda x: jnp.sum((x - 2) ** 2) + 3, np.zeros(4))
    3.0
    """
    with jax.enable_x64(True):
        of = jax.jit(jax.value_and_grad(loss))

        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = of(jnp.asarray(x, jnp.float64))
            return float(value), np.asarray(gradient)

        found = scipy.optimize.minimize(both, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5_000})
    if not np.abs(found.jac).max() < 1e-5:
        raise RuntimeError(f"The minimum was not found: the gradient is {np.abs(found.jac).max():.1e} at the end.")
    return float(found.fun)
