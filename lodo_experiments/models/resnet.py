"""ResNet for small images (He et al. 2016; paper section 5.4), in two forms of its convolutions.

[batch, side, side, channels] → 3×3 convolution, BatchNorm, ReLU (no max-pool) → stages of basic blocks
x + BN(conv(ReLU(BN(conv(x))))), the width doubling and the side halving at each stage but the first →
mean over the image → linear layer to the logits. With four stages of two blocks it is the ResNet-18.

Two forms of the same convolution:

* ``patches``: the batch is the last axis; the nine shifted images are stacked and multiplied by the kernel as one
  matrix. For the CPU: inside a loop (`jax.lax.scan`, which training is) XLA's own convolution there is
  many times slower, and under `jax.vmap` over parameters it becomes a grouped one, which is slow too.
* ``direct``: XLA's convolution, channels last. For GPUs.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lodo._validation import check_integer

CONVOLUTIONS = ("patches", "direct")

#: Share of the old value in BatchNorm's running statistics at each update, and what is added to the variance.
MOMENTUM, EPSILON = 0.9, 1e-5

# He et al. 2015, equation 10: a Gaussian of variance 2 / fan-in, not truncated.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def default_convolution(backend: str | None = None) -> str:
    """The form for a backend: ``"patches"`` on the CPU, ``"direct"`` elsewhere.

    >>> default_convolution("cpu"), default_convolution("gpu")
    ('patches', 'direct')
    """
    return "patches" if (backend or jax.default_backend()) == "cpu" else "direct"


def convolve(x: Array, kernel: Array, stride: int, form: str) -> Array:
    """Convolution with an odd kernel and zero padding of half its size on all sides, no bias.

    Args:
      x: [batch, height, width, channels]; for the form "patches" [channels, height, width, batch].
      kernel: [k, k, channels, features], k odd.
      stride: of both axes: a side n becomes ⌈n / stride⌉.
      form: one of `CONVOLUTIONS`.

    Returns:
      Like ``x``, with ``features`` for channels.

    >>> x = jnp.arange(5.0).reshape(1, 1, 5, 1)
    >>> kernel = jnp.zeros((3, 3, 1, 1)).at[1].set(1.0)  # sums along a row
    >>> convolve(x, kernel, 1, "direct").ravel().tolist(), convolve(x, kernel, 2, "patches").ravel().tolist()
    ([1.0, 3.0, 6.0, 9.0, 7.0], [1.0, 6.0, 7.0])
    """
    size, _, channels, features = kernel.shape
    pad = size // 2
    if form == "direct":
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    height, width, batch = x.shape[1:]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shifted = [
        lax.slice(
            padded,
            (0, i, j, 0),
            (channels, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, batch),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]
    stacked = jnp.concatenate(shifted).reshape(size * size * channels, -1)
    return (kernel.reshape(-1, features).T @ stacked).reshape(features, rows, columns, batch)


class _Convolution(nn.Module):
    """`convolve`, then BatchNorm."""

    features: int
    size: int
    stride: int
    form: str
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        axis = 0 if self.form == "patches" else -1
        shape = (self.size, self.size, x.shape[axis], self.features)
        kernel = self.param("kernel", _he_normal, shape, self.param_dtype)
        normalize = nn.BatchNorm(
            use_running_average=not train,
            axis=axis,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            dtype=self.param_dtype,
            param_dtype=self.param_dtype,
            name="norm",
        )
        y: Array = normalize(convolve(x, kernel, self.stride, self.form))
        return y


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution where the shape changes."""

    features: int
    stride: int
    form: str
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def convolution(size: int, stride: int, name: str) -> _Convolution:
            return _Convolution(self.features, size, stride, self.form, self.param_dtype, name=name)

        y = jax.nn.relu(convolution(3, self.stride, "first")(x, train))
        y = convolution(3, 1, "second")(y, train)
        channels = x.shape[0 if self.form == "patches" else -1]
        if self.stride != 1 or channels != self.features:
            x = convolution(1, self.stride, "shortcut")(x, train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network of basic blocks; with the defaults a ResNet-18 without max-pool.

    Its variables are two collections: ``params``, and ``batch_stats``, the running means and variances of
    BatchNorm (momentum 0.9, ε = 1e-5, biased variance). With ``train=True`` the batch's statistics normalize,
    and the running ones move towards them where ``mutable=["batch_stats"]`` is given; otherwise the running ones do.

    Raises:
      ValueError: attributes out of range, or images of another rank.

    References:
      He et al. 2016, "Deep residual learning for image recognition"; Liao et al. 2023, §5.4.

    >>> network = ResNet(classes=10, width=2, stages=(1, 1))
    >>> params, statistics = initial_variables(network, jax.random.key(0), 8, 8, 1)
    >>> images = jnp.zeros((3, 8, 8, 1), jnp.float32)
    >>> network.apply({"params": params, "batch_stats": statistics}, images).shape
    (3, 10)
    """

    classes: int = 10  # number of logits
    width: int = 64  # channels of the first stage; each further stage has twice as many
    stages: tuple[int, ...] = (2, 2, 2, 2)  # blocks of each stage
    # of the convolutions, one of `CONVOLUTIONS`; None: `default_convolution` when called. The variables are the same in
    # both.
    form: str | None = None
    param_dtype: Any = jnp.float32  # dtype of parameters and computation

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Logits [batch, classes] of images [batch, height, width, channels]."""
        form = self._check(x)
        x = jnp.asarray(x, self.param_dtype)
        if form == "patches":
            x = jnp.transpose(x, (3, 1, 2, 0))
        x = jax.nn.relu(_Convolution(self.width, 3, 1, form, self.param_dtype, name="stem")(x, train))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage_{stage}_block_{block}"
                x = _Block(self.width << stage, stride, form, self.param_dtype, name=name)(x, train)
        features = jnp.mean(x, (1, 2)).T if form == "patches" else jnp.mean(x, (1, 2))
        dense = nn.Dense(self.classes, dtype=self.param_dtype, param_dtype=self.param_dtype, kernel_init=_he_normal)
        logits: Array = dense(features)
        return logits

    def _check(self, x: Array) -> str:
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"the network takes images [batch, height, width, channels]; got {x.shape}.")
        check_integer("classes", self.classes, 1)
        check_integer("width", self.width, 1)
        if not self.stages:
            raise ValueError("stages must hold the number of blocks of each stage; got none.")
        for blocks in self.stages:
            check_integer("stages", blocks, 1)
        form = default_convolution() if self.form is None else self.form
        if form not in CONVOLUTIONS:
            raise ValueError(f"form must be one of {', '.join(CONVOLUTIONS)}; got {form!r}.")
        return form


