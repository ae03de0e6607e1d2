"""Permutations kinder to memory than uniformly random ones: each row of coordinates is turned by a random shift."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rolls(NamedTuple):
    """The fixed permutations P₁ … P_N of a block-permutation operator whose rows are rolled.

    A hidden vector [ñ] is k rows of ñ/k coordinates, of which each block takes one of every row. P_i turns each row by
    a random shift of its own: ``(P_i u)[a, b] = u[a, (b + shifts[i, a]) mod ñ/k]``. So every block of a layer meets
    others in the next one, and nothing but long contiguous pieces is moved. k numbers a layer are kept instead of 2ñ
    indices. Not in the paper, whose permutations are uniform.
    """

    shifts: jax.Array  # [N, k] int32, each in 0 … ñ/k − 1


class Turn(NamedTuple):
    """One direction of :class:`Rolls`: by how much each row is turned."""

    shifts: jax.Array  # [N, k]


def random_rolls(key: jax.Array, depth: int, block_size: int, blocks: int) -> Rolls:
    """Uniform, independent shifts for N = ``depth`` layers of k = ``block_size`` rows of ``blocks`` coordinates.

    >>> rolls = random_rolls(jax.random.key(0), 3, 2, 5)
    >>> rolls.shifts.shape, bool((0 <= rolls.shifts).all() & (rolls.shifts < 5).all())
    ((3, 2), True)
    """
    return Rolls(jax.random.randint(key, (depth, block_size), 0, blocks, jnp.int32))


def turns(rolls: Rolls, blocks: int) -> tuple[Turn, Turn]:
    """P and its transpose.

    >>> there, back = turns(Rolls(jnp.array([[0, 3]])), 5)
    >>> there.shifts.tolist(), back.shifts.tolist()
    ([[0, 3]], [[0, 2]])
    """
    return Turn(rolls.shifts), Turn((blocks - rolls.shifts) % blocks)


def indices(turn: Turn, blocks: int) -> jax.Array:
    """The same permutations as gather indices, [N, ñ] int32.

    >>> indices(Turn(jnp.array([[0, 1]])), 3).tolist()
    [[0, 1, 2, 4, 5, 3]]
    """
    depth, k = turn.shifts.shape
    rows = jnp.arange(k, dtype=jnp.int32)[None, :, None] * blocks
    columns = (jnp.arange(blocks, dtype=jnp.int32)[None, None, :] + turn.shifts[:, :, None]) % blocks
    return (rows + columns).reshape(depth, k * blocks)
