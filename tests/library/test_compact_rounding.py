"""Stochastic rounding and block floating point against float64 twins: unbiased, within bounds, exact where due."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo.compact import from_block_float, rounding, storage, to_bfloat16, to_block_float

DRAWS = 4096


def words(shape, seed=0):
    return rounding.random_bits(jnp.array([seed, 7], jnp.uint32), shape)


def drawn(values, form):
    """Each value rounded many times with bits of its own, in float64: [draws, values]."""
    x = jnp.broadcast_to(jnp.asarray(values, jnp.float32), (DRAWS, len(values)))
    if form == "bfloat16":
        return np.asarray(to_bfloat16(x, words(x.shape)).astype(jnp.float64))
    return np.asarray(from_block_float(to_block_float(x, words(x.shape), 16 if form == "int16" else 8), jnp.float64))


VALUES = np.array([0.7310, -0.7310, 1.0001, -1.9999, 3.14159e-3, -2.5e-5, 0.0, 1.0])


@pytest.mark.parametrize("form", ["bfloat16", "int16", "int8"])
def test_rounding_is_unbiased_and_goes_to_a_neighbour(form):
    rounded = drawn(VALUES, form)
    x = VALUES.astype(np.float32).astype(np.float64)
    # Up or down to the next number that the form holds, with the probability that keeps the mean.
    low, high = rounded.min(axis=0), rounded.max(axis=0)
    assert all(len(np.unique(column)) <= 2 for column in rounded.T)
    assert np.all((low <= x) & (x <= high))
    step = high - low
    up = (rounded > low).mean(axis=0)
    chance = np.where(step > 0, (x - low) / np.where(step > 0, step, 1), 0)
    # Five standard errors of a share of 4,096 draws.
    np.testing.assert_array_less(np.abs(up - chance), 5 * np.sqrt(chance * (1 - chance) / DRAWS) + 1e-9)
    np.testing.assert_array_equal(step[[6, 7]], 0)
    assert np.all(step[:2] > 0)
    if form == "bfloat16":
        np.testing.assert_array_less(step, 2.0**-7 * np.abs(x) + 1e-30)
    else:
        np.testing.assert_array_less(step, 2.0 * 2.0 ** (-14 if form == "int16" else -6) + 1e-12)


def test_rounding_to_the_nearest_would_lose_a_small_rate_and_this_does_not():
    steps, rate = 2000, 1e-5

    def grown(form, stochastic):
        def step(kept, t):
            key = jnp.array([t, 3], jnp.uint32) if stochastic else None
            return storage.write(storage.read(kept, jnp.float32) + jnp.float32(rate), form, key), None

        start = storage.write(jnp.full(500, 0.7, jnp.float32), form, None)
        kept, _ = jax.lax.scan(step, start, jnp.arange(steps, dtype=jnp.uint32))
        return float((storage.read(kept, jnp.float32) - storage.read(start, jnp.float32)).mean())

    # Five standard errors of the mean over 500 entries: each step adds at most rate · unit to an entry's variance.
    for form, unit in (("bfloat16", 2.0**-8), ("int16", 2.0**-15), ("int8", 2.0**-7)):
        assert abs(grown(form, True) - steps * rate) < 5 * np.sqrt(steps * rate * unit / 500)
        assert grown(form, False) == 0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (256,), (3, 257), (2, 0)])
def test_error_bound_of_every_shape(bits, shape):
    x = jax.random.normal(jax.random.key(1), shape, jnp.float64) * 37.0
    for random in (None, words(shape)):
        kept = to_block_float(x, random, bits)
        assert kept.mantissa.shape == shape
        assert kept.mantissa.dtype == (jnp.int8 if bits == 8 else jnp.int16)
        assert kept.exponent.size == (int(np.prod(shape[:-1])) * -(-shape[-1] // 256) if shape else 1)
        back = np.asarray(from_block_float(kept, jnp.float64))
        if 0 in shape:
            continue
        # Twin: the largest entry of each group of 256 along the last axis bounds the unit.
        flat = np.asarray(x).reshape(-1, shape[-1] if shape else 1)
        for row, row_back in zip(flat, back.reshape(flat.shape), strict=True):
            for first in range(0, len(row), 256):
                part = slice(first, first + 256)
                unit = 2.0 ** np.ceil(np.log2(np.abs(row[part]).max())) / 2 ** (bits - 1) * 2
                assert np.abs(row_back[part] - row[part]).max() <= unit


def test_what_the_integers_hold_is_kept_exactly():
    mantissas = np.array([-32767, -5, 0, 1, 2, 32767])
    for exponent in (-40, 0, 40):
        x = jnp.asarray(mantissas * 2.0**exponent, jnp.float32)
        kept = to_block_float(x, words(x.shape), 16)
        np.testing.assert_array_equal(kept.mantissa, mantissas)
        np.testing.assert_array_equal(from_block_float(kept, jnp.float32), x)
        again = to_block_float(from_block_float(kept, jnp.float64), words(x.shape, 5), 16)
        np.testing.assert_array_equal(again.mantissa, kept.mantissa)


def test_the_ends_of_the_range():
    huge = to_block_float(jnp.array([1e301, -1e300, 1.0]), None, 8)
    back = from_block_float(huge, jnp.float64)
    assert np.all(np.isfinite(back))
    assert 3e38 < back[0] < 3.5e38
    assert back[1] == -back[0]
    tiny = from_block_float(to_block_float(jnp.array([1e-37, -1e-320, 0.0]), None, 16), jnp.float64)
    np.testing.assert_allclose(tiny, [1e-37, 0.0, 0.0], atol=2.0**-126)
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf], jnp.float32)
    np.testing.assert_array_equal(to_bfloat16(bad, words((3,))).astype(jnp.float32), bad)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_what_is_not_finite_is_read_back_as_nan_and_leaves_its_group_alone(bits, dtype):
    x = jnp.linspace(-3, 2, 600).astype(dtype)
    for draws in (None, words(x.shape)):
        good = from_block_float(to_block_float(x, draws, bits), jnp.float32)
        assert np.all(np.isfinite(good))
        for bad in (np.nan, np.inf, -np.inf):
            kept = to_block_float(x.at[jnp.array([1, 550])].set(bad), draws, bits)
            back = from_block_float(kept, jnp.float32)
            # Neither is its group's largest entry, so that the exponents stay.
            np.testing.assert_array_equal(back, good.at[jnp.array([1, 550])].set(np.nan))
    alone = to_block_float(jnp.asarray(np.nan, dtype), None, bits)
    assert np.isnan(from_block_float(alone, jnp.float64))


def test_random_bits_are_uniform_and_differ():
    first, second, third = (words((1 << 16,), seed) for seed in (0, 1, 2))
    for draw in (first, second, third):
        bits = np.unpackbits(np.asarray(draw).view(np.uint8)).reshape(-1, 32).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 5 * 0.5 / 2**8
    for a, b in ((first, second), (second, third), (first, jnp.roll(first, 1)), (first, jnp.roll(second, 1))):
        same = np.unpackbits(np.asarray(a ^ b).view(np.uint8)).mean()
        assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(32 * 2**16)
    np.testing.assert_array_equal(words((3, 5)), words((15,)).reshape(3, 5))


def test_keys_of_steps_and_leaves_differ():
    key = storage.key_of(jax.random.key(3))
    assert key.shape == (2,)
    at = jax.vmap(lambda t: storage.key_at(key, t))(jnp.arange(100))
    assert len({tuple(row) for row in np.asarray(at).tolist()}) == 100
    leaf = jnp.full(1000, 0.3, jnp.float32)
    kept = storage.write({"a": leaf, "b": leaf}, "bfloat16", key)
    assert np.any(kept["a"] != kept["b"])
