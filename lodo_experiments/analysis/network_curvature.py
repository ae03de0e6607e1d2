"""What LODO's G has learned of a network's Hessian, from a record of :mod:`lodo_experiments.training.curvature`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from lodo_experiments.results.records import Record


class Directions(NamedTuple):
    """Along the m steepest eigenvectors q of the Hessian at the end of each run."""

    curvatures: np.ndarray  # [runs, m], λ, descending
    gains: np.ndarray  # [runs, m], qᵀ G q / α₀: 1 where nothing was learned


def directions(record: Record) -> Directions:
    """What G does to the network's steepest directions.

    Args:
      record: of runs with ``curvatures`` and ``inverse_in_eigenbasis``.
    """
    inside = record.arrays["inverse_in_eigenbasis"]
    return Directions(record.arrays["curvatures"], np.einsum("rii->ri", inside) / _rate(record))


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
    is stable on a quadratic loss up to 2 (1 + β)/(1 − β).
    """
    found, rate = directions(record), _rate(record)
    momentum = record.values["hyperparameters"]["momentum"]
    rows = []
    for run, seed in enumerate(record.provenance["seeds"]):
        values, shares = cumulative(record, run)
        weights = np.diff(shares, prepend=0.0)
        curvatures, gains = found.curvatures[run], found.gains[run]
        positive = np.sqrt(np.maximum(curvatures, 0))
        inside = positive[:, None] * record.arrays["inverse_in_eigenbasis"][run] * positive
        rows.append(
            {
                "seed": seed,
                "largest λ": float(curvatures[0]),
                "G/α₀ there": float(gains[0]),
                f"G/α₀, mean of {len(gains)} steepest": float(gains.mean()),
                "tr G/(α₀ n)": float(np.sum(weights * values)),
                "rank correlation of λ and qᵀGq": float(spearmanr(curvatures, gains).statistic),
                "α₀ λ": float(rate * curvatures[0]),
                "largest of G H": float(np.linalg.eigvalsh(inside)[-1]),
                "stable to": 2 * (1 + momentum) / (1 - momentum),
            }
        )
    return rows


def _rate(record: Record) -> float:
    rate: float = record.values["hyperparameters"]["initial_learning_rate"]
    return rate
