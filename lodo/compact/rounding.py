"""Numbers in fewer bits: stochastic rounding, and integers that share a power of two.

Rounding to the nearest loses every change that is smaller than half a unit in the last place, and a learning rate makes
almost all changes that small. Stochastic rounding goes up with the probability of what would be lost, so that the mean
is kept: E[round(x)] = x.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_LARGEST = float(jnp.finfo(jnp.float32).max)

#: Entries along the last axis that share one exponent.
GROUP = 256


class BlockFloat(NamedTuple):
    """Integers whose groups of :data:`GROUP` neighbours share a power of two: block floating point."""

    mantissa: jax.Array  # [..., L] int8 or int16; the smallest integer, which no number needs, stands for NaN
    exponent: jax.Array  # [..., ⌈L / 256⌉] int8: the value is mantissa · 2^exponent


def is_block_float(node: Any) -> bool:
    """Whether a node of a pytree is a :class:`BlockFloat`, for ``is_leaf``."""
    return isinstance(node, BlockFloat)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent uniform 32-bit words for rounding, from a counter; [shape] uint32.

    Two rounds of an integer hash in a few operations an entry, which fuse with the rounding itself. Statistically good,
    and several times cheaper on a CPU than ``jax.random.bits``; nothing to keep a secret with.

    Args:
      key: uint32[2], other for each draw.
      shape: of the result.

    References:
      The mixing constants are those of Wellons's search for low-bias 32-bit hashes (``lowbias32``).

    >>> words = random_bits(jnp.array([1, 2], jnp.uint32), (10_000,))
    >>> bool(abs(words.astype(float).mean() / 2.0**32 - 0.5) < 0.02)
    True
    """
    counter = lax.iota(jnp.uint32, max(1, math.prod(shape)))[: math.prod(shape)].reshape(shape)
    # The key enters twice: once alone it would only change the order in which the same words come.
    return _mix(_mix(counter ^ key[0]) ^ _mix(key[1] + _mix(key[0])))


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    result: jax.Array = x ^ (x >> jnp.uint32(16))
    return result


def to_bfloat16(x: jax.Array, words: jax.Array) -> jax.Array:
    """x rounded stochastically to bfloat16.

    Args:
      x: floating; float64 is first rounded to float32, to the nearest.
      words: uint32 of the same shape, whose lower 16 bits are used.

    >>> x = jnp.full((1000,), 1.001)
    >>> words = random_bits(jnp.array([0, 1], jnp.uint32), x.shape)
    >>> rounded = to_bfloat16(x, words)
    >>> sorted(set(rounded.astype(float).tolist())), bool(abs(rounded.astype(float).mean() - 1.001) < 4e-4)
    ([1.0, 1.0078125], True)
    """
    single = x.astype(jnp.float32)
    pattern = lax.bitcast_convert_type(single, jnp.uint32)
    rounded = (pattern + (words & jnp.uint32(0xFFFF))) & jnp.uint32(0xFFFF0000)
    rounded = jnp.where(jnp.isfinite(single), rounded, pattern)
    return lax.bitcast_convert_type(rounded, jnp.float32).astype(jnp.bfloat16)


def to_block_float(x: jax.Array, words: jax.Array | None, bits: int) -> BlockFloat:
    """x as integers of 8 or 16 bits, each group of 256 along the last axis with the smallest power of two that fits.

    A value that the integers hold exactly is kept exactly, as long as its group's exponent stays. Finer than bfloat16
    where the entries of a group are of one size: 16 bits resolve 2⁻¹⁵ of the group's largest entry, bfloat16 2⁻⁸ of
    each entry.

    Args:
      x: floating, [..., L]; a scalar is a group of its own. Rounded to float32 first, finite numbers beyond its range
        to its largest. NaN and infinities are read back as NaN, and leave the other entries of the group as they are.
      words: uint32 of the same shape for stochastic rounding; None rounds to the nearest.
      bits: 8 or 16.

    >>> kept = to_block_float(jnp.array([0.5, -0.25, 3.0]), None, 8)
    >>> kept.mantissa.tolist(), kept.exponent.tolist(), from_block_float(kept, jnp.float32).tolist()
    ([16, -8, 96], [-5], [0.5, -0.25, 3.0])
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16; got {bits!r}.")
    # A finite number that float32 cannot hold is held at its end; what is not finite has no part in the exponent.
    finite = jnp.isfinite(x)
    single = jnp.where(finite, jnp.clip(x, -_LARGEST, _LARGEST), jnp.zeros_like(x)).astype(jnp.float32)
    largest = _group_maxima(jnp.abs(single))
    # 2^(E+1) is the first power of two above the largest entry, E being its binary exponent.
    field = (lax.bitcast_convert_type(largest, jnp.uint32) >> jnp.uint32(23)).astype(jnp.int32)
    exponent = field - (127 - 1) - (bits - 1)
    limit = 2 ** (bits - 1) - 1
    # Rounding up must not overflow: with one power of two more, the largest entry stays below the limit.
    exponent = exponent + (largest > limit * _power_of_two(exponent)).astype(jnp.int32)
    exponent = jnp.clip(exponent, -126, 126)
    scaled = single * _spread(_power_of_two(-exponent), single.shape)
    if words is None:
        whole = jnp.round(scaled)
    else:
        whole = jnp.floor(scaled)
        threshold = (words >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)
        whole = whole + (threshold < scaled - whole).astype(jnp.float32)
    whole = jnp.where(finite, jnp.clip(whole, -limit, limit), jnp.float32(-limit - 1))
    return BlockFloat(whole.astype(jnp.int8 if bits == 8 else jnp.int16), exponent.astype(jnp.int8))


def from_block_float(kept: BlockFloat, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The numbers that a :class:`BlockFloat` stands for, exact in float32 and float64."""
    scale = _spread(_power_of_two(kept.exponent.astype(jnp.int32)), kept.mantissa.shape)
    numbers = kept.mantissa.astype(dtype) * scale.astype(dtype)
    not_finite = kept.mantissa == jnp.iinfo(kept.mantissa.dtype).min
    return jnp.where(not_finite, jnp.asarray(jnp.nan, dtype), numbers)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """2^exponent in float32, for exponents from −126 to 127, made of its bits."""
    return lax.bitcast_convert_type((jnp.clip(exponent, -126, 127) + 127) << 23, jnp.float32)


def _group_maxima(x: jax.Array) -> jax.Array:
    """The largest entry of each group along the last axis, [..., ⌈L / 256⌉]."""
    if x.ndim == 0:
        return x
    length = x.shape[-1]
    groups = -(-length // GROUP)
    if groups <= 1:
        return jnp.max(x, axis=-1, keepdims=True, initial=0) if groups else x
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, groups * GROUP - length)])
    return jnp.max(filled.reshape(*x.shape[:-1], groups, GROUP), axis=-1)


def _spread(of_group: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Each group's number at each of its entries: the reverse of :func:`_group_maxima`."""
    if not shape:
        return of_group
    groups = of_group.shape[-1]
    if groups <= 1:
        return jnp.broadcast_to(of_group, shape)
    wide = jnp.broadcast_to(of_group[..., None], (*of_group.shape, GROUP))
    return wide.reshape(*shape[:-1], groups * GROUP)[..., : shape[-1]]
