"""The noisy quadratic bowl (paper §5.1): a quadratic whose centre makes a random walk."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lodo._state import LodoState
from lodo._validation import check_integer
from lodo.diagnostics.inverse_hessian import dense, find_state, inverse_hessian_error
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Task

SMALLEST_EIGENVALUE, LARGEST_EIGENVALUE = 1e-3, 1.0


class Bowl(NamedTuple):
    """What all runs share."""

    hessian: jax.Array  # [n, n]: H
    drift: jax.Array | None = None  # [n, n]: L, the centre's steps being L N(0, I); None: I


class BowlBatch(NamedTuple):
    """One evaluation's loss: ½ (x − c)ᵀ H (x − c)."""

    hessian: jax.Array  # [n, n]: H
    centre: jax.Array  # [n]: c


def hessian(size: int, seed: int = 0) -> np.ndarray:
    """H = Q diag(λ) Qᵀ, [n, n] float64, with log-spaced λ from 1e-3 to 1 and a Haar-random orthogonal Q.

    Args:
      size: n, at least 2.
      seed: of Q.

    >>> eigenvalues = np.linalg.eigvalsh(hessian(4))
    >>> [round(float(value), 6) for value in eigenvalues]
    [0.001, 0.01, 0.1, 1.0]
    """
    check_integer("size", size, 2)
    eigenvalues = np.logspace(np.log10(SMALLEST_EIGENVALUE), np.log10(LARGEST_EIGENVALUE), size)
    Q = _random_basis(np.random.default_rng(seed), size)
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2


def newton_floor(H: np.ndarray, drift: np.ndarray | None = None) -> float:
    """tr(Lᵀ H L)/2: the mean loss of Newton's method, which reaches each centre but not its next random step.

    Args:
      H: [n, n].
      drift: L [n, n]; None: I.

    >>> round(newton_floor(hessian(100)), 6)
    7.411847
    """
    return float(np.trace(H if drift is None else drift.T @ H @ drift)) / 2


def anisotropic_drift(size: int, *, rotated: bool = False, scale: float = 1.0, seed: int = 1) -> np.ndarray:
    """L [n, n] float64 of a drift whose standard deviations run from e^−2 to e^2, evenly in their logarithms.

    They are normalised to a mean square of scale², that of the isotropic drift at 1, and in random order, so that they
    have nothing to do with H's eigenvalues.

    Args:
      size: n, at least 2.
      rotated: whether L's axes are a random basis instead of the coordinates.
      scale: the drift's standard deviation, root mean square over directions.
      seed: of order and basis.

    >>> deviations = np.linalg.svd(anisotropic_drift(100), compute_uv=False)
    >>> print(f"{np.mean(deviations**2):.4f} {deviations[0] / deviations[-1]:.2f} {np.exp(4):.2f}")
    1.0000 54.60 54.60
    """
    check_integer("size", size, 2)
    rng = np.random.default_rng(seed)
    deviations = rng.permutation(np.exp(np.linspace(-2, 2, size)))
    deviations *= scale / np.sqrt(np.mean(deviations**2))
    return (_random_basis(rng, size) if rotated else np.eye(size)) * deviations


def noisy_bowl(size: int = 100, seed: int = 0, dtype: Any = jnp.float64, drift: np.ndarray | None = None) -> Task:
    """The task: before every evaluation the centre moves by N(0, I); x₀ = c₀ = 0.

    Measured now and then for LODO: ``inverse_hessian_error``, ‖I − G H‖_F/√n, exactly.

    Args:
      size: n; the paper's is 100.
      seed: of the Hessian's eigenvectors.
      dtype: of everything.
      drift: L [n, n]: the centre moves by L N(0, I) instead.

    References:
      Liao et al. 2023, §5.1.
    """
    H = hessian(size, seed)
    shared = Bowl(jnp.asarray(H, dtype), None if drift is None else jnp.asarray(drift, dtype))

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros(size, dtype)

    def init_data(data: Bowl, key: jax.Array) -> jax.Array:
        del data, key
        return jnp.zeros(size, dtype)

    return Task("noisy_bowl", shared, init, init_data, _sample, _loss, _measure, hessian=_hessian)


