"""LODO among optax's transformations: the battery that optax runs over its own, and every way to wrap one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import operators

DIAGONAL = operators.Diagonal()
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class RandomDiagonal(operators.Diagonal):
    """An operator of a user's own, drawn from the key but quick to compile."""

    def init(self, key, size, dtype):
        return jax.random.normal(key, (size,), dtype), operators.NoFixed()


@pytest.fixture
def optax_promotion():
    """For wrappers of optax's that promote dtypes themselves."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def small(**arguments):
    """The paper's operator at a size that compiles fast."""
    return lodo.lodo(**{"initial_learning_rate": 0.3, "depth": 2, "block_size": 2, **arguments})


def lodo_diagonal(rate=0.3, **arguments):
    return lodo.lodo(rate, operator=DIAGONAL, **arguments)


def run(optimizer, gradient, params, steps):
    """All steps' parameters, stacked, and the last state."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), points = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, steps))(params)
    return points, state


def assert_same(ours, theirs, **tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def parabola(params):
    return jnp.sum(jnp.square(params["x"] - jnp.array([-1.0, 10.0, 1.0])))


def rosenbrock(params):
    (a, b), (c,) = params["x"][:2], params["x"][2:]
    return jnp.square(1.0 - a) + 100.0 * jnp.square(b - jnp.square(a)) + jnp.square(c)


@pytest.mark.parametrize(
    ("loss", "target", "rate", "steps", "dtype"),
    [
        (parabola, [-1.0, 10.0, 1.0], 0.1, 500, jnp.float32),
        (rosenbrock, [1.0, 1.0, 0.0], 1e-3, 4000, jnp.float64),
    ],
)
def test_converges(loss, target, rate, steps, dtype):
    gradient = lambda p: jax.tree.map(lambda g: g.astype(dtype), jax.grad(loss)({"x": p["x"].astype(jnp.float64)}))  # noqa: E731
    points, _ = run(small(initial_learning_rate=rate), gradient, {"x": jnp.zeros(3, dtype)}, steps)
    assert points["x"].dtype == dtype
    np.testing.assert_allclose(points["x"][-1], target, atol=1e-2)


MIXED = {
    "wide": jnp.array([[1.0, -2.0], [0.5, 3.0]], jnp.float32),
    "pair": (jnp.array([0.25, -0.5], jnp.bfloat16), None),
    "list": [jnp.asarray(2.0, jnp.float64), jnp.zeros((0, 3), jnp.float32)],
}


def test_a_mixed_tree_is_one_vector_and_keeps_its_dtypes():
    optimizer = small()
    update = jax.jit(optimizer.update)
    state = optimizer.init(MIXED)
    # The widest dtype for everything that is computed.
    assert {leaf.dtype for leaf in jax.tree.leaves((state.theta, state.momentum))} == {jnp.dtype("float64")}
    vector = jnp.concatenate([jnp.ravel(leaf).astype(jnp.float64) for leaf in jax.tree.leaves(MIXED)])
    flat_state = optimizer.init(vector)
    for _ in range(3):
        steps, state = update(MIXED, state)
        flat_steps, flat_state = update(vector, flat_state)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), steps) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), MIXED
        )
        whole = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(steps)])
        # bfloat16 holds 8 bits of a step.
        np.testing.assert_allclose(whole, flat_steps, rtol=2**-8)
        np.testing.assert_array_equal(steps["list"][0], flat_steps[0])
    moved = optax.apply_updates(MIXED, steps)
    assert jax.tree.map(lambda leaf: leaf.dtype, moved) == jax.tree.map(lambda leaf: leaf.dtype, MIXED)


def test_bfloat16_parameters_are_accumulated_in_float32():
    params = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    state = lodo_diagonal().init(params)
    assert state.momentum.dtype == state.theta.dtype == state.initial_learning_rate.dtype == jnp.float32
    own = lodo.lodo(operator=DIAGONAL, dtype=jnp.float64).init(params)
    assert own.momentum.dtype == own.theta.dtype == own.meta_state.mu.dtype == jnp.float64


def test_float64_parameters_are_held_in_float32_without_64_bit_mode():
    with enable_x64(False):
        state = lodo.lodo(operator=DIAGONAL).init(np.ones(3))
        assert state.theta.dtype == jnp.float32
        with pytest.raises(ValueError, match=r"dtype=float64 needs.*jax_enable_x64"):
            lodo.lodo(dtype=np.float64)


def test_a_seed_that_jax_would_cut_is_refused():
    lodo.lodo(seed=2**32)
    with (
        enable_x64(False),
        pytest.raises(
            ValueError, match=r"seed must be an int from 0 to 2³² − 1 while jax_enable_x64 is off.*4294967296"
        ),
    ):
        lodo.lodo(seed=2**32)  # of which JAX keeps the lower 32 bits, 0


def test_one_compilation_for_all_steps():
    traces = []

    def wrapped(optimizer):
        def update(gradient, state):
            traces.append(1)
            return optimizer.update(gradient, state)

        return jax.jit(update)

    x = jnp.array([1.0, 2.0, 3.0])
    for optimizer in (small(), small(initial_learning_rate=lambda t: 0.5 / (1 + t.astype(float)))):
        traces.clear()
        update, state = wrapped(optimizer), optimizer.init(x)
        for _ in range(3):
            _, after = update(x, state)
            # Not even the weakness of a type changes, which a scan would refuse.
            assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
            state = after
        assert len(traces) == 1


def test_scan_equals_a_python_loop():
    optimizer, gradient = small(), jax.grad(parabola)
    x = {"x": jnp.zeros(3)}
    points, _ = run(optimizer, gradient, x, 4)
    state, update = optimizer.init(x), jax.jit(optimizer.update)
    for t in range(4):
        updates, state = update(gradient(x), state)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(points["x"][t], x["x"], rtol=1e-14)


def test_without_jit_is_the_same():
    optimizer, x = small(), jnp.array([1.0, 2.0, 3.0])
    state = optimizer.init(x)
    eager = optimizer.update(x, state)
    assert_same(eager, jax.jit(optimizer.update)(x, state), rtol=1e-14)
    with_numpy = optimizer.update(np.asarray(x), jax.tree.map(np.asarray, state))
    assert_same(with_numpy, eager)


def test_vmap_over_seeds_equals_single_runs():
    gradient, x = jax.grad(parabola), {"x": jnp.zeros(3)}
    final = jax.jit(lambda seed: run(small(seed=seed, meta_learning_rate=0.05), gradient, x, 5)[0]["x"])
    keys = jax.random.split(jax.random.key(0), 2)
    batched = jax.jit(jax.vmap(final))(keys)
    np.testing.assert_allclose(batched[1], final(keys[1]), rtol=1e-12)
    assert np.abs(batched[0] - batched[1]).max() > 1e-3


def test_traced_seeds_of_every_form():
    start = jax.jit(lambda seed: lodo.lodo(seed=seed, operator=RandomDiagonal()).init(jnp.ones(3)).theta)
    keys = jax.random.split(jax.random.key(0), 2)
    for seeds in (keys, jax.random.key_data(keys), jnp.arange(2)):
        batched = jax.vmap(start)(seeds)
        np.testing.assert_array_equal(batched[1], start(seeds[1]))
        assert np.all(batched[0] != batched[1])


@pytest.mark.parametrize(
    "seed",
    [4, np.int64(4), jnp.asarray(4), jax.random.key(4), np.asarray(jax.random.PRNGKey(4))],
    ids=lambda s: type(s).__name__,
)
def test_forms_of_a_seed(seed):
    x = jnp.ones(3)
    assert_same(small(seed=seed).init(x), small(seed=4).init(x))
    assert not np.array_equal(small(seed=seed).init(x).theta, small(seed=5).init(x).theta)


def test_injected_hyperparameters_can_be_batched(optax_promotion):
    gradient, x = jax.grad(parabola), {"x": jnp.zeros(3)}
    optimizer = optax.inject_hyperparams(lodo.lodo)(0.1, 0.01, 0.9, operator=DIAGONAL)
    state = optimizer.init(x)
    grid = {"initial_learning_rate": [0.1, 0.3], "meta_learning_rate": [0.02, 0.0], "momentum": [0.9, 0.5]}
    grid = {name: jnp.asarray(values, state.hyperparams[name].dtype) for name, values in grid.items()}

    def final(hyperparameters):
        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(gradient(x), state)
            return (optax.apply_updates(x, updates), state), None

        start = state._replace(hyperparams={**state.hyperparams, **hyperparameters})
        return jax.lax.scan(step, (x, start), None, 5)[0][0]["x"]

    batched = jax.jit(jax.vmap(final))(grid)
    for index in range(2):
        rates = {name: float(values[index]) for name, values in grid.items()}
        single, _ = run(lodo.lodo(**rates, operator=DIAGONAL), gradient, x, 5)
        np.testing.assert_allclose(batched[index], single["x"][-1], rtol=1e-10)


def test_hyperparameters_can_be_traced():
    gradient, x = jax.grad(parabola), {"x": jnp.zeros(3)}
    final = lambda rate, decay: run(lodo.lodo(rate, 0.01, decay, operator=DIAGONAL), gradient, x, 3)[0]["x"][-1]  # noqa: E731
    batched = jax.jit(jax.vmap(final))(jnp.array([0.1, 0.2]), jnp.array([0.9, 0.5]))
    np.testing.assert_allclose(batched[1], final(0.2, 0.5), rtol=1e-12)


@pytest.mark.exhaustive
def test_a_run_can_be_differentiated(optax_promotion):
    gradient, x = jax.grad(parabola), {"x": jnp.zeros(3)}

    def loss_after(rate):
        adam = optax.adam(0.01, eps_root=1e-16)
        return parabola({"x": run(lodo_diagonal(rate, meta_optimizer=adam), gradient, x, 3)[0]["x"][-1]})

    h = 1e-5
    difference = (loss_after(0.1 + h) - loss_after(0.1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(loss_after)(0.1), difference, rtol=1e-5)


def test_injected_init_under_jit(optax_promotion):
    x = jnp.ones(3)
    inject = optax.inject_hyperparams(lodo.lodo, static_args=("depth", "block_size", "hidden_size"))
    named = inject(0.1, depth=2, block_size=2)
    state = jax.jit(named.init)(x)
    assert_same(state.inner_state.fixed, small().init(x).fixed)
    unnamed = optax.inject_hyperparams(lodo.lodo)(0.1, depth=2, block_size=2)
    with pytest.raises(
        TypeError, match=r"'block_size', 'depth', and got traced.*static_args=\('block_size', 'depth',\)"
    ):
        jax.jit(unnamed.init)(x)


def test_chain_sees_the_gradient_changed_before_it():
    x = jnp.array([1.0, 2.0, 3.0])
    chain, alone = optax.chain(optax.scale(2.0), lodo_diagonal()), lodo_diagonal()
    state, own = chain.init(x), alone.init(x)
    for _ in range(3):
        updates, state = chain.update(x, state)
        expected, own = alone.update(2.0 * x, own)
        assert_same(updates, expected)
    assert lodo.diagnostics.find_state(state).step_count == 3


TREE = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array([[3.0], [-1.0]]), "d": jnp.asarray(0.5)}}


def test_masked_leaves_the_rest_alone():
    optimizer, alone = optax.masked(lodo_diagonal(), {"a": True, "b": False}), lodo_diagonal()
    state, own = optimizer.init(TREE), alone.init({"a": TREE["a"]})
    for _ in range(2):
        updates, state = optimizer.update(TREE, state)
        expected, own = alone.update({"a": TREE["a"]}, own)
        assert_same(updates, {"a": expected["a"], "b": TREE["b"]})


def test_masked_holds_integer_leaves_out():
    params = {**TREE, "steps": jnp.arange(3)}
    optimizer = optax.masked(
        lodo_diagonal(), lambda tree: jax.tree.map(lambda p: jnp.issubdtype(p.dtype, jnp.floating), tree)
    )
    updates, _ = optimizer.update(params, optimizer.init(params))
    assert updates["steps"].dtype == params["steps"].dtype
    np.testing.assert_allclose(updates["a"], -0.3 * 0.1 * TREE["a"], rtol=1e-12)


def test_partition_gives_each_group_an_operator_of_its_own():
    optimizer = optax.partition({"slow": lodo_diagonal(0.1), "fast": lodo_diagonal(0.5)}, {"a": "slow", "b": "fast"})
    state = optimizer.init(TREE)
    slow, fast = lodo_diagonal(0.1), lodo_diagonal(0.5)
    slow_state, fast_state = slow.init(TREE["a"]), fast.init(TREE["b"])
    for _ in range(2):
        updates, state = optimizer.update(TREE, state)
        a, slow_state = slow.update(TREE["a"], slow_state)
        b, fast_state = fast.update(TREE["b"], fast_state)
        assert_same(updates, {"a": a, "b": b})
    with pytest.raises(ValueError, match="holds 2"):
        lodo.diagnostics.find_state(state)


def test_multi_steps_averages_gradients(optax_promotion):
    optimizer, alone = optax.MultiSteps(lodo_diagonal(), every_k_schedule=2), lodo_diagonal()
    x = jnp.array([1.0, 2.0, 3.0])
    params, state, own = x, optimizer.init(x), alone.init(x)
    update = jax.jit(optimizer.update)
    for t in range(6):
        updates, state = update((1.0 + t) * x, state, params)
        params = optax.apply_updates(params, updates)
        if t % 2 == 0:
            np.testing.assert_array_equal(updates, jnp.zeros(3))
        else:
            expected, own = alone.update((0.5 + t) * x, own)
            np.testing.assert_allclose(updates, expected, rtol=1e-12)
    assert lodo.diagnostics.find_state(state).step_count == 3


def test_flatten_and_apply_if_finite_change_nothing():
    alone = lodo_diagonal()
    own = alone.init(TREE)
    wrapped = [optax.flatten(alone), optax.apply_if_finite(alone, 5)]
    states = [optimizer.init(TREE) for optimizer in wrapped]
    for _ in range(3):
        expected, own = alone.update(TREE, own)
        for index, optimizer in enumerate(wrapped):
            updates, states[index] = optimizer.update(TREE, states[index])
            assert_same(updates, expected, rtol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_never_reaches_the_state(bad):
    optimizer = small()
    update = jax.jit(optimizer.update)
    _, state = update(MIXED, optimizer.init(MIXED))
    spoilt = {**MIXED, "pair": (MIXED["pair"][0].at[1].set(bad), None)}
    steps, after = update(spoilt, state)
    assert_same(after, state)
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(steps))
    assert jax.tree.map(lambda leaf: leaf.dtype, steps) == jax.tree.map(lambda leaf: leaf.dtype, MIXED)
    # From there the run goes on as if the gradient had not been.
    assert_same(update(MIXED, after), update(MIXED, state))


def test_apply_if_finite_skips():
    optimizer = optax.apply_if_finite(lodo_diagonal(), max_consecutive_errors=5)
    _, state = optimizer.update(TREE, optimizer.init(TREE), TREE)
    spoilt = {**TREE, "a": jnp.array([1.0, jnp.nan])}
    updates, after = optimizer.update(spoilt, state, TREE)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))
    assert_same(after.inner_state, state.inner_state)
    assert (after.total_notfinite, after.last_finite) == (1, False)


@pytest.mark.parametrize("operator", [operators.BlockPermutation(2, 2), DIAGONAL], ids=["blocks", "diagonal"])
def test_a_finite_gradient_whose_hypergradient_overflows_does_not_reach_the_state(operator):
    optimizer = optax.chain(lodo.lodo(0.3, operator=operator), optax.zero_nans())
    x = jnp.array([1.0, 2.0, 3.0])
    update = jax.jit(optimizer.update)
    _, state = update(x, optimizer.init(x))
    updates, after = update(1e200 * x, state)
    # Adam squares the hypergradient of about 1e199. zero_nans after it makes a skipped step of the NaN step.
    np.testing.assert_array_equal(updates, jnp.zeros(3))
    assert_same(after[0], state[0])
    # The largest that can be squared is learned from as usual.
    updates, after = update(1e150 * x, state)
    assert np.all(np.isfinite(updates))
    assert np.all(updates != 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))
    assert not np.array_equal(after[0].theta, state[0].theta)


def test_a_meta_optimizer_with_random_state_and_extra_arguments(optax_promotion):
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra)
        return jax.tree.map(lambda u: 0.0 * u, updates), state

    x = jnp.ones(3)
    noisy = optax.chain(
        optax.add_noise(0.1, 0.5, key=jax.random.key(0)), optax.GradientTransformationExtraArgs(lambda p: (), update)
    )
    optimizer = lodo_diagonal(meta_optimizer=noisy)
    _, state = optimizer.update(x, optimizer.init(x), x, value=1.5)
    assert seen == [{"value": 1.5}]
    bad, after = optimizer.update(x * jnp.nan, state)
    assert np.all(np.isnan(bad))
    np.testing.assert_array_equal(after.meta_state[0].count, state.meta_state[0].count)


def test_the_state_can_be_donated():
    rate, x = jnp.asarray(0.3), jnp.ones(3)
    optimizers = [lodo_diagonal(rate), optax.inject_hyperparams(lodo.lodo)(0.3, operator=DIAGONAL)]
    for optimizer in optimizers:
        with jax.numpy_dtype_promotion("standard"):
            kept, _ = jax.jit(optimizer.update)(x, optimizer.init(x))
            update, state = jax.jit(optimizer.update, donate_argnums=1), optimizer.init(x)
            given = state
            first, state = update(x, state)
            np.testing.assert_array_equal(first, kept)
            update(x, state)
        assert jax.tree.leaves(given)[0].is_deleted()
    # Nor does it take the caller's own array along.
    assert rate == 0.3


def test_optax_tree_utilities_find_the_parts(optax_promotion):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), lodo_diagonal())
    state = optimizer.init(TREE)
    assert_same(optax.tree.get(state, "momentum"), jax.tree.map(jnp.zeros_like, TREE))
    np.testing.assert_array_equal(optax.tree.get(state, "theta"), jnp.ones(5))
    halved = optax.tree.set(state, theta=0.5 * jnp.ones(5))
    updates, _ = optimizer.update(TREE, halved)
    full, _ = optimizer.update(TREE, state)
    assert_same(updates, jax.tree.map(lambda leaf: 0.5 * leaf, full), rtol=1e-13)
