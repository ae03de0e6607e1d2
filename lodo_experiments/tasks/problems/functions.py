"""Quadratics, and test functions of the optimization literature in n dimensions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lodo_experiments.tasks.problems.problem import Problem, around, like


def quadratic(name: str, size: int, eigenvalues: np.ndarray, *, seed: int, steps: int, noise: float = 0.0) -> Problem:
    """½ xᵀ H x with random eigenvectors, from a standard normal start.

    Args:
      size: n.
      eigenvalues: of H, [n].
      seed: of the eigenvectors.
      noise: standard deviation of normal noise in the gradient, in units of the square root of H: the minimum moves to
        another place at each evaluation.
    """
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    root = np.sqrt(eigenvalues)[:, None] * Q.T

    def loss(x: jax.Array, key: jax.Array) -> jax.Array:
        away = like(root, x) @ x
        if noise:
            away = away + noise * jax.random.normal(key, x.shape, x.dtype)
        return 0.5 * jnp.sum(away**2)

    return Problem(name, around(np.zeros(size), 1.0), loss, steps, stochastic=bool(noise))


def _function(
    name: str, formula: Callable[[jax.Array], jax.Array], start: np.ndarray, steps: int, deviation: float = 0.1
) -> Problem:
    def loss(x: jax.Array, key: jax.Array) -> jax.Array:
        return formula(x)

    return Problem(name, around(start, deviation), loss, steps)


def rosenbrock(name: str, size: int, *, steps: int) -> Problem:
    """Σ 100 (x_{i+1} − x_i²)² + (1 − x_i)², near its classical start (−1.2, 1, −1.2, …)."""

    def formula(x: jax.Array) -> jax.Array:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return _function(name, formula, np.resize([-1.2, 1.0], size), steps)


def rastrigin(name: str, size: int, *, steps: int) -> Problem:
    """Σ x² + 10 (1 − cos 2πx), from normal starts of standard deviation 2: the local minimum reached is the score."""

    def formula(x: jax.Array) -> jax.Array:
        return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))

    return _function(name, formula, np.zeros(size), steps, 2.0)


def beale(name: str, pairs: int, *, steps: int) -> Problem:
    """Beale's function of each pair (x, y), near (1, 1): a narrow curved valley with its minimum 0 at (3, ½)."""

    def formula(z: jax.Array) -> jax.Array:
        x, y = z[:pairs], z[pairs:]
        return jnp.sum((1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2)

    return _function(name, formula, np.ones(2 * pairs), steps)


def styblinski_tang(name: str, size: int, *, steps: int) -> Problem:
    """½ Σ x⁴ − 16 x² + 5 x above its least value, from standard normal starts: several minima in each coordinate."""
    roots = np.roots([4.0, 0.0, -32.0, 5.0]).real
    least = float(np.min(roots**4 - 16 * roots**2 + 5 * roots))

    def formula(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(x**4 - 16 * x**2 + 5 * x - least)

    return _function(name, formula, np.zeros(size), steps, 1.0)


def powell_singular(name: str, groups: int, *, steps: int) -> Problem:
    """Powell's singular function of each group of four, near (3, −1, 0, 1): its Hessian is singular at the minimum."""

    def formula(z: jax.Array) -> jax.Array:
        a, b, c, d = z.reshape(4, groups)
        return jnp.sum((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)

    return _function(name, formula, np.repeat([3.0, -1.0, 0.0, 1.0], groups), steps)


def wood(name: str, groups: int, *, steps: int) -> Problem:
    """Wood's function of each group of four, near (−3, −1, −3, −1)."""

    def formula(z: jax.Array) -> jax.Array:
        a, b, c, d = z.reshape(4, groups)
        valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
        return jnp.sum(valleys + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1))

    return _function(name, formula, np.repeat([-3.0, -1.0, -3.0, -1.0], groups), steps)
