"""Where LODO's G lies to the Hessian of a network that it has trained, from products with vectors alone.

A dense G or H of a network has no room in memory. Lanczos' method needs products only. It gives the Hessian's largest
eigenvalues λ with their eigenvectors q, on which G is then a small matrix, and the distribution of G's eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lodo._state import LodoState, nodes_of
from lodo._validation import check_integer
from lodo.diagnostics.eigenvalues import lanczos
from lodo.diagnostics.inverse_hessian import apply


def curvature(
    loss: Callable[[Any, Any], jax.Array],
    slices: Any,
    params: Any,
    state: LodoState,
    *,
    pairs: int = 16,
    iterations: int = 48,
    probes: int = 8,
    key: jax.Array | None = None,
) -> dict[str, np.ndarray]:
    """The Hessian's largest eigenvalues, G on their eigenvectors, and the distribution of G's eigenvalues.

    Args:
      loss: (parameters, slice) → the mean loss over a slice [], twice differentiable.
      slices: fixed examples in slices of one size, each leaf [slices, …]; the Hessian is that of the mean over all.
      params: the n parameters.
      state: of LODO, one run.
      pairs: m, eigenpairs of the Hessian.
      iterations: k, products with H, and with G for each probe; at least m.
      probes: p, random vectors for the distribution of G's eigenvalues.
      key: of all random vectors. Default: ``jax.random.key(0)``.

    Returns:
      ``curvatures`` [m], the largest eigenvalues λ, descending; ``curvature_residuals`` [m], |H q − λ q|;
      ``inverse_in_eigenbasis`` [m, m], qᵢᵀ G qⱼ with α₀ included; ``inverse_nodes`` and ``inverse_weights`` [p, k]: the
      mean over the probes of Σ weight·f(node) estimates tr f(G)/n (stochastic Lanczos quadrature).

    Raises:
      ValueError: a number below 1, fewer iterations than pairs, or more than n; a state of other parameters.

    References:
      Golub and Van Loan, "Matrix Computations", 4th ed., chapter 10; Ghorbani, Krishnan and Xiao 2019, "An
      investigation into neural net optimization via Hessian eigenvalue density".

    >>> import lodo
    >>> H, start = jnp.diag(jnp.array([4.0, 2.0, 1.0])), jnp.zeros(3)
    >>> found = curvature(lambda x, _: x @ H @ x / 2, jnp.zeros(1), start, lodo.lodo(0.5).init(start),
    ...                   pairs=2, iterations=3, probes=1)
    >>> found["curvatures"].round(4).tolist(), found["inverse_in_eigenbasis"].diagonal().round(4).tolist()
    ([4.0, 2.0], [0.5, 0.5])
    """
    flat, unravel = ravel_pytree(params)
    for name, count in {"pairs": pairs, "iterations": iterations, "probes": probes}.items():
        check_integer(name, count, 1)
    if not pairs <= iterations <= flat.size:
        raise ValueError(
            f"iterations must be at least pairs and at most the number of parameters, {flat.size}; "
            f"got {iterations} iterations for {pairs} pairs."
        )
    size = sum(leaf.size for leaf in jax.tree.leaves(state.momentum))
    if size != flat.size:
        raise ValueError(f"state must be of the {flat.size} parameters given; it is of {size}.")
    operator = getattr(state.fixed, "operator", None)  # of a form that is not the library's own
    first, *others = jax.random.split(jax.random.key(0) if key is None else key, probes + 1)

    @jax.jit
    def eigenpairs(flat: jax.Array, slices: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        def product(v: jax.Array) -> jax.Array:
            def of_slice(one: Any) -> jax.Array:
                gradient = jax.grad(lambda x: loss(unravel(x), one))
                # Reverse over reverse: some layers have no forward derivative.
                return jax.grad(lambda x: jnp.vdot(gradient(x), v))(flat)

            return jnp.mean(jax.lax.map(of_slice, slices), axis=0)

        basis, projected = lanczos(product, flat.size, iterations, first, flat.dtype)
        values, vectors = jnp.linalg.eigh(projected)
        top = vectors[:, ::-1][:, :pairs].T @ basis

        def residual(q: jax.Array) -> jax.Array:
            image = product(q)
            return jnp.linalg.norm(image - jnp.vdot(q, image) * q)

        return values[::-1][:pairs], jax.lax.map(residual, top), top

    @jax.jit
    def of_inverse(state: LodoState, top: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def product(v: jax.Array) -> jax.Array:
            return apply(state, v, operator=operator)

        def quadrature(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            values, vectors = jnp.linalg.eigh(lanczos(product, flat.size, iterations, key, flat.dtype)[1])
            return values, vectors[0] ** 2

        return top @ jax.lax.map(product, top).T, *jax.lax.map(quadrature, keys)

    values, residuals, top = eigenpairs(flat, slices)
    inside, nodes, weights = of_inverse(state, top, jnp.stack(others))
    return {
        "curvatures": np.asarray(values),
        "curvature_residuals": np.asarray(residuals),
        "inverse_in_eigenbasis": np.asarray(inside),
        "inverse_nodes": np.asarray(nodes),
        "inverse_weights": np.asarray(weights),
    }


def curvature_of_runs(
    loss: Callable[[Any, Any], jax.Array], slices: Any, params: Any, states: Any
) -> Mapping[str, np.ndarray]:
    """:func:`curvature` of every run, each array with a leading axis of runs; nothing for another optimizer.

    Args:
      loss: as there.
      slices: as there.
      params: each leaf [runs, …].
      states: optimizer states, likewise.
    """
    found = nodes_of(states, LodoState)
    if not found:
        return {}
    runs = len(jax.tree.leaves(params)[0])
    each = [
        curvature(loss, slices, *jax.tree.map(lambda leaf, run=run: leaf[run], (params, found[0])))
        for run in range(runs)
    ]
    return {name: np.stack([one[name] for one in each]) for name in each[0]}
