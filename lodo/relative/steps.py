"""Relative meta-steps: each block of θ is multiplied by I + F, where F is small whatever the block is.

Symbols: B(θ⁽ⁱ⁾)_b the k×k blocks of layer i, whose entry [o, a] is ``theta[i, a, o, b]``; E the derivative of what is
ascended along B → (I + E) B, block by block, [N, k, k, ñ/k] with ``e[i, o, p, b]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _formula as formula
from lodo import _tree
from lodo import _validation as validation
from lodo._arguments import check_rate, rate_at
from lodo._meta_step import choose
from lodo._state import RelativeState
from lodo.operators._passes import Inputs
from lodo.operators.base import padded, sum_over
from lodo.operators.block_permutation import BlockPermutation, hidden_size_of, rows_or_indices

if TYPE_CHECKING:
    from lodo.operators.sharded import ShardedBlockPermutation


def start(theta: Any) -> RelativeState:
    """Before the first step of blocks [N, k, k, B], or of a tree of such arrays."""
    place = _tree.place_of(theta)
    second = jax.tree.map(lambda leaf: jax.eval_shape(formula.squares, leaf), theta)
    second = jax.tree.map(lambda leaf: _tree.zeros(leaf.shape, leaf.dtype, place), second)
    return RelativeState(_tree.zeros((), jnp.int32, place), second)


def derivative(of: Inputs, whitening: jax.Array, passed: int) -> jax.Array:
    """E = dᵢ(p) yᵢ(m)ᵀ + dᵢ(m) yᵢ(p)ᵀ + 2 w I, from m and p as ``BlockPermutation.through`` tells of them.

    Args:
      of: of m and p, in this order.
      whitening: w, []; 2 w I is the derivative of w log det ĜᵀĜ.
      passed: how many blocks of each layer stay the identity, the last ones: their E is 0.
    """
    (y_m, y_p), (d_m, d_p) = ([x[:, 0], x[:, 1]] for x in (of.up, of.down))
    k = y_m.shape[1]
    e = d_p[:, :, None] * y_m[:, None] + d_m[:, :, None] * y_p[:, None]
    e = e + (2 * whitening * jnp.eye(k, dtype=e.dtype))[None, :, :, None]
    # By a comparison, which asks nothing of other devices where the blocks are spread over some.
    return jnp.where(jnp.arange(e.shape[-1]) < e.shape[-1] - passed, e, 0) if passed else e


def relative_step(
    e: jax.Array, theta: jax.Array, state: RelativeState, rate: jax.Array
) -> tuple[jax.Array, RelativeState]:
    """F θ [N, k, k, B] with F = rate · E / √(mean E²), so that ‖F‖ ≤ k · rate / √0.2; and the state after it.

    Args:
      e: [N, k, k, B].
      theta: [N, k, k, B].
      state: of past steps.
      rate: [].
    """
    second = state.second + formula.share(formula.SECOND_DECAY, state.step_count, rate.dtype) * (
        formula.squares(e) - state.second
    )
    f = rate * e * formula.inverse(jnp.sqrt(second))
    change = sum_over(lambda p: f[:, None, :, p] * theta[:, :, p, None], theta.shape[1])
    return change, RelativeState(optax.safe_increment(state.step_count), second)


def meta_step(
    form: BlockPermutation | ShardedBlockPermutation,
    theta: jax.Array,
    fixed: Any,
    state: RelativeState,
    pair: tuple[jax.Array, jax.Array],
    v: jax.Array,
    whitening: jax.Array,
    rate: jax.Array,
    learn: jax.Array,
    write: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, RelativeState, jax.Array, jax.Array]:
    """A relative step up ⟨p, S m⟩ + w log det S, and S v by the θ that comes of it.

    Args:
      form: what S is.
      theta: θ [N, k, k, ñ/k].
      fixed: its permutations.
      state: of past steps.
      pair: m and p, each [n].
      v: [n].
      whitening: w, [].
      rate: α, [].
      learn: [] bool; where false, θ and the state stay what they are.
      write: what rounding makes of θ, for the product S v; the θ that is returned is not rounded.

    Returns:
      θ, the state, S(θ) v [n], and whether it was done [] bool: where an entry of E might overflow or is not finite, θ
      and the state are to be taken as they were.
    """
    passed = form.passed_blocks(theta, v.shape[0])
    stack = jnp.stack(pair)
    if isinstance(form, BlockPermutation) and form.is_native(theta) and write is as_it_is:
        from lodo.operators import _native

        decay = formula.share(formula.SECOND_DECAY, state.step_count, v.dtype)
        numbers = (rate, 2 * whitening, decay, learn)
        hidden = hidden_size_of(theta)
        theta, second, out, made = _native.relative_step(
            theta, rows_or_indices(theta, fixed), state.second, padded(stack, hidden), padded(v, hidden),
            jnp.stack([jnp.asarray(number, v.dtype) for number in numbers]), bool(passed),
        )  # fmt: skip
        count = choose(made & learn, optax.safe_increment(state.step_count), state.step_count)
        return theta, RelativeState(count, second), out[: v.shape[0]], made
    of = form.through(theta, fixed, stack)
    bound = of.largest_up[0] * of.largest_down[1] + of.largest_up[1] * of.largest_down[0]
    made = jnp.isfinite(bound * bound)
    change, after = relative_step(derivative(of, whitening, passed), theta, state, rate)
    theta, after = choose(made & learn, (theta + change, after), (theta, state))
    return theta, after, form.apply(write(theta), fixed, v), made


def as_it_is(theta: jax.Array) -> jax.Array:
    """θ that is not rounded."""
    return theta


def scale_by_relative(
    meta_learning_rate: optax.ScalarOrSchedule = 1e-3,
    log_det_weight: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Relative steps down a gradient, for parameters that are stacks of square blocks.

    With ∂ℓ/∂B the gradient of a block B, an update is

    .. math::

        E = -\frac{∂ℓ}{∂B} B^⊤ + 2 w I, \quad r^2 ← 0.8\, r^2 + 0.2\, \mathrm{mean}(E^2), \quad
        B ← (I + F) B, \; F = α E / r,

    r² being one number for each block. It descends ℓ − w log det BᵀB by steps that do not depend on B's own size: a
    gradient step in the geometry of the invertible matrices. The learning rate is in it.

    Args:
      meta_learning_rate: α ≥ 0, or a schedule of it by step.
      log_det_weight: w ≥ 0, or a schedule of it by step.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`RelativeState`, for trees of arrays [N, k, k, B] such
      as θ of :class:`lodo.operators.BlockPermutation`; ``update`` needs them as ``params``.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: a negative argument, parameters that are not given or of another shape.

    Example:
      >>> import jax.numpy as jnp, lodo
      >>> meta = lodo.relative.scale_by_relative(1e-3)
      >>> state = lodo.lodo(0.1, meta_optimizer=meta).init(jnp.zeros(10))
      >>> state.theta.shape, state.meta_state.second.shape
      ((16, 4, 4, 6), (16, 1, 1, 6))
    """
    meta_rate = check_rate("meta_learning_rate", meta_learning_rate)
    weight = check_rate("log_det_weight", log_det_weight)

    def checked(tree: Any) -> Any:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            shape = np.shape(leaf)
            if len(shape) != 4 or shape[1] != shape[2]:
                raise ValueError(
                    f"Relative steps are for stacks of square blocks [N, k, k, B]; params{jax.tree_util.keystr(path)} "
                    f"is {validation.describe_leaf(leaf)}. Such is θ of lodo.operators.BlockPermutation."
                )
        return tree

    def init(params: optax.Params) -> RelativeState:
        return start(checked(params))

    def update(
        updates: optax.Updates, state: RelativeState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, RelativeState]:
        del extra
        if params is None:
            raise ValueError("Relative steps depend on the parameters: give update(updates, state, params).")
        structure: Any = jax.tree.structure(checked(params))
        steps, after, count = [], [], optax.safe_increment(state.step_count)
        for d, theta, second in zip(*(structure.flatten_up_to(t) for t in (updates, params, state.second))):
            rate, w = (rate_at(value, state.step_count, theta.dtype) for value in (meta_rate, weight))
            e = -sum_over(lambda a, d=d, theta=theta: d[:, a, :, None] * theta[:, a, None], theta.shape[1])
            e = e + (2 * w * jnp.eye(theta.shape[1], dtype=theta.dtype))[None, :, :, None]
            step, (_, squares) = relative_step(e, theta, RelativeState(state.step_count, second), rate)
            steps.append(step.astype(d.dtype))
            after.append(squares)
        return jax.tree.unflatten(structure, steps), RelativeState(count, jax.tree.unflatten(structure, after))

    return validation.naming_leaves(init, update)
