"""G(θ) as a matrix, a product, a spectrum, and its distance from an inverse Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo import _tree
from lodo._state import LodoState, RlodoState
from lodo._state import find_state as find_state
from lodo._validation import check_integer, check_same_tree, describe_tree
from lodo.compact.storage import read
from lodo.operators._routes import Routes
from lodo.operators.base import Operator, Permutations
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.diagonal import Diagonal, NoFixed, Scalar
from lodo.operators.residuals import Residuals, ResidualsTheta
from lodo.operators.rolls import Rolls

MAXIMUM_DENSE_SIZE = 5000


def apply(state: optax.OptState | LodoState, v: Any, *, operator: Operator | None = None) -> Any:
    """G(θ) v, with α₀ included.

    Args:
      state: see the module.
      v: a floating vector [n], or a tree with the structure and shapes of the parameters.
      operator: the form of G where it is none of :mod:`lodo.operators`' own.

    Returns:
      G v in the form of v.

    Raises:
      TypeError: v is not floating (the product would be cut down to its dtype).
      ValueError: v of another size or structure; a state of several runs.

    >>> import jax.numpy as jnp, lodo
    >>> state = lodo.lodo(0.5).init(jnp.zeros(3))
    >>> jnp.round(apply(state, jnp.array([1.0, 2.0, 3.0])), 5).tolist()
    [0.5, 1.0, 1.5]
    """
    inner = _one_run(state)
    size = _size(inner)
    for leaf in jax.tree.leaves(v):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"v must be floating, as G v is returned in its dtype; got {describe_tree(v)}.")
    if not (hasattr(v, "shape") and v.shape == (size,)):
        if hasattr(v, "shape") and hasattr(inner.momentum, "shape"):
            raise ValueError(f"v must have the shape {inner.momentum.shape} or ({size},); got {describe_tree(v)}.")
        check_same_tree(
            "v", v, inner.momentum, "the parameters (or a vector [n])", "Give a tree like them, or a vector [n]."
        )
    vector = _tree.ravel(v, inner.initial_learning_rate.dtype)
    return _tree.unravel(_apply_vector(inner, vector, operator), v)


def dense(state: optax.OptState | LodoState, *, operator: Operator | None = None) -> jax.Array:
    """G(θ) as a matrix [n, n], with α₀ included, for n up to 5,000.

    Raises:
      ValueError: n is larger, use :func:`apply`; a state of several runs.

    >>> import jax.numpy as jnp, lodo
    >>> bool(jnp.allclose(dense(lodo.lodo(0.5).init(jnp.zeros(2))), 0.5 * jnp.eye(2), atol=1e-5))
    True
    """
    inner = _one_run(state)
    size = _size(inner)
    if size > MAXIMUM_DENSE_SIZE:
        raise ValueError(
            f"G has {size}² entries here; a dense matrix is made for n up to {MAXIMUM_DENSE_SIZE}. Use "
            "lodo.diagnostics.apply for products with it, inverse_hessian_error(..., probes=...) for its error."
        )
    columns: Any = jax.vmap(lambda e: _apply_vector(inner, e, operator))
    dense_matrix: jax.Array = columns(jnp.eye(size, dtype=inner.initial_learning_rate.dtype)).T
    return dense_matrix


def spectrum(state: optax.OptState | LodoState, *, operator: Operator | None = None) -> jax.Array:
    """Eigenvalues of G(θ), ascending, [n], for n up to 5,000.

    >>> import jax.numpy as jnp, lodo
    >>> jnp.round(spectrum(lodo.lodo(0.5, depth=4).init(jnp.zeros(3))), 5).tolist()
    [0.5, 0.5, 0.5]
    """
    matrix = dense(state, operator=operator)
    result: jax.Array = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)
    return result


def inverse_hessian_error(
    state: optax.OptState | LodoState,
    hessian: jax.Array | Callable[[jax.Array], jax.Array],
    *,
    probes: int | None = None,
    key: jax.Array | None = None,
    operator: Operator | None = None,
) -> jax.Array:
    """‖I − G H‖_F / √n: 0 where G is the inverse Hessian, 1 where G is 0.

    Args:
      state: see the module.
      hessian: H as a matrix [n, n], or (with ``probes``) a function v ↦ H v on vectors [n].
      probes: estimate with this many random unit vectors u, as √mean ‖(I − G H) u‖², which is unbiased for the square.
        Default: exact, from the matrix.
      key: JAX key of the probes; required with ``probes``.
      operator: as in :func:`apply`.

    Raises:
      ValueError: a matrix of another size; a function without ``probes``; ``probes`` without ``key``.

    References:
      Liao et al. 2023, §5.1; the released code estimates it with 100 probes.

    >>> import jax, jax.numpy as jnp, lodo
    >>> state = lodo.lodo(0.5).init(jnp.zeros(3))
    >>> round(float(inverse_hessian_error(state, jnp.eye(3))), 5)
    0.5
    >>> round(float(inverse_hessian_error(state, lambda v: v, probes=5, key=jax.random.key(0))), 5)
    0.5
    """
    inner = _one_run(state)
    size, dtype = _size(inner), inner.initial_learning_rate.dtype
    if callable(hessian):
        multiply = hessian
        if probes is None:
            raise ValueError("With the Hessian given as a function, say how many probes to use: probes=100, key=...")
    else:
        matrix = jnp.asarray(hessian, dtype)
        if matrix.shape != (size, size):
            raise ValueError(f"hessian must have shape ({size}, {size}); got {matrix.shape}.")
        if probes is None:
            product = jax.vmap(lambda column: _apply_vector(inner, column, operator), in_axes=1, out_axes=1)(matrix)
            result: jax.Array = jnp.linalg.norm(jnp.eye(size, dtype=dtype) - product) / size**0.5
            return result

        def multiply(v: jax.Array, /) -> jax.Array:
            return matrix @ v

    count = check_integer("probes", probes, 1)
    if key is None:
        raise ValueError("probes are random: give key=jax.random.key(...).")
    directions = jax.random.normal(key, (count, size), dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def residual(u: jax.Array) -> jax.Array:
        product = jnp.asarray(multiply(u))
        # In half precision a function's products would take G and the sum of squares with them.
        product = product.astype(max(product.dtype, dtype, key=lambda width: width.itemsize))
        return jnp.sum((u - _apply_vector(inner, product, operator)) ** 2)

    return jnp.sqrt(jnp.mean(jax.lax.map(residual, directions)))


def _one_run(state: Any) -> LodoState | RlodoState:
    """The LodoState or RlodoState inside, its θ as plain arrays, refused where vmap gave it an axis of runs."""
    inner = find_state(state)
    runs = jnp.shape(inner.step_count)
    if runs:
        raise ValueError(
            f"This state holds several runs (its step count has shape {runs}). Map over them: "
            "jax.vmap(lodo.diagnostics.dense)(state)."
        )
    return inner._replace(theta=read(inner.theta, inner.initial_learning_rate.dtype))


def _size(state: LodoState | RlodoState) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state.momentum))


def _apply_vector(state: LodoState | RlodoState, v: jax.Array, operator: Operator | None) -> jax.Array:
    form = operator or _operator_of(state)
    return state.initial_learning_rate * form.apply(state.theta, state.fixed, v)


def _operator_of(state: LodoState | RlodoState) -> Operator:
    """The form of G, told from the arrays (an operator's methods read all sizes from them)."""
    theta, fixed = state.theta, state.fixed
    if isinstance(theta, ResidualsTheta):
        return Residuals()
    if isinstance(fixed, Permutations | Rolls) and getattr(theta, "ndim", None) == 4:
        return BlockPermutation()
    if isinstance(fixed, NoFixed):
        return Scalar() if theta.ndim == 0 else Diagonal()
    if isinstance(fixed, Routes):
        raise ValueError(
            "This state is spread over devices: pass its ShardedBlockPermutation as operator=..., or gather the state "
            "first with lodo.sharding.gather_state."
        )
    raise ValueError("This state belongs to an operator of your own: pass it as operator=...")
