"""optax's common demands on a transformation, of every form of ours: see battery.py, which prints them as a table."""

import battery
import battery_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo

#: What optax puts around a transformation sees the layout of its state, LODO's or a quasi-Newton method's: by
#: default one form of each is put into all of these, the others with -m "".
WRAPPED = {"map params", "tree get and set", "chain", "injected numbers", "injected schedules", "masked", "partition"}
WRAPPED |= {"multi steps", "apply if finite", "flatten", "lookahead", "without params"}


def is_detail(name, assertion):
    return name in battery_cases.DETAILS or (assertion in WRAPPED and name not in ("lodo", "bfgs"))


@pytest.mark.parametrize(
    ("name", "assertion"),
    [
        pytest.param(
            name, assertion, marks=pytest.mark.exhaustive if is_detail(name, title) else (), id=f"{name}-{title}"
        )
        for name in battery.FORMS
        for title, assertion in battery.ASSERTIONS.items()
    ],
)
def test_form(name, assertion):
    if name not in battery.forms():
        pytest.skip("there is no C++ compiler")
    with battery.optax_modes():
        assertion(name)


# --- what the battery found, with the right values


@pytest.mark.exhaustive
def test_a_warm_up_from_zero_is_the_schedule_given_directly():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6)
    x = jnp.array([1.0, -2.0, 0.5])
    direct, injected = lodo.lodo(schedule, depth=1), optax.inject_hyperparams(lodo.lodo)(schedule, depth=1)
    with battery.optax_modes():
        state, other = direct.init(x), injected.init(x)
        for t in range(8):
            update, state = direct.update(x, state)
            same, other = injected.update(x, other)
            np.testing.assert_allclose(update, same, rtol=1e-6)
            assert np.any(update != 0) == (t not in (0, 6, 7))


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_raw_keys_of_other_generators_are_seeds(generator):
    x = jnp.ones(3)
    with jax.default_prng_impl(generator):
        raw, typed = jax.random.PRNGKey(4), jax.random.key(4)
        assert raw.shape == (4,)
        theta = lodo.lodo(seed=raw, depth=1).init(x).theta
        np.testing.assert_array_equal(theta, lodo.lodo(seed=typed, depth=1).init(x).theta)
        short = lodo.lodo(seed=jnp.array([0, 4], jnp.uint32), depth=1).init(x).theta
    np.testing.assert_array_equal(short, lodo.lodo(seed=4, depth=1).init(x).theta)


def test_a_refusal_inside_a_partition_names_the_groups_leaves():
    params = {"a": jnp.ones(2), "b": jnp.ones(9)}
    groups = {"small": lodo.lodo(depth=1, hidden_size=4), "large": lodo.lodo(depth=1, hidden_size=8)}
    with pytest.raises(ValueError, match=r"hidden_size must be at least(?s:.*)1 leaf: \['b'\]"):
        optax.partition(groups, {"a": "small", "b": "large"}).init(params)


@pytest.mark.parametrize("name", [name for name in battery.FORMS if "released" in name])
def test_a_gradient_of_zero_does_no_harm_to_the_released_forms(name):
    optimizer, zero = battery.FORMS[name].make(), jnp.zeros(3)
    x = jnp.array([1.0, -2.0, 0.5])
    state = optimizer.init(x)
    for point in (zero, x, zero, 0.5 * x, x):
        update, state = optimizer.update(2 * point, state, point, **battery.EXTRA)
        assert battery.finite((update, state))
        assert np.any(update != 0) == np.any(point != 0)


@pytest.mark.parametrize("size", [3, 1100])
def test_map_params_on_small_and_large_models(size):
    optimizer, x = lodo.lodo(0.1, depth=1), {"w": jnp.ones(size)}
    state = optax.tree.map_params(
        optimizer, lambda m: m + 1, optimizer.init(x), transform_non_params=lambda leaf: leaf + 0
    )
    np.testing.assert_array_equal(state.momentum["w"], jnp.ones(size))
