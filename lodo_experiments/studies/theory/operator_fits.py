"""Fits of given inverse Hessians by each form of G: the simple forms in closed form, the layered ones numerically."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from lodo.operators.base import Operator
from lodo_experiments.studies.theory.representability import jacobian, pairs
from lodo_experiments.utils.double_precision import require_double_precision

Sizes = tuple[int, int]

#: Standard deviation of the noise on the start of a fit.
SPREAD = 0.1


def _spd(size: int, rng: np.random.Generator) -> np.ndarray:
    """Log-uniform eigenvalues from 0.1 to 10, uniformly random eigenvectors."""
    Q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return (Q * 10 ** rng.uniform(-1, 1, size)) @ Q.T


def _diagonal(sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    return np.diag(10 ** rng.uniform(-1, 1, sizes[0] * sizes[1]))


def _toeplitz(sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    """The covariance of three random oscillations and white noise at equally spaced times."""
    lags = np.subtract.outer(*2 * [np.arange(sizes[0] * sizes[1])])
    waves = rng.uniform(0.5, 1, 3)[:, None, None] * np.cos(rng.uniform(0, np.pi, 3)[:, None, None] * lags)
    return waves.sum(axis=0) + 0.1 * np.eye(len(lags))


def _low_rank_and_diagonal(sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    factor = rng.normal(size=(sizes[0] * sizes[1], 2))
    return factor @ factor.T + _diagonal(sizes, rng)


#: Families of inverse Hessians, by name: functions of the sizes of two factors of n, and a random generator.
FAMILIES: Mapping[str, Callable[[Sizes, np.random.Generator], np.ndarray]] = {
    "diagonal": _diagonal,
    "Toeplitz": _toeplitz,
    "low rank + diagonal": _low_rank_and_diagonal,
    "Kronecker": lambda sizes, rng: np.kron(_spd(sizes[0], rng), _spd(sizes[1], rng)),
    "random SPD": lambda sizes, rng: _spd(sizes[0] * sizes[1], rng),
}


def target(family: str, sizes: Sizes, seed: int) -> np.ndarray:
    """A random symmetric positive definite matrix of a family, scaled to ‖T‖_F = √n, [n, n].

    >>> T = target("Kronecker", (2, 3), seed=0)
    >>> T.shape, bool((np.linalg.eigvalsh(T) > 0).all()), round(float((T**2).sum()), 6)
    ((6, 6), True, 6.0)
    """
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}; there are {', '.join(FAMILIES)}.")
    matrix = FAMILIES[family](sizes, np.random.default_rng([list(FAMILIES).index(family), seed]))
    matrix = (matrix + matrix.T) / 2
    return matrix * np.sqrt(len(matrix)) / np.linalg.norm(matrix)


def relative_error(fitted: np.ndarray, matrix: np.ndarray) -> float:
    """‖G − T‖_F / ‖T‖_F."""
    return float(np.linalg.norm(fitted - matrix) / np.linalg.norm(matrix))


def best_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The nearest diagonal matrix in the Frobenius norm; n numbers."""
    return np.diag(np.diag(matrix))


