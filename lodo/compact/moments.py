"""Adam with moments that take fewer bytes, as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _tree
from lodo import _validation as validation
from lodo.compact import rounding, storage


class RowsAndColumns(NamedTuple):
    """Means of a moment over the rows and over the columns of each block."""

    rows: jax.Array  # [N, k, 1, B]: mean over the block's second axis
    columns: jax.Array  # [N, 1, k, B]: mean over its first


class CompactAdamState(NamedTuple):
    """State of :func:`scale_by_compact_adam`: arrays only."""

    step_count: jax.Array  # [] int32: updates so far
    key: jax.Array  # [2] uint32: of the random bits, the same at every step
    mu: Any  # first moment as it is kept; () where there is none
    nu: Any  # second moment as it is kept


def scale_by_compact_adam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    first_moment: str = "int8",
    second_moment: str = "block",
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's rescaling with moments that take fewer bytes.

    .. math::

        μ_t = β_1 \bar μ_{t-1} + (1-β_1) g_t, \quad ν_t = β_2 \bar ν_{t-1} + (1-β_2)\, R(g_t^2), \quad
        u_t = \frac{μ_t / (1-β_1^t)}{\sqrt{E(ν_t) / (1-β_2^t)} + ε}

    where a bar is what was kept of a moment after the last step, R reduces squares to the second moment's form and E
    expands it again. An update is computed from the moments before they are rounded. With both moments in full this is
    ``optax.scale_by_adam``.

    Each leaf is computed in the widest of float32 and its own dtype: in half precision 1 − β₂ᵗ and ε would be 0.
    Updates come back in the dtypes of the gradients. What is not finite in a moment stays so: once a gradient is NaN,
    the updates of that entry are, as with Adam.

    Args:
      b1: β₁ in [0, 1); not used without a first moment.
      b2: β₂ in [0, 1).
      eps: ε ≥ 0.
      first_moment: "full", "bfloat16", "int16", "int8" or "none", see :class:`lodo.compact.Storage`.
      second_moment: "full", "bfloat16", "int16", "int8", "factored" or "block". "block" takes the mean of g² over all
        axes but the first and the last, [N, k, k, B] → [N, B]; "factored" keeps its row means r and its column means c,
        and takes r c / mean(r) for each entry, which is exact where the block's second moment has rank one. Leaves with
        fewer than three axes ("factored": other than four) have no blocks and are kept in full.
      key: uint32[2], from which the random bits of the rounding come, copied; default (0, 0).

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`CompactAdamState`.

    Raises:
      ValueError, TypeError: an argument out of range or of the wrong type.

    References:
      Kingma and Ba 2015 (Adam); Shazeer and Stern 2018 (Adafactor) for the factored second moment.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> meta = optax.chain(scale_by_compact_adam(), optax.scale(-1e-3))
      >>> theta = jnp.ones((2, 4, 4, 3))
      >>> update, state = meta.update(theta, meta.init(theta))
      >>> bool(jnp.allclose(update, -1e-3)), state[0].nu.shape
      (True, (2, 3))
    """
    b1 = validation.check_real("b1", b1, minimum=0.0, below=1.0)
    b2 = validation.check_real("b2", b2, minimum=0.0, below=1.0)
    eps = validation.check_real("eps", eps, minimum=0.0)
    validation.check_choice("first_moment", first_moment, storage.FIRST_MOMENTS)
    validation.check_choice("second_moment", second_moment, storage.SECOND_MOMENTS)
    root = second_moment in ("int16", "int8")
    form_of_second = "full" if second_moment in ("factored", "block") else second_moment

    # A copy on entry, on no mesh, and one for each state: no key goes away with a donated state.
    if key is not None and (getattr(key, "dtype", None) != jnp.uint32 or np.shape(key) != (2,)):
        raise TypeError(
            "key must be uint32[2], such as jax.random.key_data(jax.random.key(0)); "
            f"got {validation.describe_leaf(key)}."
        )
    seed: Any = key if validation.is_traced(key) else np.array((0, 0) if key is None else key, np.uint32)

    def init(params: optax.Params) -> CompactAdamState:
        place = _tree.place_of(params)
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, _width(leaf)), params)
        # Whole on every device: a group of neighbours that share an exponent is not to be cut.
        zeros = _tree.whole(zeros, place)
        mu = () if first_moment == "none" else storage.write(zeros, first_moment, None)
        # Zeros of their own, as moments in full would be one array twice.
        nu = jax.tree.map(lambda leaf: _reduce(jnp.zeros_like(leaf), second_moment), zeros)
        nu = storage.write(nu, form_of_second, None)
        return _tree.whole(CompactAdamState(jnp.zeros((), jnp.int32), jnp.array(seed, copy=True), mu, nu), place)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, CompactAdamState]:
        laid = updates
        state, updates = _tree.whole((state, updates), _tree.place_of(updates, state))
        now = storage.key_at(state.key, state.step_count)
        count: Any = optax.safe_increment(state.step_count)
        given: list[Any]
        structure: Any
        given, structure = jax.tree.flatten(updates)

        def each(tree: Any) -> list[Any]:
            result: list[Any] = structure.flatten_up_to(tree)
            return result

        # Each leaf in its own dtype: that of the moments which are kept in full, else its gradient's.
        full = [form == "full" for form in (first_moment, form_of_second)]
        moments = [tree for tree, whole in zip((state.mu, state.nu), full) if whole]
        widths = [_width(*nodes) for nodes in zip(*(each(tree) for tree in moments or (updates,)))]
        gradients = [jnp.asarray(g).astype(width) for g, width in zip(given, widths)]

        def corrected(decay: Any, width: Any) -> tuple[jax.Array, jax.Array]:
            """β, and 1 − βᵗ."""
            beta = jnp.asarray(decay, width)
            return beta, 1 - beta ** count.astype(width)

        if first_moment == "none":
            means, mu = gradients, ()
        else:
            means, kept = [], []
            for node, g in zip(each(state.mu), gradients):
                beta, correction = corrected(b1, g.dtype)
                kept.append(beta * storage.read(node, g.dtype) + (1 - beta) * g)
                means.append(kept[-1] / correction)
            mu = storage.write(jax.tree.unflatten(structure, kept), first_moment, now)

        out, kept = [], []
        for node, g, mean, one in zip(each(state.nu), gradients, means, given):
            beta, correction = corrected(b2, g.dtype)
            before = storage.read(node, g.dtype)
            before = jax.tree.map(jnp.square, before) if root else before
            square = _reduce(g * g, second_moment)
            second = jax.tree.map(lambda v, s, beta=beta: beta * v + (1 - beta) * s, before, square)
            kept.append(jax.tree.map(jnp.sqrt, second) if root else second)
            step = mean / (jnp.sqrt(_expand(second, g.shape) / correction) + jnp.asarray(eps, g.dtype))
            out.append(step.astype(jnp.result_type(one)))
        other = now ^ jnp.array([0, 1 << 31], jnp.uint32)
        nu = storage.write(jax.tree.unflatten(structure, kept), form_of_second, other)
        after = CompactAdamState(count, state.key, mu, nu)
        return _tree.laid_like(jax.tree.unflatten(structure, out), laid), after

    return optax.GradientTransformationExtraArgs(init, update)


