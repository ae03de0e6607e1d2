"""What an operator is: a linear, symmetric map v ↦ Ĝᵀ(θ) Ĝ(θ) v (or its like) with learnable θ."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

# θ and what accompanies it are pytrees of arrays whose form each operator decides.
Theta = Any
Fixed = Any


@runtime_checkable
class Operator(Protocol):
    """The form of the inverse Hessian, G(θ) = α₀ S(θ): an object that knows how to hold and apply S.

    An operator is a small immutable description (depth, block size, …). Arrays are kept outside of it, in θ
    (learned) and in ``fixed`` (never learned, such as permutations), both pytrees of arrays, so that they can
    be traced, batched, sharded and saved. Four methods suffice for a new one; sizes have to be read from θ, not
    from the description, whose numbers may be traced values.
    """

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[Theta, Fixed]:
        """Draw θ₀ and the fixed arrays for vectors of ``size`` entries.

        Args:
          key: a typed JAX key, [].
          size: n, the number of optimized parameters, at least 1.
          dtype: the floating dtype of θ.
        """
        ...

    def apply(self, theta: Theta, fixed: Fixed, v: jax.Array) -> jax.Array:
        """S(θ) v for v of shape [n], same shape and dtype."""
        ...

    def hypergradient(self, theta: Theta, fixed: Fixed, m: jax.Array, g: jax.Array) -> Theta:
        """∂⟨g, S(θ) m⟩/∂θ, exact, for m and g of shape [n]; a pytree like θ."""
        ...

    def sizes(self, size: int) -> dict[str, int]:
        """How many numbers are held for n = ``size``: ``theta``, ``fixed``, and ``multiplications`` an apply."""
        ...


class Permutations(NamedTuple):
    """The fixed permutations P₁ … P_N of an operator with layers, as gather indices."""

    forward: jax.Array  # [N, ñ] int32: P_i u is u[forward[i]]
    inverse: jax.Array  # [N, ñ] int32: P_iᵀ u is u[inverse[i]]


def default_hidden_size(size: int, block_size: int) -> int:
    """ñ = 2n + k − (2n mod k), the released code's choice.

    It is the paper's "about 2n" rounded up to a multiple of k, and one whole block more where k divides 2n.

    >>> default_hidden_size(100, 4), default_hidden_size(7, 4)
    (204, 16)
    """
    return 2 * size + block_size - (2 * size) % block_size


ADAM_B1, ADAM_B2, ADAM_EPSILON = 0.9, 0.999, 1e-8  # β₁, β₂ and ε of Adam as optax has them


class AdamStep(NamedTuple):
    """The numbers of one step of Adam; scalars of θ's dtype but for the two decays and ε."""

    rate: jax.Array  # [] α, the meta-learning rate
    correction1: jax.Array  # [] 1 / (1 − β₁ᵗ)
    correction2: jax.Array  # [] 1 / (1 − β₂ᵗ)
    decay1: float = ADAM_B1
    decay2: float = ADAM_B2
    epsilon: float = ADAM_EPSILON


@runtime_checkable
class SupportsFusedAdam(Protocol):
    """What an operator may offer besides: Adam's step on θ and the product that follows it, together.

    For a θ that does not fit a cache, what a step costs is how often θ and Adam's moments travel from memory and back.
    An operator that knows its layers can do with fewer journeys than one pass after the other.
    """

    def fuses_adam(self, theta: Theta) -> bool:
        """Whether :meth:`adam_step` is to be used at this size; by shapes, not by values."""
        ...

    def inputs_at_start(self, theta: Theta) -> Any:
        """What the operator wants to be given back at the first step, of m = 0; a pytree of arrays."""
        ...

    def adam_step(
        self,
        theta: Theta,
        fixed: Fixed,
        moments: Any,
        inputs: Any,
        m: jax.Array,
        g: jax.Array,
        v: jax.Array,
        adam: AdamStep,
    ) -> tuple[Theta, Any, Any, jax.Array, jax.Array]:
        """One step of Adam down ``hypergradient(theta, fixed, m, g)``, and S of v by the θ that comes of it.

        Args:
          inputs: what the step before returned, whose v is this one's m; or None, without it.

        Returns:
          θ, Adam's moments, what the next step is to be given as ``inputs`` (None for None), S(θ) v [n], and whether
          the step was made, [] bool.
        """
        ...


