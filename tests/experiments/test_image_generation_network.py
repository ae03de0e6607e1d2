"""The network and its layers: parameter count, equal forms, pooling, initial distribution, arctangent."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_cases import enable_x64, random_params

from lodo_experiments.models import FORMS, AutoregressiveNetwork, arctan, default_form, depthwise, initial_parameters
from lodo_experiments.models.autoregressive import halve


def count(network, side):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 5), jnp.float32))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_papers_network_has_94_696_parameters():
    assert count(AutoregressiveNetwork(), 28) == 94_696


@pytest.mark.parametrize(("side", "stages"), [(1, 0), (2, 1), (7, 3), (8, 3), (14, 4), (28, 5), (32, 5)])
def test_stages_halve_the_image_to_one_pixel(side, stages):
    block = (20 * 40 + 40) + (9 * 120 + 120) + (120 * 20 + 20)
    expected = (5 * 20 + 20) + 2 * stages * block + (20 * 17 + 17)
    assert count(AutoregressiveNetwork(classes=17, blocks=2), side) == expected


def by_loops(x, kernel, g):
    """The definition, one number at a time: y, and the derivatives of ⟨g, y⟩ with respect to x and kernel."""
    batch, height, width, channels = x.shape
    size, multiplier = kernel.shape[0], kernel.shape[3]
    y, dx, d_kernel = np.zeros(g.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    for b, h, w, c, m, i, j in np.ndindex(batch, height, width, channels, multiplier, size, size):
        row, column, out = h + i - size // 2, w + j - size // 2, c * multiplier + m
        if 0 <= row < height and 0 <= column < width:
            y[b, h, w, out] += x[b, row, column, c] * kernel[i, j, c, m]
            dx[b, row, column, c] += g[b, h, w, out] * kernel[i, j, c, m]
            d_kernel[i, j, c, m] += g[b, h, w, out] * x[b, row, column, c]
    return y, dx, d_kernel


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("height", "width", "multiplier", "size"), [(5, 4, 3, 3), (1, 2, 1, 5)])
def test_every_form_is_the_definition_in_value_and_gradient(form, height, width, multiplier, size):
    with enable_x64(True):
        random = np.random.default_rng(0)
        x = random.normal(size=(3, height, width, 2))
        kernel = random.normal(size=(size, size, 2, multiplier))
        g = random.normal(size=(3, height, width, 2 * multiplier))
        y, pull = jax.vjp(lambda *a: depthwise(*a, form), jnp.asarray(x), jnp.asarray(kernel))
        for given, expected in zip((y, *pull(jnp.asarray(g))), by_loops(x, kernel, g), strict=True):
            np.testing.assert_allclose(given, expected, rtol=0, atol=1e-12)


def test_the_network_is_the_same_in_every_form():
    """From one tree of parameters, on 3×3 pictures, which also pool an odd side."""
    with enable_x64(True):
        network = AutoregressiveNetwork(classes=4, width=3, hidden=4, blocks=1, param_dtype=jnp.float64)
        params = random_params(network, 3)
        pictures = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 3, 5)))

        def value(form):
            net = network.clone(form=form)
            shapes = jax.eval_shape(net.init, jax.random.key(1), pictures)
            assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
            return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(net.apply(p, pictures)))))(params)

        expected, *others = map(value, FORMS)
        for given in others:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), given, expected)


@pytest.mark.parametrize("side", [2, 7, 8])
def test_pooling_leaves_padding_out_of_the_mean(side):
    """Against XLA's windowed sums divided by the number of pixels that each window really has."""
    x = jax.random.normal(jax.random.key(0), (side, side))
    window = {"window_dimensions": (2, 2), "window_strides": (2, 2), "padding": "SAME"}
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, **window)
    counts = jax.lax.reduce_window(jnp.ones_like(x), 0.0, jax.lax.add, **window)
    np.testing.assert_allclose(halve(halve(x, 0), 1), sums / counts, rtol=1e-5, atol=1e-6)


