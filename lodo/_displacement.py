"""Which coordinates went where the last step sent them, seen from the parameters of the next call.

What follows an optimizer in a chain may clip its step, mask it or drop it. An optimizer that learns from what its last
step did has to know of it, or it credits itself with displacements that were never made.
"""

from __future__ import annotations

import itertools
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


def held_back(step: jax.Array, last: LastStep, params: Any | None, place: _tree.Place) -> jax.Array:
    """Whether each coordinate stayed where it was though a step was asked for.

    A coordinate counts as moved where the step asked for is too small to show in the parameter's own precision, and
    where it is not known what became of it: but then it counts as held back, with all others, after a step so large
    that the products which judge it would leave the range of the dtype.

    Args:
      step: [n], what the last call returned.
      last: the rest of its memory.
      params: x_{t+1}, as this call was given them; None where it was not.
      place: where the arrays meet.

    Returns:
      [n] booleans, whole on every device.
    """
    unknown = (_tree.whole(last.params_given, place) == 0) | (params is None)
    overflows = unknown & (jnp.max(jnp.abs(step), initial=0) > float(jnp.finfo(step.dtype).max) ** 0.25)
    if params is None:
        return jnp.broadcast_to(overflows, step.shape)
    pairs = list(zip(*map(jax.tree.leaves, (last.params, params)), strict=True))
    # Leaves of one dtype at once: each by itself, the compiler would take its time for every leaf.
    stayed, end = [], 0
    for _, run in itertools.groupby(pairs, key=lambda pair: (pair[0].dtype, jnp.result_type(pair[1]))):
        before, now = (_tree.ravel(list(leaves), place=place) for leaves in zip(*run))
        end += before.size
        stayed.append(_stayed(step[end - before.size : end], before, now))
    result: jax.Array = overflows | (~unknown & (jnp.concatenate(stayed) if len(stayed) > 1 else stayed[0]))
    return result


def _stayed(step: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
    """Whether coordinates [n] for which a step was asked that would show went less than a share of it."""
    precision = jnp.finfo(before.dtype)
    width = max(step.dtype, before.dtype, key=lambda dtype: dtype.itemsize)
    asked, before, now = (array.astype(width) for array in (step, before, now))
    asked = jnp.abs(asked)
    unit = float(precision.eps) * jnp.maximum(jnp.abs(before), jnp.abs(now)) + float(precision.tiny)
    return (jnp.abs(now - before) <= SMALLEST_SHARE * asked + 2 * unit) & (asked > 4 * unit)


def made(asked: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
    """The displacement ``now − before``; exactly the step ``asked`` for where the two differ by rounding alone. [n]"""
    displacement = now - before
    unit = float(jnp.finfo(asked.dtype).eps) * jnp.maximum(jnp.abs(before), jnp.abs(now))
    return jnp.where(jnp.abs(displacement - asked) <= 2 * unit, asked, displacement)
