"""LODO written down plainly: Algorithm 1 with ``jax.grad`` through gathers and block products.

What someone would write who reads the paper and leaves the derivatives to JAX. Nothing of the library is used, so
that it serves as a check of the library's numbers and as what its speed is compared with.

    Ĝ v = B(θ⁽ᴺ⁾) P_N … B(θ⁽¹⁾) P₁ ṽ,   G(θ) m = α₀ (I 0) Ĝᵀ Ĝ m̃,   ∇_θ ℓ = −∂⟨g, G(θ) m⟩/∂θ
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class State(NamedTuple):
    theta: jax.Array  # [N, ñ/k, k, k]: blocks, output by input
    forward: jax.Array  # [N, ñ] int32: P_i u is u[forward[i]]
    inverse: jax.Array  # [N, ñ] int32: P_iᵀ u is u[inverse[i]]
    momentum: jax.Array  # [n]
    adam: Any


def multiply(theta: jax.Array, forward: jax.Array, v: jax.Array) -> jax.Array:
    """Ĝ (I 0)ᵀ v, layer by layer."""
    depth, blocks, k, _ = theta.shape
    u = jnp.pad(v, (0, forward.shape[1] - v.size))
    for i in range(depth):
        u = jnp.einsum("boi,bi->bo", theta[i], u[forward[i]].reshape(blocks, k)).reshape(-1)
    return u


def product(theta: jax.Array, forward: jax.Array, inverse: jax.Array, v: jax.Array) -> jax.Array:
    """(I 0) Ĝᵀ Ĝ (I 0)ᵀ v, the transpose left to JAX as well."""
    del inverse
    up, transpose = jax.vjp(lambda v: multiply(theta, forward, v), v)
    return transpose(up)[0]


def arranged_product(theta: jax.Array, forward: jax.Array, inverse: jax.Array, v: jax.Array) -> jax.Array:
    """The same, with the layers in a scan and the transpose written out, so that it gathers and does not scatter."""
    _, blocks, k, _ = theta.shape

    def up(u: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        block, permutation = layer
        return jnp.einsum("boi,bi->bo", block, u[permutation].reshape(blocks, k)).reshape(-1), None

    def down(u: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        block, permutation = layer
        return jnp.einsum("boi,bo->bi", block, u.reshape(blocks, k)).reshape(-1)[permutation], None

    u = jnp.pad(v, (0, forward.shape[1] - v.size))
    u, _ = jax.lax.scan(up, u, (theta, forward))
    u, _ = jax.lax.scan(down, u, (theta, inverse), reverse=True)
    return u[: v.size]


def lodo_by_autodiff(
    alpha0: float = 1.0,
    alpha: float = 1e-3,
    beta: float = 0.9,
    depth: int = 16,
    k: int = 4,
    seed: int = 0,
    product: Callable[..., jax.Array] = product,
) -> optax.GradientTransformation:
    """Algorithm 1 on a vector [n]; arguments as :func:`lodo.lodo`'s, and how G is multiplied by a vector."""
    adam = optax.adam(alpha)

    def init(x: jax.Array) -> State:
        n, dtype = x.size, x.dtype
        hidden = 2 * n + k - 2 * n % k
        weights, order = jax.random.split(jax.random.key(seed))
        gaussian = jax.random.normal(weights, (depth, hidden // k, k, k), dtype)
        keys = jax.random.split(order, depth)
        forward = jax.lax.map(lambda key: jax.random.permutation(key, jnp.arange(hidden, dtype=jnp.int32)), keys)
        inverse = jax.lax.map(lambda p: jnp.zeros_like(p).at[p].set(jnp.arange(hidden, dtype=jnp.int32)), forward)
        theta = _orthonormal(gaussian)
        return State(theta, forward, inverse, jnp.zeros(n, dtype), adam.init(theta))

    def update(g: jax.Array, state: State, params: Any = None) -> tuple[jax.Array, State]:
        theta, forward, inverse, m, adam_state = state

        def loss(theta: jax.Array) -> jax.Array:
            return -alpha0 * g @ product(theta, forward, inverse, m)

        change, adam_state = adam.update(jax.grad(loss)(theta), adam_state)
        theta = theta + change
        m = beta * m + (1 - beta) * g
        step = -alpha0 * product(theta, forward, inverse, m)
        return step, State(theta, forward, inverse, m, adam_state)

    return optax.GradientTransformation(init, update)


def _orthonormal(blocks: jax.Array) -> jax.Array:
    """Gram–Schmidt on the last axis's columns of [..., k, k], twice."""
    columns: list[jax.Array] = []
    for j in range(blocks.shape[-1]):
        v = blocks[..., j]
        for _ in range(2):
            for q in columns:
                v = v - jnp.sum(q * v, axis=-1, keepdims=True) * q
        columns.append(v / jnp.linalg.norm(v, axis=-1, keepdims=True))
    return jnp.stack(columns, axis=-1)
