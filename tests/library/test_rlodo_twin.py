"""Relative LODO against a dense float64 twin, finite differences of what it says it ascends, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlodo_twin

import lodo
from lodo.operators import BlockPermutation
from lodo.relative.steps import derivative


def curvature(n):
    """A Hessian of condition 100, and not along the coordinates."""
    basis, _ = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))
    return basis @ np.diag(np.geomspace(0.1, 10.0, n)) @ basis.T


def gradients(n, steps, scale=1.0):
    rng = np.random.default_rng(7)
    return lambda x, t: scale * (curvature(n) @ x + 0.1 * rng.normal(size=n) * (1 + 40 * (t == steps // 2)))


def run(optimizer, n, steps, **arguments):
    """Both runs from the same start, each along its own path."""
    x0 = np.linspace(-1.0, 2.0, n)
    x, state, update = jnp.asarray(x0), optimizer.init(jnp.asarray(x0)), jax.jit(optimizer.update)
    twin, gradient = rlodo_twin.Twin(state.theta, state.fixed.forward, x0, **arguments), gradients(n, steps)
    own, path = x0, []
    for t in range(steps):
        step, state = update(jnp.asarray(gradient(np.asarray(x), t)), state, x)
        x = x + step
        path.append(np.asarray(x))
    rng_again = gradients(n, steps)
    for t in range(steps):
        own = own + twin.step(rng_again(own, t))
        np.testing.assert_allclose(path[t], own, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(state.theta, twin.theta, rtol=1e-10, atol=1e-12)
    return state, twin


@pytest.mark.parametrize(
    ("n", "changed"),
    [
        (13, {}),
        (12, {"whitening": 1.0}),
        (9, {"rate": "auto"}),
        (10, {"momentum": 0.5, "initial_learning_rate": 0.1, "whitening": 0.3}),
    ],
)
def test_a_run_is_the_twins(n, changed):
    changed = dict(changed)
    rate = lambda t: 5e-3 / (1 + jnp.asarray(t, float) / 50)  # noqa: E731
    auto = changed.pop("rate", None)
    optimizer = lodo.rlodo(auto or rate, depth=5, **changed)
    if auto:
        rate = lambda t: 2.5e-3 / (1 + t / (15 * n))  # noqa: E731
    names = {"initial_learning_rate": "alpha0"}
    state, twin = run(optimizer, n, 60, rate=rate, **{names.get(key, key): value for key, value in changed.items()})
    assert np.abs(state.theta - optimizer.init(jnp.zeros(n)).theta).max() > 0.03
    np.testing.assert_allclose(state.decay, twin.beta, rtol=1e-10)
    np.testing.assert_allclose(state.log_scale, twin.s, rtol=1e-10)
    np.testing.assert_allclose(state.gain, twin.omega, rtol=1e-9)
    assert twin.omega < 0
    # The twin's closed form is that of the objective that is stated.
    e, (theta, forward, g, m, d, nu, w, learned) = twin.last_e
    differences = rlodo_twin.derivative(theta, forward, g, m, d, nu, w, learned)
    np.testing.assert_allclose(e, differences, rtol=1e-6, atol=1e-6 * np.abs(e).max())


@pytest.mark.parametrize("n", [12, 13, pytest.param(2101, marks=pytest.mark.exhaustive)])
def test_derivative_is_that_of_what_is_ascended(n):
    """E is D θᵀ + 2 w I, with D the derivative that autodiff finds; small, left over, and by the passes of large n."""
    form = BlockPermutation(3, 4, padding=False)
    theta, fixed = form.init(jax.random.key(0), n, jnp.float64)
    passed = form.passed_blocks(theta, n)
    noise = 0.1 * jax.random.normal(jax.random.key(1), theta.shape)
    theta = theta + (noise.at[..., -1].set(0) if passed else noise)
    m, p = jax.random.normal(jax.random.key(2), (2, n))

    def ascended(theta):
        blocks = jnp.moveaxis(theta, -1, 1)
        return p @ form.apply(theta, fixed, m) + 0.7 * 2 * jnp.linalg.slogdet(blocks)[1].sum()

    d = jax.grad(ascended)(theta)
    expected = jnp.einsum("iaob,iapb->iopb", d, theta)
    e = derivative(form.through(theta, fixed, jnp.stack([m, p])), jnp.asarray(0.7), passed)
    learned = slice(None, -1 if passed else None)
    np.testing.assert_allclose(e[..., learned], expected[..., learned], rtol=1e-9, atol=1e-9)
    assert not passed or not np.any(e[..., -1])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 12, 13])
def test_the_operator_without_padding_is_square(n):
    """log det S is that of its blocks, and coordinates that are left over in one layer are not in all."""
    form = BlockPermutation(6, 4, padding=False)
    theta, fixed = form.init(jax.random.key(n), n, jnp.float64)
    k, blocks = theta.shape[1], theta.shape[3]
    assert k == min(n, 4)
    assert k * blocks == -(-n // k) * k
    np.testing.assert_array_equal(np.sort(fixed.forward, axis=1), np.arange(k * blocks)[None].repeat(6, 0))
    learned = theta + 0.2 * jax.random.normal(jax.random.key(1), theta.shape)
    theta = learned.at[..., -1].set(jnp.eye(k)) if k * blocks > n else learned
    matrix, log_det = rlodo_twin.operator(theta, fixed.forward, n)
    np.testing.assert_allclose(np.linalg.slogdet(matrix)[1], 2 * log_det, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(lambda v: form.apply(theta, fixed, v))(jnp.eye(n)), matrix, atol=1e-12)
    if k * blocks > n:
        left = matrix - np.diag(np.diag(matrix))
        assert np.all(np.any(left != 0, axis=1)), "each coordinate is mixed with others in some layer"


@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e6])
def test_a_loss_in_other_units_makes_the_same_steps(scale):
    n, paths = 10, []
    for factor in (1.0, scale):
        optimizer, gradient = lodo.rlodo(depth=4), gradients(n, 40, factor)
        x = jnp.linspace(-1.0, 2.0, n)
        state, update = optimizer.init(x), jax.jit(optimizer.update)
        for t in range(40):
            step, state = update(jnp.asarray(gradient(np.asarray(x), t)), state, x)
            x = x + step
        paths.append(x)
    np.testing.assert_allclose(paths[1], paths[0], rtol=1e-6)


@pytest.mark.exhaustive
def test_a_meta_rate_of_zero_is_momentum_sgd_at_the_scale():
    """With S(θ₀) = I and no log-scale learned yet, the first steps are −α₀ m."""
    optimizer = lodo.rlodo(0.0, momentum=0.5, initial_learning_rate=0.1, depth=4)
    x, m = jnp.array([1.0, -2.0, 0.5, 3.0, 1.0]), 0.0
    state = optimizer.init(x)
    for _ in range(20):
        step, state = optimizer.update(x, state)
        m = 0.5 * m + 0.5 * x
        np.testing.assert_allclose(step, -0.1 * jnp.exp(state.log_scale) * m, rtol=1e-9)
        x = x + step


def test_the_first_step_has_the_norm_it_is_meant_to():
    x = jnp.array([3.0, -4.0])
    for start, norm in ((x, 5e-3), (1e-9 * x, 1e-3 * 0.01 * 2**0.5)):
        optimizer = lodo.rlodo()
        state = optimizer.init(start)
        zero, state = optimizer.update(0 * x, state, start)
        assert not np.any(zero), "a gradient of zero decides no scale"
        step, state = optimizer.update(1e4 * x, state, start)
        np.testing.assert_allclose(np.linalg.norm(step), norm, rtol=1e-9)
