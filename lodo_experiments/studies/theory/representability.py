"""Which symmetric matrices the block-permutation operator can be: counts, exact ranks, and what depth guarantees.

n is the number of parameters, ñ the hidden size, k the block size, N the depth. The Jacobian is that of θ ↦ G(θ),
with a row for each entry (j, l), j ≤ l, of a symmetric matrix: n (n + 1)/2 rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lodo._validation import check_integer
from lodo.operators.base import Operator

#: The modulus of the exact ranks: a prime, below which two residues' product fits 64 bits.
PRIME = 2**31 - 1


def pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The index pairs (j, l), j ≤ l, of a symmetric matrix's entries.

    >>> [index.tolist() for index in pairs(2)]
    [[0, 0, 1], [0, 1, 1]]
    """
    return np.triu_indices(size)


def jacobian(operator: Operator, theta: Any, fixed: Any, size: int) -> jax.Array:
    """∂S(θ)[j, l]/∂θ, [n (n + 1)/2, p], for any operator, from its own hypergradient.

    >>> from lodo.operators import Diagonal
    >>> jacobian(Diagonal(), *Diagonal().init(jax.random.key(0), 2, jnp.float32), 2).tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    """
    basis = jnp.eye(size, dtype=jax.tree.leaves(theta)[0].dtype)
    j, l = pairs(size)

    def row(a: jax.Array, b: jax.Array) -> jax.Array:
        return ravel_pytree(operator.hypergradient(theta, fixed, a, b))[0]

    return jax.vmap(row)(basis[j], basis[l])


def numerical_rank(singular_values: np.ndarray, tolerance: float = 1e-9) -> tuple[int, float]:
    """How many singular values are above ``tolerance`` times the largest, and the gap: the last kept over the next.

    The gap is infinite where nothing is left out, or only exact zeros.

    >>> numerical_rank(np.array([2.0, 1.0, 1e-16]))
    (2, 1e+16)
    """
    values = np.sort(singular_values)[::-1]
    rank = int(np.sum(values > tolerance * values[0])) if len(values) and values[0] > 0 else 0
    rest = values[rank] if rank < len(values) else 0.0
    return rank, float(values[rank - 1] / rest) if rank and rest > 0 else float("inf")


