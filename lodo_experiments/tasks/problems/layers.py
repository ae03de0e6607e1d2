"""Dense networks as lists of (weights, biases), small enough that a training takes a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

#: [(weights [inputs, outputs], biases [outputs])] a layer.
Dense = list[tuple[jax.Array, jax.Array]]


def dense(key: jax.Array, widths: Sequence[int], dtype: Any = jnp.float32) -> Dense:
    """Layers of those widths, weights with variance 1 / inputs and biases 0."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (normal(k, (a, b), a, dtype), jnp.zeros(b, dtype))
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def normal(key: jax.Array, shape: tuple[int, ...], inputs: int, dtype: Any = jnp.float32) -> jax.Array:
    """Normal weights with variance 1 / inputs."""
    return jax.random.normal(key, shape, dtype) / jnp.asarray(inputs**0.5, dtype)


def apply(layers: Dense, x: jax.Array, activation: Callable[[jax.Array], jax.Array] = jnp.tanh) -> jax.Array:
    """The network's output, [..., inputs] → [..., outputs]; the last layer is linear."""
    for weights, biases in layers[:-1]:
        x = activation(x @ weights + biases)
    weights, biases = layers[-1]
    return x @ weights + biases


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of integer labels, [..., classes] and [...] → []."""
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)


def normalised(h: jax.Array) -> jax.Array:
    """Layer normalisation along the last axis, without scale or shift."""
    centred = h - h.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
