"""Regressions on data that a seed makes; where the least loss can be computed, it is subtracted."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize

from lodo_experiments.tasks.problems.layers import cross_entropy
from lodo_experiments.tasks.problems.problem import ROUNDING, Problem, around, like, minimum


def _above_minimum(
    name: str, loss: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], steps: int, least: float | None = None
) -> Problem:
    """A deterministic convex loss less its minimum, from small normal starts."""
    size = int(np.prod(shape))
    least = minimum(lambda x: loss(x.reshape(shape)), np.zeros(size)) if least is None else least

    def above(x: jax.Array, key: jax.Array) -> jax.Array:
        return loss(x) - least

    return Problem(name, around(np.zeros(shape)), above, steps, resolution=ROUNDING * abs(least))


def linear(name: str, *, condition: float, rows: int, columns: int, seed: int, steps: int) -> Problem:
    """Least squares without noise in the labels, ½ mean (A (w − w*))²; the condition is that of AᵀA."""
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.normal(size=(rows, columns)))
    V, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    A = np.sqrt(rows) * (U * np.geomspace(1, condition**-0.5, columns)) @ V.T
    wanted = A @ rng.normal(size=columns)

    def loss(w: jax.Array, key: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((like(A, w) @ w - like(wanted, w)) ** 2)

    return Problem(name, around(np.zeros(columns)), loss, steps)


def _design(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Correlated features of several scales, and a column of ones."""
    mixed = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) / np.sqrt(columns)
    return np.concatenate([mixed * np.geomspace(2, 0.2, columns), np.ones((rows, 1))], axis=1)


def logistic(name: str, *, rows: int, columns: int, seed: int, steps: int) -> Problem:
    """Logistic regression with noisy labels and the penalty 1e-3 ½‖w‖²."""
    rng = np.random.default_rng(seed)
    A = _design(rng, rows, columns)
    sign = np.where(A @ rng.normal(size=columns + 1) + 0.5 * rng.logistic(size=rows) > 0, 1.0, -1.0)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.softplus(-like(sign, w) * (like(A, w) @ w))) + 5e-4 * jnp.sum(w**2)

    return _above_minimum(name, loss, (columns + 1,), steps)


def poisson(name: str, *, rows: int, columns: int, seed: int, steps: int) -> Problem:
    """Counts y with E[y] = exp(A w): mean of exp(A w) − y A w. It is steep on one side and flat on the other."""
    rng = np.random.default_rng(seed)
    A = _design(rng, rows, columns)
    counts = rng.poisson(np.exp(np.clip(A @ rng.normal(0, 0.5, columns + 1), None, 4))).astype(float)

    def loss(w: jax.Array) -> jax.Array:
        logs = like(A, w) @ w
        return jnp.mean(jnp.exp(logs) - like(counts, w) * logs)

    return _above_minimum(name, loss, (columns + 1,), steps)


def softmax(name: str, *, rows: int, columns: int, classes: int, batch: int, seed: int, steps: int) -> Problem:
    """Softmax regression by minibatches drawn with replacement."""
    rng = np.random.default_rng(seed)
    A = _design(rng, rows, columns)
    labels = np.argmax(A @ rng.normal(size=(columns + 1, classes)) + rng.gumbel(size=(rows, classes)), axis=1)

    def loss(W: jax.Array, key: jax.Array) -> jax.Array:
        rows_drawn = jax.random.randint(key, (batch,), 0, rows)
        return cross_entropy(like(A, W)[rows_drawn] @ W, jnp.asarray(labels)[rows_drawn])

    return Problem(name, around(np.zeros((columns + 1, classes))), loss, steps, stochastic=True)


