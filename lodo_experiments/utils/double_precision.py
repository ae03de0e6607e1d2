"""64-bit types for a while, with all the versions of JAX that the library supports."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.experimental


def double_precision(on: bool = True) -> AbstractContextManager[None]:
    """A context in which ``jax_enable_x64`` is as told; older JAX has it among its experiments alone.

    >>> import jax.numpy as jnp
    >>> with double_precision():
    ...     print(jnp.zeros(1).dtype)
    float64
    """
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    context: AbstractContextManager[None] = home.enable_x64(on)
    return context


def require_double_precision() -> None:
    """Refuses to go on without 64-bit types.

    Raises:
      RuntimeError: JAX is in 32-bit mode.
    """
    if not jax.config.read("jax_enable_x64"):
        raise RuntimeError(
            "This is computed in double precision, and JAX is in 32-bit mode. Call "
            'jax.config.update("jax_enable_x64", True) before any array is made.'
        )
