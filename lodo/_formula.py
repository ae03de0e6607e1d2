"""The rules by which relative LODO sets its numbers, one function each; nothing else here decides a constant.

All are functions of scalars of the state's dtype, but for :func:`probe`, of vectors [n]. Loss and gradient enter as
ratios only, so that a loss multiplied by a positive constant gives the same steps.

Symbols: g the gradient at the point where the last step ended, d = S(θ) m the direction of that step, ν the mean of
‖g‖ ‖d‖ over past steps, w the whitening, s the log-scale, β the momentum, t the number of updates before this one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

CLIP, CLIP_DECAY = 5.0, 0.9  # a gradient may be so many times as long as the mean of those before
PRODUCT_DECAY = 0.95  # of ν
SECOND_DECAY = 0.8  # of the mean square of E in a block
SCALAR_RATE, SCALAR_TIME = 0.1, 1000  # by how much s and the logit of β move at most; a quarter as much at 15,000 steps
FIRST_STEP, SMALLEST_ENTRY = 1e-3, 0.01  # the first step's share of ‖x₀‖, and what counts as an entry of x₀ at least
MOMENTUM_DRIFT, MOMENTUM_RANGE = 0.01, (0.0067, 0.9)
WHITENING_RATE, LOWEST_GAIN = 0.01, -7.0  # of ω
SNAPSHOT, SNAPSHOT_AGE = 16, 4  # steps from one snapshot of d to the next, and how old one is when it is first used
SMALLER = 1.0  # what a guard takes off the log-scale
META_RATE, META_TIME = 2.5e-3, 15  # halved after 15 n steps


def meta_learning_rate(count: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """α = 2.5 · 10⁻³ / (1 + t / 15 n), for n = ``size``."""
    return META_RATE / (1 + count.astype(dtype) / (META_TIME * max(size, 1)))


def meta_rate(rate: jax.Array, beta: jax.Array) -> jax.Array:
    """ρ = α √(1 − β): gradients that are averaged for longer tell less that is new in a step."""
    return rate * jnp.sqrt(1 - beta)


def whitening(beta: jax.Array, gain: jax.Array) -> jax.Array:
    """w = (1 − β)⁴ e^ω: next to none at β = 0.9, where old gradients are of use; all where the target moves."""
    return (1 - beta) ** 4 * jnp.exp(gain)


def whitening_gain(gain: jax.Array, agreement: jax.Array, count: jax.Array) -> jax.Array:
    """ω ≤ 0 after a step: less of a whitening that wants the opposite of what the loss wants.

    Args:
      gain: ω.
      agreement: h, see :func:`agreement`.
      count: t.
    """
    usable = (count % SNAPSHOT >= SNAPSHOT_AGE) & (count > SNAPSHOT)
    moved = jnp.clip(gain + WHITENING_RATE * jnp.clip(agreement, -1.0, 1.0), LOWEST_GAIN, 0.0)
    return jnp.where(usable, moved, gain)


def agreement(g: jax.Array, d: jax.Array, q: jax.Array, product: jax.Array) -> jax.Array:
    """h = (⟨g, d⟩ − n ⟨g, q⟩ ⟨d, q⟩ / ‖q‖²) / ν, q being a d of some steps ago, whose noise is independent.

    The product of what loss and whitening want of S, n g dᵀ / ν and I − n q qᵀ / ‖q‖².
    """
    unit = q * inverse(norm(q))
    return (jnp.sum(g * d) - g.size * jnp.sum(g * unit) * jnp.sum(d * unit)) * inverse(product)


def inverse(x: jax.Array) -> jax.Array:
    """1/x for a normal x > 0, and 0 else: where there is nothing to compare with, nothing is learned."""
    usable = x >= float(jnp.finfo(x.dtype).tiny)
    return jnp.where(usable, 1 / jnp.where(usable, x, jnp.ones_like(x)), jnp.zeros_like(x))


def norm(v: jax.Array) -> jax.Array:
    """‖v‖, whose squares neither overflow nor vanish."""
    # At most an eighth of the greatest number, as the reciprocal of what is larger is taken for 0.
    largest = jnp.minimum(jnp.max(jnp.abs(v), initial=0), float(jnp.finfo(v.dtype).max) / 8)
    return largest * jnp.sqrt(jnp.sum((v / jnp.where(largest > 0, largest, jnp.ones_like(largest))) ** 2))


def share(decay: float, seen: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """By how much of their difference a new value moves an exponential mean of ``seen`` values, the first entirely."""
    return (1 - decay) / (1 - jnp.asarray(decay, dtype) ** (seen + 1).astype(dtype))


def mean(before: jax.Array, now: jax.Array, decay: float, seen: jax.Array) -> jax.Array:
    """An exponential mean once ``now`` has joined the ``seen`` values before it."""
    return before + share(decay, seen, now.dtype) * (now - before)


def clip_factor(size: jax.Array, mean_size: jax.Array) -> jax.Array:
    """By what a gradient of norm ``size`` is multiplied where those before had ``mean_size``; 1 where that is 0."""
    bound = jnp.where(mean_size > 0, CLIP * mean_size, size)
    return jnp.where(size > bound, bound / jnp.where(size > bound, size, jnp.ones_like(size)), jnp.ones_like(size))


def first_step(parameters: jax.Array) -> jax.Array:
    """The norm of the first step from x₀ [n]."""
    return FIRST_STEP * jnp.maximum(norm(parameters), SMALLEST_ENTRY * parameters.size**0.5)


def scalar_rate(count: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """0.1 / √(1 + t / 1000), the rate of the log-scale and of β's logit."""
    return SCALAR_RATE / jnp.sqrt(1 + count.astype(dtype) / SCALAR_TIME)


def log_scale(s: jax.Array, cosine: jax.Array, rate: jax.Array) -> jax.Array:
    """s after a step whose g was at ``cosine`` = ⟨g, d⟩ / ν."""
    return s + rate * jnp.clip(cosine, -1.0, 1.0)


def momentum(beta: jax.Array, difference: jax.Array, rate: jax.Array) -> jax.Array:
    """β after a step, ``difference`` being (⟨g, d of the step before⟩ − ⟨g, d⟩) / ν."""
    logit = jnp.log(beta) - jnp.log1p(-beta)
    logit = logit + rate * (jnp.clip(difference, -1.0, 1.0) + MOMENTUM_DRIFT)
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
