"""The states of :func:`lodo.lodo`, :func:`lodo.rlodo` and :func:`lodo.guard`, and how to find one in another."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LastStep(NamedTuple):
    """The step that the last call returned, and the parameters that were given to it."""

    params: Any  # x_t, with the structure, shapes and dtypes of the parameters; 0 before the first call
    step: Any  # the step asked for, with their structure and shapes, in the state's dtype
    params_given: jax.Array  # [] int32: 1 where `params` are those of the last call, else 0


class Scales(NamedTuple):
    """What a scale set by the data, or a normalised hypergradient, is made from."""

    first_step: jax.Array  # [] norm of the first step, where it decides α₀; else 0
    seen: jax.Array  # [] int32: how many steps have been judged by a gradient
    product: jax.Array  # [] ν: mean of ‖g‖ ‖S m‖ over them, weighted exponentially
    length: jax.Array  # [] ‖S m‖ of the step made last


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
    scales: Scales | None = None  # with initial_learning_rate="auto" or a normalised hypergradient, else None
    trace: Any = None  # q, the mean of past gradients, like m; with a gradient_trace, else None


class Averages(NamedTuple):
    """Means over past steps, weighted exponentially, of which each is the mean of those it has seen."""

    gradient: jax.Array  # [] of ‖g‖
    product: jax.Array  # [] ν, of ‖g‖ ‖d‖


class RelativeState(NamedTuple):
    """State of :func:`scale_by_relative`, and of relative LODO's meta-step."""

    step_count: jax.Array  # [] int32: updates so far
    second: Any  # mean squares of E, as ``lodo._formula.squares`` shares them


class RlodoState(NamedTuple):
    """State of :func:`lodo.rlodo`: arrays only, so that it can be traced, batched, sharded and saved."""

    step_count: jax.Array  # [] int32: updates so far
    first_step: jax.Array  # [] norm of the first step, where it decides α₀; else 0
    base_rate: jax.Array  # [] α₀ of the step made last; 0 until a first gradient decides it
    log_scale: jax.Array  # [] s: a step is −α₀ eˢ S(θ) m
    decay: jax.Array  # [] β of the step made last
    cosine: jax.Array  # [] ⟨g, d⟩ / ν of the last update's g and the step before it
    whitening: jax.Array  # [] w of the last update
    gain: jax.Array  # [] ω, of which w is a multiple e^ω
    averages: Averages  # of past gradients and directions
    theta: Any  # θ [N, k, k, ñ/k], as `storage` keeps it
    fixed: Any  # the permutations
    momentum: optax.Params  # m, with the structure and shapes of the parameters, in θ's dtype
    direction: optax.Params  # d = S(θ) m of the step made last, like m
    direction_before: optax.Params  # and of the one before it
    snapshot: optax.Params  # and of one some steps ago, like m
    meta_state: RelativeState  # of the relative meta-steps
    rounding_key: jax.Array | None = None  # [2] uint32 where θ is rounded, else None
    last: LastStep | None = None  # but for the step itself; None: taken to have been made as it was

    @property
    def initial_learning_rate(self) -> jax.Array:
        """α₀ eˢ, the scale of G(θ) = α₀ eˢ S(θ)."""
        return self.base_rate * jnp.exp(self.log_scale)


class GuardState(NamedTuple):
    """State of :func:`lodo.guard`."""

    step_count: jax.Array  # [] int32: updates so far
    events: jax.Array  # [] int32: how often it went back
    ceiling: jax.Array  # [] f₀: the first finite loss, or the largest that it has gone back from
    best_value: jax.Array  # [] the least loss so far
    best_params: optax.Params  # where it was
    last_step: optax.Updates  # what the last call returned
    returning: jax.Array  # [] bool: whether that was a way back, which rounding may have cut short
    inner_state: optax.OptState


def nodes_of(tree: Any, kind: Any) -> list[Any]:
    """The nodes of a pytree that are of a kind, such as the states of one optimizer inside an optax state."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def find_state(state: optax.OptState) -> LodoState | RlodoState:
    """The one LodoState or RlodoState inside an optax state.

    Raises:
      ValueError: there is none, or more than one.

    >>> import jax.numpy as jnp, optax, lodo
    >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo())
    >>> type(find_state(optimizer.init(jnp.zeros(3)))).__name__
    'LodoState'
    """
    found: list[LodoState | RlodoState] = nodes_of(state, LodoState | RlodoState)
    if len(found) != 1:
        raise ValueError(
            "Expected a LodoState or RlodoState, or an optax state that holds exactly one; "
            f"{type(state).__name__} holds {len(found)}. Where there are several (optax.partition), pass one of them."
        )
    return found[0]
