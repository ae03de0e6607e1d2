"""Which device sends which coordinate where: permutations of a vector that is spread over devices.

Device d of D holds the blocks d·B/D … (d+1)·B/D − 1 of the B = ñ/k, that is of every vector the coordinates a·B + b of
these b and all a < k: L = ñ/D of them, numbered a·B/D + (b − d·B/D) on the device. A permutation moves each of them to
one device. What a device has for another goes into one row of a buffer [D, c], the rows are exchanged, and what arrived
is put in its place. c is the same for all pairs, as an exchange of equal parts needs; a pair of devices has about
ñ/D² coordinates to exchange, hypergeometrically distributed, so that a c a little above suffices almost surely.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# A c that is too small for one of N·D² pairs is as likely as 60 coins falling on the same side.
_OVERFLOW = 2.0**-60


class Routes(NamedTuple):
    """The permutations P₁ … P_N of an operator whose vectors are spread over D devices, as indices for each device.

    All int32 and sharded along the last axis: each device holds what is its own.
    """

    leave: jax.Array  # [N, D·D·c] for P_i: the coordinate that goes into each place of the buffer to be sent
    enter: jax.Array  # [N, ñ] the place in the buffer that arrived with each coordinate
    leave_back: jax.Array  # [N, D·D·c], the same for P_iᵀ
    enter_back: jax.Array  # [N, ñ]


def is_spread(leaf: Any, blocks: int) -> bool:
    """Whether an array of θ or of the meta-optimizer is dealt out over the devices: if it has an axis of blocks."""
    return len(leaf.shape) >= 2 and leaf.shape[-1] == blocks


def check_spread(tree: Any, blocks: int) -> None:
    """Refuse a θ or a meta-state with large arrays that cannot be dealt out; keys and scalars are replicated."""
    for leaf in jax.tree.leaves(tree):
        key = leaf.shape == (2,) and leaf.dtype == jnp.uint32
        if math.prod(leaf.shape) > 1 and not key and not is_spread(leaf, blocks):
            raise ValueError(
                f"θ and its moments can be spread over devices if their last axis has the ñ/k = {blocks} blocks; got "
                f"an array {leaf.dtype}{list(leaf.shape)}. Use storage='full', or a lodo.compact.Storage without "
                "'int8' and 'int16', in which neighbours share an exponent; a meta_optimizer of your own has to "
                "keep arrays like θ."
            )


@functools.lru_cache(maxsize=256)
def capacity(hidden: int, devices: int, layers: int) -> int:
    """c: how many coordinates a pair of devices can exchange in one permutation.

    By Chernoff's bound for the hypergeometric distribution, no pair in any layer needs more, but for a probability of
    2⁻⁶⁰. It is never more than ñ/D, all that a device has.

    >>> capacity(2_000_000, 1, 16), capacity(2_000_000, 8, 16), capacity(2_000_000, 64, 16)
    (2000000, 33008, 733)
    """
    own = hidden // devices
    mean = own / devices
    allowed = -math.log(_OVERFLOW) + math.log(max(layers, 1) * devices**2)

    def suffices(count: int) -> bool:
        return count * math.log(count / mean) - (count - mean) >= allowed

    low, high = math.ceil(mean), own
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    return high


def with_places(forward: jax.Array, first: jax.Array, block_size: int, blocks: int) -> tuple[jax.Array, jax.Array]:
    """A permutation [ñ] of the coordinates of some blocks, and its inverse, once there are ``blocks`` of them.

    What is added stays where it is. In the first layer, whose input comes in the order of the parameters, the
    coordinates beyond ñ go there.
    """
    own, hidden = forward.shape[0] // block_size, blocks * block_size
    index = jnp.arange(hidden, dtype=jnp.int32)
    row, column = index // blocks, index % blocks
    number = jnp.minimum(row * own + column, forward.shape[0] - 1)  # among the coordinates of the old blocks
    source = forward[number]
    added = jnp.where(first, forward.shape[0] + row * (blocks - own) + column - own, index)
    there = jnp.where(first, source, source // own * blocks + source % own)
    wide = jnp.where(column < own, there, added)
    return wide, jnp.zeros_like(wide).at[wide].set(index)


def local_routes(
    forward: jax.Array, inverse: jax.Array, device: jax.Array, devices: int, block_size: int, slots: int
) -> tuple[Routes, jax.Array]:
    """One device's part of one layer's routes.

    Args:
      forward: [ñ] int32, P u being u[forward].
      inverse: [ñ] int32, its inverse.
      device: d, [] int32.
      devices: D.
      block_size: k, the side of a block.
      slots: c.

    Returns:
      Routes of shapes [D·c] and [ñ/D], and whether a pair of devices has more than c coordinates to exchange, [].
    """
    blocks = forward.shape[0] // block_size
    each = blocks // devices
    own = block_size * each
    rows = jnp.arange(block_size, dtype=jnp.int32)[:, None] * blocks
    mine = (rows + (device * each + jnp.arange(each, dtype=jnp.int32))[None, :]).reshape(-1)

    def place(coordinates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The device of each coordinate, and its number there."""
        a, b = coordinates // blocks, coordinates % blocks
        return b // each, a * each + b % each

    # Both ends of a pair number what they exchange by its place at the receiver.
    source, _ = place(forward[mine])
    target, there = place(inverse[mine])
    enter, leave_back, much = _buffer(source * own + jnp.arange(own, dtype=jnp.int32), own, devices, slots)
    enter_back, leave, too_much = _buffer(target * own + there, own, devices, slots)
    return Routes(leave, enter, leave_back, enter_back), much | too_much


def _buffer(key: jax.Array, own: int, devices: int, slots: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Places in a buffer [D, c] for coordinates in the order of ``key``, key // own being the partner's number.

    Returns:
      The place of each coordinate [ñ/D], the coordinate of each place [D·c], and whether one has no place, [].
    """
    order = jnp.argsort(key).astype(jnp.int32)
    ordered = key[order]
    partner = ordered // own
    starts = jnp.searchsorted(ordered, own * jnp.arange(devices, dtype=jnp.int32)).astype(jnp.int32)
    rank = jnp.arange(own, dtype=jnp.int32) - starts[partner]
    fits = rank < slots
    place = jnp.where(fits, partner * slots + rank, devices * slots)
    by_coordinate = jnp.zeros(own, jnp.int32).at[order].set(jnp.minimum(place, devices * slots - 1))
    by_place = jnp.zeros(devices * slots, jnp.int32).at[place].set(order, mode="drop")
    return by_coordinate, by_place, ~jnp.all(fits)


def exchange(v: jax.Array, leave: jax.Array, enter: jax.Array, axis: str) -> jax.Array:
    """A permutation of vectors [r, ñ] of which each device has its part [r, ñ/D], inside of ``shard_map``.

    Args:
      v: [r, ñ/D].
      leave: [D·c].
      enter: [ñ/D].
      axis: the mesh's axis.
    """
    devices = lax.axis_size(axis)
    buffer = _take(v, leave).reshape(v.shape[0], devices, -1)
    arrived = lax.all_to_all(buffer, axis, split_axis=1, concat_axis=1, tiled=True)
    return _take(arrived.reshape(v.shape[0], -1), enter)


def _take(v: jax.Array, indices: jax.Array) -> jax.Array:
    # Unlike a permutation's, these indices repeat (places of the buffer that nobody fills).
    return v.at[:, indices].get(mode="promise_in_bounds")
