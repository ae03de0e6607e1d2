"""O-LBFGS and L-BFGS without line search: an inverse Hessian from the last m steps and gradient changes.

Symbols: g_t gradient at x_t, p_t direction, s_t step, y_t change of the gradient along s_t on one batch,
H_t the inverse Hessian that the pairs (s_i, y_i) in the buffer imply, m buffer size, n number of parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lodo import _tree, _validation
from lodo.quasi_newton import _common
from lodo.quasi_newton._common import Form, GradientFunction, dot


class LimitedMemoryState(NamedTuple):
    """State of `olbfgs` and `lbfgs_no_line_search`; pair number i is in row i mod m."""

    step_count: jax.Array  # [] int32: updates made, t
    pairs: jax.Array  # [] int32: pairs stored so far, those overwritten included
    steps: jax.Array  # [m, n]: s_i
    gradient_changes: jax.Array  # [m, n]: y_i
    inverse_curvatures: jax.Array  # [m]: 1 / s_iᵀy_i, 0 in an empty row
    scales: jax.Array  # [m]: s_iᵀy_i / y_iᵀy_i, 0 in an empty row


def olbfgs(
    learning_rate: jax.typing.ArrayLike = 1e-3,
    decay_steps: jax.typing.ArrayLike = 1e4,
    epsilon: jax.typing.ArrayLike = 1e-10,
    buffer_size: int = 48,
    *,
    regularization: jax.typing.ArrayLike = 0.0,
    curvature_tolerance: jax.typing.ArrayLike = 1e-8,
    form: Form = "textbook",
) -> optax.GradientTransformationExtraArgs:
    r"""Online L-BFGS: quasi-Newton steps from noisy gradients, two of them on each batch.

    .. math::
        p_t = -H_t g_t, \qquad s_t = \frac{\eta_0 \tau}{\tau + t} p_t, \qquad
        y_t = \nabla f_t(x_t + s_t) - \nabla f_t(x_t) + \lambda s_t

    H_t comes from the two-loop recursion over the last m pairs. It starts at the mean of
    :math:`s_i^\top y_i / y_i^\top y_i` over the pairs in the buffer (averaging makes it robust to sampling noise)
    and, as long as there is no pair, p_t = −ε g_t.

    Forms. ``"textbook"`` is Schraudolph et al. (2007), sections 3.2 and 3.3 with c = 1, and leaves out a pair whose
    curvature is not positive, sᵀy ≤ ``curvature_tolerance`` ‖s‖‖y‖, as a zero or non-finite pair is. ``"released"``
    stores every pair (``curvature_tolerance`` is not used), so one non-finite gradient spoils its state; but for a pair
    with sᵀy = 0 or y = 0, by which it would be divided (a zero gradient or a learning rate of 0 makes one).

    Args:
      learning_rate: η₀ ≥ 0, the step size at t = 0.
      decay_steps: τ > 0, the number of steps after which the step size has halved.
      epsilon: ε ≥ 0, the length of the first step relative to the gradient's; while it is 0 nothing moves.
      buffer_size: m ≥ 1, the number of pairs kept.
      regularization: λ ≥ 0, added to the curvature along each step (Schraudolph's λ, for non-convex losses).
      curvature_tolerance: smallest cosine between s and y of a stored pair, in [0, 1).
      form: "textbook" or "released".

    Returns:
      A transformation whose update is s_t; call
      ``update(grads, state, params, grad_fn=...)`` with ``grad_fn`` a function from parameters to their gradient
      on the batch of ``grads``. Its state is a `LimitedMemoryState`.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; ``grad_fn`` or ``params`` missing from
        update; trees that differ from one another or from the initialized one.

    Non-finite gradients give a non-finite step. In the textbook form they leave the stored pairs as they were;
    with `optax.apply_if_finite` the step is left out as well.

    Under `optax.inject_hyperparams` name the buffer size in ``static_args``, for it decides shapes.

    References:
      Schraudolph, Yu, Günter, "A stochastic quasi-Newton method for online convex optimization", AISTATS 2007,
      Algorithm 1 and sections 3.2, 3.3.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lodo.quasi_newton import olbfgs
      >>> curvature = jnp.array([1.0, 10.0, 100.0])
      >>> loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
      >>> optimizer = olbfgs(learning_rate=1.0, decay_steps=100.0, epsilon=0.01, buffer_size=5)
      >>> x = jnp.ones(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(12):
      ...     updates, state = optimizer.update(jax.grad(loss)(x), state, x, grad_fn=jax.grad(loss))
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 0.01 * loss(jnp.ones(3)))
      True
    """
    return _limited_memory(
        "olbfgs", True, learning_rate, decay_steps, epsilon, buffer_size, regularization, curvature_tolerance, form
    )


def lbfgs_no_line_search(
    learning_rate: jax.typing.ArrayLike = 1e-3,
    decay_steps: jax.typing.ArrayLike = 1e4,
    epsilon: jax.typing.ArrayLike = 1e-10,
    buffer_size: int = 48,
    *,
    regularization: jax.typing.ArrayLike = 0.0,
    curvature_tolerance: jax.typing.ArrayLike = 1e-8,
    form: Form = "textbook",
) -> optax.GradientTransformationExtraArgs:
    r"""L-BFGS with a decaying step size in place of the line search, two gradients on each batch.

    As `olbfgs`, arguments and call included, but the two-loop recursion starts at the scale of one pair,

    .. math::  \gamma_t = s^\top y / y^\top y .

    Forms. In ``"textbook"`` s and y are the newest pair (Nocedal & Wright, equation 7.20), and pairs without
    positive curvature are left out, as in `olbfgs`. In ``"released"`` y is the newest and s the *oldest* step in
    the buffer, so γ may even be negative, and every pair is stored (``curvature_tolerance`` is not used).

    Args:
      learning_rate: η₀ ≥ 0, the step size at t = 0.
      decay_steps: τ > 0; the step size is η₀ τ/(τ + t).
      epsilon: ε ≥ 0; without a pair the direction is −ε g.
      buffer_size: m ≥ 1, the number of pairs kept.
      regularization: λ ≥ 0; y includes λ s.
      curvature_tolerance: smallest cosine between s and y of a stored pair, in [0, 1).
      form: "textbook" or "released".

    Returns:
      A transformation whose update is the step; ``update(grads, state, params, grad_fn=...)`` as in `olbfgs`.

    Raises:
      ValueError, TypeError: as `olbfgs`.

    References:
      Nocedal & Wright, "Numerical Optimization", 2nd edition, 2006, Algorithms 7.4 and 7.5, equation 7.20;
      step size and first step: Schraudolph et al., AISTATS 2007. With a line search: `optax.lbfgs`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lodo.quasi_newton import lbfgs_no_line_search
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0, 100.0]) * x**2)
      >>> optimizer = lbfgs_no_line_search(1.0, 100.0, 0.01, buffer_size=5)
      >>> x = jnp.ones(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(12):
      ...     updates, state = optimizer.update(jax.grad(loss)(x), state, x, grad_fn=jax.grad(loss))
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 0.01 * loss(jnp.ones(3)))
      True
    """
    return _limited_memory(
        "lbfgs_no_line_search",
        False,
        learning_rate,
        decay_steps,
        epsilon,
        buffer_size,
        regularization,
        curvature_tolerance,
        form,
    )


def _limited_memory(
    name: str,
    averaged: bool,
    learning_rate: jax.typing.ArrayLike,
    decay_steps: jax.typing.ArrayLike,
    epsilon: jax.typing.ArrayLike,
    buffer_size: int,
    regularization: jax.typing.ArrayLike,
    curvature_tolerance: jax.typing.ArrayLike,
    form: Form,
) -> optax.GradientTransformationExtraArgs:
    _validation.check_choice("form", form, _common.FORMS)
    _validation.check_real("learning_rate", learning_rate, minimum=0.0)
    _validation.check_real("decay_steps", decay_steps, minimum=0.0, exclusive_minimum=True)
    _validation.check_real("epsilon", epsilon, minimum=0.0)
    _validation.check_integer("buffer_size", buffer_size, 1)
    _validation.check_real("regularization", regularization, minimum=0.0)
    _validation.check_real("curvature_tolerance", curvature_tolerance, minimum=0.0, below=1.0)

    def init(params: optax.Params) -> LimitedMemoryState:
        _validation.require_concrete_integers(name, buffer_size=buffer_size)
        n = _validation.check_parameter_tree("params", params)
        m, dtype = int(buffer_size), _common.working_dtype(params)
        state = LimitedMemoryState(
            step_count=jnp.zeros((), jnp.int32),
            pairs=jnp.zeros((), jnp.int32),
            steps=jnp.zeros((m, n), dtype),
            gradient_changes=jnp.zeros((m, n), dtype),
            inverse_curvatures=jnp.zeros(m, dtype),
            scales=jnp.zeros(m, dtype),
        )
        return _tree.whole(state, _tree.place_of(params))

    def update(
        updates: optax.Updates,
        state: LimitedMemoryState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradientFunction | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LimitedMemoryState]:
        _common.check_state(name, state, LimitedMemoryState)
        n = _common.check_update(name, updates, params, state.steps.shape[1])
        dtype = state.steps.dtype
        if n == 0:
            counted = state._replace(step_count=optax.safe_increment(state.step_count))
            return updates, counted
        place = _tree.place_of(updates, params, state)
        state, gradient = _tree.whole(state, place), _tree.ravel(updates, dtype, place)

        initial_scale = _initial_scale(state, averaged, form)
        direction = jnp.where(
            state.pairs > 0,
            inverse_hessian_product(state, gradient, initial_scale),
            _common.scalar(epsilon, dtype) * gradient,
        )
        tau = _common.scalar(decay_steps, dtype)
        rate = _common.scalar(learning_rate, dtype) * tau / (tau + state.step_count.astype(dtype))
        step_tree = _tree.unravel(-rate * direction, params)
        step = _common.step_taken(params, step_tree, dtype, place)
        change = _common.second_gradient(name, grad_fn, params, step_tree, dtype) - gradient
        change = change + _common.scalar(regularization, dtype) * step
        accept = (
            _common.divisible(dot(step, change)) & _common.divisible(dot(change, change))
            if form == "released"
            else _common.positive_curvature(step, change, _common.scalar(curvature_tolerance, dtype))
        )
        state = _store(state, step, change, accept)
        return step_tree, state._replace(step_count=optax.safe_increment(state.step_count))

    return _validation.naming_leaves(init, update)


@jax.jit  # so that a call outside jit compiles the loops once, not every time
def inverse_hessian_product(state: LimitedMemoryState, vector: jax.Array, initial_scale: jax.Array) -> jax.Array:
    """H v by the two-loop recursion (Nocedal & Wright, Algorithm 7.4), from H⁰ = initial_scale · I.

    Empty rows do nothing, since their inverse curvature is 0.

    Args:
      state: the pairs.
      vector: v. [n]
      initial_scale: γ. []

    Returns:
      H v. [n]
    """
    m = state.steps.shape[0]
    newest_first = jnp.mod(state.pairs - 1 - jnp.arange(m, dtype=jnp.int32), m)

    def down(q: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        coefficient = state.inverse_curvatures[row] * dot(state.steps[row], q)
        return q - coefficient * state.gradient_changes[row], coefficient

    def up(r: jax.Array, row_and_coefficient: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, coefficient = row_and_coefficient
        correction = state.inverse_curvatures[row] * dot(state.gradient_changes[row], r)
        return r + (coefficient - correction) * state.steps[row], None

    q, coefficients = jax.lax.scan(down, vector, newest_first)
    r, _ = jax.lax.scan(up, initial_scale * q, (newest_first, coefficients), reverse=True)
    return r


def _initial_scale(state: LimitedMemoryState, averaged: bool, form: Form) -> jax.Array:
    m = state.steps.shape[0]
    in_buffer = jnp.minimum(state.pairs, m)
    if averaged:
        return jnp.sum(state.scales) / jnp.maximum(in_buffer, 1).astype(state.scales.dtype)
    newest = jnp.mod(state.pairs - 1, m)
    if form == "textbook":
        return state.scales[newest]
    oldest = jnp.mod(state.pairs - in_buffer, m)
    change = state.gradient_changes[newest]
    squared = dot(change, change)
    # Without a pair the scale is not used; 1 keeps 0/0 out of the branch that `where` leaves unused.
    return dot(state.steps[oldest], change) / jnp.where(state.pairs > 0, squared, 1)


def _store(state: LimitedMemoryState, step: jax.Array, change: jax.Array, accept: jax.Array) -> LimitedMemoryState:
    """Write a pair over the oldest one where it is accepted; change nothing where it is not."""
    row = jnp.mod(state.pairs, state.steps.shape[0])
    # Divisors of a pair that is left out are 1: jax_debug_nans looks at unused branches too.
    curvature = jnp.where(accept, dot(step, change), 1)
    squared = jnp.where(accept, dot(change, change), 1)

    def write(buffer: jax.Array, value: jax.Array) -> jax.Array:
        return buffer.at[row].set(jnp.where(accept, value, buffer[row]))

    return state._replace(
        pairs=state.pairs + accept.astype(jnp.int32),
        steps=write(state.steps, step),
        gradient_changes=write(state.gradient_changes, change),
        inverse_curvatures=write(state.inverse_curvatures, 1 / curvature),
        scales=write(state.scales, curvature / squared),
    )
