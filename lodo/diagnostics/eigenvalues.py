"""The ends of G's spectrum by products with G alone, where it is too large for a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo._state import LodoState
from lodo._validation import check_integer, require_concrete_integers
from lodo.diagnostics.inverse_hessian import _apply_vector, _one_run, _size
from lodo.operators.base import Operator


def extreme_eigenvalues(
    state: optax.OptState | LodoState,
    *,
    iterations: int = 32,
    key: jax.Array | None = None,
    operator: Operator | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest eigenvalue of G(θ), α₀ included, by Lanczos' method.

    G is projected onto the Krylov space of a random vector, kept orthonormal by orthogonalising each vector twice
    against all before it. Both numbers lie within the spectrum, so the true ends are at least as far out. They are
    exact, but for rounding, from n iterations on. Works under ``jit``, and over several runs under ``vmap``.

    Args:
      state: see the module; α₀ of a new ``rlodo`` state is 0, and so is its G.
      iterations: products with G; the work needs as many vectors [n] in memory.
      key: JAX key of the random vector. Default: ``jax.random.key(0)``.
      operator: as in :func:`apply`.

    Returns:
      smallest [], largest [], in the state's dtype.

    Raises:
      TypeError: ``iterations`` is no integer, or is traced.
      ValueError: ``iterations`` below 1; a state of several runs.

    References:
      Golub and Van Loan, "Matrix Computations", 4th ed., chapter 10.

    >>> import jax, jax.numpy as jnp, lodo
    >>> state = lodo.lodo(0.5, operator=lodo.operators.Diagonal()).init(jnp.zeros(100))
    >>> smallest, largest = jax.jit(extreme_eigenvalues)(state._replace(theta=jnp.linspace(2.0, 4.0, 100)))
    >>> round(float(smallest), 2), round(float(largest), 2)
    (1.0, 2.0)
    """
    require_concrete_integers("extreme_eigenvalues", iterations=iterations)
    check_integer("iterations", iterations, 1)
    inner = _one_run(state)
    size, dtype = _size(inner), inner.initial_learning_rate.dtype
    key = jax.random.key(0) if key is None else key
    _, projected = lanczos(lambda v: _apply_vector(inner, v, operator), size, int(iterations), key, dtype)
    found = jnp.linalg.eigvalsh(projected)
    return found[0], found[-1]


def lanczos(
    product: Callable[[jax.Array], jax.Array], size: int, iterations: int, key: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """A symmetric matrix A on the Krylov space of a random vector.

    Args:
      product: v [n] → A v [n].
      size: n.
      iterations: products k, at least 1; no more than n are made.
      key: JAX key of the random vector, which has independent normal entries.
      dtype: of the vectors.

    Returns:
      An orthonormal basis V [k, n], the random vector's direction first, and V A Vᵀ [k, k].
    """
    count = min(iterations, size)
    keys = jax.random.split(key, count + 1)

    def against(basis: jax.Array, v: jax.Array) -> jax.Array:
        """v without its part in the span of the basis, at length 1; 0 where nothing is left of it."""
        for _ in range(2):
            v = v - _product(_product(basis, v), basis)
            length = jnp.linalg.norm(v)
            v = v / jnp.where(length > 0, length, 1)
        return v

    def step(carry: tuple[jax.Array, jax.Array], place: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        basis, v = carry
        basis = basis.at[place].set(v)
        image = product(v)
        row = _product(basis, image)
        left = image - _product(row, basis)
        length = jnp.linalg.norm(left)
        # Where the space is invariant, as at the start, where G = α₀ I, the next vector is another random one.
        goes_on = length > jnp.finfo(dtype).eps * jnp.linalg.norm(image)
        fresh = jax.random.normal(keys[place + 1], (size,), dtype)
        following = jnp.where(goes_on, left / jnp.where(goes_on, length, 1), fresh)
        return (basis, against(basis, following)), row

    empty = jnp.zeros((count, size), dtype)
    first = against(empty, jax.random.normal(keys[0], (size,), dtype))
    (basis, _), rows = jax.lax.scan(step, (empty, first), jnp.arange(count))
    # Row i has the products with the vectors that there were then: the lower triangle of a symmetric matrix.
    lower = jnp.tril(rows)
    return basis, lower + jnp.tril(lower, -1).T


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full precision, which accelerators do not use by themselves."""
    result: jax.Array = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return result
