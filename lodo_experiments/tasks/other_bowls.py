"""Bowls that differ from the paper's: a drift that is not the same in every direction, a Hessian for each run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo._validation import check_integer
from lodo_experiments.tasks import noisy_bowl
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.noisy_bowl import CONDITION_NUMBER, Bowl, BowlBatch


def anisotropic_directions(size: int, *, rotated: bool = False) -> np.ndarray:
    """L [n, n] float64 of a drift whose standard deviations run from e^−2 to e^2, evenly in their logarithms.

    They are normalised to the mean square 1, that of the isotropic drift, and in random order, so that they have
    nothing to do with H's eigenvalues.

    Args:
      size: n, at least 2.
      rotated: whether L's axes are a random basis instead of the coordinates.

    >>> deviations = np.linalg.svd(anisotropic_directions(100), compute_uv=False)
    >>> print(f"{np.mean(deviations**2):.4f} {deviations[0] / deviations[-1]:.2f} {np.exp(4):.2f}")
    1.0000 54.60 54.60
    """
    check_integer("size", size, 2)
    rng = np.random.default_rng(1)
    deviations = rng.permutation(np.exp(np.linspace(-2, 2, size)))
    deviations /= np.sqrt(np.mean(deviations**2))
    basis = np.eye(size)
    if rotated:
        Q, R = np.linalg.qr(rng.normal(size=(size, size)))
        basis = Q * np.sign(np.diag(R))  # uniform, which QR alone is not
    return basis * deviations


def bowl_of_own_hessians(size: int = 100, dtype: Any = jnp.float64) -> Task:
    """The noisy bowl in which each run draws the eigenvectors of its own Hessian, as in the released task.

    >>> task = bowl_of_own_hessians(4, jnp.float32)
    >>> one, other = (task.init_data(task.data, jax.random.key(seed)).hessian for seed in (0, 1))
    >>> bool(jnp.allclose(one, other)), [f"{value:.3f}" for value in jnp.linalg.eigvalsh(one)]
    (False, ['0.001', '0.010', '0.100', '1.000'])
    """
    eigenvalues = np.logspace(-np.log10(CONDITION_NUMBER), 0.0, size)

    def init_data(data: jax.Array, key: jax.Array) -> BowlBatch:
        Q, R = jnp.linalg.qr(jax.random.normal(key, (size, size), dtype))
        Q = Q * jnp.sign(jnp.diag(R))
        H = (Q * data) @ Q.T
        return BowlBatch((H + H.T) / 2, jnp.zeros(size, dtype))

    def sample(data: jax.Array, state: BowlBatch, key: jax.Array) -> tuple[BowlBatch, BowlBatch]:
        batch = BowlBatch(state.hessian, state.centre + jax.random.normal(key, state.centre.shape, dtype))
        return batch, batch

    def measure(data: jax.Array, x: jax.Array, state: Any, own: BowlBatch) -> dict[str, jax.Array]:
        return noisy_bowl.measure_error(Bowl(own.hessian), x, state, own.centre)

    return Task(
        "noisy_bowl", jnp.asarray(eigenvalues, dtype), lambda key: jnp.zeros(size, dtype), init_data, sample,
        noisy_bowl.loss, measure, hessian=noisy_bowl.hessian_of,
    )  # fmt: skip
