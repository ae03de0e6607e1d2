"""LODO judges the displacement that was made, whatever follows it in a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import reduce_on_plateau

import lodo
from lodo import operators
from lodo.quasi_newton import bfgs

CURVATURE = jnp.array([1.0, 0.3, 0.1, 0.03])
START = jnp.array([1.0, -2.0, 3.0, -1.0])
FREE = jnp.array([True, False, True, False])


def loss(x):
    return 0.5 * jnp.sum(CURVATURE.astype(x.dtype) * x**2)


def only_free():
    return optax.stateless(lambda updates, _: jnp.where(FREE, updates, 0.0))


def train(optimizer, steps, x=START, give_params=True, loss=loss):
    """The last parameters and state, and all losses."""

    def step(carry, _):
        x, state = carry
        value, gradient = jax.value_and_grad(loss)(x)
        update, state = optimizer.update(gradient, state, x if give_params else None, value=value)
        return (optax.apply_updates(x, update), state), value

    optimizer = optax.with_extra_args_support(optimizer)
    (x, state), values = jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((x, optimizer.init(x)))
    return x, state, values


@pytest.fixture
def optax_promotion():
    """For wrappers of optax's that promote dtypes themselves."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("rate", [0.01, 1.0])
@pytest.mark.parametrize(
    "limit",
    [optax.clip(1e-3), optax.clip_by_global_norm(1e-3), optax.clip_by_block_rms(1e-3)],
    ids=["entry", "norm", "rms"],
)
def test_a_clipped_step_converges(limit, rate):
    _, state, values = train(optax.chain(lodo.lodo(rate), limit), 12_000)
    assert finite(state)
    assert values[-1] < 1e-6
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(state[0].theta)) < 2


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_a_mask_after_it_lets_the_rest_converge(rate):
    x, state, _ = train(optax.chain(lodo.lodo(rate), only_free()), 6_000)
    assert finite(state)
    np.testing.assert_array_equal(x[~FREE], START[~FREE])
    np.testing.assert_allclose(
        x[FREE], 0, atol=0.05
    )  # the masked gradient, which is constant, goes on pushing G's rows


def test_a_bound_after_it_leads_to_the_constrained_minimum():
    target = jnp.array([1.0, -1.0, 2.0, -0.5])
    distance = lambda x: loss(x - target)  # noqa: E731
    x, state, _ = train(
        optax.chain(lodo.lodo(0.01), optax.keep_params_nonnegative()), 20_000, jnp.abs(START), loss=distance
    )
    assert finite(state)
    np.testing.assert_allclose(x, jnp.maximum(target, 0), atol=0.05)


@pytest.mark.exhaustive
def test_a_step_that_is_never_made_teaches_nothing_and_its_state_is_alive():
    optimizer = lodo.lodo(0.01)
    start = optimizer.init(START)
    _, (state, _), _ = train(optax.chain(optimizer, optax.scale(0.0)), 1_000)
    np.testing.assert_array_equal(state.theta, start.theta)
    x, step = START, jax.jit(optimizer.update)
    for _ in range(2_000):
        update, state = step(jax.grad(loss)(x), state, x)
        x = optax.apply_updates(x, update)
    assert loss(x) < 1e-3


def test_a_factor_that_falls_without_end_stays_finite(optax_promotion):
    _, state, values = train(optax.chain(lodo.lodo(0.01), reduce_on_plateau()), 3_000, START.astype(jnp.float32))
    assert finite(state)
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    "after", [optax.clip(1e-3), optax.scale(0.0), reduce_on_plateau()], ids=["clip", "zero", "plateau"]
)
def test_without_parameters_nothing_overflows(after, optax_promotion):
    _, state, values = train(optax.chain(lodo.lodo(0.01), after), 3_000, START.astype(jnp.float32), give_params=False)
    assert finite(state)
    assert values[-1] <= values[0]


def test_the_hypergradient_leaves_out_what_did_not_move():
    form = operators.BlockPermutation(3, 2)
    optimizer = lodo.lodo(0.5, operator=form, meta_optimizer=optax.sgd(1.0))
    x, g = START.astype(jnp.float64), jnp.array([0.3, -0.2, 0.5, 0.7], jnp.float64)
    state = optimizer.init(x)
    for _ in range(2):  # the first step is zero in part of every coordinate's history: m₀ = 0
        update, state = optimizer.update(g, state, x)
        x = x + update
    moved = x - update + jnp.where(FREE, update, 0.0)
    _, after = optimizer.update(g, state, moved)
    judged = jnp.where(FREE, g, 0.0)
    objective = lambda theta: -0.5 * jnp.vdot(judged, form.apply(theta, state.fixed, state.momentum))  # noqa: E731
    expected = state.theta - jax.grad(objective)(state.theta)
    np.testing.assert_allclose(after.theta, expected, rtol=1e-12, atol=1e-14)
    assert not np.allclose(after.theta, optimizer.update(g, state, x)[1].theta)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("far", [0.0, 1e4], ids=["near 0", "where a step is below the parameters' precision"])
