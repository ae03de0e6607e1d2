"""Each problem of the suites: a finite loss, its gradient by finite differences, the same numbers for a seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from lodo_experiments.tasks.problems.suites import DEVELOPMENT, HELD_OUT, problem_named

NAMES = [*DEVELOPMENT, *HELD_OUT]
#: One of each kind of arithmetic; the gradients of the others are compared where all tests are asked for.
QUICK = (
    "quadratic_noisy",
    "cnn",
    "neural_ode",
    "heat_network",
    "gaussian_process",
    "rayleigh_quotient",
    "linear_control",
)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES]
)
def test_the_gradient_is_that_of_finite_differences(name):
    problem = problem_named(name)
    with jax.enable_x64(True):
        start = problem.init(jax.random.key(1))
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start))
        key = jax.random.key(2)

        @jax.jit
        def slopes(x, d):
            def along(t):
                return problem.loss(unravel(x + t * d), key)

            # Two points on either side: the error is of fifth order, and kinks are as seldom as they can be.
            h = 1e-4
            difference = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
            return along(0.0), difference, jax.grad(along)(0.0)

        direction = jax.random.normal(jax.random.key(3), flat.shape, jnp.float64)
        value, difference, slope = slopes(flat, direction / jnp.linalg.norm(direction))
        assert value.dtype == jnp.float64
        assert np.isfinite(value)
        assert slope != 0
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-10 * abs(value))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_problem(name):
    first, again = problem_named(name), {**DEVELOPMENT, **HELD_OUT}[name](name)

    def values(problem):
        start = problem.init(jax.random.key(0))
        loss = jax.jit(problem.loss)
        return start, loss(start, jax.random.key(1)), loss(start, jax.random.key(2))

    (start, one, two), (start_again, *rest) = values(first), values(again)
    assert one.dtype == jnp.float32
    assert one > first.resolution >= 0  # there is something to gain
    assert bool(one == two) == (not first.stochastic)
    assert [float(one), float(two)] == [float(value) for value in rest]
    jax.tree.map(np.testing.assert_array_equal, start, start_again)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(first.init(jax.random.key(1)))))


SHIFTED = (
    "logistic", "gaussian_process", "poisson_regression", "huber_regression", "quantile_regression", "kernel_ridge",
    "linear_control",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [SHIFTED[-1], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in SHIFTED[:-1])]
)
def test_a_minimum_that_is_subtracted_is_reached(name):
    problem, key = problem_named(name), jax.random.key(0)
    with jax.enable_x64(True):
        start, unravel = ravel_pytree(problem.init(key).astype(jnp.float64))
        both = jax.jit(jax.value_and_grad(lambda x: problem.loss(unravel(x), key)))
        options = {"maxiter": 3_000, "maxfun": 6_000, "gtol": 1e-12, "ftol": 1e-15}
        found = minimize(
            lambda x: tuple(map(np.asarray, both(x))), start, jac=True, method="L-BFGS-B", options=options
        ).fun
        first = float(both(start)[0])
    assert -1e-9 * first < found < 1e-2 * first


def test_the_suites_share_no_problem_and_no_seed():
    assert len(set(NAMES)) == len(NAMES)
    assert len(DEVELOPMENT) == 21
    assert len(HELD_OUT) >= 20
    with pytest.raises(ValueError, match="no problem 'rosenbrok'; there are quadratic_1e2"):
        problem_named("rosenbrok")
