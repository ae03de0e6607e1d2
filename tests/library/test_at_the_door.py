"""What is refused at the door with a word on what to do, and numbers that used to be wrong without one."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import _formula, compact, diagnostics, quasi_newton, sharding
from lodo.operators import BlockPermutation, ShardedBlockPermutation

X = jnp.linspace(0.5, 1.5, 30)


def steps(optimizer, count, params=X, state=None, factor=1.0):
    """Steps down |x|²/2 times a factor."""
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    for _ in range(count):
        updates, state = update(factor * params, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


# The monitor


@pytest.mark.parametrize("second", compact.storage.SECOND_MOMENTS)
def test_the_monitor_reads_compact_moments_too(second):
    """Adam's hypergradient is the same number, in whatever form its second moments are kept."""
    by_full = diagnostics.monitor(steps(lodo.lodo(0.01, depth=2), 4)[1])
    adam = optax.chain(
        lodo.compact.scale_by_compact_adam(first_moment="full", second_moment=second), optax.scale(-1e-3)
    )
    state = steps(lodo.lodo(0.01, depth=2, meta_optimizer=adam), 4)[1]
    np.testing.assert_allclose(diagnostics.monitor(state)["hypergradient"], by_full["hypergradient"], rtol=0.03)
    assert state.meta_state[0].step_count == 4


def test_the_monitor_reads_a_compact_lodo_and_leaves_out_what_is_not_there():
    full, small = (steps(lodo.lodo(0.01, depth=2, storage=storage), 4)[1] for storage in ("full", "compact"))
    seen = [diagnostics.monitor(state)["hypergradient"] for state in (full, small)]
    np.testing.assert_allclose(*seen, rtol=0.03)
    with jax.numpy_dtype_promotion("standard"):
        of_optax = diagnostics.monitor(steps(lodo.lodo(0.01, depth=2, meta_optimizer=optax.adam(1e-3)), 4)[1])
    np.testing.assert_allclose(of_optax["hypergradient"], seen[0], rtol=1e-6)
    other = diagnostics.monitor(lodo.lodo(depth=2, meta_optimizer=optax.scale_by_rms()).init(X))
    assert "hypergradient" not in other
    assert "step norm" in other


# Numbers


def test_a_product_of_norms_that_overflows_does_not_stay_in_the_state():
    optimizer = lodo.rlodo(depth=2, dtype=jnp.float32)
    params = X.astype(jnp.float32)
    _, state = steps(optimizer, 3, params)
    huge = jnp.full(30, 1e37, jnp.float32)
    updates, after = optimizer.update(huge, state._replace(direction=huge), params)
    assert np.isnan(updates).all()
    jax.tree.map(np.testing.assert_array_equal, after, state._replace(direction=huge))
    updates, _ = optimizer.update(params, state, params)
    assert np.isfinite(updates).all()


@pytest.mark.parametrize("size", [1e-37, 1.0, 1e37, 1e38])
def test_a_norm_of_large_and_small_vectors(size):
    v = np.full(3, size, np.float32)
    np.testing.assert_allclose(_formula.norm(jnp.asarray(v)), np.linalg.norm(v.astype(float)), rtol=1e-6)


def test_a_state_of_another_kernel_is_refused_until_what_it_kept_is_put_away():
    kept = lodo.lodo(0.1, operator=BlockPermutation(2, hidden_size=2048))  # large enough to keep the layers' inputs
    small = lodo.lodo(0.1, operator=BlockPermutation(2, hidden_size=2048), gradient_trace=0.0)
    _, state = steps(kept, 2)
    assert state.inputs.up.ndim
    state = state._replace(trace=X * 0)
    with pytest.raises(ValueError, match=r"its inputs has.*state._replace\(inputs=None\) goes on"):
        small.update(X, state, X)
    small.update(X, state._replace(inputs=None), X)


def test_a_guard_that_goes_back_forgets_the_trace_and_the_last_step():
    optimizer = lodo.guard(lodo.lodo(0.1, depth=2, gradient_trace=0.9, normalised_hypergradient=True))
    state, params = optimizer.init(X), X
    for value in (3.0, 2.0, np.nan):
        updates, state = optimizer.update(params, state, params, value=value)
        params = optax.apply_updates(params, updates)
    assert state.events == 1
    assert not any(np.any(leaf) for leaf in (state.inner_state.trace, state.inner_state.scales.length))


# Calls as optax has them


@pytest.mark.parametrize(
    "optimizer", [lodo.lodo(depth=2), lodo.rlodo(depth=2), lodo.guard(lodo.rlodo(depth=2)), quasi_newton.bfgs()]
)
def test_arguments_may_be_given_by_name(optimizer):
    assert list(inspect.signature(optimizer.init).parameters) == ["params"]
    state = optimizer.init(params=X)
    more = {"value": 1.0} if isinstance(state, lodo.relative.GuardState) else {}
    updates, _ = optimizer.update(updates=X, state=state, params=X, **more)
    assert updates.shape == X.shape


