"""3×3 depthwise convolutions with a channel multiplier, in the forms that XLA runs well.

y[b, h, w, c·M + m] = Σ_{i,j} x[b, h + i − r, w + j − r, c] · kernel[i, j, c, m],   zeros outside the image.

Two forms of the same sum (``python -m benchmarks.depthwise`` times them):

* ``shifted``: nine shifted products in the layout [channels, height, width, batch]. The batch is the vector
  axis, so every shift is a whole-row offset and every weight a scalar; derivatives are written by hand.
  Reverse mode only.
* ``grouped``: XLA's grouped convolution, channels last. Fast on a GPU, far too slow on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array, lax

FORMS = ("shifted", "grouped")


def default_form(backend: str | None = None) -> str:
    """The form for a backend: ``"shifted"`` on the CPU, ``"grouped"`` elsewhere.

    >>> default_form("cpu"), default_form("gpu")
    ('shifted', 'grouped')
    """
    return "shifted" if (backend or jax.default_backend()) == "cpu" else "grouped"


def check_form(form: str) -> str:
    """Return ``form``, or refuse it with the list of those there are."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    return form


def depthwise(x: Array, kernel: Array, form: str | None = None) -> Array:
    """Depthwise convolution with a multiplier, stride 1, zero padding to the same size, no bias.

    Args:
      x: images, [batch, height, width, channels].
      kernel: [k, k, channels, multiplier], k odd.
      form: one of `FORMS`; default `default_form`. All give the same numbers up to rounding.

    Returns:
      [batch, height, width, channels · multiplier]; output channel c · multiplier + m comes from channel c.

    Raises:
      ValueError: an unknown form.

    >>> x = jnp.ones((1, 3, 3, 1), jnp.float32)
    >>> depthwise(x, jnp.ones((3, 3, 1, 1), jnp.float32))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    form = check_form(default_form() if form is None else form)
    if form == "shifted":
        return jnp.transpose(shifted_sum(jnp.transpose(x, (3, 1, 2, 0)), kernel), (3, 1, 2, 0))
    return grouped_convolution(x, kernel)


def grouped_convolution(x: Array, kernel: Array) -> Array:
    """`depthwise` as XLA's grouped convolution; same shapes."""
    size, channels = kernel.shape[0], kernel.shape[2]
    return lax.conv_general_dilated(
        x,
        kernel.reshape(size, size, 1, -1),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


@jax.custom_vjp
def shifted_sum(x: Array, kernel: Array) -> Array:
    """`depthwise` with the batch last: [channels, height, width, batch] to [channels · multiplier, ...]."""
    size, _, channels, multiplier = kernel.shape
    padded = _pad(x, size)
    height, width = x.shape[1:3]
    y = jnp.zeros((channels, multiplier, *x.shape[1:]), x.dtype)
    for i, j in _offsets(size):
        window = padded[:, None, i : i + height, j : j + width]
        y = y + window * kernel[i, j][:, :, None, None, None]
    return y.reshape(channels * multiplier, *x.shape[1:])


def _shifted_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return shifted_sum(x, kernel), (x, kernel)


def _shifted_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size, _, channels, multiplier = kernel.shape
    height, width = x.shape[1:3]
    g = g.reshape(channels, multiplier, *x.shape[1:])

    padded_g = jnp.pad(g, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2, (0, 0)))
    dx = jnp.zeros_like(x)
    for i, j in _offsets(size):
        top, left = size - 1 - i, size - 1 - j
        for m in range(multiplier):
            window = padded_g[:, m, top : top + height, left : left + width]
            dx = dx + window * kernel[i, j, :, m][:, None, None, None]

    # Channel by channel a [k², pixels] × [pixels, M] product: one contraction over all channels, or k² sums,
    # cost several times as much (XLA does not vectorise a batched product this narrow, nor a long sum).
    def one_channel(image_and_gradient: tuple[Array, Array]) -> Array:
        image, gradient = image_and_gradient
        windows = [image[i : i + height, j : j + width].reshape(-1) for i, j in _offsets(size)]
        return jnp.stack(windows) @ gradient.reshape(multiplier, -1).T

    by_channel = lax.map(one_channel, (_pad(x, size), g))  # [channels, k², multiplier]
    d_kernel = jnp.moveaxis(by_channel, 0, 1).reshape(kernel.shape)
    return dx, d_kernel


shifted_sum.defvjp(_shifted_forward, _shifted_backward)


def _pad(x: Array, size: int) -> Array:
    r = size // 2
    return jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))


def _offsets(size: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(size) for j in range(size))
