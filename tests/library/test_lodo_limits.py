"""Limit cases of LODO, and the whole of Algorithm 1 restated with explicit matrices in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import operators

N = 6  # parameters
RATE, DECAY, META_RATE = 0.2, 0.7, 0.05
START = np.linspace(-1.0, 2.0, N)
_q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))
HESSIAN = _q @ np.diag(np.geomspace(0.1, 1.0, N)) @ _q.T


def gradient(x):
    """Of ½ xᵀ H x + ¼ Σ x⁴, which is no quadratic."""
    return HESSIAN @ x + x**3


def run(optimizer, steps, gradient=gradient):
    """The points x₀ … x_T [T + 1, n] and the last state."""

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(gradient(x), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    x = jnp.asarray(START)
    (_, state), points = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), None, steps))(x)
    return np.concatenate([START[None], points]), state


def momentum_sgd(rates, decay=DECAY):
    """Momentum SGD in a numpy loop: m = β m + (1−β) g, x = x − α₀ m."""
    x, m, points = START.copy(), np.zeros(N), [START]
    for rate in rates:
        m = decay * m + (1 - decay) * gradient(x)
        x = x - rate * m
        points.append(x)
    return np.stack(points)


@pytest.mark.parametrize(
    "arguments",
    [
        {"meta_learning_rate": 0.0, "depth": 3},
        {"depth": 0, "meta_learning_rate": 0.1},
        {"meta_learning_rate": lambda t: 0.0 * t.astype(float), "operator": operators.Diagonal()},
        {"operator": operators.Scalar(), "meta_optimizer": optax.set_to_zero()},
    ],
    ids=["meta rate 0", "depth 0", "meta schedule 0", "meta-optimizer zero"],
)
def test_without_learning_is_momentum_sgd(arguments):
    """Equation `operator` of book/algorithm.md."""
    points, _ = run(lodo.lodo(RATE, momentum=DECAY, **arguments), 25)
    np.testing.assert_allclose(points, momentum_sgd([RATE] * 25), rtol=1e-12, atol=1e-13)
    chain = optax.chain(optax.ema(DECAY, debias=False), optax.scale(-RATE))
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(points, run(chain, 25)[0], rtol=1e-12, atol=1e-13)


def test_scheduled_rate_without_learning():
    points, state = run(lodo.lodo(lambda t: 0.3 / (1 + t.astype(float)), 0.0, DECAY, depth=2), 12)
    np.testing.assert_allclose(points, momentum_sgd(0.3 / (1 + np.arange(12))), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(state.initial_learning_rate, 0.3 / 12, rtol=1e-14)
    assert state.step_count == 12


def test_no_momentum_is_gradient_descent():
    points, _ = run(lodo.lodo(RATE, 0.0, momentum=0.0, depth=2), 10)
    np.testing.assert_allclose(points, momentum_sgd([RATE] * 10, decay=0.0), rtol=1e-12, atol=1e-13)


def test_first_step_learns_nothing_and_moves_by_the_first_gradient():
    optimizer = lodo.lodo(RATE, 0.1, DECAY, depth=2)
    before = optimizer.init(jnp.asarray(START))
    step, after = jax.jit(optimizer.update)(jnp.asarray(START), before)
    np.testing.assert_array_equal(before.theta, after.theta)
    np.testing.assert_allclose(step, -RATE * (1 - DECAY) * START, rtol=1e-13)


def test_block_size_one_with_identity_permutations_runs_as_diagonal():
    # S = diag(w²) for one layer of scalars, against diag(θ): with SGD as meta-optimizer w = √θ at the start only, so
    # one meta-step is compared: dθ = 2 w dw to first order, hence exactly the hypergradients are.
    blocks = operators.BlockPermutation(1, 1, N)
    still = jnp.arange(N, dtype=jnp.int32)[None]
    fixed = operators.Permutations(still, still)
    weights = np.linspace(0.5, 1.5, N)
    m, g = START, gradient(START)
    ours = blocks.hypergradient(jnp.asarray(weights)[None, None, None], fixed, jnp.asarray(m), jnp.asarray(g))
    diagonal = operators.Diagonal().hypergradient(
        jnp.asarray(weights**2), operators.NoFixed(), jnp.asarray(m), jnp.asarray(g)
    )
    np.testing.assert_allclose(ours[0, 0, 0], 2 * weights * diagonal, rtol=1e-13)
    np.testing.assert_allclose(
        blocks.apply(jnp.asarray(weights)[None, None, None], fixed, jnp.asarray(m)), weights**2 * m, rtol=1e-13
    )


# Algorithm 1 again, from the paper's equations: G is a product of dense matrices, the hypergradient is jax.grad of
# the loss through the step, Adam is written out. It shares no code with the library but the drawn arrays.


def dense_blocks(theta, fixed):
    """Ĝᵀ Ĝ, from blocks [N, in, out, b] and permutations; block b holds the coordinates b, b + ñ/k, …"""
    hidden = fixed.forward.shape[1]
    up = jnp.eye(hidden)
    for layer in range(theta.shape[0]):
        k, _, count = theta[layer].shape
        matrix = jnp.zeros((hidden, hidden))
        for b in range(count):
            places = b + count * np.arange(k)
            matrix = matrix.at[np.ix_(places, places)].set(theta[layer, :, :, b].T)
        up = matrix @ jnp.eye(hidden)[fixed.forward[layer]] @ up
    return (up.T @ up)[:N, :N]


def dense_residuals(theta, fixed):
    hidden = theta.diagonal.size
    up = jnp.eye(hidden)
    for weights, permutation in zip(theta.layers, fixed.forward, strict=True):
        up = (jnp.eye(hidden) + jnp.diag(weights) @ jnp.eye(hidden)[permutation]) @ up
    return (up.T @ jnp.diag(theta.diagonal) @ up)[:N, :N]


DENSE = {
    "blocks": (operators.BlockPermutation(3, 2, 8), dense_blocks),
    "residuals": (operators.Residuals(2), dense_residuals),
    "diagonal": (operators.Diagonal(), lambda theta, _: jnp.diag(theta)),
    "scalar": (operators.Scalar(), lambda theta, _: theta * jnp.eye(N)),
}


def adam_change(first, second, t):
    """m̂ / (√v̂ + ε), Kingma & Ba 2015, Algorithm 1, at its step t = 1, 2, …"""

    def leaf(m, v):
        return (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return jax.tree.map(leaf, first, second)


def restated(dense, theta, fixed, steps, rate, meta_rate, adam=True):
    """Algorithm 1 in the paper's order, with x_{t+1} = x_t − G(θ_t) m_t first; [steps + 1, n] points and θ."""
    loss = lambda x: 0.5 * x @ (jnp.asarray(HESSIAN) @ x) + 0.25 * jnp.sum(x**4)  # noqa: E731

    def through_the_step(theta, x, m, alpha0):
        return loss(x - alpha0 * (dense(theta, fixed) @ m))

    hypergradient = jax.jit(jax.grad(through_the_step))
    forward = jax.jit(lambda theta, x, m, alpha0: x - alpha0 * (dense(theta, fixed) @ m))
    slope = jax.jit(jax.grad(loss))
    x, m, points = jnp.asarray(START), jnp.zeros(N), []
    first = jax.tree.map(np.zeros_like, theta)
    second = jax.tree.map(np.zeros_like, theta)
    for t in range(steps + 1):
        alpha0 = rate(max(t - 1, 0))  # the rate of the step that is about to be made and judged
        h = hypergradient(theta, x, m, alpha0)
        x = forward(theta, x, m, alpha0)
        points.append(np.asarray(x))
        if t == steps:
            break
        change = h
        if adam:
            first = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, first, h)
            second = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b**2, second, h)
            change = adam_change(first, second, t + 1)
        theta = jax.tree.map(partial(lambda a, c, rate: a - rate * c, rate=meta_rate(t)), theta, change)
        m = DECAY * m + (1 - DECAY) * slope(x)
    return np.stack(points), theta


