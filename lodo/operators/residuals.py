"""The residual operator: layers u ← u + w ⊙ P u around a diagonal ("LODO-Residuals")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lodo._validation import check_integer, require_concrete_integers
from lodo.operators.base import Permutations, check_indexable, gather, padded, random_permutations


class ResidualsTheta(NamedTuple):
    """What the residual operator learns."""

    layers: jax.Array  # [N, ñ]: wᵢ of R_i = I + diag(wᵢ) P_i
    diagonal: jax.Array  # [ñ]: the diagonal D in the middle


@dataclass(frozen=True)
class Residuals:
    """S(θ) = (I 0) R₁ᵀ … R_Nᵀ D R_N … R₁ (I 0)ᵀ with R_i = I + diag(wᵢ) P_i and a diagonal D.

    Symmetric by construction; positive semi-definite only while D stays non-negative. w₀ ~ N(0, 1/N) and D₀ = I, so
    that S(θ₀) is *not* the identity: its spectrum widens with N·w₀², as in the released code.

    Args:
      depth: N, the number of layers; 64 in the paper's ablation.
      hidden_size: ñ ≥ n; default 2n.

    Raises:
      TypeError: an argument that is no integer.
      ValueError: depth < 0, hidden_size < 1; at ``init``, a hidden size below n.

    References:
      Liao et al. 2023, §5.1 (ablations) and the released code.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> operator = Residuals(depth=3)
      >>> theta, fixed = operator.init(jax.random.key(0), 4, jnp.float32)
      >>> theta.layers.shape, theta.diagonal.shape
      ((3, 8), (8,))
    """

    depth: int = 64
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", check_integer("depth", self.depth, 0))
        if self.hidden_size is not None:
            object.__setattr__(self, "hidden_size", check_integer("hidden_size", self.hidden_size, 1))

    def _hidden(self, size: int) -> int:
        require_concrete_integers("The residual operator", depth=self.depth, hidden_size=self.hidden_size)
        hidden = 2 * size if self.hidden_size is None else self.hidden_size
        if hidden < size:
            raise ValueError(
                f"hidden_size must be at least the number of parameters n = {size}; got {hidden}. "
                f"The default would be {2 * size}."
            )
        return hidden

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[ResidualsTheta, Permutations]:
        """θ₀: w [N, ñ] from N(0, 1/N) and the diagonal [ñ] of ones; and the permutations [N, ñ]."""
        hidden = self._hidden(size)
        check_indexable(hidden)
        weights_key, permutation_key = jax.random.split(key)
        layers = jax.random.normal(weights_key, (self.depth, hidden), dtype) / max(self.depth, 1) ** 0.5
        permutations = Permutations(*random_permutations(permutation_key, self.depth, hidden))
        return ResidualsTheta(layers, jnp.ones(hidden, dtype)), permutations

    def apply(self, theta: ResidualsTheta, fixed: Permutations, v: jax.Array) -> jax.Array:
        """S(θ) v for v [n] (or a stack of vectors, [r, n])."""
        stack = padded(jnp.atleast_2d(v), theta.diagonal.shape[0])
        out, _ = lax.scan(_layer_up_alone, stack, (theta.layers, fixed.forward))
        out = theta.diagonal[None] * out
        out, _ = lax.scan(_layer_down_alone, out, (theta.layers, fixed.inverse), reverse=True)
        return out[:, : v.shape[-1]].reshape(v.shape)

    def hypergradient(self, theta: ResidualsTheta, fixed: Permutations, m: jax.Array, g: jax.Array) -> ResidualsTheta:
        """∂⟨g, S m⟩/∂wᵢ = P_i uᵢ(m) ⊙ dᵢ(g) + P_i uᵢ(g) ⊙ dᵢ(m), and R m ⊙ R g for the diagonal."""
        top, up = _up(theta, fixed, padded(jnp.stack([m, g]), theta.diagonal.shape[0]))
        _, down = _down(theta, fixed, theta.diagonal[None] * top)
        return ResidualsTheta(up[:, 0] * down[:, 1] + up[:, 1] * down[:, 0], top[0] * top[1])

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters, and multiplications of one application."""
        hidden = self._hidden(size)
        layers = self.depth * hidden
        return {"theta": layers + hidden, "fixed": 2 * layers, "multiplications": 2 * layers + hidden}


def _up(theta: ResidualsTheta, fixed: Permutations, stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R_N … R₁ applied to the rows of ``stack`` [r, ñ], and the permuted inputs P_i uᵢ [N, r, ñ]."""
    return lax.scan(_layer_up, stack, (theta.layers, fixed.forward))


def _down(theta: ResidualsTheta, fixed: Permutations, stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R₁ᵀ … R_Nᵀ applied to the rows of ``stack`` [r, ñ], and the transposed layers' inputs dᵢ [N, r, ñ]."""
    return lax.scan(_layer_down, stack, (theta.layers, fixed.inverse), reverse=True)


# At module level, so that a scan outside of jit finds its compiled program again on the next call.
def _layer_up(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    weights, permutation = layer
    u = gather(v, permutation)
    return v + weights[None] * u, u


def _layer_down(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    weights, inverse = layer
    return v + gather(weights[None] * v, inverse), v


# Without the layers' inputs: outside of jit nobody would take them out of a scan that nobody reads them from.
def _layer_up_alone(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return _layer_up(v, layer)[0], None


def _layer_down_alone(v: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return _layer_down(v, layer)[0], None
