"""The convolutional network of the image-generation experiment (paper section 5.3).

[batch, side, side, 5] → 1×1 convolution to 20 channels → stages of residual blocks, each stage ending in a
2×2 average pool, until one pixel is left → linear layer to the logits of one pixel's grey level.
A 28×28 image takes five stages (28 → 14 → 7 → 4 → 2 → 1), an 8×8 image three.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lodo._validation import check_integer
from lodo_experiments.models.arctan import arctan
from lodo_experiments.models.depthwise import check_form, default_form, grouped_convolution, shifted_sum

INPUT_CHANNELS = 5


def initial_scale(fan_in: int) -> float:
    """LeCun's standard deviation with the bias counted in the fan-in: 1/√(fan_in + 1).

    Weights and biases of a layer are both normal with it, so that the bias acts as one more weight whose input
    is 1. Not truncated (as in the released code; `jax.nn.initializers.lecun_normal` truncates).

    >>> initial_scale(3)
    0.5
    """
    return 1.0 / math.sqrt(fan_in + 1)


def initial_parameters(network: AutoregressiveNetwork, key: Array, height: int, width: int) -> Any:
    """Parameters distributed as ``network.init``'s, from one draw for all of them.

    XLA compiles each draw of ``network.init`` separately, and the paper's network has 124: this is much quicker.

    >>> network = AutoregressiveNetwork(classes=17, width=4, hidden=6, blocks=1)
    >>> params = initial_parameters(network, jax.random.key(0), 8, 8)
    >>> params["params"]["input"]["kernel"].shape
    (5, 4)
    """
    pictures = jax.ShapeDtypeStruct((1, height, width, INPUT_CHANNELS), network.param_dtype)
    shapes = jax.eval_shape(network.init, jax.random.key(0), pictures)
    layers, structure = jax.tree.flatten(shapes, is_leaf=lambda node: "kernel" in node)
    sizes = [math.prod(layer[name].shape) for layer in layers for name in ("kernel", "bias")]
    normal = jax.random.normal(key, (sum(sizes),), network.param_dtype)
    pieces = iter(jnp.split(normal, np.cumsum(sizes)[:-1].tolist()))

    def fill(layer: Any) -> Any:
        kernel = layer["kernel"].shape
        # A depthwise kernel [3, 3, channels, multiplier] adds up 9 inputs, any other one [inputs, outputs].
        scale = initial_scale(9 if len(kernel) == 4 else kernel[0])
        return {name: next(pieces).reshape(layer[name].shape) * scale for name in ("kernel", "bias")}

    return jax.tree.unflatten(structure, [fill(layer) for layer in layers])


def halve(x: Array, axis: int) -> Array:
    """Means of neighbouring pairs along an axis; the last element of an odd axis stays as it is.

    Along both image axes this is 2×2 average pooling with "SAME" padding in which the padding does not count
    (TensorFlow's rule): 7 → 4, the last row being the mean of one row and not half of it.

    >>> halve(jnp.array([1.0, 3.0, 5.0]), 0).tolist()
    [2.0, 5.0]
    """
    if x.shape[axis] % 2:
        x = jnp.concatenate([x, jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)], axis)
    shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    return jnp.mean(x.reshape(shape), axis=axis + 1)


class Pointwise(nn.Module):
    """1×1 convolution: a matrix product over channels, which are the first axis or the last."""

    features: int  # output channels
    batch_last: bool = False  # layout [channels, height, width, batch] instead of [batch, height, width, channels]
    param_dtype: Any = jnp.float32  # dtype of the parameters

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the layer."""
        fan_in = x.shape[0 if self.batch_last else -1]
        init = nn.initializers.normal(initial_scale(fan_in))
        kernel = self.param("kernel", init, (fan_in, self.features), self.param_dtype)
        bias = self.param("bias", init, (self.features,), self.param_dtype)
        if self.batch_last:
            # Flat on purpose: XLA's CPU transposes a four-axis contraction before it multiplies.
            flat = kernel.T @ x.reshape(fan_in, -1) + bias[:, None]
            return flat.reshape(self.features, *x.shape[1:])
        return x @ kernel + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))


