"""Passes over the layers of a block-permutation operator, arranged for vectors larger than a core's nearest cache.

On a CPU it is the arrangement that decides how fast the same sums are. Four things here are for XLA's CPU compiler:

* :func:`apart` keeps a permutation's gather from being merged with the block product beside it. Merged, the product
  would be computed again for every use of the gathered value, or read in the permutation's random order.
* For the same reason no loop over layers carries what comes out of a permutation: on the way down, a layer's product is
  carried, and permuted where the next layer begins.
* A product is a sum of k products of long contiguous vectors, and each part of θ is cut out of the whole array where it
  is used, with as many axes as the whole has: such loops are vectorized, and θ is read once, where it lies.
* θ and Adam's moments are updated in place, each in a loop over all layers (:func:`adam_in_place`), in which the
  hypergradient is computed from the layers' inputs: neither it nor a second copy of θ or the moments is ever written to
  memory.

Symbols: N layers, blocks of k×k, ñ hidden coordinates, ñ/k blocks; θ [N, k, k, ñ/k] as in ``block_permutation``. Hidden
vectors are flat, [ñ]; several travel as a tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lodo._tree import place_of, whole, zeros
from lodo.operators.base import AdamStep, gather, sum_over
from lodo.operators.rolls import Turn

Vectors = tuple[jax.Array, ...]  # each [ñ]
Permutation = jax.Array | Turn  # one for each layer: indices [N, ñ], or how far each row is turned

#: Hidden size from which these passes are used; below it, all fits a core's nearest cache and short programs win.
LARGE = 2048


class Inputs(NamedTuple):
    """What r vectors [ñ] were where they entered the layers: going up and, at the transposed layers, going down."""

    up: jax.Array  # [N, r, k, ñ/k] uᵢ
    down: jax.Array  # [N, r, k, ñ/k] dᵢ
    largest_up: jax.Array  # [r] the largest magnitude among all uᵢ of a vector
    largest_down: jax.Array  # [r] and among its dᵢ


def is_large(hidden: int, depth: int) -> bool:
    """Whether a hidden size is one for these passes."""
    return depth > 0 and hidden >= LARGE


def apart(function: Callable[..., Any], guard: jax.Array, *arguments: Any) -> Any:
    """``function(*arguments)``, compiled on a CPU as a program of its own: results are stored before they are used.

    ``lax.optimization_barrier`` does not do this on a CPU: it is taken away before XLA decides what to merge. A branch
    whose condition only the run can know is not merged with anything. Elsewhere, the function itself.

    Args:
      function: of arrays, returning a pytree of arrays.
      guard: an integer array, whose first entry is never negative and is not known when compiling: any indices.
      *arguments: its arguments.
    """
    shapes, place = jax.eval_shape(function, *arguments), place_of(arguments)

    def on_cpu(first: jax.Array, *given: Any) -> Any:
        def never(*_: Any) -> Any:
            return jax.tree.map(lambda out: zeros(out.shape, out.dtype, place), shapes)

        return lax.cond(first >= 0, lambda *given: whole(function(*given), place), never, *given)

    def elsewhere(first: jax.Array, *given: Any) -> Any:
        del first
        return function(*given)

    return lax.platform_dependent(guard[(0,) * guard.ndim], *arguments, cpu=on_cpu, default=elsewhere)


def up(theta: jax.Array, forward: Permutation, vectors: Vectors) -> Vectors:
    """Ĝ applied to vectors [ñ]."""

    def layer(i: jax.Array, v: Vectors) -> Vectors:
        return _up(theta, i, _permute(v, forward, i))

    result: Vectors = lax.fori_loop(0, theta.shape[0], layer, vectors)
    return result


def down(theta: jax.Array, inverse: Permutation, vectors: Vectors) -> Vectors:
    """Ĝᵀ applied to vectors [ñ]."""

    def layer(i: jax.Array, d: Vectors, nothing: None) -> tuple[Vectors, None]:
        return _down(theta, i, d), nothing

    out, _ = _downwards(theta, inverse, vectors, layer, None)
    return out


def _downwards(
    theta: jax.Array, inverse: Permutation, d: Vectors, layer: Callable[..., tuple[Vectors, Any]], more: Any
) -> tuple[Vectors, Any]:
    """``layer(i, dᵢ, more)`` from the last layer to the first, each result permuted to be the next one's d.

    A permutation begins a turn of the loop and never ends it: where its result is carried to the next turn, a layer
    takes several times as long.
    """
    depth = theta.shape[0]
    last = jnp.asarray(depth - 1)
    out, more = layer(last, d, more)

    def turn(step: jax.Array, carry: Any) -> Any:
        out, more = carry
        i = last - step
        return layer(i, _permute(out, inverse, i + 1), more)

    out, more = lax.fori_loop(1, depth, turn, (out, more))
    return _permute(out, inverse, jnp.zeros_like(last)), more


def inputs_of_zero(theta: jax.Array, count: int) -> Inputs:
    """The layers' inputs of ``count`` vectors that are zero, whatever θ is."""
    depth, k, _, blocks = theta.shape
    # Each an array of its own: who donates a state must not donate one array twice.
    place = place_of(theta)
    up, down = (zeros((depth, count, k, blocks), theta.dtype, place) for _ in range(2))
    return Inputs(up, down, *(zeros((count,), theta.dtype, place) for _ in range(2)))


