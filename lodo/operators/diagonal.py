"""Two simple operators: a learned diagonal, and a single learned scalar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class NoFixed(NamedTuple):
    """An operator without fixed arrays."""


@dataclass(frozen=True)
class Diagonal:
    """S(θ) = diag(θ) with θ [n] starting at 1: a learned rate for each parameter ("LODO-Diagonal").

    Symmetric by construction; positive semi-definite only while θ stays non-negative.

    References:
      Liao et al. 2023, §5.1 (ablations); Baydin et al. 2018 for one scalar rate.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> theta, fixed = Diagonal().init(jax.random.key(0), 3, jnp.float32)
      >>> Diagonal().hypergradient(theta, fixed, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)).tolist()
      [1.0, 2.0, 3.0]
    """

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, NoFixed]:
        """θ₀ = 1, [n]; nothing is drawn."""
        del key
        return jnp.ones(size, dtype), NoFixed()

    def apply(self, theta: jax.Array, fixed: NoFixed, v: jax.Array) -> jax.Array:
        """θ ⊙ v, [n]."""
        del fixed
        return theta * v

    def hypergradient(self, theta: jax.Array, fixed: NoFixed, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, θ ⊙ m⟩/∂θ = m ⊙ g, [n]."""
        del theta, fixed
        return m * g

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters, and multiplications of one application."""
        return {"theta": size, "fixed": 0, "multiplications": size}


@dataclass(frozen=True)
class Scalar:
    """S(θ) = θ I with one number θ starting at 1: a learned global rate ("LODO-Global").

    References:
      Liao et al. 2023, §5.1 (ablations); Baydin et al. 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> theta, fixed = Scalar().init(jax.random.key(0), 3, jnp.float32)
      >>> float(Scalar().hypergradient(theta, fixed, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)))
      6.0
    """

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, NoFixed]:
        """θ₀ = 1, []; nothing is drawn."""
        del key, size
        return jnp.ones((), dtype), NoFixed()

    def apply(self, theta: jax.Array, fixed: NoFixed, v: jax.Array) -> jax.Array:
        """θ v, [n]."""
        del fixed
        return jnp.broadcast_to(theta, v.shape) * v

    def hypergradient(self, theta: jax.Array, fixed: NoFixed, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, θ m⟩/∂θ = ⟨m, g⟩, []."""
        del theta, fixed
        return jnp.vdot(m, g)

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters, and multiplications of one application."""
        return {"theta": 1, "fixed": 0, "multiplications": size}