class Depthwise(nn.Module):
    """3×3 depthwise convolution with a channel multiplier and a bias; see `depthwise` for the forms."""

    multiplier: int
    form: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the layer."""
        channels = x.shape[0 if self.form == "shifted" else -1]
        init = nn.initializers.normal(initial_scale(9))
        kernel = self.param("kernel", init, (3, 3, channels, self.multiplier), self.param_dtype)
        bias = self.param("bias", init, (channels * self.multiplier,), self.param_dtype)
        if self.form == "shifted":
            return shifted_sum(x, kernel) + bias[:, None, None, None]
        return grouped_convolution(x, kernel) + bias[None, None, None, :]


class ResidualBlock(nn.Module):
    """x + W₂ arctan(D arctan(W₁ x)): 1×1 convolution, 3×3 depthwise convolution, 1×1 convolution."""

    hidden: int
    multiplier: int
    form: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block; the shape does not change."""
        batch_last = self.form == "shifted"
        channels = x.shape[0 if batch_last else -1]
        y = arctan(Pointwise(self.hidden, batch_last, self.param_dtype, name="expand")(x))
        y = arctan(Depthwise(self.multiplier, self.form, self.param_dtype, name="depthwise")(y))
        return x + Pointwise(channels, batch_last, self.param_dtype, name="contract")(y)


class AutoregressiveNetwork(nn.Module):
    """Predicts one pixel's grey level from a five-channel picture (paper section 5.3).

    With the defaults and 28×28 pictures it has 94,696 parameters.

    Raises:
      ValueError: when applied to anything but [batch, height, width, 5].

    >>> network = AutoregressiveNetwork(classes=17, width=4, hidden=6, blocks=1)
    >>> pictures = jnp.zeros((2, 2, 2, 5), jnp.float32)
    >>> params = initial_parameters(network, jax.random.key(0), 2, 2)
    >>> jax.jit(network.apply)(params, pictures).shape
    (2, 17)
    """

    classes: int = 256  # grey levels, which is the number of logits (256 for MNIST, 17 for digits)
    width: int = 20  # channels of the residual stream
    hidden: int = 40  # channels between a block's 1×1 and depthwise convolutions
    multiplier: int = 3  # output channels of the depthwise convolution for each of its input channels
    blocks: int = 4  # residual blocks per stage
    # form of the depthwise convolutions (`FORMS`); None: `default_form` when called. The parameters are the same in
    # every form.
    form: str | None = None
    param_dtype: Any = jnp.float32  # dtype of parameters and computation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits [batch, classes] for pictures [batch, height, width, 5]."""
        if x.ndim != 4 or x.shape[-1] != INPUT_CHANNELS or 0 in x.shape:
            raise ValueError(
                f"the network takes pictures of shape [batch, height, width, {INPUT_CHANNELS}]; got {x.shape}."
            )
        for name in ("classes", "width", "hidden", "multiplier", "blocks"):
            check_integer(name, getattr(self, name), 1)
        form = check_form(default_form() if self.form is None else self.form)
        batch_last = form == "shifted"
        x = jnp.asarray(x, self.param_dtype)
        if batch_last:
            x = jnp.transpose(x, (3, 1, 2, 0))
        x = Pointwise(self.width, batch_last, self.param_dtype, name="input")(x)
        stage = 0
        while max(x.shape[1:3]) > 1:
            for block in range(self.blocks):
                name = f"stage_{stage}_block_{block}"
                x = ResidualBlock(self.hidden, self.multiplier, form, self.param_dtype, name=name)(x)
            x = halve(halve(x, 1), 2)
            stage += 1
        logits = Pointwise(self.classes, batch_last, self.param_dtype, name="output")(x)
        return logits[:, 0, 0, :].T if batch_last else logits[:, 0, 0, :]
