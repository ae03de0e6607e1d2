"""In which form a LODO state keeps its large arrays: θ, and the moments of its meta-optimizer.

Everything is computed in the state's floating dtype; only what waits from one step to the next is kept in fewer bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lodo._validation import check_choice
from lodo.compact import rounding

#: Forms of one array: as computed, or rounded stochastically to so many bits.
ARRAYS = ("full", "bfloat16", "int16", "int8")
#: Forms of Adam's first moment; "none" leaves it out, so that β₁ = 0.
FIRST_MOMENTS = (*ARRAYS, "none")
#: Forms of Adam's second moment; "factored" keeps row and column means of each block, "block" one number a block.
SECOND_MOMENTS = (*ARRAYS, "factored", "block")


@dataclass(frozen=True)
class Storage:
    """How θ and the moments of LODO's own meta-optimizer are kept between steps.

    Attributes:
      theta: "full" (the state's dtype), or 16 or 8 bits with stochastic rounding: "bfloat16", "int16", "int8". The
        integers are block floating point: 256 neighbours share a power of two (:class:`lodo.compact.BlockFloat`).
      first_moment: the same forms, or "none": no first moment, β₁ = 0.
      second_moment: the same forms (the integers hold its root), or "factored": the means of the rows and of the
        columns of each k×k block, or "block": one number for each block. Arrays with fewer than three axes have no
        blocks and keep theirs in full.

    Raises:
      ValueError: a form that there is not.

    Example:
      >>> import jax.numpy as jnp, lodo
      >>> kept = lodo.compact.Storage(theta="int16", first_moment="int8", second_moment="block")
      >>> state = lodo.lodo(0.5, storage=kept).init(jnp.zeros(1000))
      >>> state.theta.mantissa.dtype, state.meta_state.mu.mantissa.dtype, state.meta_state.nu.shape
      (dtype('int16'), dtype('int8'), (16, 501))
    """

    theta: str = "full"
    first_moment: str = "full"
    second_moment: str = "full"

    def __post_init__(self) -> None:
        allowed = {"theta": ARRAYS, "first_moment": FIRST_MOMENTS, "second_moment": SECOND_MOMENTS}
        for name, forms in allowed.items():
            check_choice(name, getattr(self, name), forms)


#: Forms by name, for ``lodo.lodo(storage=...)``.
STORAGES: Mapping[str, Storage] = {
    "full": Storage(),
    "compact": Storage(theta="int16", first_moment="none", second_moment="block"),
}


def storage_named(given: Any) -> Storage:
    """A :class:`Storage`, from itself or from its name.

    Raises:
      TypeError: neither of them.
      ValueError: no such name.

    >>> storage_named("full")
    Storage(theta='full', first_moment='full', second_moment='full')
    """
    if isinstance(given, Storage):
        return given
    names = ", ".join(repr(name) for name in STORAGES)
    if not isinstance(given, str) or given not in STORAGES:
        error = ValueError if isinstance(given, str) else TypeError
        raise error(f"storage must be one of {names}, or a lodo.compact.Storage; got {given!r}.")
    return STORAGES[given]


def write(tree: Any, form: str, key: jax.Array | None) -> Any:
    """A tree of floating arrays as it is kept.

    Args:
      tree: any pytree of floating arrays.
      form: one of :data:`ARRAYS`.
      key: uint32[2], other at each step, for stochastic rounding; None rounds to the nearest, as for a start.

    Returns:
      The tree, its leaves as they are kept: arrays, or :class:`lodo.compact.BlockFloat`.

    >>> kept = write({"w": jnp.ones(3)}, "int8", None)
    >>> read(kept, jnp.float32)["w"].tolist()
    [1.0, 1.0, 1.0]
    """
    if form == "full":
        return tree
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [_write_leaf(leaf, form, key, place) for place, leaf in enumerate(leaves)])


def read(tree: Any, dtype: Any) -> Any:
    """What :func:`write` kept, in a floating dtype; leaves that were kept in full come back as they are."""

    def one(node: Any) -> Any:
        if rounding.is_block_float(node):
            return rounding.from_block_float(node, dtype)
        return node.astype(dtype) if node.dtype == jnp.bfloat16 else node

    return jax.tree.map(one, tree, is_leaf=rounding.is_block_float)


def key_of(key: jax.Array) -> jax.Array:
    """The raw uint32[2] of a typed JAX key, as a new array, for a state that holds arrays only."""
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    # A copy, because it goes into states: whoever donates one must not lose the key that was given.
    return jnp.array(words[-2:], copy=True)


def key_at(key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of one step: uint32[2] from the state's key and the step count."""
    return key_of(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), step))


def _write_leaf(leaf: jax.Array, form: str, key: jax.Array | None, place: int) -> Any:
    leaf = jnp.asarray(leaf)
    words = None
    if key is not None:
        words = rounding.random_bits(key ^ jnp.array([0, place], jnp.uint32), leaf.shape)
    if form == "bfloat16":
        return leaf.astype(jnp.bfloat16) if words is None else rounding.to_bfloat16(leaf, words)
    return rounding.to_block_float(leaf, words, 16 if form == "int16" else 8)