def rank_bound(forward: np.ndarray, size: int, block_size: int) -> int:
    """An upper bound of the Jacobian's rank, whatever θ is, by counting.

    It is the number of weights that an input reaches, less the directions in θ that leave G as it is: rescaling a
    hidden coordinate between two layers, and rotating the outputs of the last layer's blocks; or the number of entries
    of G on and above the diagonal that are not zero by construction, if that is less.

    >>> rank_bound(np.arange(3)[None], 3, 3), rank_bound(np.zeros((0, 3), int), 3, 3)
    (6, 0)
    """
    hidden, k = forward.shape[1], block_size
    reached = np.eye(size, hidden, dtype=bool)  # which input reaches which coordinate
    weights = free = 0
    for layer, permutation in enumerate(forward):
        inputs = reached[:, permutation].reshape(size, k, -1)
        live = inputs.any(axis=0)  # [k, blocks]
        weights += k * int(live.sum())
        reached = np.broadcast_to(inputs.any(axis=1, keepdims=True), inputs.shape).reshape(size, hidden)
        if layer + 1 < len(forward):
            free += int(reached.any(axis=0).sum())
        else:
            left = k - live.sum(axis=0)
            free += int(np.sum(k * (k - 1) // 2 - left * (left - 1) // 2))
    meet = (reached.astype(int) @ reached.T.astype(int)) > 0
    return min(weights - free, int(meet[pairs(size)].sum())) if len(forward) else 0


def exact_rank(
    forward: np.ndarray, size: int, block_size: int, *, seed: int = 0, theta: np.ndarray | None = None
) -> int:
    """The Jacobian's rank at a random integer θ, computed exactly modulo a prime.

    The rank modulo a prime is at most that over the rationals, which is at most the rank at almost every θ. So this is
    a proven lower bound of the rank at almost every θ; no rounding is involved. If it equals :func:`rank_bound`, the
    rank is known.

    Raises:
      ValueError: a hidden size that is no multiple of the block size, or below n.

    >>> exact_rank(np.arange(4)[None], 4, 4), exact_rank(np.arange(4)[None], 4, 2)
    (10, 6)
    """
    depth, hidden = forward.shape
    k = check_integer("block_size", block_size, 1)
    if hidden % k or hidden < size:
        raise ValueError(f"The hidden size must be a multiple of {k} and at least {size}; got {hidden}.")
    if theta is None:
        theta = np.random.default_rng(seed).integers(1, PRIME, (depth, k, k, hidden // k))
    weights = np.asarray(theta, np.int64) % PRIME
    value, up = np.eye(size, hidden, dtype=np.int64), []
    for block, permutation in zip(weights, forward, strict=True):
        up.append(value[:, permutation].reshape(size, k, -1))
        # Each product is reduced before it is added, or the sum would not fit 64 bits.
        value = (up[-1][:, :, None] * block % PRIME).sum(axis=1).reshape(size, hidden) % PRIME
    j, l = pairs(size)
    columns: list[np.ndarray] = []
    for index in range(depth)[::-1]:
        u, d = up[index], value.reshape(size, k, -1)
        product = u[j][:, :, None] * d[l][:, None] % PRIME + u[l][:, :, None] * d[j][:, None] % PRIME
        columns.append(product.reshape(len(j), -1) % PRIME)
        value = (d[:, None] * weights[index] % PRIME).sum(axis=2).reshape(size, hidden) % PRIME
        value = value[:, np.argsort(forward[index])]
    return _rank_modulo(np.concatenate(columns, axis=1)) if columns else 0


def _rank_modulo(matrix: np.ndarray) -> int:
    """Rank over the integers modulo :data:`PRIME`, by Gaussian elimination; overwrites the matrix."""
    rank = 0
    for index in range(len(matrix)):
        row = matrix[index]
        places = np.flatnonzero(row)
        if not len(places):
            continue
        rank += 1
        row = row * pow(int(row[places[0]]), -1, PRIME) % PRIME
        below = matrix[index + 1 :]
        rows = np.flatnonzero(below[:, places[0]])
        below[rows] = (below[rows] - below[rows, places[0]][:, None] * row) % PRIME
    return rank


def pairs_met(forward: np.ndarray, size: int, block_size: int) -> int:
    """How many pairs j < l of the n inputs share a block in some layer, if every block is the identity.

    With such blocks the Jacobian's rank is n plus this number, for N ≥ 1.

    >>> pairs_met(np.array([[0, 1, 2, 3], [0, 2, 1, 3]]), 4, 2)
    4
    """
    hidden = forward.shape[1]
    block_of = _places(forward) % (hidden // block_size)
    met = np.zeros((hidden, hidden), bool)
    for layer in block_of:
        met |= layer[:, None] == layer[None]
    return int(np.triu(met[:size, :size], 1).sum())


def _places(forward: np.ndarray) -> np.ndarray:
    """[N, ñ] where each coordinate of the first layer's input stands in each layer's, if every block is the identity.

    The place p is entry p // (ñ/k) of block p mod ñ/k.
    """
    where, places = np.arange(forward.shape[1]), np.empty(forward.shape, int)
    for layer, permutation in enumerate(forward):
        where = where[permutation]
        places[layer, where] = np.arange(len(where))
    return places


def from_factor(
    factor: np.ndarray, forward: np.ndarray, block_size: int, diagonal: np.ndarray | float = 0.0
) -> np.ndarray:
    """θ with S(θ) = D² + FᵀF exactly, by shears: the proof of the theorem on exact representation, as a program.

    Equation `representability-partition` of book/representability.md.

    Input l keeps the factor D_l, and hidden coordinate n + i gathers Σ_l F_il x_l: each nonzero F_il in the first
    layer in which input l and coordinate n + i share a block.

    Args:
      factor: [r, n] F, with n + r ≤ ñ; zeros need no meeting.
      forward: [N, ñ] the permutations, as in :class:`lodo.operators.Permutations`, N ≥ 1.
      block_size: k.
      diagonal: [n] D, or one number for all; default 0.

    Returns:
      θ of :class:`lodo.operators.BlockPermutation`, [N, k, k, ñ/k] float64.

    Raises:
      ValueError: no layer, a hidden size that is too small or no multiple of k, an F that is no finite matrix, or an
        F_il ≠ 0 whose two coordinates never share a block.

    References:
      The book's page on representability; not in the paper.

    >>> theta = from_factor(np.array([[2.0]]), np.array([[0, 1]]), 2)  # one input, one hidden coordinate beside it
    >>> theta[0, :, :, 0].tolist()  # from entry (row) to entry (column): the input is wiped, twice it is kept beside
    [[0.0, 2.0], [0.0, 1.0]]
    """
    factor = np.asarray(factor, np.float64)
    if factor.ndim != 2 or not np.isfinite(factor).all():
        raise ValueError(f"factor must be a matrix [r, n] of finite numbers; got the shape {factor.shape}.")
    (depth, hidden), (rank, size), k = forward.shape, factor.shape, check_integer("block_size", block_size, 1)
    if depth < 1:
        raise ValueError("forward must hold at least one layer's permutation: without layers S(θ) is I; got none.")
    if hidden % k or hidden < size + rank:
        raise ValueError(
            f"The hidden size must be a multiple of {k} and at least n + r = {size} + {rank}; got {hidden}."
        )
    row, column = np.nonzero(factor)
    entry, block = np.divmod(_places(forward), hidden // k)
    together = block[:, size + row] == block[:, column]  # [N, nonzeros]
    apart = np.flatnonzero(~together.any(axis=0))
    if len(apart):
        i, l = int(row[apart[0]]), int(column[apart[0]])
        raise ValueError(
            f"Input {l} and hidden coordinate {size + i} must share a block in some layer, for entry [{i}, {l}] of the "
            f"factor; in these {depth} layers they never do ({len(apart)} of {len(row)} such pairs do not). Take more "
            "layers (sufficient_depth says how many) or draw other permutations."
        )
    layer = together.argmax(axis=0)
    theta = np.tile(np.eye(k)[None, :, :, None], (depth, 1, 1, hidden // k))
    theta[layer, entry[layer, column], entry[layer, size + row], block[layer, column]] = factor[row, column]
    theta[-1, entry[-1, :size], entry[-1, :size], block[-1, :size]] = diagonal
    return theta


def construct(
    matrix: np.ndarray, forward: np.ndarray, block_size: int, initial_learning_rate: float = 1.0
) -> np.ndarray:
    """θ with G(θ) = α₀ S(θ) = T, for a positive semi-definite T, singular or not.

    T/α₀ = RᵀR with R upper trapezoidal and as many rows as T has rank r; then :func:`from_factor`. So input l and
    hidden coordinate n + i must share a block in some layer for i ≤ min(l, r), n r − r (r − 1)/2 pairs.

    Args:
      matrix: [n, n] T.
      forward: [N, ñ] the permutations, with ñ ≥ n + r; ñ ≥ 2n serves every T.
      block_size: k.
      initial_learning_rate: α₀ > 0; default 1.

    Returns:
      θ of :class:`lodo.operators.BlockPermutation`, [N, k, k, ñ/k] float64.

    Raises:
      ValueError: a T that is not symmetric and positive semi-definite, beyond rounding; α₀ ≤ 0; and as
        :func:`from_factor`.

    References:
      The book's page on representability; not in the paper.

    >>> forward = np.array([[0, 1, 2, 3], [0, 1, 3, 2]])
    >>> construct(np.array([[4.0, 2.0], [2.0, 1.0]]), forward, 2).shape  # singular
    (2, 2, 2, 2)
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"matrix must be a square matrix of finite numbers; got the shape {matrix.shape}.")
    if not initial_learning_rate > 0:
        raise ValueError(f"initial_learning_rate must be positive; got {initial_learning_rate!r}.")
    rounding = len(matrix) * np.finfo(float).eps * np.abs(matrix).max(initial=0.0)
    if np.abs(matrix - matrix.T).max(initial=0.0) > rounding:
        raise ValueError("matrix must be symmetric, as every G(θ) is; take its symmetric part (T + Tᵀ)/2.")
    values, vectors = np.linalg.eigh(matrix)
    if values.min(initial=0.0) < -len(matrix) * rounding:
        raise ValueError(
            f"matrix must be positive semi-definite, as every G(θ) is; got the eigenvalue {values.min():.3g}."
        )
    kept = values > rounding
    root = np.sqrt(values[kept] / initial_learning_rate)[:, None] * vectors.T[kept]
    return from_factor(np.linalg.qr(root).R, forward, block_size)


def meeting_probability(
    size: int, block_size: int, hidden_size: int, depth: Any, count: int | None = None
) -> np.ndarray:
    """1 − c (1 − (k − 1)/(ñ − 1))^N, at least zero: bounds from below how likely c given pairs all meet.

    Equations `representability-exact-probability`, `representability-probability` of book/representability.md.

    Args:
      size: n.
      block_size: k.
      hidden_size: ñ ≥ 2.
      depth: N, a number or an array.
      count: c; default n (n − 1)/2, all pairs of inputs. For :func:`construct` and every T it is n (n + 1)/2.
    """
    apart = (1 - (block_size - 1) / (hidden_size - 1)) ** np.asarray(depth)
    return np.maximum(0.0, 1 - (size * (size - 1) / 2 if count is None else count) * apart)


def sufficient_depth(
    size: int, block_size: int, hidden_size: int, failure: float = 0.5, count: int | None = None
) -> int:
    """The least N for which :func:`meeting_probability` is at least 1 − ``failure``.

    >>> sufficient_depth(8, 4, 20)
    24
    """
    if block_size < 2:
        raise ValueError(f"block_size must be at least 2, or no two inputs ever meet; got {block_size}.")
    count = size * (size - 1) // 2 if count is None else count
    if block_size == hidden_size or count == 0:
        return 1
    apart = 1 - (block_size - 1) / (hidden_size - 1)
    return max(1, int(np.ceil(np.log(count / failure) / -np.log(apart))))


def counting_depth(size: int, block_size: int, hidden_size: int) -> int:
    """The least N with N ñ k ≥ n (n + 1)/2: fewer layers have too few weights for all symmetric matrices.

    >>> counting_depth(100, 4, 204)
    7
    """
    return -(-size * (size + 1) // (2 * hidden_size * block_size))