def test_ordinary_steps_are_the_same_to_the_bit_with_parameters_and_without(dtype, far):
    def run(give_params):
        optimizer = lodo.lodo(1e-3, depth=3)
        x = (START + far).astype(dtype)
        state, step = optimizer.init(x), jax.jit(optimizer.update)
        for _ in range(40):
            gradient = (CURVATURE * (x.astype(jnp.float64) - far)).astype(dtype)
            update, state = step(gradient, state, x if give_params else None)
            x = optax.apply_updates(x, update)
        return x, state.theta

    for given, not_given in zip(run(True), run(False)):
        np.testing.assert_array_equal(given, not_given)


def test_weight_decay_after_it_leaves_the_hypergradient_exact():
    optimizer = lodo.lodo(0.1, depth=2)
    chain = optax.chain(optimizer, optax.add_decayed_weights(-1e-3))
    x, state, alone = START, chain.init(START), optimizer.init(START)
    for _ in range(20):
        g = jax.grad(loss)(x)
        _, alone = optimizer.update(g, alone)
        update, state = chain.update(g, state, x)
        x = optax.apply_updates(x, update)
    np.testing.assert_array_equal(state[0].theta, alone.theta)


def test_a_skipped_gradient_leaves_the_step_before_it_to_be_judged():
    optimizer = optax.chain(lodo.lodo(0.1, depth=2), optax.zero_nans())
    step = jax.jit(optimizer.update)

    def run(skipped):
        x, state = START, optimizer.init(START)
        for t in range(6):
            if t == 3 and skipped:
                update, state = step(jnp.full(4, jnp.nan), state, x)
                np.testing.assert_array_equal(update, 0)
            update, state = step(jax.grad(loss)(x), state, x)
            x = optax.apply_updates(x, update)
        return x

    np.testing.assert_array_equal(run(True), run(False))


def test_state_and_parameters_can_be_donated_together():
    optimizer = lodo.lodo(0.1, depth=2)

    def step(x, state):
        update, state = optimizer.update(jax.grad(loss)(x), state, x)
        return optax.apply_updates(x, update), state

    step = jax.jit(step, donate_argnums=(0, 1))
    x = jnp.array(START, copy=True)
    state = optimizer.init(x)
    for _ in range(3):
        x, state = step(x, state)
    assert finite((x, state))


def test_a_run_that_diverges_is_not_held_up():
    """Every coordinate moved, however far: the run ends where Algorithm 1 ends, not in huge finite numbers."""
    optimizer = lodo.lodo(1e3, depth=3)
    _, _, values = train(optimizer, 500, START.astype(jnp.float32))
    _, _, alone = train(optimizer, 500, START.astype(jnp.float32), give_params=False)
    assert not np.isfinite(values[-1])
    first = int(np.argmax(np.asarray(alone) > 1e15))
    np.testing.assert_array_equal(values[:first], alone[:first])


def test_a_state_without_the_last_step_goes_on_and_takes_steps_as_made():
    optimizer = lodo.lodo(0.1, depth=2)
    _, state, _ = train(optimizer, 5)
    without = state._replace(last=None)
    g = jax.grad(loss)(START)
    update, after = optimizer.update(g, without, START)
    assert after.last is None
    np.testing.assert_array_equal(update, optimizer.update(g, state)[0])


def test_parameters_of_another_tree_are_refused():
    optimizer = lodo.lodo(0.1, depth=2)
    with pytest.raises(ValueError, match=r"params has another structure than the tree given to init"):
        optimizer.update(START, optimizer.init(START), {"x": START})
    with pytest.raises(ValueError, match=r"params has shape \(3,\)"):
        optimizer.update(START, optimizer.init(START), START[:3])


def test_bfgs_learns_from_the_displacement_that_was_made():
    optimizer = optax.chain(bfgs(1.0), optax.clip(0.05))
    x = START.astype(jnp.float64)
    state = optimizer.init(x)
    for _ in range(8):
        update, state = optimizer.update(jax.grad(loss)(x), state, x)
        before, x = x, optax.apply_updates(x, update)
    _, state = optimizer.update(jax.grad(loss)(x), state, x)
    change = jax.grad(loss)(x) - jax.grad(loss)(before)
    # The secant equation H y = s with the displacement s = x − before.
    np.testing.assert_allclose(state[0].inverse_hessian @ change, x - before, rtol=1e-9)
