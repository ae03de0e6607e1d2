"""The noisy bowl with its drift, its spectrum, its loss's scale or its gradient changed; how near G is to Newton."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lodo._validation import check_integer, check_real
from lodo.diagnostics.inverse_hessian import dense
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.noisy_bowl import hessian
from lodo_experiments.tasks.other_bowls import anisotropic_directions

#: Eigenvectors, ascending by eigenvalue, are measured in so many groups.
GROUPS = 10


class NoisyBatch(NamedTuple):
    """One evaluation: ½ (x − c)ᵀ H (x − c), whose gradient is seen with noise."""

    hessian: jax.Array  # [n, n]
    centre: jax.Array  # [n]
    noise: jax.Array  # [n], added to the gradient; the loss is without it


class CaseData(NamedTuple):
    """What all runs share."""

    hessian: jax.Array  # H times the loss's factor, [n, n]
    eigenvectors: jax.Array  # of H, [n, n], by ascending eigenvalue
    directions: jax.Array  # L, [n, n]: the centre's steps are L N(0, I)


def directions_of_ratio(size: int, ratio: float, *, rotated: bool = False) -> np.ndarray:
    """L [n, n] of a drift whose standard deviations have that ratio and the mean square 1; see ``other_bowls``.

    Args:
      size: n, at least 2.
      ratio: of the largest standard deviation to the smallest, at least 1.
      rotated: whether L's axes are a random basis instead of the coordinates.

    >>> L = directions_of_ratio(50, 10.0)
    >>> deviations = np.linalg.svd(L, compute_uv=False)
    >>> print(f"{deviations[0] / deviations[-1]:.2f} {np.mean(deviations**2):.4f}")
    10.00 1.0000
    """
    check_real("ratio", ratio, minimum=1.0)
    if ratio == 1:
        return np.eye(size)
    U, deviations, Vt = np.linalg.svd(anisotropic_directions(size, rotated=rotated))
    deviations = deviations ** (np.log(ratio) / np.log(deviations[0] / deviations[-1]))
    return np.asarray((U * (deviations / np.sqrt(np.mean(deviations**2)))) @ Vt)


def bowl_of_case(
    size: int = 100,
    *,
    condition_number: float = 1e3,
    clustered: bool = False,
    ratio: float = 1.0,
    rotated: bool = False,
    loss_factor: float = 1.0,
    gradient_noise: float = 0.0,
    dtype: Any = jnp.float64,
) -> Task:
    """The noisy bowl, changed in one way or more.

    Args:
      condition_number: of H, whose largest eigenvalue is 1.
      clustered: half of the eigenvalues are 1 and half the smallest, instead of log-spaced.
      ratio: of the drift's largest standard deviation to its smallest; their mean square is 1.
      rotated: whether the drift's axes are a random basis.
      loss_factor: the loss is multiplied by it.
      gradient_noise: standard deviation of noise in each entry of the gradient, in units of the loss's factor.

    >>> task = bowl_of_case(4, gradient_noise=1.0, dtype=jnp.float32)
    >>> batch, _ = task.sample(task.data, jnp.zeros(4), jax.random.key(0))
    >>> value, gradient = jax.value_and_grad(task.loss)(batch.centre, batch)
    >>> float(value), bool(jnp.all(gradient == batch.noise))
    (0.0, True)
    """
    check_integer("size", size, 2)
    H = hessian(size, condition_number=condition_number)
    eigenvalues, Q = np.linalg.eigh(H)
    if clustered:
        eigenvalues = np.where(np.arange(size) < size // 2, 1 / condition_number, 1.0)
        H = (Q * eigenvalues) @ Q.T
    data = CaseData(
        jnp.asarray(loss_factor * H, dtype), jnp.asarray(Q, dtype),
        jnp.asarray(directions_of_ratio(size, ratio, rotated=rotated), dtype),
    )  # fmt: skip

    def sample(data: CaseData, centre: jax.Array, key: jax.Array) -> tuple[NoisyBatch, jax.Array]:
        drift, noise = jax.random.normal(key, (2, size), dtype)
        centre = centre + data.directions @ drift
        return NoisyBatch(data.hessian, centre, loss_factor * gradient_noise * noise), centre

    def loss(x: jax.Array, batch: NoisyBatch) -> jax.Array:
        away = x - batch.centre
        # The last term is 0 and has the noise for its gradient.
        return 0.5 * away @ (batch.hessian @ away) + batch.noise @ (x - jax.lax.stop_gradient(x))

    return Task(
        "noisy_bowl", data, lambda key: jnp.zeros(size, dtype), lambda data, key: jnp.zeros(size, dtype), sample, loss,
        lambda data, x, state, centre: shares_of_newton(data, state),
    )  # fmt: skip


def shares_of_newton(data: CaseData, state: Any) -> dict[str, jax.Array]:
    """λ qᵀ G q, the share of Newton's step that G makes along an eigenvector q, as means over groups of them.

    Returns:
      "share_0" (the flattest directions) to "share_9"; nothing for an optimizer without G.
    """
    try:
        G = dense(state)
    except ValueError:
        return {}
    Q = data.eigenvectors
    shares = jnp.einsum("iq,ij,jq->q", Q, data.hessian, Q) * jnp.einsum("iq,ij,jq->q", Q, G, Q)
    n = shares.shape[0]
    tenths = [shares[i * n // GROUPS : -(-(i + 1) * n // GROUPS)] for i in range(GROUPS)]  # none empty if n < GROUPS
    return {f"share_{i}": jnp.mean(part) for i, part in enumerate(tenths)}