def holds_inputs(inputs: Any) -> bool:
    """Whether a state's ``inputs`` are those of an :meth:`SupportsFusedAdam.adam_step`, not scalars in their place.

    >>> holds_inputs(None), holds_inputs(jax.numpy.zeros(())), holds_inputs(jax.numpy.zeros(3))
    (False, False, True)
    """
    return any(leaf.ndim for leaf in jax.tree.leaves(inputs))


def gather(v: jax.Array, indices: jax.Array) -> jax.Array:
    """``v[..., indices]`` for indices known to be a permutation: no bounds check, no fill.

    Args:
      v: [..., p].
      indices: [p], int32.
    """
    return v.at[..., indices].get(mode="promise_in_bounds", unique_indices=True)


@functools.partial(jax.jit, static_argnames=("count", "size"))
def random_permutations(key: jax.Array, count: int, size: int) -> tuple[jax.Array, jax.Array]:
    """``count`` independent uniform permutations of ``size`` indices, and their inverses.

    Returns:
      Two int32 arrays of shape [count, size].

    >>> P, inverse = random_permutations(jax.random.key(0), 2, 5)
    >>> bool((P[1][inverse[1]] == jax.numpy.arange(5)).all())
    True
    """
    indices = jax.numpy.arange(size, dtype=jax.numpy.int32)
    permutations = jax.vmap(lambda k: jax.random.permutation(k, indices))(jax.random.split(key, count))
    inverses = jax.vmap(lambda p: jax.numpy.zeros_like(p).at[p].set(indices))(permutations)
    return permutations, inverses


@functools.partial(jax.jit, static_argnames=("count", "size", "block_size"))
def permutations_of_part(key: jax.Array, count: int, size: int, block_size: int) -> Permutations:
    """Random permutations for ñ = n rounded up to a multiple of k, in which the zeros beyond n stay in the last block.

    For n > k that k does not divide. In each of the ``count`` layers the zeros are the last k − (n mod k) coordinates
    of the last block, whose first n mod k are any of the n.

    >>> layers = permutations_of_part(jax.random.key(0), 2, 7, 4).forward
    >>> sorted(layers[0].tolist()), layers[0][7].item(), layers[1][7].item()
    ([0, 1, 2, 3, 4, 5, 6, 7], 7, 7)
    """
    drawn, _ = random_permutations(key, count, size)
    forward = jax.vmap(lambda p, layer: part_of(p, layer == 0, block_size))(drawn, jax.numpy.arange(count))
    index = jax.numpy.arange(forward.shape[1], dtype=jax.numpy.int32)
    return Permutations(forward, jax.vmap(lambda p: jax.numpy.zeros_like(p).at[p].set(index))(forward))


def part_of(drawn: jax.Array, first: jax.Array, block_size: int) -> jax.Array:
    """One layer of :func:`permutations_of_part`, [ñ], from a random permutation [n]; ``first``: is it layer 0."""
    index = functools.partial(jax.numpy.arange, dtype=jax.numpy.int32)
    size = drawn.shape[0]
    blocks, passed = -(-size // block_size), size % block_size
    # Where each coordinate of the n, and then each zero, is between layers; the first layer gets them in this order.
    row, column = (index(size) - passed * blocks) // (blocks - 1), (index(size) - passed * blocks) % (blocks - 1)
    others = jax.numpy.where(index(size) < passed * blocks, index(size), (passed + row) * blocks + column)
    places = jax.numpy.concatenate([others, index(passed, block_size) * blocks + blocks - 1])
    drawn = jax.numpy.concatenate([drawn, index(size, size + block_size - passed)])
    return jax.numpy.zeros_like(drawn).at[places].set(jax.numpy.where(first, drawn, places[drawn]))


def check_indexable(hidden_size: int) -> None:
    """Refuse a hidden size whose coordinates int32 permutations cannot number.

    >>> check_indexable(204)
    """
    largest = 2**31 - 1
    if hidden_size > largest:
        raise ValueError(
            f"hidden_size must be at most {largest}, as permutations are int32 indices; got {hidden_size} (the default "
            "is about twice the number of parameters). Optimize the parameters in groups with optax.partition."
        )


def padded(v: jax.Array, size: int) -> jax.Array:
    """``v`` with zeros appended along its last axis up to ``size``: multiplication by (I 0)ᵀ."""
    return jax.numpy.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, size - v.shape[-1])])


def sum_over(term: Any, count: int) -> jax.Array:
    """term(0) + … + term(count − 1), written out so that XLA makes one fused loop of it."""
    total: jax.Array = term(0)
    for index in range(1, count):
        total = total + term(index)
    return total