def initialised(network):
    return jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 5)))


@pytest.mark.parametrize("draw", [initialised, lambda network: initial_parameters(network, jax.random.key(0), 2, 2)])
def test_initial_weights_and_biases_have_variance_one_over_fan_in_plus_one(draw):
    network = AutoregressiveNetwork(width=200, hidden=300, blocks=1, form="grouped")
    tree = draw(network)
    expected = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 5)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    params = tree["params"]
    block = params["stage_0_block_0"]
    for layer, fan_in in (
        (params["input"], 5),
        (block["expand"], 200),
        (block["depthwise"], 9),
        (block["contract"], 900),
        (params["output"], 200),
    ):
        for leaf in (layer["kernel"], layer["bias"]):
            z = np.asarray(leaf).ravel() * math.sqrt(fan_in + 1)
            assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / z.size)
            assert abs(z.mean()) < 5 / math.sqrt(z.size)
    # Not truncated: some of 270,000 draws lie beyond three standard deviations.
    assert np.abs(np.asarray(block["contract"]["kernel"])).max() > 3.5 / math.sqrt(901)


def test_initial_parameters_follow_the_key():
    network = AutoregressiveNetwork(classes=3, width=2, hidden=2, blocks=1)
    first, again, other = (initial_parameters(network, jax.random.key(seed), 2, 2) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert not any(map(jnp.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(first)])
    assert len(np.unique(flat)) == flat.size


def test_bad_input_is_refused():
    for shape in ((28, 28, 5), (1, 28, 28, 4), (0, 28, 28, 5)):
        with pytest.raises(ValueError, match=r"pictures of shape \[batch, height, width, 5\]"):
            AutoregressiveNetwork().init(jax.random.key(0), jnp.zeros(shape))
    for name in ("classes", "width", "hidden", "multiplier", "blocks"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            AutoregressiveNetwork(**{name: 0}).init(jax.random.key(0), jnp.zeros((1, 2, 2, 5)))
    with pytest.raises(ValueError, match="form must be one of shifted, grouped; got 'fft'"):
        AutoregressiveNetwork(form="fft").init(jax.random.key(0), jnp.zeros((1, 2, 2, 5)))
    assert {default_form("cpu"), default_form("gpu")} == {"shifted", "grouped"}


def test_arctan_is_within_two_units_in_the_last_place():
    magnitudes = np.concatenate([np.linspace(0, 4, 1_000_001), np.logspace(-37, 38, 1_000_001)]).astype(np.float32)
    x = np.concatenate([magnitudes, -magnitudes])
    given = np.asarray(jax.jit(arctan)(x), np.float64)
    exact = np.arctan(x.astype(np.float64))
    assert (np.abs(given - exact) / np.spacing(np.abs(exact).astype(np.float32))).max() <= 2


def test_arctan_of_special_values_and_its_slope():
    special = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    given = np.asarray(arctan(special))
    np.testing.assert_array_equal(given, np.arctan(np.asarray(special)))
    assert np.signbit(given).tolist()[:2] == [False, True]
    x = jnp.array([-1e30, -3.0, -1.0, 0.0, 0.5, 1.0, 1e30], jnp.float32)
    slopes = jax.vmap(jax.grad(arctan))(x)
    np.testing.assert_allclose(slopes, 1 / (1 + np.asarray(x, np.float64) ** 2), rtol=3e-7, atol=1e-38)
    second = jax.vmap(jax.grad(jax.grad(arctan)))(x[1:-1])
    exact = np.asarray(x[1:-1], np.float64)
    np.testing.assert_allclose(second, -2 * exact / (1 + exact**2) ** 2, rtol=1e-6)


def test_arctan_in_float64_is_the_exact_one():
    with enable_x64(True):
        x = jnp.linspace(-5, 5, 1001, dtype=jnp.float64)
        assert arctan(x).dtype == jnp.float64
        np.testing.assert_array_equal(arctan(x), jnp.arctan(x))