@pytest.mark.parametrize("name", DENSE)
def test_thirty_steps_equal_the_dense_restatement(name):
    operator, dense = DENSE[name]
    # Residuals start with eigenvalues of several; a smaller rate keeps its run from diverging.
    rate = 0.05 if name == "residuals" else RATE
    optimizer = lodo.lodo(rate, 0.01, DECAY, operator=operator, seed=3)
    start = optimizer.init(jnp.asarray(START))
    points, state = run(optimizer, 30)
    expected, theta = restated(dense, start.theta, start.fixed, 30, lambda t: rate, lambda t: 0.01)
    np.testing.assert_allclose(points, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(jax.tree.leaves(state.theta), jax.tree.leaves(theta), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    # It learned: momentum SGD ends elsewhere.
    assert np.abs(points[-1] - momentum_sgd([rate] * 30)[-1]).max() > 1e-3


def test_schedules_and_sgd_equal_the_dense_restatement():
    operator, dense = DENSE["diagonal"]
    rate, meta_rate = lambda t: 0.3 * 0.8**t, lambda t: 0.05 / (1 + t)
    optimizer = lodo.lodo(
        lambda t: 0.3 * 0.8 ** t.astype(float), lambda t: 0.05 / (1 + t.astype(float)), DECAY, operator=operator
    )
    points, state = run(optimizer, 10)
    expected, theta = restated(dense, np.ones(N), None, 10, rate, meta_rate)
    np.testing.assert_allclose(points, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.theta, theta, rtol=1e-12, atol=1e-12)
    sgd = lodo.lodo(rate(0), momentum=DECAY, operator=operator, meta_optimizer=optax.sgd(0.05))
    points, state = run(sgd, 10)
    expected, theta = restated(dense, np.ones(N), None, 10, lambda t: rate(0), lambda t: 0.05, adam=False)
    np.testing.assert_allclose(points, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.theta, theta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["blocks", "residuals"])
def test_hypergradient_is_the_derivative_of_the_loss_after_the_step(name):
    """d loss(x_{t+1})/dθ_t through the step, against what a meta-optimizer is handed in the update.

    Equation `hypergradient` of book/algorithm.md.
    """
    operator, _ = DENSE[name]
    seen = []
    still = lambda hypergradient: (seen.append(hypergradient), jax.tree.map(jnp.zeros_like, hypergradient))[1]  # noqa: E731
    spy = optax.stateless(lambda updates, _: still(updates))
    rate = lambda t: 0.1 / (1 + t.astype(float))  # noqa: E731
    optimizer = lodo.lodo(rate, momentum=DECAY, operator=operator, meta_optimizer=spy)
    x = jnp.asarray(START)
    state = optimizer.init(x)
    updates, state = optimizer.update(gradient(x), state)
    updates, state = optimizer.update(gradient(x + updates), state)  # made at rate(1) = 0.05
    at = x + updates

    def loss_after(theta):
        y = at - 0.05 * operator.apply(theta, state.fixed, state.momentum)
        return 0.5 * y @ (jnp.asarray(HESSIAN) @ y) + 0.25 * jnp.sum(y**4)

    expected = jax.jit(jax.grad(loss_after))(state.theta)
    step = -0.05 * operator.apply(state.theta, state.fixed, state.momentum)
    np.testing.assert_allclose(updates, step, rtol=1e-12)
    optimizer.update(gradient(at + step), state)
    for ours, derivative in zip(jax.tree.leaves(seen[-1]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, derivative, rtol=1e-12, atol=1e-12 * np.abs(derivative).max())
        assert np.abs(derivative).max() > 1e-3
