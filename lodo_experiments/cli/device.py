"""Say on what JAX computes here, or refuse: ``python -m lodo_experiments.cli.device --require gpu``.

A job that was given a GPU and whose JAX falls back to the CPU, because the plugin is absent or the driver too old,
would go on for days. This ends it in seconds, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

#: What can be required; JAX calls NVIDIA's and AMD's devices both "gpu".
PLATFORMS = ("cpu", "gpu", "tpu")


class DeviceError(RuntimeError):
    """JAX has no device of the kind that is needed, or the device computes wrongly."""


def devices(require: str = "") -> str:
    """A line that names JAX's default devices, after a product was computed on the first and compared with NumPy's.

    Raises:
      DeviceError: the default device is another, or its product is wrong.

    >>> devices("cpu")  # doctest: +ELLIPSIS
    'cpu: ..., jax ...'
    """
    platform, found = jax.default_backend(), jax.devices()
    if require and platform != require:
        raise DeviceError(
            f"A {require} is required, and JAX {jax.__version__} computes on {platform} ({found[0].device_kind}). For "
            "NVIDIA's, `make install-gpu` (or pip install 'jax[cuda12]') adds the plugin; nvidia-smi must show the "
            "device, and JAX_PLATFORMS must not exclude it."
        )
    factor = np.arange(64.0, dtype=np.float32).reshape(8, 8) / 64
    product = np.asarray(jnp.matmul(factor, factor, precision=jax.lax.Precision.HIGHEST))
    if not np.allclose(product, factor @ factor, rtol=1e-5):
        raise DeviceError(
            f"{found[0].device_kind} multiplies two matrices of 8 × 8 wrongly: driver, device or JAX is broken."
        )
    kinds = [device.device_kind for device in found]
    counted = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
    return f"{platform}: {counted}, jax {jax.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 1 when the device is not the one required."""
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.device", description="Say on what JAX computes here."
    )
    parser.add_argument("--require", choices=PLATFORMS, default="", help="fail unless this is JAX's default")
    try:
        print(devices(parser.parse_args(arguments).require))
    except RuntimeError as error:  # also JAX's own, where a platform asked for by JAX_PLATFORMS does not start
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
