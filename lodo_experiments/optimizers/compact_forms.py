"""LODO in fewer bytes: the forms whose memory and loss are compared with the full one's.

Each form takes LODO's tuned values as they are, so that a form that would want others is at a disadvantage.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import lodo
from lodo.compact import Storage
from lodo.operators import BlockPermutation, Permutations
from lodo.transform import LodoState
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS, Build, Optimizer

#: Parameters of the paper's image-generation network, at which bytes are counted.
COUNTED_SIZE = 94_696


class SharedTheta(NamedTuple):
    """θ of :class:`SharedBlocks`: an own type, since it is not BlockPermutation's."""

    blocks: jax.Array  # [N / times, k, k, ñ/k]


@dataclass(frozen=True)
class SharedBlocks:
    """A block-permutation operator in which layers i, i + N/times, … have the same blocks, and their own permutations.

    Args:
      operator: the operator with N layers.
      times: how many layers share; a divisor of N.
    """

    operator: BlockPermutation
    times: int

    def init(self, key: jax.Array, size: int, dtype: Any) -> tuple[SharedTheta, Any]:
        """As the operator's, with the first layers' blocks for all."""
        theta, fixed = self.operator.init(key, size, dtype)
        return SharedTheta(theta[: theta.shape[0] // self.times]), fixed

    def apply(self, theta: SharedTheta, fixed: Any, v: jax.Array) -> jax.Array:
        """S(θ) v."""
        return self.operator.apply(self._all(theta), fixed, v)

    def hypergradient(self, theta: SharedTheta, fixed: Any, m: jax.Array, g: jax.Array) -> SharedTheta:
        """∂⟨g, S m⟩/∂θ: the sum over the layers that share."""
        each = self.operator.hypergradient(self._all(theta), fixed, m, g)
        return SharedTheta(jnp.sum(each.reshape(self.times, -1, *each.shape[1:]), axis=0))

    def sizes(self, size: int) -> dict[str, int]:
        """As the operator's, θ smaller."""
        whole = self.operator.sizes(size)
        return {**whole, "theta": whole["theta"] // self.times}

    def _all(self, theta: SharedTheta) -> jax.Array:
        return jnp.tile(theta.blocks, (self.times, 1, 1, 1))


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

    Args:
      tiles: how many.
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


def in_parts(build: Build, parts: int = 4) -> Build:
    """One optimizer for each part of the parameters: for each entry of the tree's top level, or slice of a vector.

    Args:
      build: of the optimizer that each part gets.
      parts: slices that a single vector is cut into.
    """

    def split(tree: Any) -> dict[str, Any]:
        if hasattr(tree, "shape"):
            ends = np.linspace(0, tree.shape[0], parts + 1).astype(int)
            return {str(i): tree[a:b] for i, (a, b) in enumerate(itertools.pairwise(ends))}
        return dict(tree["params"])

    def joined(pieces: Mapping[str, Any], like: Any) -> Any:
        return jnp.concatenate(list(pieces.values())) if hasattr(like, "shape") else {**like, "params": pieces}

    def all_parts(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
        def partitioned(tree: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
            each = {name: build(h, jax.random.fold_in(key, place), steps) for place, name in enumerate(sorted(tree))}
            return optax.partition(each, {name: name for name in tree})

        def init(params: Any) -> Any:
            return partitioned(split(params)).init(split(params))

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del params
            pieces, state = partitioned(split(updates)).update(split(updates), state)
            return joined(pieces, updates), state

        return optax.GradientTransformation(init, update)

    return all_parts


def _built(operator: Any = None, **arguments: Any) -> Build:
    storage = Storage(**arguments)

    def build(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
        del steps
        return lodo(**h, operator=operator, storage=storage, dtype="float32", seed=key)

    return build


_ROLLED = BlockPermutation(permutations="rolled")
_NARROW, _HALF = NarrowBlocks(), BlockPermutation(depth=8)
_FOUR = BlockPermutation(depth=4, block_size=16)
_SMALL = {"theta": "int16", "first_moment": "int8", "second_moment": "block"}

_FORMS: Mapping[str, tuple[str, Build]] = {
    "float32": ("everything in full, float32", _built()),
    "theta-bfloat16": ("θ in bfloat16, rounded stochastically", _built(theta="bfloat16")),
    "theta-int16": ("θ in 16-bit integers", _built(theta="int16")),
    "theta-int8": ("θ in 8-bit integers", _built(theta="int8")),
    "moments-bfloat16": (
        "both moments in bfloat16, rounded stochastically",
        _built(first_moment="bfloat16", second_moment="bfloat16"),
    ),
    "moments-int8": ("both moments in 8-bit integers", _built(first_moment="int8", second_moment="int8")),
    "first-int8": ("first moment in 8-bit integers", _built(first_moment="int8")),
    "first-none": ("no first moment", _built(first_moment="none")),
    "second-factored": ("second moment: rows and columns of each block", _built(second_moment="factored")),
    "second-block": ("second moment: one number a block", _built(second_moment="block")),
    "narrow": ("ñ = n", _built(_NARROW)),
    "half-depth": ("N = 8 layers", _built(_HALF)),
    "large-blocks": ("N = 4 layers of k = 8", _built(BlockPermutation(depth=4, block_size=8))),
    "four-layers": ("N = 4 layers of k = 16", _built(_FOUR)),
    "shared-2": ("each block serves two layers", _built(SharedBlocks(BlockPermutation(), 2))),
    "shared-4": ("each block serves four layers", _built(SharedBlocks(BlockPermutation(), 4))),
    "parts": ("one operator for each part of the parameters", in_parts(_built())),
    "rolled": ("rows turned by random shifts instead of uniform permutations", _built(_ROLLED)),
    "reused": ("one uniform permutation for all layers", _built(OnePermutation())),
    "tiled": ("permutations random within four tiles", _built(TiledPermutations())),
    "small": ("θ int16, μ int8, ν a block", _built(**_SMALL)),
    "small-no-first": ("θ int16, no μ, ν a block", _built(**{**_SMALL, "first_moment": "none"})),
    "small-no-first-rolled": (
        "θ int16, no μ, ν a block, rows turned",
        _built(_ROLLED, **{**_SMALL, "first_moment": "none"}),
    ),
    "small-four-layers": (
        "θ int16, no μ, ν a block, N = 4, k = 16",
        _built(_FOUR, **{**_SMALL, "first_moment": "none"}),
    ),
    "small-four-layers-factored": (
        "θ int16, no μ, ν factored, N = 4, k = 16",
        _built(_FOUR, theta="int16", first_moment="none", second_moment="factored"),
    ),
    "small-four-layers-bfloat16": (
        "θ bfloat16, no μ, ν a block, N = 4, k = 16",
        _built(_FOUR, **{**_SMALL, "theta": "bfloat16", "first_moment": "none"}),
    ),
    "small-bfloat16": ("θ bfloat16, μ int8, ν a block", _built(**{**_SMALL, "theta": "bfloat16"})),
    "small-narrow": ("θ int16, μ int8, ν a block, ñ = n", _built(_NARROW, **_SMALL)),
    "small-half-depth": ("θ int16, μ int8, ν a block, N = 8", _built(_HALF, **_SMALL)),
    "small-large-blocks": (
        "θ int16, μ int8, ν a block, N = 4, k = 8",
        _built(BlockPermutation(depth=4, block_size=8), **_SMALL),
    ),
}

#: Name → optimizer. "LODO-small-narrow", for example.
COMPACT: Mapping[str, Optimizer] = {
    f"LODO-{name}": Optimizer(f"LODO-{name}", build, OPTIMIZERS["LODO"].defaults, about)
    for name, (about, build) in _FORMS.items()
}


@functools.cache
def numbers_a_parameter(name: str, size: int = COUNTED_SIZE) -> Mapping[str, float]:
    """Bytes of a form's state, counted from its arrays, in float32 numbers for each float32 parameter.

    Args:
      name: "LODO", or one of :data:`COMPACT`.
      size: n, the number of parameters.

    Returns:
      "θ", "moments", "permutations" (int32 indices), "momentum in the layers" (kept for the next hypergradient) and "in
      all" (momentum and counters included).

    >>> {part: round(count) for part, count in numbers_a_parameter("LODO").items()}
    {'θ': 128, 'moments': 256, 'permutations': 64, 'momentum in the layers': 64, 'in all': 513}
    """
    optimizer = OPTIMIZERS[name] if name in OPTIMIZERS else COMPACT[name]
    values = {key: jnp.float32(value) for key, value in optimizer.defaults.items()}
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    state = jax.eval_shape(lambda p: optimizer.build(values, jax.random.key(0), 1).init(p), params)
    found = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, LodoState)) if isinstance(s, LodoState)]

    def numbers(tree: Any) -> float:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / (4 * size)

    return {
        "θ": numbers([s.theta for s in found]),
        "moments": numbers([s.meta_state for s in found]),
        "permutations": numbers([s.fixed for s in found]),
        "momentum in the layers": numbers([s.inputs for s in found]),
        "in all": numbers(found),
    }
