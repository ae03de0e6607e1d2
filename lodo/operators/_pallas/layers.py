"""One kernel a layer: gather and block product; on the way down with the outer products, and with Adam on top.

What XLA makes of a layer is two kernels with the gathered vector written and read between them, and of the update
several passes over the hypergradient. Here a program has a tile of T neighbouring blocks and all k² of their weights:

* θ is read as k² runs of T neighbouring numbers, and written likewise with both moments: coalesced, once a visit.
* What enters a layer is gathered by the program that needs it. For the vectors that LODO's sizes mean these reads are
  served by the second-level cache (a vector of ñ numbers is 1/(N k) of θ).
* On the way down a layer's input is gathered from the layer above by its inverse permutation, so that nothing is
  scattered and the order of the programs does not matter.
* Arrays of all layers go in whole, with the layer's number as an operand: a slice of one would be copied first. What is
  written layer by layer is written in place.

Sums run in XLA's order, so that results differ by no more than contraction into fused multiply-adds.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lodo.operators.base import gather, padded

#: Blocks a program, at most; a power of two, as Triton's vectors are.
TILE = 256


class Adam(NamedTuple):
    """Adam's numbers, as an array of the kernel: rate, β₁, β₂, ε, and the two bias corrections 1 − βᵗ."""

    rate: Any
    first_decay: Any
    second_decay: Any
    epsilon: Any
    first_correction: Any
    second_correction: Any


def apply(theta: jax.Array, fixed: Any, v: jax.Array, interpret: bool) -> jax.Array:
    """S(θ) v, as :meth:`lodo.operators.BlockPermutation.apply`."""
    stack = padded(jnp.atleast_2d(v), fixed.forward.shape[-1])
    out, _ = _up(theta, fixed.forward, stack, False, interpret)
    out, _ = _down(theta, fixed.inverse, out, None, interpret)
    result: jax.Array = out[:, : v.shape[-1]].reshape(v.shape)
    return result


def hypergradient(theta: jax.Array, fixed: Any, m: jax.Array, g: jax.Array, interpret: bool) -> jax.Array:
    """∂⟨g, S m⟩/∂θ, as :meth:`lodo.operators.BlockPermutation.hypergradient`."""
    stack = padded(jnp.stack([m, g]), fixed.forward.shape[-1])
    out, inputs = _up(theta, fixed.forward, stack, True, interpret)
    _, (h,) = _down(theta, fixed.inverse, out, _Products(inputs, (jnp.zeros_like(theta),), None), interpret)
    result: jax.Array = h
    return result