def initial_variables(network: ResNet, key: Array, height: int, width: int, channels: int) -> tuple[Any, Any]:
    """Parameters distributed as ``network.init``'s, from one draw for all of them, and the statistics' start.

    XLA compiles each draw of ``network.init`` separately: this is quicker.

    Returns:
      (params, batch_stats): kernels normal with variance 2 / fan-in; BatchNorm's scales and running variances 1;
      biases and running means 0.

    >>> params, statistics = initial_variables(ResNet(width=2, stages=(1,)), jax.random.key(0), 4, 4, 3)
    >>> params["stem"]["kernel"].shape, statistics["stem"]["norm"]["var"].tolist()
    ((3, 3, 3, 2), [1.0, 1.0])
    """
    images = jax.ShapeDtypeStruct((1, height, width, channels), network.param_dtype)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    kernels = [math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "kernel"]
    pieces = jnp.split(jax.random.normal(key, (sum(kernels),), network.param_dtype), np.cumsum(kernels)[:-1].tolist())
    normal = iter(pieces)

    def fill(name: str, leaf: Any) -> Array:
        if name == "kernel":
            return next(normal).reshape(leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return jnp.full(leaf.shape, {"scale": 1, "var": 1, "bias": 0, "mean": 0}[name], leaf.dtype)

    filled = jax.tree.unflatten(structure, [fill(path[-1].key, leaf) for path, leaf in leaves])
    return filled["params"], filled["batch_stats"]