def bowl_of_own_hessians(size: int = 100, dtype: Any = jnp.float64) -> Task:
    """The noisy bowl in which each run draws the eigenvectors of its own Hessian, as in the released task.

    Args:
      size: n.
      dtype: of everything.

    >>> task = bowl_of_own_hessians(4, jnp.float32)
    >>> one, other = (task.init_data(task.data, jax.random.key(seed)).hessian for seed in (0, 1))
    >>> bool(jnp.allclose(one, other)), [f"{value:.3f}" for value in jnp.linalg.eigvalsh(one)]
    (False, ['0.001', '0.010', '0.100', '1.000'])
    """
    eigenvalues = np.logspace(np.log10(SMALLEST_EIGENVALUE), np.log10(LARGEST_EIGENVALUE), size)

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros(size, dtype)

    def init_data(data: jax.Array, key: jax.Array) -> BowlBatch:
        Q, R = jnp.linalg.qr(jax.random.normal(key, (size, size), dtype))
        Q = Q * jnp.sign(jnp.diag(R))
        H = (Q * data) @ Q.T
        return BowlBatch((H + H.T) / 2, jnp.zeros(size, dtype))

    def sample(data: jax.Array, state: BowlBatch, key: jax.Array) -> tuple[BowlBatch, BowlBatch]:
        del data
        batch = BowlBatch(state.hessian, state.centre + jax.random.normal(key, state.centre.shape, dtype))
        return batch, batch

    def measure(data: jax.Array, x: jax.Array, state: Any, data_state: BowlBatch) -> dict[str, jax.Array]:
        return _measure(Bowl(data_state.hessian), x, state, data_state.centre)

    data = jnp.asarray(eigenvalues, dtype)
    return Task("noisy_bowl", data, init, init_data, sample, _loss, measure, hessian=_hessian)


def learned_inverse(task: Task, run: Run) -> dict[str, np.ndarray]:
    """Compare the learned G of each run with the inverse Hessian: along each eigenvector q of H, and by spectrum.

    Returns:
      ``along_eigenvectors`` [runs, n], qᵀ G q by ascending eigenvalue of H, and ``spectrum`` [runs, n], the eigenvalues
      of G, ascending; nothing for an optimizer that is not LODO.
    """
    if not _has_lodo(run.optimizer_state):
        return {}
    H = np.asarray(task.data.hessian)
    _, Q = np.linalg.eigh(H)
    state = find_state(run.optimizer_state)
    G = np.asarray(jax.vmap(functools.partial(dense, operator=_operator_of(state)))(state))
    return {"along_eigenvectors": np.einsum("iq,rij,jq->rq", Q, G, Q), "spectrum": np.linalg.eigvalsh(G)}


def _random_basis(rng: np.random.Generator, size: int) -> np.ndarray:
    Q, R = np.linalg.qr(rng.normal(size=(size, size)))
    # QR alone is not uniform: the signs of R's diagonal have to be taken out.
    basis: np.ndarray = Q * np.sign(np.diag(R))
    return basis


def _sample(data: Bowl, centre: jax.Array, key: jax.Array) -> tuple[BowlBatch, jax.Array]:
    step = jax.random.normal(key, centre.shape, centre.dtype)
    centre = centre + (step if data.drift is None else data.drift @ step)
    return BowlBatch(data.hessian, centre), centre


def _loss(x: jax.Array, batch: BowlBatch) -> jax.Array:
    offset = x - batch.centre
    return 0.5 * offset @ (batch.hessian @ offset)


def _hessian(x: jax.Array, batch: BowlBatch) -> jax.Array:
    del x
    return batch.hessian


def _measure(data: Bowl, x: jax.Array, state: Any, centre: jax.Array) -> dict[str, jax.Array]:
    del x, centre
    if not _has_lodo(state):
        return {}
    return {"inverse_hessian_error": inverse_hessian_error(state, data.hessian, operator=_operator_of(state))}


def _operator_of(state: Any) -> Any:
    """The form of LODO's G, where it is none of the library's own; else None."""
    return getattr(find_state(state).fixed, "operator", None)


def _has_lodo(state: Any) -> bool:
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LodoState))
    return any(isinstance(leaf, LodoState) for leaf in leaves)
