"""Image classification with a ResNet (paper §5.4): cross-entropy on augmented images, with an L2 term.

The network's BatchNorm keeps running statistics, which are no parameters: they are the task's data state, and
`Task.stateful_loss` moves them at each step. A uniform guess costs ln(classes).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lodo._validation import check_integer
from lodo_experiments.data.images import ImageDataset, Split
from lodo_experiments.models import ResNet, initial_variables
from lodo_experiments.tasks.base import Params, Task


class ClassificationData(NamedTuple):
    """What all runs share."""

    train_images: Array  # [images, height, width, channels] uint8
    train_labels: Array  # [images] uint8
    test_images: Array  # [images, height, width, channels] uint8
    test_labels: Array  # [images] uint8
    mean: Array  # [channels], of the training images' levels
    deviation: Array  # [channels], likewise


class LabelledBatch(NamedTuple):
    """Standardised images and what they show."""

    images: Array  # [batch, height, width, channels], the network's dtype
    labels: Array  # [batch] int32


def image_classification(
    dataset: ImageDataset,
    batch_size: int = 2048,
    *,
    network: ResNet | None = None,
    l2: float = 1e-4,
    augment: bool = True,
    flip: bool | None = None,
    measured_images: int = 0,
) -> Task:
    """The task: a batch is drawn with replacement, augmented, and standardised channel by channel.

    loss = mean over the batch of −log softmax(logits)[label] + l2 · ½ ‖x‖²,   x all parameters,

    those of BatchNorm and the biases too. The released code hands the network's softmax output to a cross-entropy
    that takes probabilities; here it is computed from the logits, which is the same function without its rounding.

    Augmentation (`augment_images`): zeros around the image, an eighth of its shorter side wide (4 pixels for CIFAR-10's
    32, at least 1); a random crop of the image's own size; its mirror image with probability ½ where ``flip`` says so.

    Measured now and then, with the running statistics and without augmentation: ``train_loss``, ``train_accuracy``,
    ``test_loss``, ``test_accuracy``. The losses are cross-entropies without the L2 term.

    Args:
      dataset: grey or colour images, e.g. ``load_images("cifar10")``; they become the task's shared data, in uint8.
      batch_size: images a step.
      network: with a class for every label; default the paper's ResNet-18, with as many classes as there are labels.
      l2: factor λ of ½ ‖x‖².
      augment: whether to augment at all.
      flip: whether to mirror; default: colour images only, since digits are not symmetric.
      measured_images: over how many of each split's first images to measure; 0: all test images, and as many
        training images (or all, if there are fewer).

    Raises:
      ValueError: labels or levels that do not fit, a negative ``l2``, more images to measure than there are.

    References:
      Liao et al. 2023, §5.4.

    >>> from lodo_experiments.data import load_images
    >>> small = ResNet(classes=10, width=2, stages=(1, 1))
    >>> task = image_classification(load_images("digits"), 32, network=small)
    >>> params = jax.jit(task.init)(jax.random.key(0))
    >>> statistics = task.init_data(task.data, jax.random.key(1))
    >>> batch, statistics = task.sample(task.data, statistics, jax.random.key(2))
    >>> loss, statistics = jax.jit(task.stateful_loss)(params, batch, statistics)
    >>> batch.images.shape, loss.shape, loss == jax.jit(task.loss)(params, batch)
    ((32, 8, 8, 1), (), Array(True, dtype=bool))
    """
    labels = _check_splits(dataset)
    network = ResNet(classes=labels) if network is None else network
    if network.classes < labels:
        raise ValueError(f"{dataset.name} has labels up to {labels - 1}; network.classes is {network.classes}.")
    batch_size = check_integer("batch_size", batch_size, 1)
    if not 0 <= l2 < float("inf"):
        raise ValueError(f"l2 must be a finite number of at least 0; got {l2}.")
    train, test = dataset.train, dataset.test
    fewest = min(len(train.images), len(test.images))
    if check_integer("measured_images", measured_images, 0) > fewest:
        raise ValueError(
            f"measured_images must be at most the images of a split, {len(train.images)} for training and "
            f"{len(test.images)} for the test; got {measured_images}."
        )
    measured = measured_images or len(test.images)
    dtype = network.param_dtype
    images = _with_channels(train.images)
    _, height, width, channels = images.shape
    pad = max(1, min(height, width) // 8) if augment else 0
    mirror = augment and (train.images.ndim == 4 if flip is None else flip)
    mean, deviation = channel_statistics(train.images)
    if not np.all(deviation > 0):
        raise ValueError(f"a channel of {dataset.name}'s training images has the same level everywhere.")

    def init(key: Array) -> Params:
        return initial_variables(network, key, height, width, channels)[0]

    def init_data(data: ClassificationData, key: Array) -> Any:
        return initial_variables(network, jax.random.key(0), height, width, channels)[1]

    def sample(data: ClassificationData, statistics: Any, key: Array) -> tuple[LabelledBatch, Any]:
        which, how = jax.random.split(key)
        rows = jax.random.randint(which, (batch_size,), 0, data.train_images.shape[0])
        drawn = augment_images(how, data.train_images[rows], pad, mirror)
        standard = standardise(drawn, data.mean, data.deviation)
        return LabelledBatch(standard, data.train_labels[rows].astype(jnp.int32)), statistics

    def evaluate(params: Params, batch: LabelledBatch, **variables: Any) -> tuple[Array, Any]:
        variables["params"] = params
        logits, changed = network.apply(variables, batch.images, train=True, mutable=["batch_stats"])
        squares = sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(params))
        loss = jnp.mean(cross_entropy(logits, batch.labels)) + jnp.asarray(l2 / 2, dtype) * squares
        return loss, changed["batch_stats"]

    def stateful_loss(params: Params, batch: LabelledBatch, statistics: Any) -> tuple[Array, Any]:
        return evaluate(params, batch, batch_stats=statistics)

    def loss(params: Params, batch: LabelledBatch) -> Array:
        # In training BatchNorm never reads its running statistics: without any given it makes some, dropped here.
        return evaluate(params, batch)[0]

    def measure(data: ClassificationData, params: Params, state: Any, statistics: Any) -> dict[str, Array]:
        variables = {"params": params, "batch_stats": statistics}
        values = {}
        for split, those, shown in (
            ("train", data.train_images, data.train_labels),
            ("test", data.test_images, data.test_labels),
        ):
            losses, right = evaluate_images(network, variables, data, those[:measured], shown[:measured])
            values[f"{split}_loss"] = jnp.mean(losses)
            values[f"{split}_accuracy"] = jnp.mean(right.astype(dtype))
        return values

    shared = ClassificationData(
        jnp.asarray(images),
        jnp.asarray(train.labels),
        jnp.asarray(_with_channels(test.images)),
        jnp.asarray(test.labels),
        jnp.asarray(mean, dtype),
        jnp.asarray(deviation, dtype),
    )
    return Task(
        "image_classification",
        shared,
        init,
        init_data,
        sample,
        loss,
        measure,
        measured_separately=True,
        stateful_loss=stateful_loss,
    )


def cross_entropy(logits: Array, labels: Array) -> Array:
    """−log softmax(logits)[label], nats, [batch].

    >>> cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))
    Array([2.3025851], dtype=float32)
    """
    chosen = jnp.take_along_axis(logits, labels.astype(jnp.int32)[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def augment_images(key: Array, images: Array, pad: int, flip: bool) -> Array:
    """Images [batch, height, width, channels], each moved at random by up to ``pad`` pixels on both axes, and mirrored.

    That is a crop, uniform among all of the image's own size, out of the image with ``pad`` zeros (black) on all
    sides; its columns are then reversed with probability ½ if ``flip``.

    >>> image = jnp.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> augment_images(jax.random.key(1), image, 1, False)[0, :, :, 0].tolist()
    [[0, 0], [2, 0]]
    """
    count, height, width, _ = images.shape
    rows, columns, mirrored = jax.random.split(key, 3)
    if pad:
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        top, left = (jax.random.randint(each, (count, 1), 0, 2 * pad + 1) for each in (rows, columns))
        # One axis after the other: two gathers of whole rows and pixels.
        padded = jnp.take_along_axis(padded, (top + jnp.arange(height))[:, :, None, None], axis=1)
        images = jnp.take_along_axis(padded, (left + jnp.arange(width))[:, None, :, None], axis=2)
    if flip:
        coins = jax.random.bernoulli(mirrored, shape=(count, 1, 1, 1))
        images = jnp.where(coins, images[:, :, ::-1], images)
    return images


def standardise(images: Array, mean: Array, deviation: Array) -> Array:
    """(images − mean) / deviation, channel by channel, in the dtype of ``mean``."""
    return (images.astype(mean.dtype) - mean) / deviation


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel, each [channels] float64; grey images have one.

    >>> mean, deviation = channel_statistics(np.array([[[0, 4]]], np.uint8))
    >>> mean.tolist(), deviation.tolist()
    ([2.0], [2.0])
    """
    images = _with_channels(images)
    # From how often each level occurs: exact, and without the images in float64.
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    levels, total = np.arange(256.0), counts.sum(1)
    mean = counts @ levels / total
    variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / total
    return mean, np.sqrt(variance)