def total_second_moment(state: CompactAdamState, like: Any, dtype: Any) -> jax.Array:
    """The sum of ν over all entries.

    Args:
      state: of :func:`scale_by_compact_adam`.
      like: what it was made for, or its shapes.
      dtype: of the sum.
    """

    def one(leaf: Any, node: Any) -> jax.Array:
        value = storage.read(node, dtype)
        value = jnp.square(value) if rounding.is_block_float(node) else value
        return jnp.sum(jnp.broadcast_to(_expand(value, leaf.shape), leaf.shape).astype(dtype))

    return sum(jax.tree.leaves(jax.tree.map(one, like, state.nu)), start=jnp.zeros((), dtype))


def _width(*nodes: Any) -> Any:
    """The dtype that a leaf is computed in: the widest of float32 and what is given for it."""
    widths = [jnp.dtype(jnp.float32), *(jnp.result_type(leaf) for leaf in jax.tree.leaves(nodes))]
    return max(widths, key=lambda width: width.itemsize)


def _reduce(squares: jax.Array, form: str) -> Any:
    """A leaf's squares in the form of the second moment."""
    if form == "block" and squares.ndim >= 3:
        return jnp.mean(squares, axis=tuple(range(1, squares.ndim - 1)))
    if form == "factored" and squares.ndim == 4:
        return RowsAndColumns(jnp.mean(squares, axis=2, keepdims=True), jnp.mean(squares, axis=1, keepdims=True))
    return squares


def _expand(moment: Any, shape: tuple[int, ...]) -> jax.Array:
    """The second moment at every entry of a leaf of that shape."""
    if isinstance(moment, RowsAndColumns):
        rows, columns = moment
        mean = jnp.mean(rows, axis=1, keepdims=True)
        return rows * (columns / jnp.where(mean > 0, mean, jnp.ones_like(mean)))
    array: jax.Array = moment
    if array.shape == shape:
        return array
    return array.reshape(array.shape[:1] + (1,) * (len(shape) - 2) + array.shape[-1:])
