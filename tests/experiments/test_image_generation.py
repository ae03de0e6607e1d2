"""The image-generation task: what the network may see, what the loss is, and the samples' distribution."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_cases import enable_x64, random_params, tiny_dataset

from lodo_experiments.data import Split
from lodo_experiments.models import AutoregressiveNetwork
from lodo_experiments.tasks import image_generation as module
from lodo_experiments.tasks.image_generation import (
    PixelBatch,
    cross_entropy,
    image_generation,
    input_channels,
    pixel_losses,
    sample_images,
)


@pytest.fixture(scope="module", autouse=True)
def thirty_two_bits():
    """As the experiment is run, whatever other files have set in this process."""
    with enable_x64(False):
        yield


@pytest.fixture
def network():
    return AutoregressiveNetwork(classes=5, width=3, hidden=4, multiplier=2, blocks=1)


@pytest.fixture
def params(network):
    return random_params(network, 4)


def bits(array) -> np.ndarray:
    return np.asarray(array).view(np.uint32)


def test_channels_pixel_by_pixel():
    """Against loops over rows and columns."""
    height, width, levels = 3, 4, 8
    images = np.random.default_rng(0).integers(1, levels, (2, height, width), dtype=np.uint8)
    positions = np.array([6, 0], np.int32)
    given = input_channels(jnp.asarray(images), jnp.asarray(positions), levels)
    expected = np.zeros((2, height, width, 5), np.float32)
    for b, (image, position) in enumerate(zip(images, positions, strict=True)):
        drawn_row, drawn_column = divmod(int(position), width)
        for row in range(height):
            for column in range(width):
                before = row < drawn_row or (row == drawn_row and column < drawn_column)
                expected[b, row, column] = (
                    image[row, column] / levels if before else 0,
                    1 if column <= drawn_column else -1,
                    1 if before else -1,
                    2 * row / height - 1,
                    2 * column / width - 1,
                )
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-7)
    assert np.abs(given).max() <= 1


@pytest.mark.parametrize("position", [0, 5, 15])
def test_no_pixel_from_the_drawn_one_on_can_be_seen(network, params, position):
    """Changing the drawn pixel or any later one leaves the logits as they are; an earlier one changes them."""
    image = np.full((1, 4, 4), 2, np.uint8)
    at = jnp.array([position])

    @jax.jit
    def logits(changed):
        return network.apply(params, input_channels(changed, at, 5))

    for other in range(16):
        changed = image.copy()
        changed.reshape(-1)[other] = 4
        same = np.array_equal(bits(logits(changed)), bits(logits(image)))
        assert same == (other >= position)


def test_loss_is_minus_the_log_probability_of_the_drawn_pixel(network, params):
    images = jnp.asarray(np.random.default_rng(1).integers(0, 5, (6, 4, 4)), jnp.uint8)
    positions = jnp.arange(6, dtype=jnp.int32) * 3
    apply = jax.jit(lambda batch: network.apply(params, input_channels(*batch, 5)))
    logits = np.asarray(apply((images, positions)), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    levels = np.asarray(images).reshape(6, 16)[np.arange(6), positions]
    expected = -np.log(probabilities[np.arange(6), levels])
    given = jax.jit(lambda batch: cross_entropy(network, params, batch))(PixelBatch(images, positions))
    np.testing.assert_allclose(given, expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_evaluation_covers_every_pixel_however_it_is_cut(network, params, chunk):
    images = tiny_dataset().validation.images
    losses = pixel_losses(network, params, images, chunk)
    assert losses.shape == images.shape
    one = jax.jit(lambda batch: cross_entropy(network, params, batch))
    one_by_one = [
        one(PixelBatch(jnp.asarray(image)[None], jnp.array([position])))[0]
        for image in images
        for position in range(16)
    ]
    np.testing.assert_allclose(losses.ravel(), one_by_one, rtol=1e-5)


def test_probabilities_of_all_images_sum_to_one():
    """The chain rule holds: over all 2⁴ two-level images of 2×2 pixels, exp(−Σ losses) sums to 1."""
    network = AutoregressiveNetwork(classes=2, width=3, hidden=3, blocks=1)
    params = random_params(network, 2)
    images = np.array([[i >> 3 & 1, i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(16)], np.uint8).reshape(16, 2, 2)
    nats = np.asarray(pixel_losses(network, params, images), np.float64).sum((1, 2))
    assert math.isclose(np.exp(-nats).sum(), 1, rel_tol=1e-5)
    # And sampling draws from that distribution: each image's frequency within five standard errors.
    samples = np.asarray(sample_images(network, params, jax.random.key(4), 4000, (2, 2))).reshape(-1, 4)
    counts = np.bincount(samples @ [8, 4, 2, 1], minlength=16)
    p = np.exp(-nats)
    assert np.all(np.abs(counts - 4000 * p) < 5 * np.sqrt(4000 * p * (1 - p)) + 1)
    assert len(set(p.round(3))) > 4


def test_batches_are_drawn_uniformly_from_the_training_images():
    dataset = tiny_dataset()
    task = image_generation(dataset, 4000)
    state = task.init_data(task.data, jax.random.key(0))
    batch, _ = jax.jit(task.sample)(task.data, state, jax.random.key(1))
    assert batch.images.dtype == jnp.uint8
    positions = np.bincount(batch.positions, minlength=16)
    assert len(positions) == 16
    assert np.all(np.abs(positions - 250) < 5 * math.sqrt(250))
    rows = {image.tobytes() for image in dataset.train.images}
    drawn = [image.tobytes() for image in np.asarray(batch.images)]
    assert set(drawn) == rows
    assert max(drawn.count(row) for row in rows) < 200 + 5 * math.sqrt(200)
    again, _ = task.sample(task.data, state, jax.random.key(1))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, batch, again))


@pytest.mark.exhaustive
def test_microbatches_change_neither_loss_nor_gradient(network):
    with enable_x64(True):
        exact = network.clone(param_dtype=jnp.float64)
        whole, cut = (image_generation(tiny_dataset(side=2), 12, network=exact, microbatch=m) for m in (12, 4))
        params = random_params(exact, 2)
        batch, _ = whole.sample(whole.data, (), jax.random.key(1))
        values = [jax.jit(jax.value_and_grad(task.loss))(params, batch) for task in (whole, cut)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14), *values)
        # Without a gradient the slices' losses are averaged on another path.
        assert math.isclose(jax.jit(cut.loss)(params, batch), values[0][0], rel_tol=1e-13)


def test_seeds_side_by_side_are_seeds_one_by_one(network):
    task = image_generation(tiny_dataset(side=2), 8, network=network, microbatch=4)
    params = [random_params(network, 2, seed) for seed in range(3)]
    batches = [task.sample(task.data, (), jax.random.key(seed))[0] for seed in range(3)]

    def stack(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    value_and_gradient = jax.value_and_grad(task.loss)
    together = jax.jit(jax.vmap(value_and_gradient))(stack(params), stack(batches))
    apart = stack(map(jax.jit(value_and_gradient), params, batches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), together, apart)


def test_measure_is_the_mean_over_the_validation_images(network, params):
    dataset = tiny_dataset()
    task = image_generation(dataset, 8, network=network)
    (name, value), *rest = task.measure(task.data, params, None, ()).items()
    assert (name, rest) == ("validation_loss", [])
    np.testing.assert_allclose(value, pixel_losses(network, params, dataset.validation.images).mean(), rtol=1e-6)


@pytest.mark.exhaustive
def test_training_learns_what_there_is_to_learn(network):
    """Images of one level each: the first pixel costs ln 5, the other three can be read off it."""
    dataset = tiny_dataset(side=2)
    levels = np.repeat(np.arange(20, dtype=np.uint8) % 5, 4).reshape(20, 2, 2)
    dataset = dataclasses.replace(dataset, train=Split(levels, dataset.train.labels))
    task = image_generation(dataset, 40, network=network)

    def step(params, key):
        batch, _ = task.sample(task.data, (), key)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(task.loss)(params, batch)), None

    keys = jax.random.split(jax.random.key(1), 1500)
    trained, _ = jax.jit(lambda p: jax.lax.scan(step, p, keys))(random_params(network, 2))
    losses = np.asarray(jax.jit(lambda p: pixel_losses(network, p, levels[:5]))(trained)).reshape(5, 4).mean(0)
    assert losses[0] == pytest.approx(math.log(5), abs=0.2)
    assert losses[1:].max() < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": AutoregressiveNetwork(classes=6)}, "number of grey levels of tiny, 5; got 6"),
        ({"microbatch": 5}, "must divide batch_size, 8; got 5"),
        ({"microbatch": 0}, "microbatch must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_generation(tiny_dataset(), **{"batch_size": 8, **arguments})


def test_bad_shapes_are_refused(network, params):
    with pytest.raises(ValueError, match="positions"):
        input_channels(jnp.zeros((2, 4, 4), jnp.uint8), jnp.zeros(3, jnp.int32), 5)
    with pytest.raises(ValueError, match="none of them 0"):
        pixel_losses(network, params, jnp.zeros((0, 4, 4), jnp.uint8))
    assert len(module.CHANNELS) == 5