def up_and_down(
    theta: jax.Array, forward: Permutation, inverse: Permutation, vectors: Vectors, into: Inputs, outputs: bool = False
) -> tuple[Vectors, Inputs]:
    """Ĝᵀ Ĝ applied to r vectors [ñ], and the layers' inputs on both ways.

    Args:
      theta: [N, k, k, ñ/k].
      forward: the permutations, and
      inverse: their inverses.
      vectors: r of them.
      into: inputs of r vectors, whatever they are; the new ones are written over them, in place where XLA may.
      outputs: whether what leaves the layers going up is wanted, in place of what enters them.
    """
    _, k, _, blocks = theta.shape
    none = (zeros((blocks,), theta.dtype, place_of(theta)),) * len(vectors)

    def kept(array: jax.Array, v: Vectors, i: jax.Array) -> jax.Array:
        return _replace(array, jnp.stack([w.reshape(k, blocks) for w in v])[None], i)

    def layer_up(i: jax.Array, carry: Any) -> Any:
        v, inputs, largest = carry
        u = _permute(v, forward, i)
        out = _up(theta, i, u)
        wanted = out if outputs else u
        return out, kept(inputs, wanted, i), _larger(largest, wanted, k)

    def layer_down(i: jax.Array, d: Vectors, carry: Any) -> Any:
        inputs, largest = carry
        return _down(theta, i, d), (kept(inputs, d, i), _larger(largest, d, k))

    top, ups, largest_up = lax.fori_loop(0, theta.shape[0], layer_up, (vectors, into.up, none))
    out, (downs, largest_down) = _downwards(theta, inverse, top, layer_down, (into.down, none))
    return out, Inputs(ups, downs, *(jnp.stack([jnp.max(w) for w in most]) for most in (largest_up, largest_down)))


