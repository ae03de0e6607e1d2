"""The paper's operator: Ĝ(θ) = ∏ᵢ B(θ⁽ⁱ⁾) Pᵢ, alternating block-diagonal matrices and fixed permutations."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lodo._validation import check_flag, check_integer, is_traced, require_concrete_integers
from lodo.operators import _passes
from lodo.operators._passes import Inputs
from lodo.operators.base import (
    AdamStep,
    Permutations,
    check_indexable,
    default_hidden_size,
    gather,
    padded,
    permutations_of_part,
    random_permutations,
    sum_over,
)
from lodo.operators.rolls import Rolls, indices, random_rolls, turns

#: How the permutations can be drawn; see :class:`BlockPermutation`.
PERMUTATIONS = ("uniform", "rolled")
#: What can compute the operator; see :class:`BlockPermutation`.
KERNELS = ("xla", "native")


@dataclass(frozen=True)
class BlockPermutation:
    """S(θ) = (I 0) Ĝᵀ Ĝ (I 0)ᵀ with Ĝ = B(θ⁽ᴺ⁾) P_N … B(θ⁽¹⁾) P₁, symmetric positive semi-definite.

    Each B is block-diagonal with k×k blocks, each of which starts as a random orthogonal matrix, so that
    S(θ₀) = I exactly. The P_i are uniformly random permutations of the ñ hidden coordinates.

    θ is one array [N, k, k, ñ/k], ``theta[i, a, o, b]`` being the weight with which entry a of block b's input
    enters entry o of its output in layer i+1. Block b acts on the hidden coordinates b, b + ñ/k, b + 2ñ/k, …:
    with the blocks along the last axis a layer is k² products of long contiguous vectors. Which coordinates make
    a block does not matter otherwise, the permutations between the layers being uniform.

    Args:
      depth: N, the number of layers; 0 makes S the identity.
      block_size: k, the side of a block.
      hidden_size: ñ, at least n and a multiple of k; default :func:`default_hidden_size`.
      permutations: "uniform" (default), the paper's; "rolled", each row of the hidden coordinates turned by a random
        shift, which moves contiguous pieces instead of single numbers and keeps k numbers a layer instead of 2ñ
        (:class:`lodo.operators.Rolls`).
      kernel: "xla" (default), on any device; "native", kernels in C++ for CPUs, which are compiled on first use by the
        machine's C++ compiler (``lodo.operators._native``), in float32 or float64, run one after the other under
        ``vmap`` and have no derivative.
      padding: True (default), the paper's: ñ hidden coordinates, of which n are parameters. False: Ĝ is square, n by n,
        so that it has a determinant. Then k is at most n, and in each layer other n mod k coordinates, drawn at random,
        pass through it unchanged. They share the last block, which stays the identity, with k − (n mod k) zeros that
        never leave it, so that ñ is n rounded up to a multiple of k.

    Raises:
      TypeError: an argument that is no integer.
      ValueError: depth < 0, block_size < 1, hidden_size < 1; at ``init``, a hidden size that does not fit n; an unknown
        kernel; without padding, a hidden size, or at ``init`` rolled permutations where k does not divide n.
      RuntimeError: kernel="native" elsewhere than on a CPU, or without a C++ compiler.

    References:
      Liao et al. 2023, §3, Eqs. (1) and (2).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> operator = BlockPermutation(depth=4, block_size=2)
      >>> theta, fixed = operator.init(jax.random.key(0), 5, jnp.float32)
      >>> theta.shape, fixed.forward.shape
      ((4, 2, 2, 6), (4, 12))
      >>> v = jnp.arange(5.0)
      >>> bool(jnp.allclose(operator.apply(theta, fixed, v), v, atol=1e-5))
      True
    """

    depth: int = 16
    block_size: int = 4
    hidden_size: int | None = None
    permutations: str = "uniform"
    kernel: str = field(default="xla", repr=False)
    padding: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", check_integer("depth", self.depth, 0))
        object.__setattr__(self, "block_size", check_integer("block_size", self.block_size, 1))
        if self.hidden_size is not None:
            object.__setattr__(self, "hidden_size", check_integer("hidden_size", self.hidden_size, 1))
            if not (is_traced(self.hidden_size) or is_traced(self.block_size)):
                self._check_multiple(self.hidden_size)

        if self.permutations not in PERMUTATIONS:
            known = " or ".join(map(repr, PERMUTATIONS))
            raise ValueError(f"permutations must be {known}; got {self.permutations!r}.")
        check_flag("padding", self.padding)
        if not self.padding and self.hidden_size is not None:
            raise ValueError(
                f"Without padding the hidden size is n rounded up to a multiple of block_size; got "
                f"hidden_size={self.hidden_size} as well. Leave one of the two alone."
            )
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(map(repr, KERNELS))}; got {self.kernel!r}.")

    def _check_multiple(self, hidden_size: int) -> None:
        if hidden_size % self.block_size:
            raise ValueError(
                f"hidden_size must be a multiple of block_size (here {self.block_size}); got {hidden_size}. "
                f"The next multiple is {hidden_size + self.block_size - hidden_size % self.block_size}."
            )

    def _hidden(self, size: int) -> int:
        require_concrete_integers(
            "The block-permutation operator",
            depth=self.depth,
            block_size=self.block_size,
            hidden_size=self.hidden_size,
        )
        if not self.padding:
            return -(-size // self._block(size)) * self._block(size)
        if self.hidden_size is None:
            return default_hidden_size(size, self.block_size)
        if self.hidden_size < size:
            raise ValueError(
                f"hidden_size must be at least the number of parameters n = {size}; got {self.hidden_size}. "
                f"The default would be {default_hidden_size(size, self.block_size)}."
            )
        result: int = self.hidden_size
        return result

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, Permutations | Rolls]:
        """θ₀ [N, k, k, ñ/k], its blocks Haar-random orthogonal, and the permutations, [N, ñ] or [N, k]."""
        hidden, k = self._hidden(size), self._block(size)
        check_indexable(hidden)
        weights_key, permutation_key = jax.random.split(key)
        theta = random_orthogonal(weights_key, k, self.depth * (hidden // k), dtype)
        theta = jnp.moveaxis(theta.reshape(k, k, self.depth, hidden // k), 2, 0)
        if not self.padding and hidden > size:
            if self.permutations == "rolled":
                raise ValueError(
                    f"Rolled permutations without padding need a block_size that divides n; got {k} and n = {size}. "
                    "Use permutations='uniform', or padding."
                )
            theta = theta.at[..., -1].set(jnp.eye(k, dtype=theta.dtype))
            return theta, permutations_of_part(permutation_key, self.depth, size, k)
        if self.permutations == "rolled":
            return theta, random_rolls(permutation_key, self.depth, k, hidden // k)
        return theta, Permutations(*random_permutations(permutation_key, self.depth, hidden))

    def apply(self, theta: jax.Array, fixed: Permutations | Rolls, v: jax.Array) -> jax.Array:
        """S(θ) v for v [n] (or a stack of vectors, [r, n])."""
        if self.is_native(theta):
            by_native: jax.Array = _native().apply(theta, rows_or_indices(theta, fixed), v)
            return by_native
        stack = padded(jnp.atleast_2d(v), hidden_size_of(theta))
        forward, inverse = _ways(theta, fixed)
        if _is_large(theta):
            out = jnp.stack(_passes.down(theta, inverse, _passes.up(theta, forward, tuple(stack))))
        else:
            out, _ = lax.scan(_layer_up_alone, stack, (theta, forward))
            out, _ = lax.scan(_layer_down_alone, out, (theta, inverse), reverse=True)
        return out[:, : v.shape[-1]].reshape(v.shape)

    def hypergradient(self, theta: jax.Array, fixed: Permutations | Rolls, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, S m⟩/∂θ⁽ⁱ⁾ = uᵢ(m) ⊗ dᵢ(g) + uᵢ(g) ⊗ dᵢ(m), block by block; [N, k, k, ñ/k].

        uᵢ(v) is what enters B(θ⁽ⁱ⁾) on the way up, when Ĝ is applied to the padded v; dᵢ(v) is what enters its
        transpose on the way down, when Ĝᵀ is applied to Ĝ v. m and g travel together, so that θ and the
        permutations are read once for both. Without padding, that of the block that stays the identity is 0.
        """
        full = self._hypergradient(theta, fixed, m, g)
        return full.at[..., -1].set(0) if self.passed_blocks(theta, m.shape[-1]) else full

    def passed_blocks(self, theta: jax.Array, size: int) -> int:
        """How many blocks of each layer stay the identity, the last ones, for n = ``size``; see ``padding``."""
        return int(not self.padding and hidden_size_of(theta) > size)

    def _hypergradient(self, theta: jax.Array, fixed: Permutations | Rolls, m: jax.Array, g: jax.Array) -> jax.Array:
        if self.is_native(theta):
            by_native: jax.Array = _native().hypergradient(theta, rows_or_indices(theta, fixed), m, g)
            return by_native
        stack = padded(jnp.stack([m, g]), hidden_size_of(theta))
        forward, inverse = _ways(theta, fixed)
        if _is_large(theta):
            empty = _passes.inputs_of_zero(theta, len(stack))
            _, (up, down, *_) = _passes.up_and_down(theta, forward, inverse, tuple(stack), empty)
        else:
            # The layers' inputs uᵢ and dᵢ [N, r, k, ñ/k] are kept.
            out, up = lax.scan(_layer_up, stack, (theta, forward))
            _, down = lax.scan(_layer_down, out, (theta, inverse), reverse=True)
        u_m, u_g = up[:, 0, :, None, :], up[:, 1, :, None, :]
        d_m, d_g = down[:, 0, None, :, :], down[:, 1, None, :, :]
        return u_m * d_g + u_g * d_m

    def through(self, theta: jax.Array, fixed: Permutations | Rolls, stack: jax.Array) -> Inputs:
        """What vectors are where they leave the layers of Ĝ, and where they then enter those of Ĝᵀ.

        Args:
          theta: θ [N, k, k, ñ/k].
          fixed: the permutations.
          stack: r vectors [r, n].

        Returns:
          ``up``, yᵢ = B(θ⁽ⁱ⁾) uᵢ in place of the uᵢ, and ``down``, dᵢ, each [N, r, k, ñ/k]; and their largest
          magnitudes [r]. By them ∂⟨g, S m⟩/∂B(θ⁽ⁱ⁾) · B(θ⁽ⁱ⁾)ᵀ = dᵢ(g) yᵢ(m)ᵀ + dᵢ(m) yᵢ(g)ᵀ.
        """
        stack = padded(stack, hidden_size_of(theta))
        if self.is_native(theta):
            by_native: Inputs = _native().through(theta, rows_or_indices(theta, fixed), stack)
            return by_native
        forward, inverse = _ways(theta, fixed)
        if _is_large(theta):
            empty = _passes.inputs_of_zero(theta, len(stack))
            _, kept = _passes.up_and_down(theta, forward, inverse, tuple(stack), empty, outputs=True)
            return kept
        out, up = lax.scan(_layer_up_to_output, stack, (theta, forward))
        _, down = lax.scan(_layer_down, out, (theta, inverse), reverse=True)
        largest = (jnp.max(jnp.abs(x), axis=(0, 2, 3), initial=0) for x in (up, down))
        return Inputs(up, down, *largest)

    def fuses_adam(self, theta: jax.Array) -> bool:
        """Whether :meth:`adam_step` is worth its longer program at this size (a fact of shapes, not of values)."""
        # Which has no way to leave one block as it is.
        return self.padding and (self.is_native(theta) or (self.kernel == "xla" and _is_large(theta)))

    def inputs_at_start(self, theta: jax.Array) -> Inputs:
        """The layers' inputs of m = 0, each [N, 1, k, ñ/k]: what the first :meth:`adam_step` is given."""
        return _passes.inputs_of_zero(theta, 1)

    def adam_step(
        self,
        theta: jax.Array,
        fixed: Permutations | Rolls,
        moments: tuple[jax.Array, jax.Array],
        inputs: Inputs | None,
        m: jax.Array,
        g: jax.Array,
        v: jax.Array,
        adam: AdamStep,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], Inputs | None, jax.Array, jax.Array]:
        """One step of Adam down :meth:`hypergradient`, and :meth:`apply` with the θ that comes of it.

        The same numbers as one after the other, up to rounding; θ and the moments can be overwritten in place, and the
        hypergradient is never stored.

        Args:
          theta: θ [N, k, k, ñ/k].
          fixed: the permutations.
          moments: Adam's first and second moment, each like θ.
          inputs: the layers' inputs of m at this θ, as they came out of the step before, where m was v; then only g
            goes up and down for the hypergradient. None: m goes beside it, and no inputs are returned.
          m: [n], the momentum that the step judged was made from.
          g: [n], the gradient that judges it.
          v: [n], what S(θ) is applied to afterwards.
          adam: the step's numbers.

        Returns:
          θ, the moments, the layers' inputs of v at the new θ, S(θ) v [n], and whether it was done [] bool: where an
          entry of the hypergradient is not finite, or so large that its square might overflow, θ and the moments stay
          as they are, and the inputs are m's.
        """
        hidden, size = hidden_size_of(theta), v.shape[0]
        m, g, v = (padded(w, hidden) for w in (m, g, v))
        if self.is_native(theta):
            ways = rows_or_indices(theta, fixed)
            theta, moments, inputs, out, done = _native().adam_step(theta, ways, moments, inputs, m, g, v, adam)
            return theta, moments, inputs, out[:size], done
        forward, inverse = _ways(theta, fixed)
        if inputs is None:
            empty = _passes.inputs_of_zero(theta, 2)
            _, both = _passes.up_and_down(theta, forward, inverse, (m, g), empty)
            of_m, of_g = (
                Inputs(*(x[:, i : i + 1] for x in both[:2]), *(x[i : i + 1] for x in both[2:])) for i in (0, 1)
            )
        else:
            of_m = inputs
            _, of_g = _passes.up_and_down(theta, forward, inverse, (g,), _passes.inputs_of_zero(theta, 1))
        bound = of_m.largest_up[0] * of_g.largest_down[0] + of_g.largest_up[0] * of_m.largest_down[0]
        done = jnp.isfinite(bound * bound)
        theta, moments = _passes.adam_in_place(theta, moments, of_m, of_g, adam, done)
        if inputs is None:
            (out,) = _passes.down(theta, inverse, _passes.up(theta, forward, (v,)))
        else:
            (out,), inputs = lax.cond(
                done,
                lambda inputs: _passes.up_and_down(theta, forward, inverse, (v,), inputs),
                lambda inputs: ((jnp.zeros_like(v),), inputs),
                inputs,
            )
        return theta, moments, inputs, out[:size], done

    def is_native(self, theta: jax.Array) -> bool:
        """Whether the C++ kernels compute it."""
        # Without layers there is nothing to compute.
        return self.kernel == "native" and theta.shape[0] > 0

    def _block(self, size: int) -> int:
        """k at n = ``size``."""
        return self.block_size if self.padding else min(self.block_size, size)

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters, and multiplications of one application."""
        hidden = self._hidden(size)
        theta = self.depth * hidden * self._block(size)
        fixed = self.depth * self._block(size) if self.permutations == "rolled" else 2 * self.depth * hidden
        return {"theta": theta, "fixed": fixed, "multiplications": 2 * theta}


def hidden_size_of(theta: jax.Array) -> int:
    """ñ, from the shape of θ [N, k, k, ñ/k]."""
    return theta.shape[1] * theta.shape[3]


def _is_large(theta: jax.Array) -> bool:
    return _passes.is_large(hidden_size_of(theta), theta.shape[0])


def _ways(theta: jax.Array, fixed: Permutations | Rolls) -> tuple[Any, Any]:
    """P and Pᵀ in the form that is used at this size: indices [N, ñ], or for large vectors how far rows are turned."""
    both = rows_or_indices(theta, fixed)
    if isinstance(fixed, Permutations):
        return both
    return both if _is_large(theta) else (indices(both[0], theta.shape[3]), indices(both[1], theta.shape[3]))


def rows_or_indices(theta: jax.Array, fixed: Permutations | Rolls) -> tuple[Any, Any]:
    """P and Pᵀ: indices [N, ñ], or how far rows are turned."""
    return (fixed.forward, fixed.inverse) if isinstance(fixed, Permutations) else turns(fixed, theta.shape[3])


# It takes a moment to load, and nobody else needs it.
def _native() -> Any:
    from lodo.operators import _native

    return _native


# At module level, so that a scan outside of jit finds its compiled program again on the next call.
def _layer_up(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    block, permutation = layer
    k, _, blocks = block.shape
    # The barrier keeps XLA from fusing the gather into the product, where it would be redone k times.
    u = lax.optimization_barrier(gather(v, permutation)).reshape(-1, k, blocks)
    return sum_over(lambda a: u[:, a, None, :] * block[None, a, :, :], k).reshape(v.shape), u


def _layer_up_to_output(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    out, u = _layer_up(v, layer)
    return out, out.reshape(u.shape)


def _layer_down(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    block, inverse = layer
    _, k, blocks = block.shape
    d = v.reshape(-1, k, blocks)
    out = sum_over(lambda o: d[:, o, None, :] * block[None, :, o, :], k)
    return gather(lax.optimization_barrier(out.reshape(v.shape)), inverse), d


# Without the layers' inputs: outside of jit nobody would take them out of a scan that nobody reads them from.
def _layer_up_alone(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return _layer_up(v, layer)[0], None


def _layer_down_alone(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return _layer_down(v, layer)[0], None


@functools.partial(jax.jit, static_argnames=("k", "count", "dtype"))
def random_orthogonal(key: jax.Array, k: int, count: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``count`` independent Haar-random orthogonal k×k matrices, [k, k, count].

    Gram–Schmidt on the columns of Gaussian matrices (which gives the Haar measure), for all matrices at once along
    the last axis, each projection done twice for orthogonality to rounding.

    >>> Q = random_orthogonal(jax.random.key(0), 3, 5, jnp.float32)
    >>> bool(jnp.allclose(jnp.einsum("aoc,apc->opc", Q, Q), jnp.eye(3)[:, :, None], atol=1e-5))
    True
    """
    return orthonormalized(jax.random.normal(key, (k, k, count), dtype))


