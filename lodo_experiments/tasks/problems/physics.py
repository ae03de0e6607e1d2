"""Differential equations: networks that solve them, dynamics to fit, a control to find, and a blurred signal."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lodo_experiments.tasks.problems.layers import apply, dense
from lodo_experiments.tasks.problems.problem import Params, Problem, around, like


def poisson_network(
    name: str, *, width: int, frequency: float, points: int, steps: int, resampled: bool = False
) -> Problem:
    """u″ = f on [0, 1] with u = sin(π ω x) + x / 2 at the ends, by the mean square of the equation's residual.

    Args:
      width: of the network's two hidden layers.
      frequency: ω.
      points: collocation points.
      resampled: whether they are drawn anew at each step; otherwise they lie on a grid.
    """
    ends = np.array([0.0, 1.0])
    values = np.sin(np.pi * frequency * ends) + 0.5 * ends

    def loss(params: Params, key: jax.Array) -> jax.Array:
        def u(x: jax.Array) -> jax.Array:
            return apply(params, x[None])[0]

        x = like(np.linspace(0, 1, points), params)
        if resampled:
            x = jax.random.uniform(key, (points,), x.dtype)
        wanted = -((np.pi * frequency) ** 2) * jnp.sin(np.pi * frequency * x)
        inside = jax.vmap(jax.grad(jax.grad(u)))(x) - wanted
        at_ends = jax.vmap(u)(like(ends, params)) - like(values, params)
        return jnp.mean(inside**2) + 100 * jnp.sum(at_ends**2)

    return Problem(name, lambda key: dense(key, (1, width, width, 1)), loss, steps, stochastic=resampled)


def heat_network(name: str, *, width: int, points: int, seed: int, steps: int) -> Problem:
    """u_t = 0.1 u_xx on [0, 1]², u = sin(πx) + ½ sin(3πx) at t = 0 and 0 at both ends, by mean squares."""
    rng = np.random.default_rng(seed)
    inside, start, edge = rng.random((points, 2)), rng.random((points // 4, 1)), rng.random((points // 4, 1))
    at_start = np.concatenate([start, 0 * start], axis=1)
    at_edges = np.concatenate([np.concatenate([0 * edge, edge], axis=1), np.concatenate([0 * edge + 1, edge], axis=1)])
    wanted = (np.sin(np.pi * start) + 0.5 * np.sin(3 * np.pi * start))[:, 0]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        def u(x: jax.Array, t: jax.Array) -> jax.Array:
            return apply(params, jnp.stack([x, t]))[0]

        def residual(z: jax.Array) -> jax.Array:
            return jax.grad(u, 1)(z[0], z[1]) - 0.1 * jax.grad(jax.grad(u))(z[0], z[1])

        off = apply(params, like(at_start, params))[:, 0] - like(wanted, params)
        edges = apply(params, like(at_edges, params))
        return jnp.mean(jax.vmap(residual)(like(inside, params)) ** 2) + 10 * (jnp.mean(off**2) + jnp.mean(edges**2))

    return Problem(name, lambda key: dense(key, (2, width, width, 1)), loss, steps)


def _runge_kutta(field: Callable[[jax.Array], jax.Array], x: jax.Array, step: float, count: int) -> jax.Array:
    """States after each of some steps of the classical method, [steps, ...]."""

    def once(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        a = field(x)
        b = field(x + step / 2 * a)
        c = field(x + step / 2 * b)
        d = field(x + step * c)
        x = x + step / 6 * (a + 2 * b + 2 * c + d)
        return x, x

    return jax.lax.scan(once, x, None, length=count)[1]


def neural_ode(name: str, *, width: int, seed: int, steps: int) -> Problem:
    """The field of a damped cubic oscillator as a network, fitted to eight paths of twenty states."""
    starts = np.random.default_rng(seed).uniform(-1.5, 1.5, (8, 2))
    A = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    with jax.enable_x64(True):
        paths = np.asarray(_runge_kutta(lambda x: x**3 @ A, jnp.asarray(starts), 0.05, 20))

    def loss(params: Params, key: jax.Array) -> jax.Array:
        made = _runge_kutta(lambda x: apply(params, x), like(starts, params), 0.05, 20)
        return jnp.mean((made - like(paths, params)) ** 2)

    return Problem(name, lambda key: dense(key, (2, width, 2)), loss, steps)


def pendulum_control(name: str, *, length: int, steps: int) -> Problem:
    """Forces that bring a hanging pendulum upright in time, by shooting: cost of the end, and a little of force."""

    def loss(force: jax.Array, key: jax.Array) -> jax.Array:
        def once(state: jax.Array, push: jax.Array) -> tuple[jax.Array, None]:
            speed = state[1] + 0.1 * (push - jnp.sin(state[0]))
            return jnp.stack([state[0] + 0.1 * speed, speed]), None

        end, _ = jax.lax.scan(once, jnp.zeros(2, force.dtype), force)
        return (end[0] - jnp.pi) ** 2 + end[1] ** 2 + 1e-3 * jnp.mean(force**2)

    return Problem(name, around(np.zeros(length), 0.1), loss, steps)


def linear_control(name: str, *, length: int, states: int, seed: int, steps: int) -> Problem:
    """Open-loop inputs of a linear system of which some modes grow, by shooting through its dynamics."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(states, states)))
    A, B = (Q * np.linspace(0.7, 1.05, states)) @ Q.T, rng.normal(size=(states, 1))
    # The states are linear in the inputs: all of them are free [length · states] + effect [length · states, length] u.
    free, effect = np.zeros((length, states)), np.zeros((length, states, length))
    x, response = rng.normal(size=states), np.zeros((states, length))
    for t in range(length):
        x, response = A @ x, A @ response
        response[:, t] += B[:, 0]
        free[t], effect[t] = x, response
    flat = effect.reshape(-1, length)
    best = np.linalg.solve(flat.T @ flat + 0.1 * np.eye(length), -flat.T @ free.ravel())
    least = float(((free.ravel() + flat @ best) ** 2).sum() + 0.1 * (best**2).sum()) / length

    def loss(u: jax.Array, key: jax.Array) -> jax.Array:
        def once(x: jax.Array, push: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = like(A, u) @ x + like(B[:, 0], u) * push
            return x, jnp.sum(x**2)

        _, costs = jax.lax.scan(once, like(np.linalg.solve(A, free[0]), u), u)
        return (jnp.sum(costs) + 0.1 * jnp.sum(u**2)) / length - least

    return Problem(name, around(np.zeros(length), 0.1), loss, steps, resolution=1e-5 * least)


def deconvolution(name: str, *, size: int, width: float, seed: int, steps: int) -> Problem:
    """A signal from its blurred copy: ½ mean square misfit and a little of its own square."""
    rng = np.random.default_rng(seed)
    place = np.arange(size)
    blur = np.exp(-((place[:, None] - place) ** 2) / (2 * width**2))
    blur /= blur.sum(axis=1, keepdims=True)
    signal = np.repeat(rng.normal(size=size // 8), 8)
    seen = blur @ signal + 1e-3 * rng.normal(size=size)
    best = np.linalg.solve(blur.T @ blur + 1e-4 * np.eye(size), blur.T @ seen)
    hessian = (blur.T @ blur + 1e-4 * np.eye(size)) / size
    root = np.linalg.cholesky(hessian).T

    def loss(x: jax.Array, key: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((like(root, x) @ (x - like(best, x))) ** 2)  # the misfit above its least value, exactly

    return Problem(name, around(np.zeros(size), 0.1), loss, steps)
