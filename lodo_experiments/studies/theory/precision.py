"""The precision that the theory's checks need."""

from __future__ import annotations

import jax.numpy as jnp


def require_double_precision() -> None:
    """Refuses to go on without 64-bit types.

    Raises:
      RuntimeError: JAX is in 32-bit mode.
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise RuntimeError(
            "The theory's checks need double precision, and JAX is in 32-bit mode. Call "
            'jax.config.update("jax_enable_x64", True) before any array is made.'
        )
