"""Adam with moments that take fewer bytes, as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _tree
from lodo import _validation as validation
from lodo.compact import storage


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
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
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

    Args:
      b1: β₁ in [0, 1); not used without a first moment.
      b2: β₂ in [0, 1).
      eps: ε ≥ 0.
      first_moment: "full", "bfloat16", "int16", "int8" or "none", see :class:`lodo.compact.Storage`.
      second_moment: "full", "bfloat16", "int16", "int8", "factored" or "block". "block" takes the mean of g² over all
        axes but the first and the last, [N, k, k, B] → [N, B]; "factored" keeps its row means r and its column means c,
        and takes r c / mean(r) for each entry, which is exact where the block's second moment has rank one. Leaves with
        fewer than three axes ("factored": other than four) have no blocks and are kept in full.
      key: uint32[2], from which the random bits of the rounding come; default (0, 0).

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
    storage.check_form("first_moment", first_moment, storage.FIRST_MOMENTS)
    storage.check_form("second_moment", second_moment, storage.SECOND_MOMENTS)
    # On the host: it belongs to no mesh, and nobody can donate it.
    kept_key: Any = key if key is None or validation.is_traced(key) else np.asarray(key)
    root = second_moment in ("int16", "int8")
    form_of_second = "full" if second_moment in ("factored", "block") else second_moment

    def init(params: optax.Params) -> CompactAdamState:
        place = _tree.place_of(params)
        # Whole on every device: a group of neighbours that share an exponent is not to be cut.
        # Each moment has arrays of its own: who donates a state must not donate one array twice.
        first, second = (_tree.whole(jax.tree.map(jnp.zeros_like, params), place) for _ in range(2))
        mu = () if first_moment == "none" else storage.write(first, first_moment, None)
        nu = jax.tree.map(lambda leaf: _reduced(leaf, second_moment), second)
        seed = jnp.zeros((2,), jnp.uint32) if kept_key is None else jnp.array(kept_key)
        state = CompactAdamState(jnp.zeros((), jnp.int32), seed, mu, storage.write(nu, form_of_second, None))
        return _tree.whole(state, place)

    def update(
        updates: optax.Updates, state: CompactAdamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, CompactAdamState]:
        del params, extra
        given = updates
        state, updates = _tree.whole((state, updates), _tree.place_of(updates, state))
        now = storage.key_at(state.key, state.step_count)
        count = optax.safe_increment(state.step_count)
        dtype = jax.tree.leaves(updates)[0].dtype
        age = count.astype(dtype)
        decay1, decay2 = jnp.asarray(b1, dtype), jnp.asarray(b2, dtype)

        if first_moment == "none":
            mean, mu = updates, ()
        else:
            before = storage.read(state.mu, dtype)
            mean = jax.tree.map(lambda m, g: decay1 * m + (1 - decay1) * g, before, updates)
            mu = storage.write(mean, first_moment, now)
            mean = jax.tree.map(lambda m: m / (1 - decay1**age), mean)

        before = storage.read(state.nu, dtype)
        before = jax.tree.map(jnp.square, before) if root else before
        squares = jax.tree.map(lambda g: _reduced(g * g, second_moment), updates)
        second = jax.tree.map(lambda v, s: decay2 * v + (1 - decay2) * s, before, squares)
        kept = jax.tree.map(jnp.sqrt, second) if root else second
        nu = storage.write(kept, form_of_second, now ^ jnp.array([0, 1 << 31], jnp.uint32))
        correction = 1 - decay2**age
        out = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(_expanded(v, m.shape) / correction) + jnp.asarray(eps, dtype)),
            mean,
            second,
        )
        return _tree.laid_like(out, given), CompactAdamState(count, state.key, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _reduced(squares: jax.Array, form: str) -> Any:
    """A leaf's squares in the form of the second moment."""
    if form == "block" and squares.ndim >= 3:
        return jnp.mean(squares, axis=tuple(range(1, squares.ndim - 1)))
    if form == "factored" and squares.ndim == 4:
        return RowsAndColumns(jnp.mean(squares, axis=2, keepdims=True), jnp.mean(squares, axis=1, keepdims=True))
    return squares


def _expanded(moment: Any, shape: tuple[int, ...]) -> jax.Array:
    """The second moment at every entry of a leaf of that shape."""
    if isinstance(moment, RowsAndColumns):
        rows, columns = moment
        mean = jnp.mean(rows, axis=1, keepdims=True)
        return rows * (columns / jnp.where(mean > 0, mean, jnp.ones_like(mean)))
    if moment.shape == shape:
        return moment
    return moment.reshape(moment.shape[:1] + (1,) * (len(shape) - 2) + moment.shape[-1:])
