"""BFGS with a fixed or scheduled learning rate: a dense estimate of the inverse Hessian.

Symbols: g_t gradient at x_t, s_t step, y_t change of the gradient along s_t, H_t estimate of the inverse Hessian,
ρ_t = 1 / s_tᵀy_t, η learning rate, n number of parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lodo import _displacement, _tree, _validation
from lodo.quasi_newton import _common
from lodo.quasi_newton._common import Form, GradientFunction, dot


class BFGSState(NamedTuple):
    """State of `bfgs`."""

    step_count: jax.Array  # [] int32: updates made, t
    pairs: jax.Array  # [] int32: pairs (s, y) that have changed H
    inverse_hessian: jax.Array  # [n, n]: H
    step: jax.Array  # [n]: the last step s
    gradient: jax.Array  # [n]: the gradient at which it was made
    params: jax.Array  # [n]: where it was made; 0 before the first


def bfgs(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    initial_scale: jax.typing.ArrayLike = 1.0,
    *,
    same_batch: bool = False,
    curvature_tolerance: jax.typing.ArrayLike = 1e-8,
    form: Form = "textbook",
) -> optax.GradientTransformationExtraArgs:
    r"""BFGS without line search, with the inverse Hessian held as a dense matrix.

    .. math::
        s_t = -\eta H_t g_t, \qquad
        H_{t+1} = (I - \rho_t s_t y_t^\top) H_t (I - \rho_t y_t s_t^\top) + \rho_t s_t s_t^\top

    y_t is the change of the gradient from x_t to x_t + s_t: between two calls of update (right for a deterministic
    loss; H then changes at the start of the next update, and s_t is the displacement that ``params`` show, whatever a
    chain made of the step), or with ``same_batch=True`` on one batch, through
    ``grad_fn`` (right for a noisy loss; H changes at once). Memory: n² numbers; a step costs O(n²).

    Forms. ``"textbook"`` rescales the initial estimate before its first change, H₀ = (sᵀy / yᵀy) I (so
    ``initial_scale`` only sets the first step), and leaves out a pair whose curvature is not positive,
    sᵀy ≤ ``curvature_tolerance`` ‖s‖‖y‖, as a zero or non-finite pair is; this keeps H positive definite.
    ``"released"`` does neither, but leaves out a pair with sᵀy = 0, or about so, by which it would be divided (a zero
    gradient or a learning rate of 0 makes one). It holds H, s, y and g in float32 whatever the parameters' dtype, and
    takes y across batches, so that in a noisy loss the noise of two batches enters y, and H may become indefinite.

    Args:
      learning_rate: η ≥ 0, or a schedule (a function of the number of updates made).
      initial_scale: H₀ = ``initial_scale`` · I, ≥ 0. From 0 nothing ever moves.
      same_batch: take y from two gradients on one batch, the second through ``grad_fn``; textbook form only.
      curvature_tolerance: smallest cosine between s and y of a pair that is used, in [0, 1); textbook form only.
      form: "textbook" or "released".

    Returns:
      A transformation whose update is s_t; call ``update(grads, state, params)``, with ``same_batch=True``
      ``update(grads, state, params, grad_fn=...)``. Its state is a `BFGSState`.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; ``params`` or ``grad_fn`` missing from
        update; trees that differ from one another or from the initialized one.

    A non-finite gradient gives a non-finite step, and in the textbook form leaves H as it was.

    References:
      Nocedal & Wright, "Numerical Optimization", 2nd edition, 2006, equations 6.17 (update) and 6.20 (scale).

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lodo.quasi_newton import bfgs
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0, 100.0]) * x**2)
      >>> optimizer = bfgs(learning_rate=1.0, initial_scale=0.01)
      >>> x = jnp.ones(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(12):
      ...     updates, state = optimizer.update(jax.grad(loss)(x), state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 0.01 * loss(jnp.ones(3)))
      True
    """
    _validation.check_choice("form", form, _common.FORMS)
    if not callable(learning_rate):
        _validation.check_real("learning_rate", learning_rate, minimum=0.0)
    _validation.check_real("initial_scale", initial_scale, minimum=0.0)
    _validation.check_real("curvature_tolerance", curvature_tolerance, minimum=0.0, below=1.0)
    if not isinstance(same_batch, bool):
        raise TypeError(f"same_batch must be True or False; got {same_batch!r} ({type(same_batch).__name__}).")
    if form == "released" and same_batch:
        raise ValueError(
            'same_batch=True needs form="textbook": the released form takes the change of the gradient across batches.'
        )

    def init(params: optax.Params) -> BFGSState:
        n = _validation.check_parameter_tree("params", params)
        dtype = jnp.float32 if form == "released" else _common.working_dtype(params)
        state = BFGSState(
            step_count=jnp.zeros((), jnp.int32),
            pairs=jnp.zeros((), jnp.int32),
            inverse_hessian=_common.scalar(initial_scale, dtype) * jnp.eye(n, dtype=dtype),
            step=jnp.zeros(n, dtype),
            gradient=jnp.zeros(n, dtype),
            params=jnp.zeros(n, dtype),
        )
        return _tree.whole(state, _tree.place_of(params))

    def learn(state: BFGSState, step: jax.Array, change: jax.Array) -> BFGSState:
        """H changed by a pair, where the form accepts it."""
        if form == "released":
            accept = (state.step_count > 0) & _common.divisible(dot(step, change) ** 2)
            before = state.inverse_hessian
        else:
            tolerance = _common.scalar(curvature_tolerance, step.dtype)
            accept = _common.positive_curvature(step, change, tolerance)
            # Divisors of a pair that is left out are 1: jax_debug_nans looks at unused branches too.
            scale = dot(step, change) / jnp.where(accept, dot(change, change), 1)
            identity = jnp.eye(step.shape[0], dtype=step.dtype)
            before = jnp.where(state.pairs == 0, scale * identity, state.inverse_hessian)
        curvature = jnp.where(accept, dot(step, change), 1)
        after = bfgs_update(before, step, change, curvature)
        return state._replace(
            pairs=state.pairs + accept.astype(jnp.int32),
            inverse_hessian=jnp.where(accept, after, state.inverse_hessian),
        )

    def update(
        updates: optax.Updates,
        state: BFGSState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradientFunction | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, BFGSState]:
        _common.check_state("bfgs", state, BFGSState)
        n = _common.check_update("bfgs", updates, params, state.step.shape[0])
        dtype = state.step.dtype
        if n == 0:
            counted = state._replace(step_count=optax.safe_increment(state.step_count))
            return updates, counted
        place = _tree.place_of(updates, params, state)
        state = _tree.whole(state, place)
        gradient, point = _tree.ravel(updates, dtype, place), _tree.ravel(params, dtype, place)
        if not same_batch:
            step = state.step
            if form == "textbook":
                # y belongs to the displacement that was made, which what follows in a chain may have changed.
                step = jnp.where(state.step_count > 0, _displacement.made(step, state.params, point), 0)
            # Before the first step the state's step is 0, which is no pair.
            state = learn(state, step, gradient - state.gradient)
        rate = _common.scalar(learning_rate(state.step_count) if callable(learning_rate) else learning_rate, dtype)
        step_tree = _tree.unravel(-rate * dot(state.inverse_hessian, gradient), params)
        step = _common.step_taken(params, step_tree, dtype, place)
        if same_batch:
            moved = _common.second_gradient("bfgs with same_batch=True", grad_fn, params, step_tree, dtype)
            state = learn(state, step, moved - gradient)
        return step_tree, state._replace(
            step_count=optax.safe_increment(state.step_count), step=step, gradient=gradient, params=point
        )

    return _validation.naming_leaves(init, update)


def bfgs_update(inverse_hessian: jax.Array, step: jax.Array, change: jax.Array, curvature: jax.Array) -> jax.Array:
    """(I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ for symmetric H, multiplied out: O(n²) rather than O(n³).

    Args:
      inverse_hessian: H, symmetric. [n, n]
      step: s. [n]
      change: y. [n]
      curvature: 1/ρ = sᵀy. []

    Returns:
      The updated H. [n, n]
    """
    rho = 1 / curvature
    product = dot(inverse_hessian, change)
    cross = jnp.outer(step, product) + jnp.outer(product, step)
    return inverse_hessian - rho * cross + (rho + rho**2 * dot(change, product)) * jnp.outer(step, step)
