"""The meta-step: θ one step down its hypergradient, and the product S(θ) v that the new θ makes of the new momentum.

Two ways to the same numbers: :class:`OptaxMetaStep` writes the hypergradient down and hands it to an optax
transformation; :class:`FusedAdam` lets the operator make Adam's step layer by layer, so that θ and Adam's moments
travel fewer times from memory and back. Either leaves θ and the meta-optimizer's state as they were, to the bit, where
the gradient must not reach them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lodo._arguments import rate_at
from lodo._state import LodoState
from lodo.compact import storage
from lodo.operators.base import ADAM_B1, ADAM_B2, AdamStep, Operator, SupportsFusedAdam


class MetaStep(NamedTuple):
    """What a meta-step makes."""

    theta: Any  # θ_{t+1}, as it is stored
    meta_state: Any  # the meta-optimizer's state
    inputs: Any  # what the next meta-step is to be given of v; see LodoState.inputs
    product: jax.Array  # [n] S(θ_{t+1}) v
    made: jax.Array  # [] bool: False where the gradient was refused, and θ and the meta-state are as they were


@dataclass(frozen=True)
class OptaxMetaStep:
    """By an optax transformation, for any operator and storage."""

    operator: Operator
    transformation: optax.GradientTransformationExtraArgs
    rate: optax.ScalarOrSchedule | None  # α by which its output is still to be multiplied, or None
    storage: storage.Storage

    def __call__(
        self, state: LodoState, scale: jax.Array, m: jax.Array, g: jax.Array, v: jax.Array, extra: dict[str, Any]
    ) -> MetaStep:
        """One step down ``scale`` · ∂⟨g, S(θ) m⟩/∂θ, then S(θ) v, for m, g and v [n] and a scale []."""
        theta = storage.read(state.theta, m.dtype)
        hypergradient = self.operator.hypergradient(theta, state.fixed, scale * m, g)
        # A gradient that is not finite must not reach the state: it would stay in θ, m and Adam's moments for good.
        # Nor must one whose hypergradient cannot be squared: Adam's second moment would be infinite for good.
        made = jnp.all(jnp.isfinite(g)) & _can_be_squared(hypergradient)
        change, meta_state = self.transformation.update(hypergradient, state.meta_state, theta, **extra)
        if self.rate is not None:
            rate = rate_at(self.rate, state.step_count, m.dtype)
            change = jax.tree.map(lambda c: -rate * c, change)
        theta = optax.apply_updates(theta, change)
        if state.rounding_key is not None:
            theta = storage.write(theta, self.storage.theta, storage.key_at(state.rounding_key, state.step_count))
        theta, meta_state = choose(made, (theta, meta_state), (state.theta, state.meta_state))
        product = self.operator.apply(storage.read(theta, m.dtype), state.fixed, v)
        return MetaStep(theta, meta_state, state.inputs, product, made)


@dataclass(frozen=True)
class FusedAdam:
    """By the operator itself, with Adam at its usual constants and everything stored in full."""

    operator: SupportsFusedAdam
    rate: optax.ScalarOrSchedule

    def __call__(
        self, state: LodoState, scale: jax.Array, m: jax.Array, g: jax.Array, v: jax.Array, extra: dict[str, Any]
    ) -> MetaStep:
        """As :class:`OptaxMetaStep`; the scale is g's, for the layers' inputs of m were kept without it."""
        del extra
        adam_state = state.meta_state
        count = optax.safe_increment(adam_state.count)
        one, t = jnp.ones((), m.dtype), count.astype(m.dtype)
        numbers = AdamStep(
            rate_at(self.rate, state.step_count, m.dtype), one / (1 - ADAM_B1**t), one / (1 - ADAM_B2**t)
        )
        theta, (mu, nu), inputs, product, made = self.operator.adam_step(
            state.theta, state.fixed, (adam_state.mu, adam_state.nu), state.inputs, m, scale * g, v, numbers
        )
        after = adam_state._replace(count=choose(made, count, adam_state.count), mu=mu, nu=nu)
        return MetaStep(theta, after, inputs, product, made)


def choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """One tree or the other, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


@jax.jit
def step_or_nan(made: jax.Array, step: jax.Array) -> jax.Array:
    """The step, NaN where none was made. Compiled, so that ``jax_debug_nans`` sees a NaN only where one is returned."""
    return jnp.where(made, step, jnp.nan)


def _can_be_squared(tree: Any) -> jax.Array:
    """Whether no entry of the tree has a square that is NaN or infinite."""
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)])
    return jnp.all(jnp.isfinite(largest * largest))
