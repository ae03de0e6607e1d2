"""Optimizers in the released code's definition: limit cases, and one program for every learning rate.

That they replay the released code is shown in test_baseline_parity.py.
"""

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


def test_lars_with_each_leaf_in_a_container_and_no_decay_is_optax_lars():
    x = {"a": {"w": jnp.array([1.0, 2.0])}, "b": {"w": jnp.array([-3.0])}}
    gradients = [{"a": {"w": g[:2]}, "b": {"w": g[2:]}} for g in GRADIENTS]
    ours = updates_of(reference.lars(0.1, weight_decay=0.0), gradients, x)
    theirs = updates_of(optax.lars(0.1, weight_decay=0.0, trust_coefficient=1.0, momentum=0.9), gradients, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)


def test_lars_takes_the_leaves_of_a_container_as_one_layer():
    x = {"one": {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}, "two": {"kernel": jnp.array([2.0])}}
    (updates,) = updates_of(reference.lars(1.0, weight_decay=0.0), [jax.tree.map(jnp.ones_like, x)], x)
    ratios = [-updates["one"]["kernel"][0], -updates["one"]["bias"][0], -updates["two"]["kernel"][0]]
    np.testing.assert_allclose(ratios, [5 / np.sqrt(3), 5 / np.sqrt(3), 2.0])


def test_lars_does_not_move_a_layer_of_zeros():
    x = jnp.zeros(3)
    for gradient in (jnp.ones(3), jnp.zeros(3)):
        with jax.debug_nans(True):
            (updates,) = updates_of(reference.lars(0.1), [gradient], x)
        np.testing.assert_array_equal(updates, np.zeros(3))


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


def test_lars_asks_for_the_parameters():
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        reference.lars().update(jnp.ones(2), reference.lars().init(jnp.ones(2)))
