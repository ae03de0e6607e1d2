"""Optimizers beside the paper's list: what a referee would ask for on the noisy bowl.

Their definitions are ours. Each answers one question about LODO there: would quasi-Newton's classics do, in the form
that a noisy loss asks for; would the gradients' covariance do, without learning; does the network of blocks cost
anything against a matrix that is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

#: Steps between two inverse roots of `whitening`, each of which costs an eigendecomposition.
ROOT_EVERY = 100


class WhiteningState(NamedTuple):
    """State of `whitening`."""

    step_count: jax.Array  # [] int32
    covariance: jax.Array  # [n, n]: C
    root: jax.Array  # [n, n]: C^(−1/2), as of its last computation


def whitening(
    learning_rate: jax.typing.ArrayLike = 1.0, decay: jax.typing.ArrayLike = 0.999
) -> optax.GradientTransformation:
    r"""Full-matrix whitening: a step along the gradient divided by the root of the gradients' second moment.

    .. math::
        C_t = ρ C_{t-1} + (1 - ρ)\, g_t g_t^\top, \qquad x_{t+1} = x_t - η\, C_t^{-1/2} g_t, \qquad C_0 = I

    On a quadratic whose centre makes isotropic steps of unit variance, x follows the centre with a lag of one step once
    it is close, so that E gᵀg is H² and C^(−1/2) is the inverse Hessian. Any other drift makes it another matrix.

    Args:
      learning_rate: η ≥ 0.
      decay: ρ in [0, 1).

    Returns:
      A transformation for one vector. The root is computed each `ROOT_EVERY` steps; under ``vmap`` at each step.

    References:
      The full-matrix form of Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011, with RMSprop's average.

    >>> optimizer = whitening(1.0, 0.0)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> updates, state = optimizer.update(jnp.array([4.0, 0.0]), state)
    >>> abs(updates).round(4).tolist()
    [1.0, 0.0]
    """

    def init(params: jax.Array) -> WhiteningState:
        identity = jnp.eye(params.shape[0], dtype=params.dtype)
        return WhiteningState(jnp.zeros((), jnp.int32), identity, identity)

    def update(gradient: jax.Array, state: WhiteningState, params: Any = None) -> tuple[jax.Array, WhiteningState]:
        rho = jnp.asarray(decay, gradient.dtype)
        covariance = rho * state.covariance + (1 - rho) * jnp.outer(gradient, gradient)
        root = jax.lax.cond(state.step_count % ROOT_EVERY == 0, inverse_root, lambda _: state.root, covariance)
        step = -jnp.asarray(learning_rate, gradient.dtype) * (root @ gradient)
        return step, WhiteningState(state.step_count + 1, covariance, root)

    return optax.GradientTransformation(init, update)


def inverse_root(covariance: jax.Array) -> jax.Array:
    """C^(−1/2) of a symmetric positive semi-definite C [n, n]; eigenvalues below 1e-14 of the largest count as that.

    >>> inverse_root(jnp.diag(jnp.array([4.0, 16.0]))).round(4).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    eigenvalues, vectors = jnp.linalg.eigh(covariance)
    return (vectors / jnp.sqrt(jnp.maximum(eigenvalues, 1e-14 * eigenvalues[-1]))) @ vectors.T


def newton(learning_rate: jax.typing.ArrayLike = 1.0) -> optax.GradientTransformationExtraArgs:
    """Newton's step with the exact Hessian, −η H⁻¹ g, for one vector; ``update(g, state, params, hessian=H)``.

    On the noisy bowl it reaches the centre of the batch, and so has the floor that any step can have.

    Args:
      learning_rate: η ≥ 0.

    >>> updates, _ = newton().update(jnp.array([2.0, 2.0]), (), hessian=jnp.diag(jnp.array([1.0, 4.0])))
    >>> updates.tolist()
    [-2.0, -0.5]
    """

    def update(gradient: jax.Array, state: Any, params: Any = None, **extra: Any) -> tuple[jax.Array, Any]:
        factor = jax.scipy.linalg.cho_factor(extra["hessian"])
        return -jnp.asarray(learning_rate, gradient.dtype) * jax.scipy.linalg.cho_solve(factor, gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


class OfDense(NamedTuple):
    """No fixed arrays; says whose state it is in, as the library cannot know it."""

    @property
    def operator(self) -> Dense:
        """The form of G."""
        return Dense()


@dataclass(frozen=True)
class Dense:
    """S(θ) = (θ + θᵀ)/2 with a free matrix θ [n, n] that starts at I: LODO's learning without LODO's network.

    An operator for :func:`lodo.lodo`. Symmetric by construction, not positive semi-definite.

    >>> theta, fixed = Dense().init(jax.random.key(0), 2, jnp.float32)
    >>> Dense().hypergradient(theta, fixed, jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, OfDense]:
        """θ₀ = I, [n, n]; nothing is drawn."""
        return jnp.eye(size, dtype=dtype), OfDense()

    def apply(self, theta: jax.Array, fixed: OfDense, v: jax.Array) -> jax.Array:
        """(θ + θᵀ) v / 2, [n]."""
        return (theta @ v + v @ theta) / 2

    def hypergradient(self, theta: jax.Array, fixed: OfDense, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, S m⟩/∂θ = (g mᵀ + m gᵀ)/2, [n, n]."""
        product = jnp.outer(g, m)
        return (product + product.T) / 2

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters, and multiplications of one application."""
        return {"theta": size**2, "fixed": 0, "multiplications": 2 * size**2}
