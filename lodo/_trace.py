"""The trace of past gradients, which may stand for the gradient where G is judged."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lodo import _tree
from lodo import _validation as validation


def check_trace(value: Any) -> Any:
    """A decay ρ in [0, 1), or None.

    >>> check_trace(0.8), check_trace(None)
    (0.8, None)
    """
    if value is None:
        return None
    return validation.check_real("gradient_trace", value, minimum=0.0, below=1.0, hint="or None, the gradient itself")


def traced_gradient(decay: Any, trace: Any, g: jax.Array, place: Any) -> jax.Array:
    """q = ρ q + (1−ρ) g [n] for a decay ρ and a tree q of the state; g itself where there is neither.

    Raises:
      ValueError: there is one and not the other.
    """
    if (decay is None) != (trace is None):
        raise ValueError(
            "This state was made by another configuration: a gradient_trace keeps the field `trace`, others do not. "
            "Use the configuration that made the state, or initialize a new state."
        )
    if decay is None:
        return g
    rho = jnp.asarray(decay, g.dtype)
    return rho * _tree.ravel(trace, g.dtype, place) + (1 - rho) * g
