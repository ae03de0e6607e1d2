"""The trace of past gradients, which may stand for the momentum where a step's part in the loss is judged."""

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
    return validation.check_real("gradient_trace", value, minimum=0.0, below=1.0, hint="or None, for the momentum")


def raveled_trace(decay: Any, trace: Any, place: Any) -> jax.Array | None:
    """q [n] of a state's tree, where a decay asks for one.

    Raises:
      ValueError: there is one and not the other.
    """
    if (decay is None) != (trace is None):
        raise ValueError(
            "This state was made by another configuration: a gradient_trace keeps the field `trace`, others do not. "
            "Use the configuration that made the state, or initialize a new state."
        )
    return None if trace is None else _tree.ravel(trace, place=place)


def next_trace(decay: Any, q: jax.Array, g: jax.Array) -> jax.Array:
    """ρ q + (1−ρ) g."""
    rho = jnp.asarray(decay, g.dtype)
    return rho * q + (1 - rho) * g
