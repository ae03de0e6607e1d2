"""Adam with small moments against float64 twins, and equal to optax's where nothing is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodo.compact import BlockFloat, read, scale_by_compact_adam

FULL = {"first_moment": "full", "second_moment": "full"}


@pytest.fixture(autouse=True)
def optax_promotion():
    """For optax's own Adam, which is compared with."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def gradients(shape, steps=6, seed=0):
    return [jax.random.normal(key, shape, jnp.float64) for key in jax.random.split(jax.random.key(seed), steps)]


def outputs(optimizer, given):
    state, out = optimizer.init(given[0]), []
    update = jax.jit(optimizer.update)
    for gradient in given:
        one, state = update(gradient, state)
        out.append(one)
    return out, state


def test_in_full_it_is_optax_adam():
    given = [{"w": g, "b": g[0, 0, 0]} for g in gradients((2, 3, 3, 5))]
    ours, _ = outputs(scale_by_compact_adam(0.8, 0.95, 1e-6, **FULL), given)
    theirs, _ = outputs(optax.scale_by_adam(0.8, 0.95, 1e-6), given)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_without_a_first_moment_it_is_adam_with_b1_zero():
    given = gradients((2, 3, 3, 5))
    ours, state = outputs(scale_by_compact_adam(0.9, 0.95, 1e-6, first_moment="none", second_moment="full"), given)
    theirs, _ = outputs(optax.scale_by_adam(0.0, 0.95, 1e-6), given)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert state.mu == ()


def test_factored_is_exact_for_squares_of_rank_one():
    rows = jax.random.uniform(jax.random.key(1), (2, 3, 1, 4), jnp.float64, 0.1, 2.0)
    columns = jax.random.uniform(jax.random.key(2), (2, 1, 3, 4), jnp.float64, 0.1, 2.0)
    scales = [1.0, -0.3, 2.0, 0.5]
    given = [s * rows * columns for s in scales]
    ours, state = outputs(scale_by_compact_adam(**{**FULL, "second_moment": "factored"}), given)
    theirs, _ = outputs(optax.scale_by_adam(), given)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert state.nu.rows.shape == (2, 3, 1, 4)
    assert state.nu.columns.shape == (2, 1, 3, 4)


def test_factored_keeps_the_means_of_rows_and_columns():
    (gradient,) = gradients((2, 3, 3, 4), steps=1)
    _, state = outputs(scale_by_compact_adam(b2=0.9, **{**FULL, "second_moment": "factored"}), [gradient])
    square = np.asarray(gradient) ** 2
    np.testing.assert_allclose(state.nu.rows[:, :, 0, :], 0.1 * square.mean(axis=2), rtol=1e-12)
    np.testing.assert_allclose(state.nu.columns[:, 0, :, :], 0.1 * square.mean(axis=1), rtol=1e-12)


def test_block_divides_a_block_by_the_root_of_its_mean_square():
    given = gradients((2, 3, 3, 5))
    ours, state = outputs(scale_by_compact_adam(0.9, 0.99, 1e-8, first_moment="full", second_moment="block"), given)
    mean = second = 0.0
    for t, gradient in enumerate(given, start=1):
        gradient = np.asarray(gradient)
        mean = 0.9 * mean + 0.1 * gradient
        second = 0.99 * second + 0.01 * (gradient**2).mean(axis=(1, 2), keepdims=True)
        root = np.sqrt(second / (1 - 0.99**t))
        np.testing.assert_allclose(ours[t - 1], mean / (1 - 0.9**t) / (root + 1e-8), rtol=1e-12)
    np.testing.assert_allclose(state.nu, second[:, 0, 0, :], rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (3, 7)])
def test_arrays_without_blocks_keep_their_second_moment(shape):
    given = gradients(shape)
    theirs, _ = outputs(optax.scale_by_adam(), given)
    for form in ("block", "factored"):
        ours, _ = outputs(scale_by_compact_adam(**{**FULL, "second_moment": form}), given)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(("form", "tolerance"), [("bfloat16", 0.02), ("int16", 2e-3), ("int8", 0.06)])
def test_rounded_moments_follow_the_exact_ones(form, tolerance):
    given = gradients((2, 2, 2, 300), steps=40)
    ours, state = outputs(scale_by_compact_adam(first_moment=form, second_moment=form), given)
    theirs, exact = outputs(optax.scale_by_adam(), given)
    assert isinstance(state.mu, BlockFloat) == (form != "bfloat16")
    mean = read(state.mu, jnp.float64)
    root = read(state.nu, jnp.float64)
    root = jnp.sqrt(root) if form == "bfloat16" else root
    for approximate, wanted in ((mean, exact.mu), (root, jnp.sqrt(exact.nu)), (ours[-1], theirs[-1])):
        difference = np.asarray(approximate - wanted)
        scale = float(jnp.sqrt(jnp.mean(wanted**2)))
        assert np.sqrt((difference**2).mean()) < tolerance * scale
        # Unbiased: the mean over 2,400 entries is far below one entry's error.
        assert abs(difference.mean()) < 0.2 * tolerance * scale


def test_state_keeps_its_form_and_is_reproducible():
    given = gradients((2, 2, 2, 5), steps=3)
    for first, second in (("int8", "block"), ("bfloat16", "factored"), ("none", "int8")):
        optimizer = scale_by_compact_adam(first_moment=first, second_moment=second)
        state = optimizer.init(given[0])
        _, after = jax.jit(optimizer.update)(given[0], state)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        one, two = outputs(optimizer, given), outputs(optimizer, given)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, two))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_moment": "int4"}, r"first_moment must be one of 'full', .*; got 'int4'"),
        ({"second_moment": "none"}, r"second_moment must be one of .*; got 'none'"),
        ({"b1": 1.0}, r"b1 must be a number in \[0, 1\)"),
        ({"eps": -1.0}, r"eps must be a number in \[0, ∞\)"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        scale_by_compact_adam(**arguments)
