"""What LODO's G has learned of a network's Hessian, from a record of :mod:`lodo_experiments.training.curvature`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from lodo_experiments.results.records import Record

#: A pair (λ, q) counts as found where |H q − λ q| is at most this share of λ.
CONVERGED = 0.01

#: The table's name of a number from −1, for the order of the inverse Hessian, to 1.
RANKS = "rank correlation of λ and qᵀGq"

#: Eigenvectors without which nothing is said of a run.
LEAST = 3


class Directions(NamedTuple):
    """Along the steepest eigenvectors q of the Hessian at the end of a run, as many as were found."""

    curvatures: np.ndarray  # [m], λ, descending
    gains: np.ndarray  # [m], qᵀ G q / α₀: 1 where nothing was learned


def directions(record: Record, run: int) -> Directions:
    """What G does to the network's steepest directions.

    Args:
      record: of runs with ``curvatures``, ``curvature_residuals`` and ``inverse_in_eigenbasis``.
      run: which of its runs.
    """
    curvatures = record.arrays["curvatures"][run]
    gains = record.arrays["inverse_in_eigenbasis"][run].diagonal() / _rate(record)
    found = record.arrays["curvature_residuals"][run] <= CONVERGED * np.abs(curvatures)
    return Directions(curvatures[found], gains[found])


def cumulative(record: Record, run: int) -> tuple[np.ndarray, np.ndarray]:
    """The distribution of the eigenvalues of G/α₀ in a run, by quadrature.

    Args:
      record: with ``inverse_nodes`` and ``inverse_weights``.
      run: which of its runs.

    Returns:
      Values, ascending, and the estimated share of the eigenvalues that are at most that.
    """
    nodes = record.arrays["inverse_nodes"][run] / _rate(record)
    weights = record.arrays["inverse_weights"][run] / len(nodes)
    order = np.argsort(nodes, axis=None)
    return nodes.ravel()[order], np.cumsum(weights.ravel()[order])


def curvature_table(record: Record) -> list[dict[str, Any]]:
    """A row for each run: G on the steepest directions beside G as a whole, and what that makes of the sharpness.

    The sharpness is the largest eigenvalue of G H, restricted to the measured eigenvectors. A fixed G with momentum β
    is stable on a quadratic loss up to 2 (1 + β)/(1 − β). A run of which the steepest eigenvector and two more were not
    found, as one that diverged, has no row.
    """
    rate = _rate(record)
    momentum = record.values["hyperparameters"]["momentum"]
    rows = []
    for run, seed in enumerate(record.provenance["seeds"]):
        curvatures, gains = directions(record, run)
        if len(gains) < LEAST or curvatures[0] != record.arrays["curvatures"][run][0]:
            continue
        values, shares = cumulative(record, run)
        weights = np.diff(shares, prepend=0.0)
        positive = np.sqrt(np.maximum(record.arrays["curvatures"][run], 0))
        inside = positive[:, None] * record.arrays["inverse_in_eigenbasis"][run] * positive
        rows.append(
            {
                "seed": seed,
                "largest λ": float(curvatures[0]),
                "qᵀGq/α₀ along its q": float(gains[0]),
                "eigenvectors found": len(gains),
                "mean qᵀGq/α₀ over them": float(gains.mean()),
                "first λ over the last": float(curvatures[0] / curvatures[-1]),
                "last qᵀGq over the first": float(gains[-1] / gains[0]),
                "second λ over the last": float(curvatures[1] / curvatures[-1]),
                "last qᵀGq over the second": float(gains[-1] / gains[1]),
                "mean eigenvalue of G/α₀": float(np.sum(weights * values)),
                RANKS: float(spearmanr(curvatures, gains).statistic),
                "α₀ times the largest λ": float(rate * curvatures[0]),
                "largest eigenvalue of G H, on them": float(np.linalg.eigvalsh(inside)[-1]),
                "stable up to, for a fixed G": 2 * (1 + momentum) / (1 - momentum),
            }
        )
    return rows


def by_quantity(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same table with a row for each quantity and a column for each run.

    Args:
      rows: of :func:`curvature_table`.

    >>> by_quantity([{"seed": 0, "tr G": 1.0}, {"seed": 1, "tr G": 2.0}])
    [{'quantity': 'tr G', 'seed 0': 1.0, 'seed 1': 2.0}]
    """
    names = [name for name in (rows[0] if rows else ()) if name != "seed"]
    return [{"quantity": name, **{f"seed {row['seed']}": row[name] for row in rows}} for name in names]


def _rate(record: Record) -> float:
    rate: float = record.values["hyperparameters"]["initial_learning_rate"]
    return rate
