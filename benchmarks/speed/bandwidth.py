"""Memory bandwidth as this device's JAX reaches it, in the manner of STREAM (McCalpin 1995).

Arrays are far larger than any cache. Each kernel writes into a donated array, so that no call has to ask the
operating system for fresh pages. Bytes are counted as STREAM counts them: what the kernel reads and writes, not what a
cache may fetch besides in order to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.turns import Timed

#: 256 MiB an array.
ELEMENTS = 64 * 1024 * 1024

#: kernel → (function of (the array to write, a, b, s), arrays that it moves).
KERNELS: dict[str, tuple[Callable[..., jax.Array], int]] = {
    "copy": (lambda old, a, b, s: a * s, 2),
    "triad": (lambda old, a, b, s: a + s * b, 3),
    "update in place": (lambda old, a, b, s: s * old + b, 3),
}


class Bandwidth:
    """The kernels, ready to be timed.

    Args:
      elements: float32 numbers an array.
    """

    def __init__(self, elements: int = ELEMENTS) -> None:
        self.bytes = {name: 4 * elements * arrays for name, (_, arrays) in KERNELS.items()}
        self._a, self._b = jnp.full(elements, 1.5, jnp.float32), jnp.full(elements, 0.5, jnp.float32)
        self._scale = jnp.asarray(0.5, jnp.float32)
        self._old = jnp.zeros(elements, jnp.float32)
        self._programs = {
            name: jax.jit(kernel, donate_argnums=0, keep_unused=True)
            .lower(self._old, self._a, self._b, self._scale)
            .compile()
            for name, (kernel, _) in KERNELS.items()
        }
        for one in self.timed().values():
            jax.block_until_ready(one.call())

    def timed(self) -> dict[str, Timed]:
        """Each kernel under the name "bandwidth: kernel"."""

        def call(name: str) -> Any:
            self._old = self._programs[name](self._old, self._a, self._b, self._scale)
            return self._old

        return {f"bandwidth: {name}": Timed(lambda name=name: call(name)) for name in KERNELS}
