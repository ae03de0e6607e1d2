"""The noisy quadratic bowl (paper §5.1): a quadratic whose centre makes a random walk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lodo._state import LodoState, find_state, nodes_of
from lodo._validation import check_integer, check_real
from lodo.diagnostics.inverse_hessian import dense, inverse_hessian_error
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Task

#: The paper's Hessian: eigenvalues from 1e-3 to 1.
CONDITION_NUMBER = 1e3


class Bowl(NamedTuple):
    """What all runs share."""

    hessian: jax.Array  # [n, n]: H
    directions: jax.Array | None = None  # [n, n]: L, the centre's steps being L N(0, I); None: I


class BowlBatch(NamedTuple):
    """One evaluation's loss: ½ (x − c)ᵀ H (x − c)."""

    hessian: jax.Array  # [n, n]: H
    centre: jax.Array  # [n]: c


def hessian(size: int, seed: int = 0, condition_number: float = CONDITION_NUMBER) -> np.ndarray:
    """H = Q diag(λ) Qᵀ, [n, n] float64, with log-spaced λ up to 1 and a Haar-random orthogonal Q.

    Args:
      size: n, at least 2.
      seed: of Q.
      condition_number: the largest eigenvalue, 1, over the smallest; at least 1.

    >>> eigenvalues = np.linalg.eigvalsh(hessian(4))
    >>> [round(float(value), 6) for value in eigenvalues]
    [0.001, 0.01, 0.1, 1.0]
    """
    check_integer("size", size, 2)
    check_real("condition_number", condition_number, minimum=1.0)
    eigenvalues = np.logspace(-np.log10(condition_number), 0.0, size)
    gaussian = np.random.default_rng(seed).normal(size=(size, size))
    Q, R = np.linalg.qr(gaussian)
    # QR alone is not uniform: the signs of R's diagonal have to be taken out.
    Q = Q * np.sign(np.diag(R))
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2


def newton_floor(H: np.ndarray, drift: float = 1.0, directions: np.ndarray | None = None) -> float:
    """drift² tr(LᵀHL)/2: the mean loss of Newton's method, which reaches each centre but not its next random step.

    Args:
      H: [n, n].
      drift: standard deviation of the centre's steps.
      directions: L, [n, n]; None: I.

    >>> round(newton_floor(hessian(100)), 6)
    7.411847
    """
    return drift**2 * float(np.trace(H if directions is None else directions.T @ H @ directions)) / 2


def noisy_bowl(
    size: int = 100,
    seed: int = 0,
    dtype: Any = jnp.float64,
    *,
    condition_number: float = CONDITION_NUMBER,
    drift: float = 1.0,
    directions: np.ndarray | None = None,
    H: np.ndarray | None = None,
) -> Task:
    """The task: before every evaluation the centre moves by ``drift`` · L N(0, I); x₀ = c₀ = 0.

    Measured now and then for LODO: ``inverse_hessian_error``, ‖I − G H‖_F/√n, exactly.

    Args:
      size: n; the paper's is 100.
      seed: of the Hessian's eigenvectors.
      dtype: of everything.
      condition_number: of the Hessian.
      drift: standard deviation of the centre's steps; 0: it stands still.
      directions: L, [n, n], where the steps are not the same in every direction; None: I.
      H: a Hessian of your own, [n, n], symmetric, in place of the one that the other arguments describe.

    Raises:
      ValueError: a Hessian that is no symmetric matrix of finite numbers, or another argument out of range.

    References:
      Liao et al. 2023, §5.1.
    """
    check_real("drift", drift, minimum=0.0)
    H = hessian(size, seed, condition_number) if H is None else _symmetric(H)
    size = len(H)
    data = Bowl(jnp.asarray(H, dtype), None if directions is None else jnp.asarray(directions, dtype))

    return Task(
        "noisy_bowl", data, lambda key: jnp.zeros(size, dtype), lambda data, key: jnp.zeros(size, dtype),
        _sample_with(drift), loss, measure_error, hessian=hessian_of,
    )  # fmt: skip


def _symmetric(H: np.ndarray) -> np.ndarray:
    H = np.asarray(H, np.float64)
    if H.ndim != 2 or H.shape[0] != H.shape[1] or not np.isfinite(H).all() or not np.allclose(H, H.T):
        raise ValueError(
            f"H must be a symmetric matrix [n, n] of finite numbers; got shape {H.shape}. (H + H.T) / 2 makes one."
        )
    return H


def learned_inverse(task: Task, run: Run) -> dict[str, np.ndarray]:
    """Compare the learned G of each run with the inverse Hessian: along each eigenvector q of H, and by spectrum.

    Returns:
      ``along_eigenvectors`` [runs, n], qᵀ G q by ascending eigenvalue of H, and ``spectrum`` [runs, n], the eigenvalues
      of G, ascending; nothing for an optimizer that is not LODO.
    """
    if not nodes_of(run.optimizer_state, LodoState):
        return {}
    H = np.asarray(task.data.hessian)
    _, Q = np.linalg.eigh(H)
    state = find_state(run.optimizer_state)
    G = np.asarray(jax.vmap(functools.partial(dense, operator=_operator_of(state)))(state))
    return {"along_eigenvectors": np.einsum("iq,rij,jq->rq", Q, G, Q), "spectrum": np.linalg.eigvalsh(G)}


def _sample_with(drift: float) -> Callable[[Bowl, jax.Array, jax.Array], tuple[BowlBatch, jax.Array]]:
    def sample(data: Bowl, centre: jax.Array, key: jax.Array) -> tuple[BowlBatch, jax.Array]:
        step = jax.random.normal(key, centre.shape, centre.dtype)
        if data.directions is not None:
            step = data.directions @ step
        # Not multiplied by one: the paper's program stays what it was, to the bit.
        centre = centre + (step if drift == 1.0 else drift * step)
        return BowlBatch(data.hessian, centre), centre

    return sample


def loss(x: jax.Array, batch: BowlBatch) -> jax.Array:
    """½ (x − c)ᵀ H (x − c), []."""
    offset = x - batch.centre
    return 0.5 * offset @ (batch.hessian @ offset)


def hessian_of(x: jax.Array, batch: BowlBatch) -> jax.Array:
    """H, wherever x is, [n, n]."""
    return batch.hessian


def measure_error(data: Bowl, x: jax.Array, state: Any, centre: jax.Array) -> dict[str, jax.Array]:
    """``inverse_hessian_error`` of LODO's G, ‖I − G H‖_F/√n, []; nothing of other optimizers."""
    if not nodes_of(state, LodoState):
        return {}
    return {"inverse_hessian_error": inverse_hessian_error(state, data.hessian, operator=_operator_of(state))}


def _operator_of(state: Any) -> Any:
    """The form of LODO's G, where it is none of the library's own; else None."""
    return getattr(find_state(state).fixed, "operator", None)
