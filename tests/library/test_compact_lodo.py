"""LODO with a compact state among optax's transformations, and what its arrays weigh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import compact, operators

DIAGONAL = operators.Diagonal()
SMALL = compact.Storage(theta="bfloat16", first_moment="bfloat16", second_moment="int8")
X = jnp.array([1.0, 2.0, 3.0], jnp.float32)


@pytest.fixture
def optax_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def small(storage="compact", **arguments):
    return lodo.lodo(**{"initial_learning_rate": 0.3, "depth": 2, "block_size": 2, "storage": storage, **arguments})


def diagonal(storage="compact", **arguments):
    return lodo.lodo(0.3, operator=DIAGONAL, storage=storage, **arguments)


def parabola(x):
    return jnp.sum(jnp.square(x - jnp.array([-1.0, 10.0, 1.0], x.dtype)))


def run(optimizer, params, steps, state=None):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(parabola)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    state = optimizer.init(params) if state is None else state
    return jax.lax.scan(step, (params, state), None, steps)[0]


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("storage", "dtype"), [("compact", jnp.float32), (SMALL, jnp.float64)], ids=str)
def test_converges_in_a_scan_and_keeps_its_dtypes(storage, dtype):
    optimizer = small(storage, initial_learning_rate=0.1)
    start = jnp.zeros(3, dtype)
    x, state = jax.jit(lambda: run(optimizer, start, 500))()
    assert x.dtype == dtype
    np.testing.assert_allclose(x, [-1.0, 10.0, 1.0], atol=1e-2)
    # Not even the weakness of a type changes, so that a second call compiles nothing.
    first = optimizer.init(start)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, first)
    assert first.momentum.dtype == dtype


def test_in_full_it_is_lodo_without_the_argument():
    state = lodo.lodo().init(X)
    assert state.rounding_key is None
    assert_same(lodo.lodo(storage="full").init(X), state)
    assert_same(
        small(compact.Storage()).update(X, small("full").init(X)), small("full").update(X, small("full").init(X))
    )


def test_without_meta_learning_theta_stays_to_the_bit():
    optimizer = small(meta_learning_rate=0.0)
    state = optimizer.init(X)
    _, after = jax.jit(lambda: run(optimizer, X, 5, state))()
    assert_same(after.theta, state.theta)
    # 16 bits hold an orthogonal matrix to 2⁻¹⁶ an entry.
    np.testing.assert_allclose(lodo.diagnostics.dense(after), 0.3 * np.eye(3), atol=1e-4)


@pytest.mark.exhaustive
def test_theta_is_rounded_without_bias():
    full, draws = small("full", meta_learning_rate=0.01), 2000
    rounded = small(compact.Storage(theta="int16"), meta_learning_rate=0.01)
    _, state = jax.jit(lambda: run(rounded, X, 2))()
    exact = state._replace(theta=compact.read(state.theta, jnp.float32), rounding_key=None)
    _, wanted = jax.jit(full.update)(X, exact)

    @jax.jit
    @jax.vmap
    def theta_after(key):
        _, after = rounded.update(X, state._replace(rounding_key=key))
        return compact.read(after.theta, jnp.float32).astype(jnp.float64)

    mean = np.mean(theta_after(jax.random.bits(jax.random.key(0), (draws, 2), jnp.uint32)), axis=0)
    error = mean - np.asarray(wanted.theta, np.float64)
    # A rounded value is within one unit, so that its standard deviation is at most half of it.
    assert np.abs(error).max() < 5 * 0.5 * 2.0**-14 / np.sqrt(draws)


def test_rounding_is_reproducible_and_differs_by_seed_and_step():
    optimizer = diagonal(meta_learning_rate=0.01)
    update, start = jax.jit(optimizer.update), optimizer.init(X)
    _, state = update(X, start)
    _, after = update(X, state)
    assert_same(update(X, state)[1], after)
    other_seed = diagonal(seed=1).init(X)
    assert np.any(other_seed.rounding_key != start.rounding_key)
    for moved in ({"rounding_key": other_seed.rounding_key}, {"step_count": state.step_count + 7}):
        _, other = update(X, state._replace(**moved))
        assert np.any(other.theta.mantissa != after.theta.mantissa)
        np.testing.assert_array_equal(other.momentum, after.momentum)


def test_vmap_over_seeds_equals_single_runs():
    final = jax.jit(lambda seed: run(diagonal(seed=seed, meta_learning_rate=0.05), X, 4))
    keys = jax.random.split(jax.random.key(0), 2)
    batched = jax.jit(jax.vmap(final))(keys)
    single = final(keys[1])
    np.testing.assert_allclose(batched[0][1], single[0], rtol=1e-4)
    assert batched[1].theta.mantissa.shape == (2, *single[1].theta.mantissa.shape)
    assert np.any(batched[0][0] != batched[0][1])


def test_a_gradient_that_is_not_finite_never_reaches_the_state():
    optimizer = small(compact.Storage("int16", "int8", "block"))
    update = jax.jit(optimizer.update)
    _, state = update(X, optimizer.init(X))
    for bad in (np.nan, np.inf):
        step, after = update(X.at[1].set(bad), state)
        assert_same(after, state)
        assert np.all(np.isnan(step))


def test_a_tree_of_several_dtypes():
    tree = {"a": X, "b": (jnp.array([0.25, -0.5], jnp.bfloat16), None), "c": jnp.asarray(2.0, jnp.float32)}
    optimizer = diagonal()
    state = optimizer.init(tree)
    steps, after = jax.jit(optimizer.update)(tree, state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), steps) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), tree
    )
    assert after.theta.mantissa.dtype == jnp.int16
    assert jax.tree.map(lambda leaf: leaf.dtype, after.momentum) == jax.tree.map(lambda _: jnp.dtype("float32"), tree)


@pytest.mark.exhaustive
def test_wrappers_of_optax(optax_promotion):
    alone = diagonal()
    own, once = alone.init(X), jax.jit(alone.update)
    wrapped = {
        "flatten": optax.flatten(alone),
        "if finite": optax.apply_if_finite(alone, 5),
        "masked": optax.masked(alone, True),
        "chain": optax.chain(alone),
        "injected": optax.inject_hyperparams(lodo.lodo)(0.3, operator=DIAGONAL, storage="compact"),
    }
    states = {name: optimizer.init(X) for name, optimizer in wrapped.items()}
    updates = {name: jax.jit(optimizer.update) for name, optimizer in wrapped.items()}
    for _ in range(2):
        expected, own = once(X, own)
        for name, go_on in updates.items():
            update, states[name] = go_on(X, states[name])
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
    found = lodo.diagnostics.find_state(states["chain"])
    np.testing.assert_array_equal(found.theta.mantissa, own.theta.mantissa)
    # MultiSteps keeps its inner state behind a condition, which must not change the state's form.
    every_other = optax.MultiSteps(alone, 2)
    state = every_other.init(X)
    go_on = jax.jit(every_other.update)
    for _ in range(2):
        update, state = go_on(X, state, X)
    np.testing.assert_allclose(update, once(X, alone.init(X))[0], rtol=1e-6)


def test_the_state_can_be_donated():
    optimizer = diagonal()
    kept, _ = jax.jit(optimizer.update)(X, optimizer.init(X))
    update = jax.jit(optimizer.update, donate_argnums=1)
    first, state = update(X, optimizer.init(X))
    np.testing.assert_array_equal(first, kept)
    update(X, state)


def test_a_meta_optimizer_of_ones_own_takes_theta_from_the_storage_alone(optax_promotion):
    state = diagonal(meta_optimizer=optax.sgd(1e-3)).init(X)
    assert isinstance(state.theta, compact.BlockFloat)
    assert jax.tree.leaves(state.meta_state) == []
    meta = optax.chain(compact.scale_by_compact_adam(first_moment="int8"), optax.scale(-1e-3))
    own = diagonal("full", meta_optimizer=meta)
    _, state = jax.jit(own.update)(X, own.init(X))
    assert isinstance(state.meta_state[0].mu, compact.BlockFloat)


def test_diagnostics_read_a_compact_state():
    optimizer = small(meta_learning_rate=0.05)
    _, state = jax.jit(lambda: run(optimizer, X, 5))()
    plain = state._replace(theta=compact.read(state.theta, jnp.float32))
    np.testing.assert_array_equal(lodo.diagnostics.dense(state), lodo.diagnostics.dense(plain))
    step, after = jax.jit(optimizer.update)(X, state)
    # The step is made with θ as it is kept, which is what the next hypergradient judges.
    np.testing.assert_allclose(step, -lodo.diagnostics.apply(after, after.momentum), rtol=1e-5)


@pytest.mark.parametrize(("arguments", "most"), [({}, 73), ({"depth": 4, "block_size": 16}, 66)], ids=str)
def test_bytes_of_the_arrays_are_those_of_the_cost_table(arguments, most):
    x = jnp.zeros(3000, jnp.float32)
    state = lodo.lodo(storage="compact", **arguments).init(x)
    table = lodo.diagnostics.cost_table(x, storage="compact", **arguments)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == table.total_bytes
    learned = sum(leaf.nbytes for leaf in jax.tree.leaves((state.theta, state.meta_state)))
    assert learned == table.bytes_by_part["theta"] + table.bytes_by_part["meta-optimizer"]
    # In float32 numbers for each parameter.
    assert learned / x.nbytes < most
    full = lodo.diagnostics.cost_table(x, **arguments)
    assert learned < 0.3 * (full.bytes_by_part["theta"] + full.bytes_by_part["meta-optimizer"])


def test_refusals():
    with pytest.raises(ValueError, match=r"storage must be one of 'full', 'compact'.*; got 'tiny'"):
        lodo.lodo(storage="tiny")
    with pytest.raises(TypeError, match=r"storage must be one of .*; got 8"):
        lodo.lodo(storage=8)
    with pytest.raises(ValueError, match=r"theta must be one of 'full', 'bfloat16', 'int16', 'int8'; got 'float16'"):
        compact.Storage(theta="float16")
    for ours, other in (("compact", "full"), ("full", "compact"), ("compact", SMALL)):
        with pytest.raises(ValueError, match="made by another configuration"):
            diagonal(ours).update(X, diagonal(other).init(X))
