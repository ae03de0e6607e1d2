"""An arctangent that XLA vectorises on the CPU.

``jnp.arctan`` becomes a slow call there (``python -m benchmarks.depthwise`` prints by how much). In float32 an odd
polynomial on [0, 1] with the reflection arctan(x) = π/2 − arctan(1/x) is as accurate as anyone can use.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

# arctan(t) ≈ t + t·s·p(s), s = t² in [0, 1]: weighted minimax fit of degree 8 (relative error 2.6e-9 before
# rounding to float32), lowest power first.
_COEFFICIENTS = (
    -0.33333298563957214,
    0.19998548924922943,
    -0.14264242351055145,
    0.10952185839414597,
    -0.0840344950556755,
    0.05795758217573166,
    -0.031177831813693047,
    0.010914597660303116,
    -0.0017936197109520435,
)


@jax.custom_jvp
def _arctan_float32(x: Array) -> Array:
    magnitude = jnp.abs(x)
    one = jnp.ones((), x.dtype)
    t = jnp.minimum(magnitude, one) / jnp.maximum(magnitude, one)
    s = t * t
    p = jnp.full_like(s, _COEFFICIENTS[-1])
    for coefficient in _COEFFICIENTS[-2::-1]:
        p = p * s + jnp.asarray(coefficient, x.dtype)
    p = t + t * (s * p)
    return jnp.copysign(jnp.where(magnitude > one, jnp.asarray(math.pi / 2, x.dtype) - p, p), x)


@_arctan_float32.defjvp
def _arctan_float32_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _arctan_float32(x), dx / (jnp.ones((), x.dtype) + x * x)


def arctan(x: Array) -> Array:
    """Inverse tangent, elementwise, in radians.

    In float32 a polynomial within 2 units in the last place of the exact value (signed zeros, infinities and
    NaN as in ``jnp.arctan``); in every other dtype ``jnp.arctan`` itself.

    >>> print(f"{arctan(jnp.float32(1.0)):.6f}")
    0.785398
    """
    x = jnp.asarray(x)
    return _arctan_float32(x) if x.dtype == jnp.float32 else jnp.arctan(x)