def orthonormalized(gaussian: jax.Array) -> jax.Array:
    """Matrices [k, k, …] with their columns made orthonormal in turn, each matrix for itself."""
    k, trailing = gaussian.shape[0], gaussian.ndim - 2

    def column(j: jax.Array, q: jax.Array) -> jax.Array:
        v = lax.dynamic_index_in_dim(gaussian, j, axis=1, keepdims=False)
        unit = jax.nn.one_hot(j, k, dtype=gaussian.dtype).reshape(k, *[1] * trailing)
        fallback = jnp.broadcast_to(unit, v.shape)
        for _ in range(2):
            # Columns from j on are still zero, so that projecting on all of them takes out the earlier ones.
            v = v - jnp.einsum("ao...,o...->a...", q, jnp.einsum("ao...,a...->o...", q, v))
            norm = jnp.sqrt(jnp.sum(v * v, axis=0, keepdims=True))
            # A draw of exactly zero has no direction; any will do.
            v = jnp.where(norm > 0, v / jnp.where(norm > 0, norm, jnp.ones_like(norm)), fallback)
        result: jax.Array = lax.dynamic_update_index_in_dim(q, v, j, axis=1)
        return result

    result: jax.Array = lax.fori_loop(0, k, column, jnp.zeros_like(gaussian))
    return result