@pytest.mark.parametrize("optimizer", [lodo.lodo(depth=2), lodo.rlodo(depth=2), lodo.guard(lodo.rlodo(depth=2))])
def test_a_healthy_step_is_no_nan(optimizer):
    state = optimizer.init(X)
    with jax.debug_nans(True):
        optimizer.update(X, state, X, value=1.0)


# Refusals


@pytest.mark.parametrize("value", [jnp.ones(3), np.ones(1), "1.0", jnp.sum, 1j, jnp.array(True)])
def test_a_guard_needs_a_scalar_loss(value):
    optimizer = lodo.guard(optax.sgd(0.1))
    with pytest.raises(TypeError, match="value must be the loss, a scalar; got"):
        optimizer.update(X, optimizer.init(X), X, value=value)
    optimizer.update(X, optimizer.init(X), X, value=np.float32(1))


@pytest.mark.parametrize("inner", [None, "adam", lodo.rlodo])
def test_a_guard_wraps_an_optimizer(inner):
    with pytest.raises(TypeError, match=r"guard wraps an optimizer, such as lodo.rlodo\(\) with its parentheses; got"):
        lodo.guard(inner)


def test_a_guard_refuses_another_state_or_tree():
    optimizer = lodo.guard(optax.sgd(0.1))
    with pytest.raises(TypeError, match="guard's update needs the GuardState that its init made; got tuple"):
        optimizer.update(X, (), X, value=1.0)
    with pytest.raises(ValueError, match=r"updates has shape \(3,\)"):
        optimizer.update(X[:3], optimizer.init(X), X, value=1.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lodo.lodo(normalised_hypergradient="no"), "normalised_hypergradient must be True or False; got 'no'"),
        (lambda: BlockPermutation(padding="no"), "padding must be True or False; got 'no'"),
        (
            lambda: ShardedBlockPermutation(jax.sharding.Mesh(jax.devices()[:1], ("a",)), "a", padding=None),
            "padding must be True",
        ),
        (
            lambda: quasi_newton.bfgs().update(X, (), X),
            "bfgs: update needs the BFGSState that its init made; got tuple",
        ),
        (lambda: quasi_newton.olbfgs().update(X, (), X), "update needs the LimitedMemoryState"),
        (lambda: quasi_newton.levenberg_marquardt().update(X, (), X), "update needs the LevenbergMarquardtState"),
        (lambda: diagnostics.cost_table(X, optimizer=lodo.rlodo()), "optimizer must be lodo.lodo or lodo.rlodo, not"),
        (lambda: diagnostics.step_traffic(X, optimizer=optax.adam), "optimizer must be lodo.lodo or lodo.rlodo, not"),
        (lambda: lodo.compact.scale_by_compact_adam(key=7), "key must be uint32.2., such as.*got int"),
        (lambda: lodo.compact.scale_by_compact_adam(key=jax.random.key(0)), "key must be uint32"),
        (lambda: lodo.compact.scale_by_compact_adam(key=np.zeros(3, np.uint32)), "key must be uint32"),
        (lambda: sharding.shardings(lodo.lodo(depth=2).init(X), "mesh"), "mesh must be a jax.sharding.Mesh"),
    ],
)
def test_what_is_of_the_wrong_type(call, said):
    with pytest.raises(TypeError, match=said):
        call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lodo.lodo(10**400), "initial_learning_rate must be a number in .*; got inf"),
        (lambda: lodo.lodo(seed=2**64), "seed must be an int from 0 to 2⁶³ − 1, or a JAX key"),
        (lambda: compact.rounding.to_block_float(X, None, 12), "bits must be 8 or 16; got 12"),
        (lambda: lodo.relative.scale_by_relative().init(1.0), "Relative steps are for stacks of square blocks"),
        (lambda: diagnostics.apply(lodo.lodo(depth=2).init(X), X[:4]), r"v must have the shape \(30,\) or \(30,\)"),
        (
            lambda: sharding.shardings(lodo.lodo(depth=2).init(X), jax.sharding.Mesh(jax.devices()[:1], ("a",)), "z"),
            r"The mesh has the axes \('a',\); got axis='z'",
        ),
    ],
)
def test_what_has_the_wrong_value(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_spread_state_is_told_from_an_operator_of_ones_own():
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("blocks",))
    operator = ShardedBlockPermutation(mesh, depth=2)
    state = lodo.lodo(operator=operator).init(X)
    with pytest.raises(ValueError, match="spread over devices: pass its ShardedBlockPermutation as operator="):
        diagnostics.dense(state)
    assert diagnostics.dense(state, operator=operator).shape == (30, 30)


def test_a_tree_without_numbers_costs_nothing():
    for devices in (1, 2):
        assert "LODO on n = 0 parameters" in str(diagnostics.cost_table({}, devices=devices))
