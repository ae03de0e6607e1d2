"""Optimizers in the released code's definition: limit cases, optax manners, refused input.

That they replay the released code is shown in test_baseline_parity.py.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodo_experiments.optimizers import reference

FACTORIES = {"adam": reference.adam_epsilon_hat, "yogi": reference.yogi, "lars": reference.lars}
NAMES = list(FACTORIES)


def updates_of(optimizer, gradients, params):
    """Updates for a sequence of gradients at fixed parameters."""
    state, out = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        out.append(updates)
    return out


GRADIENTS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))


def test_adam_without_epsilon_is_optax_adam():
    x = jnp.zeros(3)
    ours = updates_of(reference.adam_epsilon_hat(0.1, eps=0.0), GRADIENTS, x)
    with jax.numpy_dtype_promotion("standard"):
        theirs = updates_of(optax.adam(0.1, eps=0.0), GRADIENTS, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_adam_epsilon_is_optax_epsilon_over_the_bias_correction():
    """The equivalent constant epsilon of the first step, as the docstring says."""
    x, b2, eps = jnp.zeros(3), 0.999, 1e-2
    ours = updates_of(reference.adam_epsilon_hat(0.1, eps=eps), GRADIENTS[:1], x)
    with jax.numpy_dtype_promotion("standard"):
        theirs = updates_of(optax.adam(0.1, eps=eps / np.sqrt(1 - b2)), GRADIENTS[:1], x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_adam_rounds_its_hyperparameters_as_told():
    x = jnp.zeros(3)
    rounded = [reference.as_float32(value) for value in (0.1, 0.9, 0.999)]
    expected = updates_of(reference.adam_epsilon_hat(*rounded), GRADIENTS, x)
    for rate in (0.1, jnp.asarray(0.1), lambda count: jnp.asarray(0.1)):
        ours = updates_of(reference.adam_epsilon_hat(rate, float32_hyperparameters=True), GRADIENTS, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-13)
    exact = updates_of(reference.adam_epsilon_hat(0.1), GRADIENTS, x)
    assert np.max(np.abs(np.subtract(exact, expected))) > 1e-10


def test_lars_with_one_leaf_a_layer_and_no_decay_is_optax_lars():
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([-3.0])}
    gradients = [{"a": g[:2], "b": g[2:]} for g in GRADIENTS]
    ours = updates_of(reference.lars(0.1, weight_decay=0.0, layers="leaves"), gradients, x)
    theirs = updates_of(optax.lars(0.1, weight_decay=0.0, trust_coefficient=1.0, momentum=0.9), gradients, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)


def test_lars_layers():
    x = {"one": {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}, "two": {"kernel": jnp.array([2.0])}}
    gradient = jax.tree.map(jnp.ones_like, x)

    def ratios(layers):
        (updates,) = updates_of(reference.lars(1.0, weight_decay=0.0, layers=layers), [gradient], x)
        return -updates["one"]["kernel"][0], -updates["one"]["bias"][0], -updates["two"]["kernel"][0]

    np.testing.assert_allclose(ratios("siblings"), [5 / np.sqrt(3), 5 / np.sqrt(3), 2.0])
    np.testing.assert_allclose(ratios("leaves"), [3 / np.sqrt(2), 4.0, 2.0])
    one_layer = np.sqrt(29) / 2
    np.testing.assert_allclose(ratios(lambda p: jax.tree.map(lambda _: 0, p)), [one_layer] * 3)
    with pytest.raises(ValueError, match="same structure"):
        ratios(lambda p: [1, 2])


def test_lars_does_not_move_a_layer_of_zeros():
    x = jnp.zeros(3)
    for gradient in (jnp.ones(3), jnp.zeros(3)):
        with jax.debug_nans(True):
            (updates,) = updates_of(reference.lars(0.1), [gradient], x)
        np.testing.assert_array_equal(updates, np.zeros(3))


@pytest.mark.parametrize("name", NAMES)
def test_mixed_dtypes_keep_theirs(name):
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64), "c": jnp.ones(2, jnp.bfloat16)}
    for rate in (0.1, lambda count: 0.1 / (1.0 + count.astype(float))):
        for updates in updates_of(FACTORIES[name](rate), [params, params], params):
            assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
            assert all(bool(jnp.all(u < 0)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_the_learning_rate(name):
    x = jnp.ones(3)
    rates = jnp.array([0.01, 0.2])
    factory = FACTORIES[name]
    injected = optax.inject_hyperparams(factory)
    together = jax.vmap(lambda rate: jnp.stack(updates_of(injected(learning_rate=rate), GRADIENTS, x)))(rates)
    for rate, updates in zip(rates, together):
        alone = updates_of(factory(learning_rate=float(rate)), GRADIENTS, x)
        np.testing.assert_allclose(updates, alone, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_bad_input(name):
    factory = FACTORIES[name]
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="learning_rate"):
            factory(wrong)
    with pytest.raises(TypeError, match=r"learning_rate .*'0\.1'"):
        factory("0.1")
    decays = {"b1", "b2", "momentum"} & set(inspect.signature(factory).parameters)
    for decay in decays:
        with pytest.raises(ValueError, match=decay):
            factory(**{decay: 1.0})
    optimizer = factory()
    with pytest.raises(TypeError, match="complex"):
        optimizer.init(jnp.ones(2, complex))
    with pytest.raises(TypeError, match="int64"):
        optimizer.init({"w": jnp.ones(2), "i": jnp.ones(2, int)})
    params = {"a": jnp.ones(2)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="another structure"):
        optimizer.update({"b": jnp.ones(2)}, state, params)
    with pytest.raises(ValueError, match=r"\['a'\] has shape \(3,\)"):
        optimizer.update({"a": jnp.ones(3)}, state, params)


def test_lars_refuses_what_is_its_own():
    with pytest.raises(ValueError, match=r"siblings.*'modules'"):
        reference.lars(layers="modules")
    with pytest.raises(ValueError, match="weight_decay"):
        reference.lars(weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        reference.lars().update(jnp.ones(2), reference.lars().init(jnp.ones(2)))
    with pytest.raises(ValueError, match="total_evaluations"):
        reference.lars_decay(0.1, 0)
