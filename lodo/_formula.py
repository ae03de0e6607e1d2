"""The rules by which relative LODO sets its numbers, one function each; nothing else here decides a constant.

All are functions of scalars of the state's dtype, but for :func:`probe`, of vectors [n]. Loss and gradient enter as
ratios only, so that a loss multiplied by a positive constant gives the same steps.

Symbols: g the gradient at the point where the last step ended, d = S(θ) m the direction of that step, ν the mean of
|g| |d| over past steps, w the whitening, s the log-scale, β the momentum, t the number of updates before this one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

CLIP, CLIP_DECAY = 5.0, 0.9  # a gradient may be so many times as long as the mean of those before
PRODUCT_DECAY = 0.95  # of ν
SECOND_DECAY = 0.999  # of the mean square of E
LARGEST_CHANGE = 0.03  # ‖F‖_F of a block in one step
SCALE_RATE, SCALE_RATE_DOWN, LOWEST_COSINE = 0.1, 0.15, -20.0  # of the log-scale
FIRST_STEP, SMALLEST_ENTRY = 1e-3, 0.01  # the first step's share of ‖x₀‖, and what counts as an entry of x₀ at least
MOMENTUM_RATE, MOMENTUM_DRIFT, MOMENTUM_RANGE = 0.1, 0.02, (0.0067, 0.9)
META_RATE, META_HALVED_AT = 1e-3, 5000


class Averages(NamedTuple):
    """Means over past steps, weighted exponentially, of which each is the mean of those it has seen."""

    gradient: jax.Array  # [] of |g|
    product: jax.Array  # [] ν, of |g| |d|


def default_meta_learning_rate(step_count: jax.Array) -> jax.Array:
    """10⁻³ / (1 + t / 5000)."""
    return META_RATE / (1 + step_count / META_HALVED_AT)


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


def mean(before: jax.Array, now: jax.Array, decay: float, seen: jax.Array) -> jax.Array:
    """An exponential mean, the first of which is what was seen: ``seen`` values have entered ``before``."""
    seen = seen.astype(now.dtype)
    share = (1 - decay) / (1 - jnp.asarray(decay, now.dtype) ** (seen + 1))
    return before + share * (now - before)


def clip_factor(size: jax.Array, averages: Averages, step_count: jax.Array) -> jax.Array:
    """By what a gradient of norm ``size`` is multiplied."""
    bound = jnp.where(step_count > 0, CLIP * averages.gradient, size)
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


def probe(g: jax.Array, d: jax.Array, product: jax.Array, whitening: jax.Array) -> jax.Array:
    """p = n g / ν − w n d / ‖d‖² [n]: E is the derivative of ⟨p, S m⟩, the whitening's log det apart."""
    n = g.size
    size = norm(d)
    return n * (g * inverse(product)) - whitening * n * (d * inverse(size)) * inverse(size)


def squares(e: jax.Array) -> jax.Array:
    """What is kept of E² [N, k, k, B]: its mean over a layer, [N, 1, 1, 1]."""
    return jnp.mean(e * e, axis=(1, 2, 3), keepdims=True)


def bounded(f: jax.Array) -> jax.Array:
    """F [N, k, k, B], each block's norm at most :data:`LARGEST_CHANGE`."""
    size = jnp.sqrt(jnp.sum(f * f, axis=(1, 2), keepdims=True))
    return f * jnp.where(size > LARGEST_CHANGE, LARGEST_CHANGE * inverse(size), jnp.ones_like(size))
