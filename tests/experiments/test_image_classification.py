"""The classification task: its batches, its loss, its statistics, and what is measured."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from image_cases import enable_x64

from lodo_experiments.data import ImageDataset, Split, load_images
from lodo_experiments.models import ResNet
from lodo_experiments.tasks.image_classification import (
    augment_images,
    channel_statistics,
    evaluate_images,
    image_classification,
    standardise,
)

SMALL = ResNet(classes=10, width=2, stages=(1,))


def colour(side: int = 8, train: int = 40, test: int = 12) -> ImageDataset:
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        return Split(random.integers(0, 200, (count, side, side, 3), np.uint8), random.integers(0, 10, count, np.uint8))

    return ImageDataset("colour", "1", 200, split(train), split(0), split(test), "none")


def started(task):
    """Parameters, statistics and a batch, from one compiled program."""

    @jax.jit
    def start(data):
        params, statistics = task.init(jax.random.key(0)), task.init_data(data, jax.random.key(1))
        batch, statistics = task.sample(data, statistics, jax.random.key(2))
        return params, statistics, batch

    return start(task.data)


def test_standardised_training_images_have_mean_0_and_deviation_1():
    for dataset in (colour(), load_images("digits")):
        task = image_classification(dataset, 4, network=SMALL)
        data = task.data
        assert data.train_images.dtype == data.train_labels.dtype == jnp.uint8
        images = np.asarray(standardise(data.train_images, data.mean, data.deviation), np.float64)
        np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-5)


def test_channel_statistics_are_numpys():
    images = colour().train.images
    mean, deviation = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(deviation, images.astype(float).std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
def test_augmented_images_are_crops_of_the_padded_image_alike_often(flip):
    """Each of 3×3 places, and each mirror image, comes up as often as the others."""
    pad, count = 1, 4000
    image = np.arange(1, 25, dtype=np.uint8).reshape(4, 3, 2)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    allowed = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[top : top + 4, left : left + 3]
            allowed[crop.tobytes()] = 0
            if flip:
                allowed[np.ascontiguousarray(crop[:, ::-1]).tobytes()] = 0
    assert len(allowed) == (18 if flip else 9)
    drawn = np.asarray(augment_images(jax.random.key(0), jnp.broadcast_to(image, (count, 4, 3, 2)), pad, flip))
    assert drawn.dtype == np.uint8
    for crop in drawn:
        allowed[crop.tobytes()] += 1
    expected = count / len(allowed)
    chi_squared = sum((seen - expected) ** 2 / expected for seen in allowed.values())
    # 17 or 8 degrees of freedom: the 99.9th percentiles are 40.8 and 26.1.
    assert chi_squared < (40.8 if flip else 26.1)


def test_no_augmentation_is_the_image_itself():
    images = jnp.asarray(colour().train.images)
    assert np.array_equal(augment_images(jax.random.key(0), images, 0, False), images)


def batch_pixels(task):
    """Levels of a drawn batch, standardisation undone."""
    batch, _ = jax.jit(task.sample)(task.data, (), jax.random.key(1))
    return np.rint(np.asarray(batch.images * task.data.deviation + task.data.mean)).astype(int), batch.labels


def test_batches_are_training_images_with_their_labels():
    dataset = colour()
    pixels, labels = batch_pixels(image_classification(dataset, 64, network=SMALL, augment=False))
    known = {
        (image.astype(int).tobytes(), int(label))
        for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
    }
    drawn = {(image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)}
    assert drawn <= known
    # With replacement: 64 out of 40.
    assert len(drawn) < 40


@pytest.mark.parametrize(("side", "pad"), [(4, 1), (8, 1), (16, 2), (32, 4)])
def test_the_padding_scales_with_the_side(side, pad):
    """A white image shows how far it was moved: black rows come in on one side."""
    white = Split(np.full((3, side, side, 3), 255, np.uint8), np.arange(3, dtype=np.uint8))
    spotted = white.images.copy()
    spotted[0, 0, 0] = 254  # so that the deviation is not 0
    dataset = ImageDataset("white", "1", 256, Split(spotted, white.labels), white, white, "none")
    pixels, _ = batch_pixels(image_classification(dataset, 200, network=SMALL))
    black_rows = (pixels.max((2, 3)) == 0).sum(1)
    assert black_rows.max() == pad
    assert black_rows.min() == 0


@pytest.mark.exhaustive
def test_only_colour_images_are_mirrored_unless_told():
    """A bright left half comes up on the right only where images are mirrored."""

    def mirrored(channels, **options):
        images = np.zeros((4, 8, 8, 3), np.uint8)
        images[:, :, :2] = 100
        images = images if channels == 3 else images[..., 0]
        split = Split(images, np.zeros(4, np.uint8))
        dataset = ImageDataset("half", "1", 256, split, split, split, "none")
        pixels, _ = batch_pixels(image_classification(dataset, 64, network=SMALL, **options))
        share = (pixels[:, :, 4:].sum((1, 2, 3)) > 0).mean()
        return "some" if 0.2 < share < 0.8 else share

    assert mirrored(3) == "some"
    assert mirrored(1) == 0
    assert mirrored(1, flip=True) == "some"
    assert mirrored(3, flip=False) == 0
    assert mirrored(3, augment=False) == 0
    assert mirrored(3, augment=False, flip=True) == 0


def test_loss_of_uniform_logits_is_the_logarithm_of_the_classes_and_the_l2_term():
    task = image_classification(load_images("digits"), 16, network=SMALL, l2=0.3)
    params, statistics, batch = started(task)
    params["Dense_0"] = jax.tree.map(jnp.zeros_like, params["Dense_0"])
    squares = sum(float(np.sum(np.asarray(leaf, np.float64) ** 2)) for leaf in jax.tree.leaves(params))
    expected = math.log(10) + 0.3 / 2 * squares
    np.testing.assert_allclose(jax.jit(task.loss)(params, batch), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(task.stateful_loss)(params, batch, statistics)[0], expected, rtol=1e-5)


def test_the_loss_is_cross_entropy_of_the_networks_probabilities():
    """As the released code puts it, from the softmax, in float64; the gradient of the L2 term is l2 · x."""
    dataset = load_images("digits")
    plain = image_classification(dataset, 16, network=SMALL, l2=0.0)
    params, statistics, batch = started(plain)
    apply = jax.jit(functools.partial(SMALL.apply, train=True, mutable=["batch_stats"]))
    logits, _ = apply({"params": params, "batch_stats": statistics}, batch.images)
    logits = np.asarray(logits, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(16), np.asarray(batch.labels)]).mean()
    penalised = image_classification(dataset, 16, network=SMALL, l2=0.5)
    with_l2, (loss, without) = (
        jax.jit(function)(params, batch) for function in (jax.grad(penalised.loss), jax.value_and_grad(plain.loss))
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b, x: np.testing.assert_allclose(a - b, 0.5 * x, rtol=1e-3, atol=1e-5), with_l2, without, params
    )


@pytest.mark.exhaustive
def test_statistics_move_with_the_loss_and_do_not_matter_to_it():
    task = image_classification(load_images("digits"), 16, network=SMALL)
    params, statistics, batch = started(task)
    function = jax.jit(jax.value_and_grad(task.stateful_loss, has_aux=True))
    (loss, moved), gradient = function(params, batch, statistics)
    (again, further), same = function(params, batch, moved)
    assert jax.tree.structure(moved) == jax.tree.structure(statistics)
    changes = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), moved, statistics)
    assert min(jax.tree.leaves(changes)) > 0
    assert min(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), moved, further))) > 0
    assert loss == again == jax.jit(task.loss)(params, batch)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(same)))
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.exhaustive
def test_measurements_of_a_constant_model_and_of_a_perfect_one():
    """A bias decides alone; then labels that are what the model says, and so are all right."""
    dataset = load_images("digits")
    network = ResNet(classes=10, width=8, stages=(1,))
    task = image_classification(dataset, 16, network=network, measured_images=100)
    params, statistics, _ = started(task)
    params["Dense_0"] = {"kernel": jnp.zeros((8, 10)), "bias": (jnp.arange(10) == 3).astype(jnp.float32)}
    measure = jax.jit(task.measure)
    values = measure(task.data, params, None, statistics)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        share = float(np.mean(split.labels[:100] == 3))
        assert values[f"{name}_accuracy"] == pytest.approx(share)
        assert values[f"{name}_loss"] == pytest.approx(math.log(9 + math.e) - share, rel=1e-5)
    # The class is now the feature that is largest.
    params["Dense_0"] = {"kernel": jnp.eye(8, 10), "bias": jnp.zeros(10)}
    images = standardise(task.data.test_images[:100], task.data.mean, task.data.deviation)
    said = np.argmax(jax.jit(network.apply)({"params": params, "batch_stats": statistics}, images), axis=1)
    assert len(set(said.tolist())) > 1
    for answers, accuracy in ((said, 1), ((said + 1) % 10, 0)):
        labels = np.concatenate([answers, dataset.test.labels[100:]]).astype(np.uint8)
        told = task.data._replace(test_labels=jnp.asarray(labels))
        assert measure(told, params, None, statistics)["test_accuracy"] == accuracy


def test_measurements_do_not_depend_on_the_chunk_and_use_the_running_statistics():
    task = image_classification(load_images("digits"), 16, network=SMALL)
    params, statistics, batch = started(task)
    variables = {"params": params, "batch_stats": statistics}
    images, labels = task.data.test_images[:23], task.data.test_labels[:23]
    judge = jax.jit(functools.partial(evaluate_images, SMALL), static_argnames="chunk")
    whole = judge(variables, task.data, images, labels)
    for chunk in (1, 7):
        parts = judge(variables, task.data, images, labels, chunk=chunk)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
        assert np.array_equal(parts[1], whole[1])
    measure = jax.jit(task.measure)
    values = measure(task.data, params, None, statistics)
    assert values == measure(task.data, params, None, statistics)
    moved = jax.jit(task.stateful_loss)(params, batch, statistics)[1]
    assert values["test_loss"] != measure(task.data, params, None, moved)["test_loss"]


@pytest.mark.parametrize(
    ("sizes", "measured_images", "counts"), [((40, 12), 0, (12, 12)), ((40, 12), 5, (5, 5)), ((12, 40), 0, (12, 40))]
)
def test_which_images_are_measured(sizes, measured_images, counts):
    """All test images and as many training images, as far as there are; or the first so many of both."""
    task = image_classification(colour(8, *sizes), 4, network=SMALL, measured_images=measured_images)
    params, statistics, _ = started(task)
    data = task.data
    values = jax.jit(task.measure)(data, params, None, statistics)
    images, labels = (
        jnp.concatenate(both) for both in ((data.train_images, data.test_images), (data.train_labels, data.test_labels))
    )
    judge = jax.jit(functools.partial(evaluate_images, SMALL))
    losses, _ = judge({"params": params, "batch_stats": statistics}, data, images, labels)
    train, test = losses[: counts[0]], losses[sizes[0] :][: counts[1]]
    np.testing.assert_allclose(values["train_loss"], np.mean(train), rtol=1e-5)
    np.testing.assert_allclose(values["test_loss"], np.mean(test), rtol=1e-5)


def test_lanes_side_by_side_are_the_lanes_alone():
    task = image_classification(load_images("digits"), 16, network=SMALL)
    keys = jax.random.split(jax.random.key(0), 3)

    def lane(key):
        params, statistics = task.init(key), task.init_data(task.data, key)
        batch, statistics = task.sample(task.data, statistics, key)
        return jax.value_and_grad(task.stateful_loss, has_aux=True)(params, batch, statistics)

    together, one = jax.jit(jax.vmap(lane))(keys), jax.jit(lane)
    for number, key in enumerate(keys):
        jax.tree.map(
            lambda a, b, number=number: np.testing.assert_allclose(a[number], b, rtol=1e-3, atol=1e-4),
            together,
            one(key),
        )


def test_everything_is_float32_with_64_bit_types_too():
    with enable_x64(True):
        task = image_classification(load_images("digits"), 8, network=SMALL, measured_images=10)
        assert task.data.mean.dtype == task.data.deviation.dtype == jnp.float32

        def everything(data):
            params, statistics = task.init(jax.random.key(0)), task.init_data(data, jax.random.key(1))
            batch, statistics = task.sample(data, statistics, jax.random.key(2))
            loss, moved = task.stateful_loss(params, batch, statistics)
            values = task.measure(data, params, None, moved)
            gradient = jax.grad(task.loss)(params, batch)
            return (params, statistics, batch.images, loss, moved, values, gradient), batch.labels

        floats, labels = jax.eval_shape(everything, task.data)
        assert {leaf.dtype for leaf in jax.tree.leaves(floats)} == {jnp.dtype("float32")}
        assert labels.dtype == jnp.int32


@pytest.mark.slow
def test_a_narrow_network_learns_64_digits_by_heart():
    digits = load_images("digits")
    few = dataclasses.replace(digits, train=Split(digits.train.images[:64], digits.train.labels[:64]))
    network = ResNet(classes=10, width=4, stages=(1, 1))
    task = image_classification(few, 64, network=network, augment=False, measured_images=64)
    adam = optax.adam(1e-2)

    @jax.jit
    def learn(key):
        params, statistics = task.init(key), task.init_data(task.data, key)

        def step(carry, number):
            params, state, statistics = carry
            batch, statistics = task.sample(task.data, statistics, jax.random.fold_in(key, number))
            (loss, statistics), gradient = jax.value_and_grad(task.stateful_loss, has_aux=True)(
                params, batch, statistics
            )
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(params, updates), state, statistics), loss

        carry, _ = jax.lax.scan(step, (params, adam.init(params), statistics), jnp.arange(200))
        return task.measure(task.data, carry[0], None, carry[2]), task.measure(task.data, params, None, statistics)

    after, before = learn(jax.random.key(0))
    assert before["train_accuracy"] < 0.4
    assert after["train_accuracy"] > 0.95
    assert after["train_loss"] < 0.3
    # 64 images teach something of the others too.
    assert after["test_accuracy"] > 0.3


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"network": ResNet(classes=9)}, "labels up to 9; network.classes is 9"),
        ({}, {"l2": -1.0}, "l2 must be"),
        ({}, {"l2": float("nan")}, "l2 must be"),
        ({}, {"batch_size": 0}, "batch_size must be"),
        ({}, {"measured_images": 13}, "40 for training and 12 for the test; got 13"),
        ({"levels": 100}, {}, "levels is 100"),
        ({"test": Split(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.uint8))}, {}, "the test split"),
        ({"test": Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.uint8))}, {}, "different shapes"),
        ({"train": Split(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, np.uint8))}, {}, "the training split"),
        ({"train": Split(np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, np.uint8))}, {}, "must be uint8"),
        ({"train": Split(np.ones((2, 8, 8, 3), np.uint8), np.zeros(2, np.uint8))}, {}, "same level"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, options, message):
    dataset = dataclasses.replace(colour(), **changes)
    with pytest.raises(ValueError, match=message):
        image_classification(dataset, **{"network": SMALL, "batch_size": 4, **options})
