"""Relative meta-steps with a second moment for each entry, as Adam has: what one for each block is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class EntriesState(NamedTuple):
    """What is kept of past steps."""

    step_count: jax.Array  # [] int32
    second: Any  # r², a tree like the parameters


def relative_by_entries(rate: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    r"""As :func:`lodo.relative.scale_by_relative` without whitening, but with one r² an entry of E in place of a block.

    Args:
      rate: α by step.

    Returns:
      A transformation for trees of arrays [N, k, k, B]; ``update`` needs them as ``params``.

    >>> meta = relative_by_entries(lambda count: 1e-3)
    >>> meta.init(jnp.ones((2, 4, 4, 3))).second.shape
    (2, 4, 4, 3)
    """

    def init(params: optax.Params) -> EntriesState:
        return EntriesState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: EntriesState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, EntriesState]:
        count = optax.safe_increment(state.step_count)
        e = jax.tree.map(lambda d, theta: -jnp.einsum("iaob,iapb->iopb", d, theta), updates, params)
        share = 0.2 / (1 - 0.8**count)  # so that the first moves it entirely, as with one number a block
        second = jax.tree.map(lambda r, x: r + share * (x * x - r), state.second, e)
        f = jax.tree.map(lambda x, r: rate(state.step_count) * x / jnp.sqrt(jnp.where(r > 0, r, 1)), e, second)
        steps = jax.tree.map(lambda x, theta: jnp.einsum("iopb,iapb->iaob", x, theta), f, params)
        return steps, EntriesState(count, second)

    return optax.GradientTransformation(init, update)