def evaluate_images(
    network: ResNet, variables: Any, data: ClassificationData, images: Array, labels: Array, chunk: int = 250
) -> tuple[Array, Array]:
    """Cross-entropy of every image [count, height, width, channels], and whether the likeliest class is the right one.

    The running statistics normalize. ``chunk`` images at once bound the memory, and change nothing else.

    Returns:
      Losses [count] and booleans [count].
    """
    count = len(images)
    chunk = min(check_integer("chunk", chunk, 1), count)

    def evaluate(start: Array) -> tuple[Array, Array]:
        # Beyond the end the last image is evaluated again, and cut off below.
        index = jnp.minimum(start * chunk + jnp.arange(chunk), count - 1)
        logits = network.apply(variables, standardise(images[index], data.mean, data.deviation))
        # flax allows a tuple here, which only a module with mutable state returns.
        assert isinstance(logits, Array)
        return cross_entropy(logits, labels[index]), jnp.argmax(logits, axis=1) == labels[index]

    losses, right = lax.map(evaluate, jnp.arange(-(-count // chunk)))
    return losses.reshape(-1)[:count], right.reshape(-1)[:count]


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def _check_splits(dataset: ImageDataset) -> int:
    """The number of labels, once the training and test splits are what they have to be."""

    def check(name: str, split: Split) -> int:
        images, labels = split.images, split.labels
        if images.ndim not in (3, 4) or 0 in images.shape or labels.shape != images.shape[:1]:
            raise ValueError(
                f"the {name} split of {dataset.name} must have images [count, height, width] or [count, height, width, "
                f"channels] and labels [count], none of them 0; got {images.shape} and {labels.shape}."
            )
        if images.dtype != np.uint8 or labels.dtype != np.uint8:
            raise ValueError(f"images and labels must be uint8; {dataset.name}'s are {images.dtype}, {labels.dtype}.")
        if images.max() >= dataset.levels:
            raise ValueError(
                f"the {name} split of {dataset.name} has the level {images.max()}, but levels is {dataset.levels}."
            )
        if images.shape[1:] != dataset.train.images.shape[1:]:
            raise ValueError(f"the splits of {dataset.name} have images of different shapes.")
        return int(labels.max()) + 1

    return max(check("training", dataset.train), check("test", dataset.test))