def adam_step(
    theta: jax.Array,
    first: jax.Array,
    second: jax.Array,
    fixed: Any,
    m: jax.Array,
    g: jax.Array,
    adam: Adam,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """θ and Adam's moments after a step along the hypergradient ∂⟨g, S m⟩/∂θ, which is never stored.

    The caller has to know beforehand that the hypergradient is finite: donated arrays are overwritten.

    Args:
      theta: θ [N, k, k, ñ/k].
      first: Adam's μ, like θ.
      second: Adam's ν, like θ.
      fixed: the permutations.
      m: [n], with the factor −α₀ in it.
      g: [n].
      adam: scalars of θ's dtype.
      interpret: run the kernels by JAX's interpreter, on any device.

    Returns:
      θ, μ and ν.
    """
    stack = padded(jnp.stack([m, g]), fixed.forward.shape[-1])
    out, inputs = _up(theta, fixed.forward, stack, True, interpret)
    scalars = jnp.stack([jnp.asarray(number, theta.dtype) for number in adam])
    products = _Products(inputs, (theta, first, second), scalars)
    _, (theta, first, second) = _down(theta, fixed.inverse, out, products, interpret)
    return theta, first, second


class _Products(NamedTuple):
    """What the outer products need, and where they go."""

    inputs: jax.Array  # uᵢ of m and g, [N, 2, k, ñ/k]
    written: tuple[jax.Array, ...]  # (h,) for the hypergradient; (θ, μ, ν) for Adam
    adam: jax.Array | None  # [6], see Adam


def _up(theta: jax.Array, forward: jax.Array, stack: jax.Array, save: bool, interpret: bool) -> Any:
    """Ĝ applied to each row of ``stack`` [r, ñ], and uᵢ [N, r, k, ñ/k] where they are to be saved, else None."""
    depth, k, _, blocks = theta.shape
    rows = stack.shape[0]
    if depth == 0:
        return stack, jnp.zeros((0, rows, k, blocks), stack.dtype) if save else None
    shape, tile = (rows, k, blocks), _tile(blocks)

    def kernel(layer_ref: Any, v_ref: Any, index_ref: Any, theta_ref: Any, *refs: Any) -> None:
        *_, out_ref = refs if not save else refs[:2]
        layer, lanes, inside = layer_ref[0], *_lanes(tile, blocks)
        u = _gathered(v_ref, index_ref, layer, shape, lanes, inside)
        if save:
            for r in range(rows):
                for a in range(k):
                    _store(refs[2], (layer, r, a, lanes), u[r][a], inside)
        weights = _weights(theta_ref, layer, k, lanes, inside)
        for r in range(rows):
            for o in range(k):
                out = _sum([u[r][a] * weights[a][o] for a in range(k)])
                _store(out_ref, (r, o, lanes), out, inside)

    kept = [jax.ShapeDtypeStruct((depth, *shape), stack.dtype)] if save else []
    call = _call(
        kernel,
        [jax.ShapeDtypeStruct(shape, stack.dtype), *kept],
        tile,
        blocks,
        # The saved inputs are handed from layer to layer; each writes its own part.
        {4: 1} if save else {},
        interpret,
    )

    def layer(i: jax.Array, carry: Any) -> Any:
        v, saved = carry
        out, *saved = call(i[None], v, forward, theta, *saved)
        return out.reshape(rows, -1), tuple(saved)

    saved = tuple(jnp.zeros(one.shape, one.dtype) for one in kept)
    out, saved = _loop(depth, layer, (stack, saved))
    return out, saved[0] if save else None


def _down(theta: jax.Array, inverse: jax.Array, stack: jax.Array, products: _Products | None, interpret: bool) -> Any:
    """Ĝᵀ applied to each row of ``stack`` [r, ñ], and what ``products`` asks for, written."""
    depth, k, _, blocks = theta.shape
    rows = stack.shape[0]
    if depth == 0:
        return stack, products.written if products else ()
    shape, tile = (rows, k, blocks), _tile(blocks)
    adam = products is not None and products.adam is not None
    extra = [] if products is None else [products.inputs, *([products.adam] if adam else [])]
    # With Adam θ is read from where it is written.
    read = [] if adam else [theta]
    count = len(products.written) if products else 0

    def kernel(top: bool, layer_ref: Any, v_ref: Any, index_ref: Any, *refs: Any) -> None:
        given, out_ref, written = refs[: len(refs) - 1 - count], refs[len(refs) - 1 - count], refs[len(refs) - count :]
        layer, lanes, inside = layer_ref[0], *_lanes(tile, blocks)
        d = _gathered(v_ref, None if top else index_ref, layer + jnp.int32(1), shape, lanes, inside)
        weights = _weights(given[-count] if adam else given[0], layer, k, lanes, inside)
        for r in range(rows):
            for a in range(k):
                out = _sum([d[r][o] * weights[a][o] for o in range(k)])
                _store(out_ref, (r, a, lanes), out, inside)
        if products is None:
            return
        inputs_ref = given[0] if adam else given[1]
        u = [[_load(inputs_ref, (layer, r, a, lanes), inside) for a in range(k)] for r in range(rows)]
        for a in range(k):
            for o in range(k):
                h = u[0][a] * d[1][o] + u[1][a] * d[0][o]
                if adam:
                    place = (layer, a, o, lanes)
                    first, second = (_load(ref, place, inside) for ref in given[-2:])
                    after = _adam(weights[a][o], first, second, h, [given[1][number] for number in range(6)])
                    for ref, value in zip(written, after):
                        _store(ref, place, value, inside)
                else:
                    _store(written[0], (layer, a, o, lanes), h, inside)

    shapes = [jax.ShapeDtypeStruct(shape, stack.dtype)]
    shapes += [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (products.written if products else ())]
    # Operands before those that are written: the layer's number, the vectors, the indices, what is read.
    before = 3 + len(read) + len(extra)
    aliases = {before + number: 1 + number for number in range(count)}

    def step(top: bool, i: jax.Array, v: jax.Array, written: tuple[jax.Array, ...]) -> Any:
        call = _call(functools.partial(kernel, top), shapes, tile, blocks, aliases, interpret)
        out, *written = call(i[None], v, inverse, *read, *extra, *written)
        return out.reshape(rows, -1), tuple(written)

    carry = step(True, jnp.asarray(depth - 1, jnp.int32), stack, products.written if products else ())
    out, written = _loop(depth - 1, lambda i, carry: step(False, jnp.int32(depth - 2) - i, *carry), carry)
    return gather(out, inverse[0]), written


def _call(kernel: Any, shapes: Any, tile: int, blocks: int, aliases: dict[int, int], interpret: bool) -> Any:
    return pl.pallas_call(
        kernel,
        out_shape=shapes,
        grid=(pl.cdiv(blocks, tile),),
        input_output_aliases=aliases,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )


def _loop(count: int, body: Any, carry: Any) -> Any:
    # Outside of jit, in 64-bit mode, JAX counts in int64; Pallas' interpreter wants indices of one type.
    return lax.fori_loop(jnp.int32(0), jnp.int32(count), lambda i, c: body(i.astype(jnp.int32), c), carry)


def _tile(blocks: int) -> int:
    return min(TILE, pl.next_power_of_2(blocks))


def _lanes(tile: int, blocks: int) -> tuple[Any, jax.Array]:
    """A program's blocks, and which of them there are."""
    start = pl.program_id(0) * tile
    return pl.ds(start, tile), start + jnp.arange(tile, dtype=jnp.int32) < blocks


def _load(ref: Any, place: tuple[Any, ...], inside: jax.Array) -> jax.Array:
    return triton.load(ref.at[_indices(place)], mask=inside, other=0)


def _store(ref: Any, place: tuple[Any, ...], value: jax.Array, inside: jax.Array) -> None:
    triton.store(ref.at[_indices(place)], value, mask=inside)


def _indices(place: tuple[Any, ...]) -> tuple[Any, ...]:
    # Pallas' interpreter wants indices of one type.
    return tuple(jnp.int32(index) if isinstance(index, int) else index for index in place)


def _gathered(
    v_ref: Any, index_ref: Any, layer: jax.Array, shape: tuple[int, int, int], lanes: Any, inside: jax.Array
) -> list[list[jax.Array]]:
    """What enters the program's blocks: [r][a] vectors of the tile; without indices, as it is."""
    rows, k, blocks = shape
    u: list[list[jax.Array]] = [[] for _ in range(rows)]
    for a in range(k):
        here = pl.ds(lanes.start + a * blocks, lanes.size)
        places = None if index_ref is None else _load(index_ref, (layer, here), inside)
        for r in range(rows):
            u[r].append(_load(v_ref, (r, here if places is None else places), inside))
    return u


def _weights(theta_ref: Any, layer: jax.Array, k: int, lanes: Any, inside: jax.Array) -> list[list[jax.Array]]:
    return [[_load(theta_ref, (layer, a, o, lanes), inside) for o in range(k)] for a in range(k)]


def _sum(terms: list[jax.Array]) -> jax.Array:
    return functools.reduce(lambda total, term: total + term, terms)


def _adam(weight: jax.Array, first: jax.Array, second: jax.Array, h: jax.Array, scalars: list[jax.Array]) -> Any:
    """θ, μ, ν after Adam's step, in optax's order of operations."""
    adam, one = Adam(*scalars), jnp.ones((), h.dtype)
    first = (one - adam.first_decay) * h + adam.first_decay * first
    second = (one - adam.second_decay) * (h * h) + adam.second_decay * second
    change = (first / adam.first_correction) / (jnp.sqrt(second / adam.second_correction) + adam.epsilon)
    return weight - adam.rate * change, first, second
