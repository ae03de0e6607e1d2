"""The state of :func:`lodo.lodo`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax


class LastStep(NamedTuple):
    """The step that the last call returned, and the parameters that were given to it."""

    params: Any  # x_t, with the structure, shapes and dtypes of the parameters; 0 before the first call
    step: Any  # the step asked for, with their structure and shapes, in the state's dtype
    params_given: jax.Array  # [] int32: 1 where `params` are those of the last call, else 0


class LodoState(NamedTuple):
    """State of :func:`lodo`: arrays only, so that it can be traced, batched, sharded and saved."""

    step_count: jax.Array  # [] int32: updates so far
    initial_learning_rate: jax.Array  # [] α₀ of the step made last, which the next hypergradient needs
    theta: Any  # θ, a pytree in the operator's form, its leaves as `storage` keeps them
    fixed: Any  # arrays of the operator that are not learned (permutations)
    momentum: optax.Params  # m, with the structure and shapes of the parameters, in θ's dtype
    meta_state: optax.OptState  # state of the meta-optimizer
    rounding_key: jax.Array | None = None  # [2] uint32 where θ is rounded, else None
    # What m was where it entered each layer, kept for the next hypergradient where that is faster; scalars where
    # it is not, None where it is kept at no size; see below on changing a state by hand.
    inputs: Any = None
    last: LastStep | None = None  # the step returned last; None: taken to have been made as it was
