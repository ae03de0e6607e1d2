"""Autoregressive image generation (paper §5.3): predict one pixel from the pixels before it.

For every image of a batch one pixel is drawn. The network sees a picture of five channels and predicts the
pixel's grey level; the loss is the cross-entropy in nats per pixel. A uniform guess costs ln(levels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lodo._validation import check_integer
from lodo_experiments.data.images import ImageDataset
from lodo_experiments.models import AutoregressiveNetwork, initial_parameters
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Params, Task
from lodo_experiments.tasks.microbatches import in_microbatches, largest_divisor

#: What the channels of `input_channels` show, in order.
CHANNELS = ("visible pixels", "columns up to the drawn pixel's", "visible or not", "row", "column")

# Pixels of one slice on the CPU: 16 images of 28×28, the fastest of those that benchmarks.depthwise tries.
_CPU_SLICE_PIXELS = 16 * 28 * 28


class ImageData(NamedTuple):
    """What all runs share."""

    train: Array  # [images, height, width] uint8
    validation: Array  # [images, height, width] uint8


class PixelBatch(NamedTuple):
    """Images and the pixel drawn in each of them."""

    images: Array  # [batch, height, width], integer grey levels
    positions: Array  # [batch] int32, raster index of the drawn pixel


def image_generation(
    dataset: ImageDataset,
    batch_size: int = 256,
    *,
    network: AutoregressiveNetwork | None = None,
    microbatch: int | None = None,
) -> Task:
    """The task: a batch is drawn with replacement, and in each image one pixel, uniformly.

    Measured now and then: ``validation_loss``, over every pixel of every validation image.

    Args:
      dataset: grey-level images, e.g. ``load_images("digits")``; the images become the task's shared data.
      batch_size: images (and pixels) a step.
      network: with as many classes as the data set has grey levels; default the paper's.
      microbatch: images whose gradient is computed at once; a divisor of ``batch_size``. Default: on the CPU
        as many as keep the intermediate values small, elsewhere all. Only rounding depends on it.

    Raises:
      ValueError: colour images, a network with another number of classes, a microbatch that does not divide.

    References:
      Liao et al. 2023, §5.3.

    >>> from lodo_experiments.data import load_images
    >>> digits = load_images("digits")
    >>> small = AutoregressiveNetwork(classes=17, width=4, hidden=6, blocks=1)
    >>> task = image_generation(digits, 32, network=small)
    >>> params = jax.jit(task.init)(jax.random.key(0))
    >>> state = task.init_data(task.data, jax.random.key(1))
    >>> batch, state = task.sample(task.data, state, jax.random.key(2))
    >>> batch.images.shape, jax.jit(task.loss)(params, batch).shape
    ((32, 8, 8), ())
    """
    images = dataset.train.images
    if images.ndim != 3:
        raise ValueError(
            f"image_generation takes grey images [count, height, width]; {dataset.name}'s are {images.shape}."
        )
    network = AutoregressiveNetwork(classes=dataset.levels) if network is None else network
    if network.classes != dataset.levels:
        raise ValueError(
            f"network.classes must be the number of grey levels of {dataset.name}, {dataset.levels}; "
            f"got {network.classes}."
        )
    batch_size = check_integer("batch_size", batch_size, 1)
    _, height, width = images.shape
    if microbatch is None and jax.default_backend() == "cpu":
        microbatch = largest_divisor(batch_size, _CPU_SLICE_PIXELS // (height * width))
    elif microbatch is not None and batch_size % check_integer("microbatch", microbatch, 1):
        raise ValueError(f"microbatch must divide batch_size, {batch_size}; got {microbatch}.")

    def sample(data: ImageData, state: tuple[()], key: Array) -> tuple[PixelBatch, tuple[()]]:
        which, where = jax.random.split(key)
        rows = jax.random.randint(which, (batch_size,), 0, data.train.shape[0])
        positions = jax.random.randint(where, (batch_size,), 0, height * width, jnp.int32)
        return PixelBatch(data.train[rows], positions), state

    def mean_loss(params: Params, batch: PixelBatch) -> Array:
        return jnp.mean(cross_entropy(network, params, batch))

    def measure(data: ImageData, params: Params, state: Any, data_state: tuple[()]) -> dict[str, Array]:
        return {"validation_loss": jnp.mean(pixel_losses(network, params, data.validation))}

    whole = microbatch is None or microbatch == batch_size
    loss = mean_loss if whole else in_microbatches(mean_loss, microbatch or batch_size)
    shared = ImageData(jnp.asarray(images), jnp.asarray(dataset.validation.images))
    return Task(
        "image_generation", shared, lambda key: initial_parameters(network, key, height, width), lambda data, key: (),
        sample, loss, measure, measured_separately=True,
    )  # fmt: skip


def evaluator(
    dataset: ImageDataset, network: AutoregressiveNetwork, samples: int, test_images: int = 0
) -> Callable[[Task, Run], dict[str, Array]]:
    """Make a function that computes the test loss of each trained model, and draws images from it.

    Returns:
      A function of (task, run) that gives ``test_loss`` [runs], nats per pixel, and ``samples`` [runs, samples, height,
      width] uint8.
    """
    images = jnp.asarray(dataset.test.images[: test_images or None])
    shape = (images.shape[1], images.shape[2])
    test = jax.jit(lambda params: jnp.mean(pixel_losses(network, params, images)))
    draw = jax.jit(lambda params: sample_images(network, params, jax.random.key(0), samples, shape).astype(jnp.uint8))

    def after(task: Task, run: Run) -> dict[str, Array]:
        lanes = [jax.tree.map(lambda leaf, lane=lane: leaf[lane], run.params) for lane in range(len(run.losses))]
        drawn = [draw(params) for params in lanes]
        return {"test_loss": jnp.stack([test(params) for params in lanes]), "samples": jnp.stack(drawn)}

    return after


def input_channels(images: Array, positions: Array, levels: int, dtype: Any = jnp.float32) -> Array:
    """The network's five-channel pictures, each without a trace of the drawn pixel or those after it.

    Channels (names in `CHANNELS`): grey levels of the pixels before the drawn one in raster order, divided
    by the number of levels, 0 elsewhere; 1 in the columns up to the drawn pixel's, −1 in those after it;
    1 where a pixel is visible, −1 where not; row and column, 2i/side − 1.

    Args:
      images: [batch, height, width], integers in [0, levels).
      positions: [batch], raster indices row · width + column.
      levels: number of grey levels (256 for MNIST, 17 for digits).
      dtype: of the result.

    Returns:
      [batch, height, width, 5].

    >>> picture = input_channels(jnp.full((1, 2, 2), 8), jnp.array([2]), levels=16)
    >>> picture[0, :, :, 0].tolist(), picture[0, :, :, 1].tolist()
    ([[0.5, 0.5], [0.0, 0.0]], [[1.0, -1.0], [1.0, -1.0]])
    """
    if images.ndim != 3 or positions.shape != images.shape[:1]:
        raise ValueError(
            "input_channels takes images [batch, height, width] and positions [batch]; "
            f"got {images.shape} and {positions.shape}."
        )
    _, height, width = images.shape
    raster = jnp.arange(height * width, dtype=positions.dtype).reshape(1, height, width)
    at = positions[:, None, None]
    visible = raster < at
    columns = jnp.broadcast_to(raster % width <= at % width, images.shape)

    def signs(mask: Array) -> Array:
        return jnp.where(mask, jnp.ones((), dtype), -jnp.ones((), dtype))

    def coordinate(length: int) -> Array:
        return 2 * jnp.arange(length).astype(dtype) / length - 1

    planes = (
        jnp.where(visible, images.astype(dtype) / levels, jnp.zeros((), dtype)),
        signs(columns),
        signs(visible),
        jnp.broadcast_to(coordinate(height)[None, :, None], images.shape),
        jnp.broadcast_to(coordinate(width)[None, None, :], images.shape),
    )
    return jnp.stack(planes, axis=-1)


def _logits(network: AutoregressiveNetwork, params: Params, images: Array, positions: Array) -> Array:
    logits = network.apply(params, input_channels(images, positions, network.classes, network.param_dtype))
    # flax allows a tuple here, which only a module with mutable state returns.
    assert isinstance(logits, Array)
    return logits


def cross_entropy(network: AutoregressiveNetwork, params: Params, batch: PixelBatch) -> Array:
    """Nats that each drawn pixel costs, [batch]: −log p(pixel | pixels before it)."""
    images, positions = batch
    logits = _logits(network, params, images, positions)
    flat = images.reshape(images.shape[0], -1)
    levels = jnp.take_along_axis(flat, positions[:, None], axis=1).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, levels, axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def pixel_losses(network: AutoregressiveNetwork, params: Params, images: Array, chunk: int = 64) -> Array:
    """Nats that every pixel of every image costs, given the pixels before it.

    Their mean is the validation or test loss; an image's sum is its exact negative log-likelihood. That
    takes one evaluation of the network for each pixel, ``chunk`` at once: MNIST's 64 validation images take 50,176.

    Returns:
      [count, height, width].
    """
    chunk = check_integer("chunk", chunk, 1)
    images = jnp.asarray(images)
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"images must be [count, height, width], none of them 0; got {images.shape}.")
    count, height, width = images.shape
    pixels = height * width
    total = count * pixels
    chunk = min(chunk, total)

    def evaluate(start: Array) -> Array:
        # Beyond the end the last pixel is evaluated again, and cut off below.
        index = jnp.minimum(start * chunk + jnp.arange(chunk, dtype=jnp.int32), total - 1)
        return cross_entropy(network, params, PixelBatch(images[index // pixels], index % pixels))

    losses = lax.map(evaluate, jnp.arange(-(-total // chunk), dtype=jnp.int32))
    return losses.reshape(-1)[:total].reshape(images.shape)


def sample_images(
    network: AutoregressiveNetwork, params: Params, key: Array, count: int, shape: tuple[int, int]
) -> Array:
    """Draw images from the model, pixel by pixel in raster order.

    Returns:
      [count, height, width] int32, grey levels in [0, network.classes).

    >>> network = AutoregressiveNetwork(classes=17, width=2, hidden=2, blocks=1)
    >>> params = initial_parameters(network, jax.random.key(0), 2, 2)
    >>> sample_images(network, params, jax.random.key(1), 3, (2, 2)).shape
    (3, 2, 2)
    """
    count = check_integer("count", count, 1)
    height, width = (check_integer("shape", side, 1) for side in shape)

    def draw(position: Array, images: Array) -> Array:
        positions = jnp.full((count,), position, jnp.int32)
        logits = _logits(network, params, images.reshape(count, height, width), positions)
        levels = jax.random.categorical(jax.random.fold_in(key, position), logits).astype(jnp.int32)
        return images.at[:, position].set(levels)

    blank = jnp.zeros((count, height * width), jnp.int32)
    return lax.fori_loop(0, height * width, draw, blank).reshape(count, height, width)
