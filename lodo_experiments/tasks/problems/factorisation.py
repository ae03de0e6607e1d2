"""Factorisations and eigenvalues: losses that are not convex, with symmetries and saddle points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lodo_experiments.tasks.problems.layers import normal
from lodo_experiments.tasks.problems.problem import ROUNDING, Params, Problem, around, like


def matrix(name: str, *, rows: int, columns: int, rank: int, seed: int, steps: int) -> Problem:
    """U Vᵀ fitted to the 60 % of a low-rank matrix's entries that are given."""
    rng = np.random.default_rng(seed)
    target = (rng.normal(size=(rows, rank)) * np.geomspace(1, 0.2, rank)) @ rng.normal(size=(rank, columns))
    given = (rng.random((rows, columns)) < 0.6) / 0.6

    def init(key: jax.Array) -> Params:
        one, two = jax.random.split(key)
        return {"rows": normal(one, (rows, rank), 4), "columns": normal(two, (columns, rank), 4)}

    def loss(params: Params, key: jax.Array) -> jax.Array:
        off = params["rows"] @ params["columns"].T - like(target, params)
        return jnp.mean(like(given, params) * off**2)

    return Problem(name, init, loss, steps)


def tensor(name: str, *, sizes: tuple[int, int, int], rank: int, seed: int, steps: int) -> Problem:
    """A sum of rank-one tensors fitted to another with correlated factors: canonical polyadic decomposition."""
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(size, rank)) + 0.7 * rng.normal(size=(size, 1)) for size in sizes]
    target = np.einsum("ir,jr,kr->ijk", *factors)

    def init(key: jax.Array) -> Params:
        return [normal(k, (size, rank), 2) for k, size in zip(jax.random.split(key, 3), sizes, strict=True)]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        return jnp.mean((jnp.einsum("ir,jr,kr->ijk", *params) - like(target, params)) ** 2)

    return Problem(name, init, loss, steps)


def embedding(name: str, *, words: int, size: int, seed: int, steps: int) -> Problem:
    """Weighted log counts of words that occur together, by inner products and biases; frequencies follow Zipf's law."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, words + 1)
    meaning = rng.normal(size=(words, 3))
    expected = 300 * np.sqrt(frequency[:, None] * frequency) * np.exp(0.4 * meaning @ meaning.T)
    counts = rng.poisson(expected)
    weight, logs = np.minimum(counts / 50, 1) ** 0.75, np.log(np.maximum(counts, 1))

    def init(key: jax.Array) -> Params:
        one, two = jax.random.split(key)
        vectors = {"word": normal(one, (words, size), size), "context": normal(two, (words, size), size)}
        return vectors | {"word_bias": jnp.zeros(words), "context_bias": jnp.zeros(words)}

    def loss(params: Params, key: jax.Array) -> jax.Array:
        fitted = params["word"] @ params["context"].T + params["word_bias"][:, None] + params["context_bias"]
        return jnp.mean(like(weight, params) * (fitted - like(logs, params)) ** 2)

    return Problem(name, init, loss, steps)


def phase_retrieval(name: str, *, size: int, measurements: int, seed: int, steps: int) -> Problem:
    """A vector from the squares of its inner products with random vectors; x and −x both solve it."""
    rng = np.random.default_rng(seed)
    A, wanted = rng.normal(size=(measurements, size)), rng.normal(size=size)
    squares = (A @ wanted) ** 2

    def loss(x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.mean(((like(A, x) @ x) ** 2 - like(squares, x)) ** 2) / 4

    return Problem(name, around(np.zeros(size), 1.0), loss, steps)


def rayleigh(name: str, *, size: int, count: int, seed: int, steps: int) -> Problem:
    """The leading eigenvectors: tr A − tr (XᵀX)⁻¹ XᵀAX less the sum of the eigenvalues that are left over."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    eigenvalues = 1 / np.arange(1, size + 1)
    A, lost = (Q * eigenvalues) @ Q.T, float(eigenvalues[count:].sum())

    def loss(X: jax.Array, key: jax.Array) -> jax.Array:
        kept = jnp.linalg.solve(X.T @ X, X.T @ like(A, X) @ X)
        return float(eigenvalues.sum()) - lost - jnp.trace(kept)

    resolution = 4 * ROUNDING * float(eigenvalues.sum())
    return Problem(name, around(np.zeros((size, count)), 1.0), loss, steps, resolution=resolution)
