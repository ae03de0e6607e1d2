"""The state of :func:`lodo.rlodo`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lodo._formula import Averages
from lodo._state import LastStep
from lodo.relative.steps import RelativeState


class RlodoState(NamedTuple):
    """State of :func:`lodo.rlodo`: arrays only, so that it can be traced, batched, sharded and saved."""

    step_count: jax.Array  # [] int32: updates so far
    first_step: jax.Array  # [] norm of the first step, where it decides α₀; else 0
    base_rate: jax.Array  # [] α₀ of the step made last; 0 until a first gradient decides it
    log_scale: jax.Array  # [] s: a step is −α₀ eˢ S(θ) m
    decay: jax.Array  # [] β of the step made last
    averages: Averages  # of past gradients and directions
    theta: Any  # θ [N, k, k, ñ/k], as `storage` keeps it
    fixed: Any  # the permutations
    momentum: optax.Params  # m, with the structure and shapes of the parameters, in θ's dtype
    direction: optax.Params  # d = S(θ) m of the step made last, like m
    direction_before: optax.Params  # and of the one before it
    meta_state: RelativeState  # of the relative meta-steps
    rounding_key: jax.Array | None = None  # [2] uint32 where θ is rounded, else None
    last: LastStep | None = None  # the step returned last; None: taken to have been made as it was

    @property
    def initial_learning_rate(self) -> jax.Array:
        """α₀ eˢ, the scale of G(θ) = α₀ eˢ S(θ)."""
        return self.base_rate * jnp.exp(self.log_scale)


def restarted(state: RlodoState) -> RlodoState:
    """The state with nothing remembered of past gradients but what was learned from them: m = 0, and no last step."""
    momentum, direction, before = (
        jax.tree.map(jnp.zeros_like, tree) for tree in (state.momentum, state.direction, state.direction_before)
    )
    last = state.last and jax.tree.map(jnp.zeros_like, state.last)
    return state._replace(momentum=momentum, direction=direction, direction_before=before, last=last)