def best_low_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest c I + U D Uᵀ with U [n, r] and a diagonal D, in the Frobenius norm; n r + 1 numbers.

    The eigenvalues that the low-rank part does not take are replaced by their mean c; it is best to leave those that
    are neighbours in order, of which all choices are tried.

    >>> best_low_rank(np.diag([1.0, 1.0, 5.0]), 1).round(6).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]]
    """
    values, vectors = np.linalg.eigh(matrix)
    left = len(values) - rank
    if left <= 0:
        return matrix
    start = min(range(rank + 1), key=lambda first: float(np.var(values[first : first + left])))
    values[start : start + left] = values[start : start + left].mean()
    return (vectors * values) @ vectors.T


def best_kronecker(matrix: np.ndarray, sizes: Sizes, terms: int) -> np.ndarray:
    """The nearest sum of Kronecker products A ⊗ B, in the Frobenius norm (Van Loan and Pitsianis 1993).

    For a symmetric matrix the factors are symmetric, or both antisymmetric; each term is counted as two symmetric ones,
    a (a + 1)/2 + b (b + 1)/2 numbers.

    >>> T = target("Kronecker", (2, 3), seed=0)
    >>> relative_error(best_kronecker(T, (2, 3), 1), T) < 1e-12
    True
    """
    a, b = sizes
    rearranged = matrix.reshape(a, b, a, b).transpose(0, 2, 1, 3).reshape(a * a, b * b)
    left, values, right = np.linalg.svd(rearranged, full_matrices=False)
    low = (left[:, :terms] * values[:terms]) @ right[:terms]
    return low.reshape(a, a, b, b).transpose(0, 2, 1, 3).reshape(a * b, a * b)


def fit(operator: Operator, matrices: np.ndarray, *, draws: int, restarts: int, iterations: int) -> np.ndarray:
    """The smallest ‖G(θ) − T‖_F / ‖T‖_F found, for each matrix T and each draw of the operator's fixed arrays.

    Levenberg–Marquardt on θ, in double precision, from the operator's own start and a little noise, several times.

    Args:
      operator: the form of G.
      matrices: [M, n, n] symmetric.
      draws: draws of the fixed arrays, with seeds 0, 1, ….
      restarts: starts of θ for each.
      iterations: of each fit.

    Returns:
      [M, draws] the best of the restarts.

    Raises:
      RuntimeError: JAX is in 32-bit mode.

    >>> from lodo.operators import Diagonal
    >>> from lodo_experiments.utils.double_precision import double_precision
    >>> with double_precision():
    ...     errors = fit(Diagonal(), np.diag([1.0, 2.0])[None], draws=1, restarts=1, iterations=20)
    >>> errors.shape, bool(errors.max() < 1e-8)
    ((1, 1), True)
    """
    require_double_precision()
    found = _fit(
        jnp.asarray(matrices, jnp.float64),
        jnp.arange(draws),
        jnp.arange(restarts),
        jnp.asarray(iterations),
        operator=operator,
        size=matrices.shape[-1],
    )
    return np.asarray(found).min(axis=-1)


@functools.partial(jax.jit, static_argnames=("operator", "size"))
def _fit(
    matrices: jax.Array, draws: jax.Array, restarts: jax.Array, iterations: jax.Array,
    *, operator: Any, size: int,
) -> jax.Array:  # fmt: skip
    j, l = pairs(size)
    weights = jnp.where(jnp.asarray(j == l), 1.0, 2.0**0.5)  # so that the residual's norm is Frobenius's

    def one(matrix: jax.Array, draw: jax.Array, restart: jax.Array) -> jax.Array:
        theta, fixed = operator.init(jax.random.key(draw), size, jnp.float64)
        start, unravel = ravel_pytree(theta)
        key = jax.random.fold_in(jax.random.key(draw), restart + 1)
        start = start + SPREAD * jax.random.normal(key, start.shape, start.dtype)
        norm = jnp.linalg.norm(matrix)

        def residual(flat: jax.Array) -> jax.Array:
            G = jax.vmap(lambda e: operator.apply(unravel(flat), fixed, e))(jnp.eye(size))
            return weights * (G - matrix)[j, l] / norm

        def step(_: Any, state: Any) -> Any:
            flat, r, damping = state
            J = weights[:, None] * jacobian(operator, unravel(flat), fixed, size) / norm
            # In the space of the residuals, which is small however many numbers θ holds.
            move = J.T @ jnp.linalg.solve(J @ J.T + damping * jnp.eye(len(j)), r)
            new = residual(flat - move)
            better = jnp.sum(new**2) < jnp.sum(r**2)
            damping = jnp.clip(jnp.where(better, damping / 3, damping * 4), 1e-15, 1e6)
            return jnp.where(better, flat - move, flat), jnp.where(better, new, r), damping

        state = (start, residual(start), jnp.asarray(1e-2))
        return jnp.linalg.norm(lax.fori_loop(0, iterations, step, state)[1])

    # One draw at a time, to keep the memory small.
    by_restart = jax.vmap(one, in_axes=(None, None, 0))
    by_matrix = jax.vmap(by_restart, in_axes=(0, None, None))
    return jnp.moveaxis(lax.map(lambda draw: by_matrix(matrices, draw, restarts), draws), 0, 1)
