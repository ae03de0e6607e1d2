"""The rules by which relative LODO sets its numbers, one function each; nothing else here decides a constant.

All are functions of scalars of the state's dtype, but for :func:`probe`, of vectors [n]. Loss and gradient enter as
ratios only, so that a loss multiplied by a positive constant gives the same steps.

Symbols: g the gradient at the point where the last step ended, d = S(θ) m the direction of that step, ν the mean of
|g| |d| over past steps, w the whitening, s the log-scale, β the momentum, t the number of updates before this one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

CLIP, CLIP_DECAY = 5.0, 0.9  # a gradient may be so many times as long as the mean of those before
PRODUCT_DECAY = 0.95  # of ν
SECOND_DECAY = 0.95  # of the mean square of E in a block
LARGEST_CHANGE = 0.03  # ‖F‖_F of a block in one step
SCALE_RATE, SCALE_RATE_DOWN, LOWEST_COSINE = 0.1, 0.15, -20.0  # of the log-scale
FIRST_STEP, SMALLEST_ENTRY = 1e-3, 0.01  # the first step's share of ‖x₀‖, and what counts as an entry of x₀ at least
MOMENTUM_RATE, MOMENTUM_DRIFT, MOMENTUM_RANGE = 0.1, 0.02, (0.0067, 0.9)
SMALLER = 1.0  # what a guard takes off the log-scale
META_RATE, META_HALVED_AT = 5e-4, 5000


def default_meta_learning_rate(step_count: jax.Array) -> jax.Array:
    """5 · 10⁻⁴ / (1 + t / 5000)."""
    return META_RATE / (1 + jnp.asarray(step_count, float) / META_HALVED_AT)


def default_whitening(momentum: jax.Array) -> jax.Array:
    """w = (1 − β)⁴: next to none at β = 0.9, where old gradients are of use; all of it where the target moves."""
    return (1 - momentum) ** 4


def inverse(x: jax.Array) -> jax.Array:
    """1/x for a normal x > 0, and 0 else: where there is nothing to compare with, nothing is learned."""
    usable = x >= float(jnp.finfo(x.dtype).tiny)
    return jnp.where(usable, 1 / jnp.where(usable, x, jnp.ones_like(x)), jnp.zeros_like(x))


def norm(v: jax.Array) -> jax.Array:
    """‖v‖, whose squares neither overflow nor vanish."""
    largest = jnp.max(jnp.abs(v), initial=0)
    return largest * jnp.sqrt(jnp.sum((v * inverse(largest)) ** 2))


def share(decay: float, seen: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """By how much of their difference a new value moves an exponential mean of ``seen`` values, the first entirely."""
    return (1 - decay) / (1 - jnp.asarray(decay, dtype) ** (seen + 1).astype(dtype))


def mean(before: jax.Array, now: jax.Array, decay: float, seen: jax.Array) -> jax.Array:
    """An exponential mean once ``now`` has joined the ``seen`` values before it."""
    return before + share(decay, seen, now.dtype) * (now - before)


def clip_factor(size: jax.Array, mean_size: jax.Array) -> jax.Array:
    """By what a gradient of norm ``size`` is multiplied where those before had ``mean_size``; 1 where that is 0."""
    bound = jnp.where(mean_size > 0, CLIP * mean_size, size)
    return jnp.where(size > bound, bound * inverse(size), jnp.ones_like(size))


def first_step(parameters: jax.Array) -> jax.Array:
    """The norm of the first step from x₀ [n]."""
    return FIRST_STEP * jnp.maximum(norm(parameters), SMALLEST_ENTRY * parameters.size**0.5)


def log_scale(s: jax.Array, cosine: jax.Array) -> jax.Array:
    """s after a step whose g was at ``cosine`` = ⟨g, d⟩ / ν."""
    c = jnp.clip(cosine, LOWEST_COSINE, 1.0)
    return s + jnp.where(c < 0, SCALE_RATE_DOWN, SCALE_RATE).astype(s.dtype) * c


def momentum(beta: jax.Array, difference: jax.Array) -> jax.Array:
    """β after a step, ``difference`` being (⟨g, d of the step before⟩ − ⟨g, d⟩) / ν."""
    logit = jnp.log(beta) - jnp.log1p(-beta)
    logit = logit + MOMENTUM_RATE * (jnp.clip(difference, -1.0, 1.0) + MOMENTUM_DRIFT)
    return jnp.clip(jax.nn.sigmoid(logit), *MOMENTUM_RANGE)


def probe(g: jax.Array, d: jax.Array, product: jax.Array, whitening: jax.Array, size: jax.Array) -> jax.Array:
    """‖m‖ p with p = n g / ν − w n d / ‖d‖² [n] and ``size`` ‖m‖, so that it and m / ‖m‖ are of moderate size.

    E is the derivative of ⟨p, S m⟩, the whitening's log det apart.
    """
    n, length = g.size, norm(d)
    whitened = (d * inverse(length)) * (size * inverse(length))
    return n * (g * (size * inverse(product))) - whitening * n * whitened


def squares(e: jax.Array) -> jax.Array:
    """What is kept of E² [N, k, k, B]: its mean over each block, [N, 1, 1, B]."""
    return jnp.mean(e * e, axis=(1, 2), keepdims=True)


def bounded(f: jax.Array) -> jax.Array:
    """F [N, k, k, B], each block's norm at most :data:`LARGEST_CHANGE`."""
    size = jnp.sqrt(jnp.sum(f * f, axis=(1, 2), keepdims=True))
    return f * jnp.where(size > LARGEST_CHANGE, LARGEST_CHANGE * inverse(size), jnp.ones_like(size))
