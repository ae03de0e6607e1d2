"""The quasi-Newton transformations against dense textbook formulas in NumPy, written independently."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quasi_newton_cases import FACTORIES, NAMES, noisy_quadratic, rosenbrock, run, spd

from lodo import quasi_newton

N, STEPS, BUFFER = 6, 15, 4


def secant_update(h, s, y):
    """Nocedal & Wright, equation 6.17, factor by factor."""
    rho = 1.0 / (s @ y)
    left = np.eye(len(s)) - rho * np.outer(s, y)
    return left @ h @ left.T + rho * np.outer(s, s)


def dense_limited_memory(matrix, x, centres, scale, learning_rate, decay_steps, epsilon, regularization=0.0):
    """x after every step, with the inverse Hessian built as a matrix from the last pairs each time."""
    pairs, points = [], []
    for t, centre in enumerate(centres):
        gradient = matrix @ (x - centre)
        if pairs:
            h = scale(pairs) * np.eye(len(x))
            for s, y in pairs:
                h = secant_update(h, s, y)
        else:
            h = epsilon * np.eye(len(x))
        step = -learning_rate * decay_steps / (decay_steps + t) * (h @ gradient)
        change = matrix @ (x + step - centre) - gradient + regularization * step
        pairs = [*pairs, (step, change)][-BUFFER:]
        x = x + step
        points.append(x)
    return np.array(points)


def average(pairs):
    return np.mean([s @ y / (y @ y) for s, y in pairs])


def newest(pairs):
    s, y = pairs[-1]
    return s @ y / (y @ y)


def oldest_step(pairs):
    (s, _), (_, y) = pairs[0], pairs[-1]
    return s @ y / (y @ y)


@pytest.mark.parametrize("regularization", [0.0, 0.7])
@pytest.mark.parametrize(
    ("factory", "form", "scale"),
    [
        (quasi_newton.olbfgs, "textbook", average),
        (quasi_newton.olbfgs, "released", average),
        (quasi_newton.lbfgs_no_line_search, "textbook", newest),
        (quasi_newton.lbfgs_no_line_search, "released", oldest_step),
    ],
)
def test_limited_memory_is_the_dense_recursion(factory, form, scale, regularization):
    matrix = spd(N, condition=10.0)
    centres = 0.1 * np.random.default_rng(1).normal(size=(STEPS, N))
    optimizer = factory(0.6, 20.0, 0.05, BUFFER, regularization=regularization, form=form)
    points, state = run(optimizer, noisy_quadratic(matrix), jnp.ones(N), jnp.asarray(centres))
    expected = dense_limited_memory(matrix, np.ones(N), centres, scale, 0.6, 20.0, 0.05, regularization)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert state.pairs == STEPS
    assert state.steps.shape == (BUFFER, N)


@pytest.mark.parametrize("same_batch", [False, True])
def test_bfgs_is_the_dense_recursion(same_batch):
    matrix, centre = spd(N, condition=10.0), np.linspace(-1, 1, N)
    optimizer = quasi_newton.bfgs(0.7, 0.05, same_batch=same_batch)
    points, state = run(optimizer, noisy_quadratic(matrix), jnp.ones(N), jnp.tile(centre, (10, 1)))

    x, h, expected, inverses = np.ones(N), 0.05 * np.eye(N), [], []
    for t in range(10):
        s = -0.7 * h @ matrix @ (x - centre)
        y = matrix @ s
        if t == 0:
            h = s @ y / (y @ y) * np.eye(N)
        inverses.append(h)
        h = secant_update(h, s, y)
        x = x + s
        expected.append(x)
    # The loss is deterministic, so both ways to y make the same points; with one batch H is a pair ahead.
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(state.inverse_hessian, h if same_batch else inverses[-1], rtol=0, atol=1e-10)
    assert state.pairs == (10 if same_batch else 9)
    np.testing.assert_allclose(state.inverse_hessian, state.inverse_hessian.T, rtol=0, atol=1e-13)


def test_bfgs_takes_its_two_gradients_on_one_batch():
    """With noisy centres, H learned from pairs on one batch satisfies H A s = s; across batches it does not."""
    matrix = spd(N, condition=10.0)
    centres = jnp.asarray(np.random.default_rng(2).normal(size=(12, N)))
    residuals = {}
    for same_batch in (True, False):
        optimizer = quasi_newton.bfgs(0.3, 0.05, same_batch=same_batch)
        points, state = run(optimizer, noisy_quadratic(matrix), jnp.ones(N), centres)
        last = points[-1] - points[-2] if same_batch else points[-2] - points[-3]
        residuals[same_batch] = jnp.linalg.norm(state.inverse_hessian @ (matrix @ last) - last)
    assert residuals[True] < 1e-11
    assert residuals[False] > 1e-3


def test_bfgs_with_exact_steps_solves_a_quadratic_in_n_steps():
    """Nocedal & Wright, Theorem 6.4: after n exact steps x is the minimum and H the inverse Hessian."""
    matrix = spd(N, condition=50.0)
    a, loss = jnp.asarray(matrix), noisy_quadratic(matrix)
    optimizer = optax.inject_hyperparams(quasi_newton.bfgs)(learning_rate=1.0, initial_scale=1.0, same_batch=True)
    gradient = jax.jit(jax.grad(loss))
    x, centre = jnp.ones(N), jnp.zeros(N)
    state = optimizer.init(x)
    for _ in range(N):
        g = gradient(x, centre)
        direction = state.inner_state.inverse_hessian @ g
        state.hyperparams["learning_rate"] = g @ direction / (direction @ a @ direction)
        updates, state = optimizer.update(g, state, x, grad_fn=lambda p: gradient(p, centre))
        x = optax.apply_updates(x, updates)
    assert jnp.linalg.norm(x) < 1e-10
    np.testing.assert_allclose(state.inner_state.inverse_hessian @ a, np.eye(N), rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", ["textbook", "released"])
def test_levenberg_marquardt_without_damping_is_newton(form):
    matrix, centre = spd(N), jnp.linspace(-1, 1, N)
    optimizer = quasi_newton.levenberg_marquardt(0.0, form=form)
    points, _ = run(optimizer, noisy_quadratic(matrix), jnp.ones(N), centre[None])
    np.testing.assert_allclose(points[0], centre, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scaling", ["diagonal", "identity"])
@pytest.mark.parametrize("form", ["textbook", "released"])
def test_levenberg_marquardt_solves_its_damped_system(form, scaling):
    h, g = spd(N), np.linspace(1, 2, N)
    optimizer = quasi_newton.levenberg_marquardt(0.3, scaling=scaling, form=form)
    x = jnp.zeros(N)
    updates, _ = optimizer.update(jnp.asarray(g), optimizer.init(x), x, hessian=h)
    a, b = (h, g) if form == "textbook" else (h @ h, h @ g)
    d = np.diag(np.diag(a)) if scaling == "diagonal" else np.eye(N)
    np.testing.assert_allclose(updates, -np.linalg.solve(a + 0.3 * d, b), rtol=1e-10)


def test_levenberg_marquardt_turns_into_gradient_descent():
    optimizer = quasi_newton.levenberg_marquardt(1e8, scaling="identity")
    g, x = jnp.linspace(1, 2, N), jnp.zeros(N)
    updates, _ = optimizer.update(g, optimizer.init(x), x, hessian=spd(N))
    np.testing.assert_allclose(updates, -g / 1e8, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_descends_on_rosenbrock(name):
    x = jnp.array([-0.5, 2.0])
    points, _ = run(FACTORIES[name](), lambda x, _: rosenbrock(x), x, jnp.zeros(100))
    assert rosenbrock(points[-1]) < 2e-2 < rosenbrock(x)


@pytest.mark.parametrize("factory", [quasi_newton.olbfgs, quasi_newton.lbfgs_no_line_search])
def test_a_pair_without_positive_curvature_is_left_out(factory):
    concave = lambda x, _: -jnp.sum(x**2)  # noqa: E731
    for form, stored in (("textbook", 0), ("released", 3)):
        _, state = run(factory(0.1, 10.0, 0.1, 4, form=form), concave, jnp.ones(3), jnp.zeros(3))
        assert state.pairs == stored
    assert float(jnp.min(state.scales)) < 0


def test_bfgs_stays_positive_definite_where_the_loss_is_not_convex():
    loss = lambda x, _: jnp.sum(jnp.cos(3 * x)) + 0.05 * jnp.sum(x**2)  # noqa: E731
    x = jnp.array([0.1, -0.3, 0.5])
    _, state = run(quasi_newton.bfgs(0.5, 0.1), loss, x, jnp.zeros(40))
    assert 0 < state.pairs < 40, "some pairs used, some left out"
    assert np.linalg.eigvalsh(state.inverse_hessian).min() > 0