def huber(name: str, *, rows: int, columns: int, seed: int, steps: int) -> Problem:
    """Huber's loss (δ = 1) on labels of which one in five is an outlier."""
    rng = np.random.default_rng(seed)
    A = _design(rng, rows, columns)
    noise = np.where(rng.random(rows) < 0.2, 20.0, 0.2) * rng.normal(size=rows)
    labels = A @ (3 * rng.normal(size=columns + 1)) + noise

    def loss(w: jax.Array) -> jax.Array:
        off = jnp.abs(like(A, w) @ w - like(labels, w))
        return jnp.mean(jnp.where(off < 1, 0.5 * off**2, off - 0.5))

    return _above_minimum(name, loss, (columns + 1,), steps)


def quantile(name: str, *, level: float, rows: int, columns: int, seed: int, steps: int) -> Problem:
    """The pinball loss of a quantile, which has kinks; its minimum is that of a linear program."""
    rng = np.random.default_rng(seed)
    A = _design(rng, rows, columns)
    labels = A @ rng.normal(size=columns + 1) + rng.exponential(size=rows)
    cost = np.concatenate([np.zeros(columns + 1), np.full(rows, level), np.full(rows, 1 - level)]) / rows
    equal = np.concatenate([A, np.eye(rows), -np.eye(rows)], axis=1)
    bounds = [(None, None)] * (columns + 1) + [(0, None)] * (2 * rows)
    least = float(scipy.optimize.linprog(cost, A_eq=equal, b_eq=labels, bounds=bounds).fun)

    def loss(w: jax.Array) -> jax.Array:
        off = like(labels, w) - like(A, w) @ w
        return jnp.mean(jnp.maximum(level * off, (level - 1) * off))

    return _above_minimum(name, loss, (columns + 1,), steps, least)


def kernel_ridge(name: str, *, rows: int, width: float, penalty: float, seed: int, steps: int) -> Problem:
    """½ mean (K a − y)² + ½ λ aᵀ K a with a Gaussian kernel: its Hessian's eigenvalues fall exponentially."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 2))
    K = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / (2 * width**2))
    y = np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1]) + 0.1 * rng.normal(size=rows)

    def objective(a: np.ndarray) -> float:
        return float(0.5 * np.mean((K @ a - y) ** 2) + 0.5 * penalty * a @ K @ a)

    least = objective(np.linalg.solve(K + penalty * rows * np.eye(rows), y))

    def loss(a: jax.Array) -> jax.Array:
        fitted = like(K, a) @ a
        return 0.5 * jnp.mean((fitted - like(y, a)) ** 2) + 0.5 * penalty * a @ fitted

    return _above_minimum(name, loss, (rows,), steps, least)


def gaussian_process(name: str, *, rows: int, inputs: int, seed: int, steps: int) -> Problem:
    """Negative log likelihood a data point of a Gaussian process, by the logs of its scales, above its minimum."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (rows, inputs))
    truth = np.concatenate([np.log(np.geomspace(0.5, 4, inputs)), [0.5, -2.0]])

    def covariance(logs: np.ndarray) -> np.ndarray:
        away = (x[:, None] - x[None]) / np.exp(logs[:inputs])
        return np.exp(2 * logs[-2]) * np.exp(-0.5 * (away**2).sum(-1)) + np.exp(2 * logs[-1]) * np.eye(rows)

    y = scipy.linalg.cholesky(covariance(truth), lower=True) @ rng.normal(size=rows)

    def loss(logs: jax.Array) -> jax.Array:
        away = (like(x, logs)[:, None] - like(x, logs)[None]) / jnp.exp(logs[:inputs])
        K = jnp.exp(2 * logs[-2]) * jnp.exp(-0.5 * (away**2).sum(-1))
        K = K + (jnp.exp(2 * logs[-1]) + 1e-4) * jnp.eye(rows, dtype=logs.dtype)
        L = jnp.linalg.cholesky(K)
        white = jax.scipy.linalg.solve_triangular(L, like(y, logs), lower=True)
        return (0.5 * jnp.sum(white**2) + jnp.sum(jnp.log(jnp.diagonal(L)))) / rows

    least = minimum(loss, truth)
    return _above_minimum(name, loss, (inputs + 2,), steps, least)
