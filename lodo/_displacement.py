"""Which coordinates went where the last step sent them, seen from the parameters of the next call.

What follows an optimizer in a chain may clip its step, mask it or drop it. An optimizer that learns from what its last
step did has to know of it, or it credits itself with displacements that were never made.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lodo import _tree
from lodo._state import LastStep

#: A coordinate that went less than this share of the step asked for was held back.
SMALLEST_SHARE = 0.01


def no_step(params: Any, dtype: Any, place: _tree.Place) -> LastStep:
    """Before the first step: nothing was asked for."""
    zeros = _tree.zeros_like(params, None, place)
    return LastStep(zeros, _tree.zeros_like(params, dtype, place), _tree.zeros((), jnp.int32, place))


def record(last: LastStep, params: Any | None, step: Any, place: _tree.Place) -> LastStep:
    """The memory of a call that was given ``params`` (or None) and returns ``step``, or what stands for it."""
    given = jnp.full_like(last.params_given, int(params is not None))
    if params is None:
        return LastStep(last.params, step, given)
    # Buffers of their own: a caller may donate the state and the parameters together.
    kept = jax.tree.map(lambda leaf, like: jnp.array(leaf, like.dtype, copy=True), params, last.params)
    return LastStep(_tree.laid_like(kept, last.params), step, _tree.whole(given, place))


def held_back(last: LastStep, params: Any | None, place: _tree.Place) -> Any:
    """Whether each coordinate stayed where it was though a step was asked for.

    A coordinate counts as moved where the step asked for is too small to show in the parameter's own precision, and
    where it is not known what became of it: but then it counts as held back, with all others, after a step so large
    that the products which judge it would leave the range of the dtype.

    Args:
      last: the memory of the last call.
      params: x_{t+1}, as this call was given them; None where it was not.
      place: where the arrays meet.

    Returns:
      A tree like ``last.step`` of booleans, whole on every device.
    """
    last, params = _tree.whole((last, params), place)
    sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(last.step)]
    unknown = (last.params_given == 0) | (params is None)
    overflows = unknown & jnp.stack([size > float(jnp.finfo(size.dtype).max) ** 0.25 for size in sizes]).any()

    def of_leaf(step: jax.Array, before: jax.Array, now: Any = None) -> jax.Array:
        if now is None:
            return jnp.broadcast_to(overflows, step.shape)
        precision = jnp.finfo(before.dtype)
        width = max(step.dtype, before.dtype, key=lambda dtype: dtype.itemsize)
        asked, before, now = (jnp.asarray(array).astype(width) for array in (step, before, now))
        asked = jnp.abs(asked)
        unit = float(precision.eps) * jnp.maximum(jnp.abs(before), jnp.abs(now)) + float(precision.tiny)
        stayed = jnp.abs(now - before) <= SMALLEST_SHARE * asked + 2 * unit
        return overflows | (~unknown & stayed & (asked > 4 * unit))

    if params is None:
        return jax.tree.map(of_leaf, last.step, last.params)
    return jax.tree.map(of_leaf, last.step, last.params, params)


def made(asked: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
    """The displacement ``now − before``; exactly the step ``asked`` for where the two differ by rounding alone. [n]"""
    displacement = now - before
    unit = float(jnp.finfo(asked.dtype).eps) * jnp.maximum(jnp.abs(before), jnp.abs(now))
    return jnp.where(jnp.abs(displacement - asked) <= 2 * unit, asked, displacement)
