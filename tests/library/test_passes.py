"""The passes for large hidden vectors against the short programs they replace, which have dense twins of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo.operators import BlockPermutation, _passes

CASES = {
    "paper": (BlockPermutation(), 7),
    "odd blocks": (BlockPermutation(3, 3), 5),
    "block size 1": (BlockPermutation(4, 1), 6),
    "large blocks": (BlockPermutation(2, 9), 11),
    "hidden size n": (BlockPermutation(5, 2, 8), 8),
    "one layer": (BlockPermutation(1, 4), 9),
    "one parameter": (BlockPermutation(3, 4), 1),
    "rolled": (BlockPermutation(permutations="rolled"), 7),
    "rolled, odd blocks": (BlockPermutation(3, 3, 9, permutations="rolled"), 8),
}
#: The others with -m "".
USUAL = {"paper", "odd blocks", "hidden size n", "rolled"}
every_case = pytest.mark.parametrize(
    ("operator", "n"),
    [
        pytest.param(*case, id=name, marks=() if name in USUAL else pytest.mark.exhaustive)
        for name, case in CASES.items()
    ],
)


@pytest.fixture
def large(monkeypatch):
    """From here on, every hidden size counts as large; called with False, none does."""

    def switch(on):
        monkeypatch.setattr(_passes, "LARGE", 1 if on else 2**40)

    switch(True)
    return switch


def drawn(operator, n):
    """θ away from its start, the permutations, and three vectors [n]."""
    theta, fixed = operator.init(jax.random.key(0), n, jnp.float64)
    rng = np.random.default_rng(n)
    theta = theta + 0.3 * rng.normal(size=theta.shape)
    return theta, fixed, [jnp.asarray(v) for v in rng.normal(size=(3, n))]


def quadratic(n):
    return jnp.asarray(np.geomspace(0.01, 1, n))


def run(optimizer, n, steps, state=None, dtype=jnp.float64):
    """Losses and last state of a run inside one scan, from x = 1 on a quadratic."""
    curvature = quadratic(n).astype(dtype)
    start = jnp.ones(n, dtype)
    state = optimizer.init(start) if state is None else state

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(curvature * x, state)
        x = optax.apply_updates(x, updates)
        return (x, state), 0.5 * jnp.sum(curvature * x**2)

    (_, state), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps))((start, state))
    return losses, state


@pytest.mark.parametrize("kept", [True, False], ids=["inputs kept", "inputs not kept"])
@every_case
def test_products_hypergradient_and_step_are_those_of_the_short_program(large, operator, n, kept):
    theta, fixed, (m, g, v) = drawn(operator, n)
    rng = np.random.default_rng(1)
    moments = tuple(jnp.asarray(rng.normal(size=theta.shape) ** 2) for _ in range(2))
    count, rate = 4, 0.01

    def short(theta):
        h = operator.hypergradient(theta, fixed, m, g)
        state = optax.ScaleByAdamState(jnp.int32(count), *moments)
        change, after = optax.scale_by_adam().update(h, state)
        new = theta - rate * change
        return operator.apply(theta, fixed, m), h, new, (after.mu, after.nu), operator.apply(new, fixed, v)

    def long(theta):
        corrections = [jnp.asarray(1 / (1 - decay ** (count + 1))) for decay in (0.9, 0.999)]
        adam = _passes.AdamStep(jnp.asarray(rate), *corrections)
        if kept:  # as the step before leaves them: the learning rate 0 keeps θ, and its v is this step's m
            still = adam._replace(rate=jnp.asarray(0.0))
            start = operator.inputs_at_start(theta)
            _, _, inputs, _, _ = operator.adam_step(theta, fixed, moments, start, 0 * m, v, m, still)
        else:
            inputs = None
        new, after, inputs, out, done = operator.adam_step(theta, fixed, moments, inputs, m, g, v, adam)
        assert (inputs is not None) == kept
        applied = operator.apply(theta, fixed, jnp.stack([m, g]))[0]
        return (applied, operator.hypergradient(theta, fixed, m, g), new, after, out), done

    large(False)
    with jax.numpy_dtype_promotion("standard"):
        wanted = jax.jit(short)(theta)
    large(True)
    assert operator.fuses_adam(theta)
    got, done = jax.jit(long)(theta)
    assert bool(done)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), got, wanted)


@pytest.mark.exhaustive
def test_a_run_is_the_same_by_either_way(large):
    n = 5
    optimizer = lodo.lodo(0.3, 0.01, depth=3)
    fast, state = run(optimizer, n, 60)
    large(False)
    slow, other = run(optimizer, n, 60)
    assert fast[-1] < 0.1 * fast[0]
    np.testing.assert_allclose(fast, slow, rtol=1e-8)
    assert all(leaf.shape == () for leaf in jax.tree.leaves(other.inputs))
    assert jax.tree.structure(state) == jax.tree.structure(other)
    state, other = state._replace(inputs=None), other._replace(inputs=None)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_a_state_changed_by_hand_goes_on_without_the_inputs_it_had_kept(large):
    n, optimizer = 5, lodo.lodo(0.3, 0.01, depth=3)
    _, state = run(optimizer, n, 10)
    changed = state._replace(theta=1.1 * state.theta, momentum=0.5 * state.momentum, inputs=None)
    fast, after = run(optimizer, n, 20, changed)
    assert after.inputs is None
    large(False)
    slow, _ = run(optimizer, n, 20, changed)
    np.testing.assert_allclose(fast, slow, rtol=1e-8)


def test_a_state_as_init_makes_it_can_be_donated(large):
    optimizer = lodo.lodo(depth=3)
    state = optimizer.init(jnp.ones(5))  # not compiled: what is one array there, stays one
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    updates, _ = jax.jit(optimizer.update, donate_argnums=1)(jnp.ones(5), state)
    assert np.isfinite(updates).all()


@pytest.mark.exhaustive
def test_kept_inputs_of_another_form_are_refused(large):
    optimizer = lodo.lodo(depth=3)
    state = optimizer.init(jnp.ones(5))
    other = lodo.lodo(depth=2).init(jnp.ones(5))
    with pytest.raises(ValueError, match="made by another configuration: its inputs has"):
        optimizer.update(jnp.ones(5), state._replace(inputs=other.inputs))


def test_single_precision_stays_single(large):
    losses, state = run(lodo.lodo(0.3, 0.01, depth=3), 6, 40, dtype=jnp.float32)
    assert losses[-1] < 0.2 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_a_gradient_that_cannot_be_learned_from_leaves_the_state_to_the_bit(large):
    optimizer = lodo.lodo(0.3, 0.01, depth=3)
    update = jax.jit(optimizer.update)
    _, state = update(jnp.arange(6.0), optimizer.init(jnp.ones(6)))
    _, state = update(jnp.arange(6.0), state)
    for bad in (np.nan, np.inf, 1e200):  # the last is finite, the square of its hypergradient is not
        updates, after = update(jnp.ones(6).at[2].set(bad), state)
        assert np.isnan(updates).all()
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
    updates, after = update(jnp.ones(6), state)
    assert np.isfinite(updates).all()
    assert not np.array_equal(after.theta, state.theta)


def test_lanes_side_by_side_are_lanes_alone(large):
    states = [lodo.lodo(depth=2, seed=seed).init(jnp.ones(5)) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))

    def update(rate, gradient, state):
        return lodo.lodo(0.3, rate, depth=2).update(gradient, state)

    beside, one = jax.jit(jax.vmap(update)), jax.jit(update)
    for _ in range(3):
        updates, stacked = beside(jnp.array([0.003, 0.01]), gradients, stacked)
        for lane, rate in enumerate((0.003, 0.01)):
            alone, states[lane] = one(rate, gradients[lane], states[lane])
            np.testing.assert_allclose(updates[lane], alone, rtol=1e-10)


@pytest.mark.exhaustive
def test_a_run_can_be_differentiated(large):
    # From a state with moments that are not zero: the derivative of Adam's root is infinite there.
    def by_momentum(gradient):
        operator = BlockPermutation(2, 2)
        theta, fixed, (m, _, v) = drawn(operator, 4)
        moments = (jnp.ones_like(theta), jnp.ones_like(theta))
        adam = _passes.AdamStep(jnp.asarray(0.1), jnp.asarray(2.0), jnp.asarray(3.0))
        inputs = operator.inputs_at_start(theta)
        _, _, inputs, _, _ = operator.adam_step(theta, fixed, moments, inputs, 0 * m, gradient, m, adam)
        return jnp.sum(operator.adam_step(theta, fixed, moments, inputs, m, gradient, v, adam)[3] ** 2)

    point, direction = jnp.array([0.3, -1.0, 0.5, 2.0]), jnp.array([1.0, 0.2, -0.4, 0.1])
    slope = jnp.vdot(jax.jit(jax.grad(by_momentum))(point), direction)
    compiled, step = jax.jit(by_momentum), 1e-5
    numeric = (compiled(point + step * direction) - compiled(point - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_nothing_of_thetas_size_is_allocated_beside_the_state(large):
    """θ and the moments are overwritten where they lie: what a step needs more is the activations."""
    n, optimizer = 3000, lodo.lodo(0.1)
    state = jax.eval_shape(optimizer.init, jnp.ones(n, jnp.float32))
    gradient = jax.ShapeDtypeStruct((n,), jnp.float32)
    compiled = jax.jit(optimizer.update, donate_argnums=1).lower(gradient, state).compile()
    activations = 2 * 16 * state.theta.shape[1] * state.theta.shape[3] * 4  # u and d of g; those of m are the state's
    theta = 4 * state.theta.size
    assert compiled.memory_analysis().temp_size_in_bytes < activations + theta // 2