def adam_in_place(
    theta: jax.Array,
    moments: tuple[jax.Array, jax.Array],
    m: Inputs,
    g: Inputs,
    step: AdamStep,
    learn: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One step of Adam down the hypergradient, which is computed from the layers' inputs where it is used.

    Args:
      theta: [N, k, k, ñ/k].
      moments: Adam's two moments, each like θ.
      m: the layers' inputs of m, and
      g: of g, one vector each.
      step: its numbers.
      learn: [] bool; where false, θ and the moments stay to the bit what they are.

    Returns:
      θ, the moments.
    """
    h = m.up[:, 0, :, None] * g.down[:, 0, None] + g.up[:, 0, :, None] * m.down[:, 0, None]
    first = jnp.where(learn, step.decay1 * moments[0] + (1 - step.decay1) * h, moments[0])
    second = jnp.where(learn, step.decay2 * moments[1] + (1 - step.decay2) * (h * h), moments[1])
    change = step.rate * (first * step.correction1 / (jnp.sqrt(second * step.correction2) + step.epsilon))
    return jnp.where(learn, theta - change, theta), (first, second)


def _permute(v: Vectors, permutation: Permutation, i: jax.Array) -> Vectors:
    """Each vector [ñ] permuted by the permutation of layer i."""
    if isinstance(permutation, Turn):
        return _turn(v, permutation.shifts, i)

    # The layer's indices are cut out in there: cut out before, they would be copied.
    def gathered(permutation: jax.Array, i: jax.Array, *v: jax.Array) -> Vectors:
        row = _layer(permutation, i)[0]
        return tuple(gather(w, row) for w in v)

    result: Vectors = apart(gathered, permutation, permutation, i, *v)
    return result


def _turn(v: Vectors, shifts: jax.Array, i: jax.Array) -> Vectors:
    """Each vector's k rows turned by ``shifts[i]``: cut out of two copies of the row, one after the other."""
    k = shifts.shape[1]
    blocks = v[0].shape[0] // k

    def twice(*v: jax.Array) -> Vectors:
        return tuple(jnp.concatenate([w.reshape(k, blocks)] * 2, axis=1) for w in v)

    starts = _layer(shifts, i)

    def cut(w: jax.Array) -> jax.Array:
        return jnp.concatenate([_slab(w, (a, starts[0, a]), (1, blocks)) for a in range(k)]).reshape(-1)

    return tuple(cut(w) for w in apart(twice, shifts, *v))


def _up(theta: jax.Array, i: jax.Array, u: Vectors) -> Vectors:
    """Layer i's blocks applied to vectors: out[o] = Σₐ u[a] θ[i, a, o]."""
    _, k, _, blocks = theta.shape
    return tuple(
        sum_over(lambda a, w=w: w[:, :, a : a + 1] * _slab(theta, (i, a, 0), (1, 1, k, blocks)), k).reshape(-1)
        for w in (w.reshape(1, 1, k, blocks) for w in u)
    )


def _down(theta: jax.Array, i: jax.Array, d: Vectors) -> Vectors:
    """Their transposes: out[a] = Σₒ d[o] θ[i, a, o]."""
    _, k, _, blocks = theta.shape
    return tuple(
        sum_over(lambda o, w=w: w[:, :, o : o + 1] * _slab(theta, (i, 0, o), (1, k, 1, blocks)), k).reshape(-1)
        for w in (w.reshape(1, 1, k, blocks) for w in d)
    )


def _larger(largest: Vectors, v: Vectors, k: int) -> Vectors:
    """Per column, the larger of what was largest and the magnitudes of a vector's k rows; NaN stays NaN."""
    out = []
    for most, w in zip(largest, v):
        for row in jnp.split(jnp.abs(w), k):
            most = jnp.maximum(most, row)
        out.append(most)
    return tuple(out)


def _layer(array: jax.Array, i: jax.Array) -> jax.Array:
    """``array[i : i + 1]``."""
    return _slab(array, (i,), (1, *array.shape[1:]))


def _slab(array: jax.Array, start: tuple[Any, ...], shape: tuple[int, ...]) -> jax.Array:
    """The part of ``array`` of a shape, from ``start`` on (zero along the axes that it does not name)."""
    return lax.dynamic_slice(array, _corner(start, array.ndim), shape)


def _replace(array: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
    """``array`` with ``array[i : i + 1]`` replaced."""
    return lax.dynamic_update_slice(array, layer, _corner((i,), array.ndim))


def _corner(start: tuple[Any, ...], rank: int) -> tuple[jax.Array, ...]:
    # Unsigned: of a signed index JAX would first ask whether it counts from the end.
    return tuple(jnp.asarray(index).astype(jnp.uint32) for index in (*start, *(0,) * (rank - len(start))))
