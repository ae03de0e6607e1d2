"""A way back: where the loss blows up, go to the best point that was seen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo import _formula as formula
from lodo import _tree
from lodo import _validation as validation
from lodo._arguments import widest_dtype
from lodo._meta_step import choose
from lodo._state import GuardState, LodoState, RlodoState


def guard(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that goes back to its best point where the loss blows up.

    With f the loss at x, ``value``, and f* the least so far, at x*, an update returns x* − x where

    * f, or an entry of the inner update, is not finite; or
    * f > f₀ + max(f₀ − f*, \|f₀\|/2), f₀ being the first finite loss, while the last step went too far: its product
      with the gradient at x is positive.

    Rounding spoils x + (x* − x) where x is far away: from about ‖x*‖/eps on it is 0. Where that missed x* by more than
    √eps ‖x*‖ in the maximum norm, with the eps of the parameters' coarsest dtype, the next update goes the rest of the
    way and counts as no event. ``state.best_params`` is x* itself.

    Then LODO and relative LODO forget past gradients (m = 0), keep what they have learned, and make steps e times
    smaller where the scale is theirs to choose; f₀ becomes f where that is larger. Other optimizers' states are left
    as they are.

    Args:
      inner: an optimizer whose updates are steps, such as :func:`lodo.rlodo` or a chain with it.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`lodo.relative.GuardState`, 2n numbers beside the
      inner state. ``update(gradient, state, params, value=loss)`` needs the parameters and the loss of the same batch.

    Raises:
      TypeError: ``inner`` is no optimizer, or ``value`` no scalar.
      ValueError: ``params`` or ``value`` was not given, or a tree is not like the one given to ``init``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, lodo
      >>> loss = lambda x: jnp.sum(x**2)
      >>> optimizer = lodo.guard(optax.sgd(1.5))  # which diverges
      >>> x = jnp.array([1.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(3):
      ...     value, gradient = jax.value_and_grad(loss)(x)
      ...     update, state = optimizer.update(gradient, state, x, value=value)
      ...     x = optax.apply_updates(x, update)
      ...     print(f"{value:.0f} {x[0]:.0f} {state.events}")
      1 -2 0
      4 1 1
      1 -2 1
    """
    if not (callable(getattr(inner, "init", None)) and callable(getattr(inner, "update", None))):
        raise TypeError(f"guard wraps an optimizer, such as lodo.rlodo() with its parentheses; got {inner!r}.")
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> GuardState:
        validation.check_parameter_tree("params", params)
        place = _tree.place_of(params)
        width = jnp.result_type(float)
        infinity = jnp.full((), jnp.inf, width)
        zero = jnp.zeros((), jnp.int32)
        scalars = _tree.whole((zero, zero + 0, infinity, infinity + 0), place)
        kept = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
        still = _tree.whole(jnp.zeros((), bool), place)
        return GuardState(*scalars, kept, _tree.zeros_like(params, None, place), still, inner.init(params))

    def update(
        updates: optax.Updates, state: GuardState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, GuardState]:
        missing = [name for name, given in (("params", params), ("value", extra.get("value"))) if given is None]
        if missing:
            raise ValueError(
                f"lodo.guard compares losses, and was not given {' and '.join(missing)}. Call "
                "update(gradient, state, params, value=loss), with the loss that the gradient is of."
            )
        if not isinstance(state, GuardState):
            raise TypeError(f"guard's update needs the GuardState that its init made; got {type(state).__name__}.")
        validation.check_same_tree("updates", updates, state.best_params, "the tree given to init")
        validation.check_same_tree("params", params, state.best_params, "the tree given to init")
        _check_value(extra["value"])
        step, inner_state = inner.update(updates, state.inner_state, params, **extra)
        place = _tree.place_of(updates, state, params)
        value = _tree.whole(jnp.asarray(extra["value"], state.best_value.dtype), place)
        g, last, asked = (_tree.ravel(tree, state.best_value.dtype, place) for tree in (updates, state.last_step, step))
        ceiling = jnp.where(jnp.isfinite(state.ceiling), state.ceiling, value)
        allowed = ceiling + jnp.maximum(ceiling - jnp.minimum(state.best_value, value), jnp.abs(ceiling) / 2)
        too_far = (value > allowed) & (jnp.sum(g * last) > 0)
        finite = jnp.isfinite(value)
        event = ~finite | ~jnp.all(jnp.isfinite(asked)) | too_far
        better = finite & (value < state.best_value)
        best = choose(better, params, state.best_params)
        back = jax.tree.map(lambda to, now, like: (to - now).astype(like.dtype), best, params, step)
        onwards = state.returning & ~event & ~better & _missed(params, best, place)
        step = _tree.laid_like(choose(event | onwards, back, step), updates)
        inner_state = choose(event, _restarted(inner_state), choose(onwards, state.inner_state, inner_state))
        after = GuardState(
            optax.safe_increment(state.step_count),
            state.events + event.astype(jnp.int32),
            jnp.where(event & finite, jnp.maximum(ceiling, value), ceiling),
            jnp.where(better, value, state.best_value),
            _tree.laid_like(best, state.best_params),
            _tree.laid_like(jax.tree.map(lambda s, like: s.astype(like.dtype), step, state.last_step), state.last_step),
            event,
            inner_state,
        )
        return step, after

    return optax.GradientTransformationExtraArgs(init, update)


def _missed(params: Any, best: Any, place: Any) -> jax.Array:
    """Whether a way back did not lead to the best point, for rounding."""
    eps = max((float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in jax.tree.leaves(params)), default=0.0)
    now, to = (_tree.ravel(tree, widest_dtype(params), place) for tree in (params, best))
    missed: jax.Array = jnp.max(jnp.abs(now - to), initial=0) > eps**0.5 * jnp.max(jnp.abs(to), initial=0)
    return missed


def _check_value(value: Any) -> None:
    """Refuse a loss that is not one real number."""
    array = value if hasattr(value, "dtype") and hasattr(value, "shape") else None
    number = isinstance(value, int | float) if array is None else array.shape == () and _is_real(array.dtype)
    if not number:
        raise TypeError(f"value must be the loss, a scalar; got {validation.describe_leaf(value)}.")


def _is_real(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def _restarted(state: Any) -> Any:
    """An optax state whose LODO states, wherever they are, have forgotten past gradients and make smaller steps."""

    def forgotten(node: Any, *names: str) -> Any:
        zeros = {name: jax.tree.map(jnp.zeros_like, getattr(node, name)) for name in names}
        return node._replace(**zeros)

    def one(node: Any) -> Any:
        if isinstance(node, RlodoState):
            smaller = node._replace(log_scale=node.log_scale - formula.SMALLER)
            return forgotten(smaller, "momentum", "direction", "direction_before", "last")
        if isinstance(node, LodoState):
            if node.scales is not None:
                rate = node.initial_learning_rate
                rate = jnp.where(node.scales.first_step > 0, rate * jnp.exp(-formula.SMALLER), rate)
                node = node._replace(
                    initial_learning_rate=rate.astype(node.initial_learning_rate.dtype),
                    scales=forgotten(node.scales, "length"),
                )
            # The layers' inputs of m = 0 are zero, whatever θ is.
            return forgotten(node, "momentum", "inputs", "last", "trace")
        return node

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, LodoState | RlodoState))
