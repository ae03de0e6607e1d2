"""Mean losses over a batch, computed a slice at a time so that the intermediate values stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from lodo._validation import check_integer

Loss = Callable[[Any, Any], Array]


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit`` (1 where ``limit`` is smaller).

    >>> largest_divisor(256, 20), largest_divisor(7, 3)
    (16, 1)
    """
    return next(size for size in range(max(1, min(number, limit)), 0, -1) if number % size == 0)


def in_microbatches(loss: Loss, size: int) -> Loss:
    """The same mean loss, and the same gradient, computed over consecutive slices of the batch.

    Value and gradient of a slice are computed together, so nothing is kept from one slice for the next but
    their running sums: memory is that of one slice, and nothing is computed twice. Reverse mode, once: the
    result cannot be differentiated forwards or a second time.

    Args:
      loss: (params, batch) → scalar, the *mean* over the batch's first axis.
      size: examples in a slice; it must divide the batch.

    Raises:
      ValueError: a ``size`` below 1, or (when called) one that does not divide the batch.

    >>> mean_square = lambda w, x: jnp.mean((w * x) ** 2)
    >>> sliced = in_microbatches(mean_square, 2)
    >>> x = jnp.arange(6.0)
    >>> print(mean_square(2.0, x), sliced(2.0, x), jax.grad(mean_square)(2.0, x), jax.grad(sliced)(2.0, x))
    36.666668 36.666668 36.666668 36.666668
    """
    size = check_integer("microbatch", size, 1)

    def sliced(batch: Any) -> tuple[Any, int]:
        total = jax.tree.leaves(batch)[0].shape[0]
        if total % size:
            raise ValueError(f"microbatch must divide the batch: {total} examples cannot be cut into slices of {size}.")
        count = total // size
        return jax.tree.map(lambda leaf: leaf.reshape(count, size, *leaf.shape[1:]), batch), count

    @jax.custom_vjp
    def mean(params: Any, batch: Any) -> Array:
        slices, _ = sliced(batch)
        return jnp.mean(lax.map(lambda one: loss(params, one), slices))

    def forward(params: Any, batch: Any) -> tuple[Array, Any]:
        slices, count = sliced(batch)
        value_and_gradient = jax.value_and_grad(loss)

        def add(total: Any, one: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value_and_gradient(params, one)), None

        shapes = jax.eval_shape(value_and_gradient, params, jax.tree.map(lambda leaf: leaf[0], slices))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        value, gradient = lax.scan(add, zero, slices)[0]
        return value / count, jax.tree.map(lambda leaf: leaf / count, gradient)

    def backward(gradient: Any, cotangent: Array) -> tuple[Any, None]:
        return jax.tree.map(lambda leaf: cotangent.astype(leaf.dtype) * leaf, gradient), None

    mean.defvjp(forward, backward)
    return mean
