"""The C++ kernels as functions of arrays: what is handed to them, what comes back, and where it may lie.

Arrays that are updated are given back in their own memory, where XLA can arrange it. Under ``vmap`` the kernels run
once for each of a batch, one after the other; they have no derivative.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lodo._tree import place_of, whole
from lodo.operators._native import build
from lodo.operators._passes import Inputs
from lodo.operators.base import AdamStep, padded
from lodo.operators.rolls import Turn


def apply(theta: jax.Array, ways: tuple[Any, Any], v: jax.Array) -> jax.Array:
    """S(θ) v, as :meth:`lodo.operators.BlockPermutation.apply`.

    Args:
      theta: [N, k, k, ñ/k], N ≥ 1.
      ways: P and Pᵀ, indices [N, ñ] or :class:`Turn`.
      v: [n] or [r, n].
    """
    stack = padded(jnp.atleast_2d(v), theta.shape[1] * theta.shape[3])
    out, _ = _through(theta, ways, stack, keep=False)
    return out[:, : v.shape[-1]].reshape(v.shape)


def hypergradient(theta: jax.Array, ways: tuple[Any, Any], m: jax.Array, g: jax.Array) -> jax.Array:
    """∂⟨g, S m⟩/∂θ, as :meth:`lodo.operators.BlockPermutation.hypergradient`."""
    stack = padded(jnp.stack([m, g]), theta.shape[1] * theta.shape[3])
    _, inputs = _through(theta, ways, stack, keep=True)
    u_m, u_g = inputs.up[:, 0, :, None, :], inputs.up[:, 1, :, None, :]
    d_m, d_g = inputs.down[:, 0, None, :, :], inputs.down[:, 1, None, :, :]
    return u_m * d_g + u_g * d_m


def adam_step(
    theta: jax.Array,
    ways: tuple[Any, Any],
    moments: tuple[jax.Array, jax.Array],
    inputs: Inputs | None,
    m: jax.Array,
    g: jax.Array,
    v: jax.Array,
    adam: AdamStep,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], Inputs | None, jax.Array, jax.Array]:
    """As :meth:`lodo.operators.BlockPermutation.adam_step`, which says what comes in and out; m, g and v are [ñ]."""
    kept = inputs
    if kept is None:
        _, kept = _through(theta, ways, m[None], keep=True)
    (forward, inverse), turned = _entries(ways)
    largest = jnp.concatenate([kept.largest_up, kept.largest_down])
    numbers = jnp.stack([jnp.asarray(number, theta.dtype) for number in adam])
    updated = (theta, *moments, kept.up, kept.down, largest)
    hidden = v.shape[0]
    shapes = [
        *map(_like, updated),
        jax.ShapeDtypeStruct((hidden,), theta.dtype),  # S v
        jax.ShapeDtypeStruct((), jnp.bool_),
        *map(_like, (kept.up, kept.down)),  # of g, to work with
        jax.ShapeDtypeStruct((2, 1, hidden), theta.dtype),  # what is between two layers
    ]
    call = jax.ffi.ffi_call(
        build.target("adam_step", theta.dtype),
        shapes,
        vmap_method="sequential",
        input_output_aliases={index: index for index in range(len(updated))},
    )
    results = whole(call(*updated, forward, inverse, g, v, numbers, turned=turned), place_of(updated, g, v))
    theta, first, second, up, down, largest, out, done, *_ = results
    after = None if inputs is None else Inputs(up, down, largest[:1], largest[1:])
    return theta, (first, second), after, out, done


def through(theta: jax.Array, ways: tuple[Any, Any], stack: jax.Array) -> Inputs:
    """As :meth:`lodo.operators.BlockPermutation.through`, of vectors [r, ñ]."""
    return _through(theta, ways, stack, keep=True, outputs=True)[1]


def relative_step(
    theta: jax.Array,
    ways: tuple[Any, Any],
    second: jax.Array,
    pair: jax.Array,
    v: jax.Array,
    numbers: jax.Array,
    passed: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """As :func:`lodo.relative.steps.meta_step`; m and p are ``pair`` [2, ñ], v is [ñ].

    ``numbers`` are the rate, 2 w, the share of E² in its mean, and whether to learn at all. θ and
    ``second`` are as they were where the step is refused for what m and p are on their way up. Where θ itself enlarges
    them beyond the dtype's range on the way down, layers that were passed before have learned.
    """
    (forward, inverse), turned = _entries(ways)
    depth, k, _, blocks = theta.shape
    hidden = k * blocks
    call = jax.ffi.ffi_call(
        build.target("relative_step", theta.dtype),
        [
            *map(_like, (theta, second, v)),
            jax.ShapeDtypeStruct((), jnp.bool_),
            # To work with: what leaves the layers, what enters them from above, and what is between two.
            *(jax.ShapeDtypeStruct(shape, theta.dtype) for shape in ((depth, 2, hidden), (2, hidden), (2, 2, hidden))),
        ],
        vmap_method="sequential",
        input_output_aliases={0: 0, 1: 1},
    )
    results = call(theta, second, forward, inverse, pair, v, numbers, turned=turned, passed=passed)
    theta, second, out, done, *_ = whole(results, place_of(theta, pair, v))
    return theta, second, out, done


def _through(
    theta: jax.Array, ways: tuple[Any, Any], stack: jax.Array, keep: bool, outputs: bool = False
) -> tuple[jax.Array, Inputs]:
    """Ĝᵀ Ĝ applied to the rows of ``stack`` [r, ñ], and the layers' inputs on both ways if they are to be kept."""
    depth, k, _, blocks = theta.shape
    count, hidden = stack.shape
    (forward, inverse), turned = _entries(ways)
    inputs = jax.ShapeDtypeStruct((depth if keep else 1, count, k, blocks), theta.dtype)
    largest = jax.ShapeDtypeStruct((count,), theta.dtype)
    between = jax.ShapeDtypeStruct((2, count, hidden), theta.dtype)
    call = jax.ffi.ffi_call(
        build.target("through", theta.dtype),
        [_like(stack), inputs, inputs, largest, largest, between],
        vmap_method="sequential",
    )
    results = call(theta, forward, inverse, stack, turned=turned, keep=keep, outputs=outputs)
    out, up, down, largest_up, largest_down, _ = whole(results, place_of(theta, stack))
    return out, Inputs(up, down, largest_up, largest_down)


def _entries(ways: tuple[Any, Any]) -> tuple[tuple[jax.Array, jax.Array], bool]:
    """The integers of both directions, and whether they say how far rows are turned."""
    forward, inverse = ways
    if isinstance(forward, Turn):
        return (forward.shifts, inverse.shifts), True
    return (forward, inverse), False


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
