"""LODO in fewer bytes: the forms whose memory and loss are compared with the full one's.

Each form takes LODO's tuned values as they are, so that a form that would want others is at a disadvantage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lodo.compact.storage import Storage
from lodo.operators.base import Permutations
from lodo.operators.block_permutation import BlockPermutation
from lodo.transform import lodo
from lodo_experiments.optimizers.optimizer import LODO_DEFAULTS, Build, Optimizer

#: Parameters of the paper's image-generation network, at which bytes are counted.
COUNTED_SIZE = 94_696


@dataclass(frozen=True)
class NarrowBlocks(BlockPermutation):
    """The block-permutation operator with ñ = n, rounded up to a multiple of k."""

    def _hidden(self, size: int) -> int:
        return size + -size % int(self.block_size)


@dataclass(frozen=True)
class OnePermutation(BlockPermutation):
    """The block-permutation operator with one uniformly random permutation for all layers."""

    def init(self, key: jax.Array, size: int, dtype: Any) -> tuple[jax.Array, Any]:
        """As the operator's, keeping the first layer's permutation only."""
        theta, fixed = super().init(key, size, dtype)
        return theta, jax.tree.map(lambda indices: indices[:1], fixed)

    def apply(self, theta: jax.Array, fixed: Any, v: jax.Array) -> jax.Array:
        """S(θ) v."""
        return super().apply(theta, self._for_all(theta, fixed), v)

    def hypergradient(self, theta: jax.Array, fixed: Any, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, S m⟩/∂θ."""
        return super().hypergradient(theta, self._for_all(theta, fixed), m, g)

    def fuses_adam(self, theta: jax.Array) -> bool:
        """Never: it is here for its loss, not for its speed."""
        return False

    @staticmethod
    def _for_all(theta: jax.Array, fixed: Any) -> Any:
        return jax.tree.map(lambda indices: jnp.broadcast_to(indices, (theta.shape[0], indices.shape[1])), fixed)


@dataclass(frozen=True)
class TiledPermutations(BlockPermutation):
    """The block-permutation operator with permutations that are random within each of a few tiles.

    Each tile has consecutive coordinates of every row; in every second layer all rows are turned by half a tile, so
    that neighbouring tiles exchange what they have. A tile fits a cache where the vector does not.
    """

    tiles: int = 4

    def init(self, key: jax.Array, size: int, dtype: Any) -> tuple[jax.Array, Any]:
        """As the operator's, with other permutations."""
        theta, _ = super().init(key, size, dtype)
        depth, k, _, blocks = theta.shape
        keys = jax.random.split(jax.random.fold_in(key, 1), depth)
        # Uniform numbers within a tile, the tile's number before them: sorting them keeps every tile in its place.
        tile = (jnp.arange(k * blocks) % blocks) * self.tiles // blocks
        place = jnp.argsort(tile, stable=True)
        half = blocks // (2 * self.tiles)

        def forward(i: jax.Array, key: jax.Array) -> jax.Array:
            order = jnp.lexsort((jax.random.uniform(key, tile.shape), tile))
            within = jnp.zeros(k * blocks, jnp.int32).at[place].set(order.astype(jnp.int32))
            row, column = within // blocks, within % blocks
            return row * blocks + (column + jnp.where(i % 2 == 1, half, 0)) % blocks

        forwards = jax.vmap(forward)(jnp.arange(depth), keys)
        return theta, Permutations(forwards, jnp.argsort(forwards, axis=1).astype(jnp.int32))


def _build(operator: Any = None, **arguments: Any) -> Build:
    storage = Storage(**arguments)
    return lambda h, key, steps: lodo(**h, operator=operator, storage=storage, dtype="float32", seed=key)


_ROLLED = BlockPermutation(permutations="rolled")
_SMALL = {"theta": "int16", "first_moment": "int8", "second_moment": "block"}
_NO_FIRST = {**_SMALL, "first_moment": "none"}

# Those that the pages show.
_FORMS: Mapping[str, tuple[str, Build]] = {
    "rolled": ("rows turned by random shifts instead of uniform permutations", _build(_ROLLED)),
    "reused": ("one uniform permutation for all layers", _build(OnePermutation())),
    "tiled": ("permutations random within four tiles", _build(TiledPermutations())),
    "small-no-first": ("θ int16, no μ, ν a block", _build(**_NO_FIRST)),
    "small-no-first-rolled": ("θ int16, no μ, ν a block, rows turned", _build(_ROLLED, **_NO_FIRST)),
    "small-four-layers": (
        "θ int16, no μ, ν a block, N = 4, k = 16",
        _build(BlockPermutation(depth=4, block_size=16), **_NO_FIRST),
    ),
    "small-narrow": ("θ int16, μ int8, ν a block, ñ = n", _build(NarrowBlocks(), **_SMALL)),
}

#: Name → optimizer. "LODO-small-narrow", for example.
COMPACT: Mapping[str, Optimizer] = {
    f"LODO-{name}": Optimizer(f"LODO-{name}", build, LODO_DEFAULTS, about) for name, (about, build) in _FORMS.items()
}
