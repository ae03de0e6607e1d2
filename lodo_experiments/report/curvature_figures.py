"""What LODO's G has learned of a network's Hessian, as figures."""

from __future__ import annotations

import plotly.graph_objects as go

from lodo_experiments.analysis import network_curvature
from lodo_experiments.report.style import COLOURS, DASHES
from lodo_experiments.results.records import Record

_SYMBOLS = ("circle", "diamond", "square", "cross")
_POINTS = 160  # of a distribution: a figure has 700 pixels across


def gains_by_curvature(record: Record) -> go.Figure:
    """qᵀ G q/α₀ by λ on the Hessian's steepest eigenvectors, a colour and a symbol for each run.

    Args:
      record: as :func:`~lodo_experiments.analysis.network_curvature.directions` takes it.
    """
    figure = go.Figure()
    for run, seed in enumerate(record.provenance["seeds"]):
        found = network_curvature.directions(record, run)
        figure.add_scatter(
            x=found.curvatures, y=found.gains, name=f"seed {seed}", mode="markers",
            marker={"color": COLOURS[run % 4], "symbol": _SYMBOLS[run % 4], "size": 9},
        )  # fmt: skip
    _unlearned(figure, "y")
    figure.update_layout(xaxis_title="curvature λ", yaxis_title="qᵀ G q / α₀", showlegend=True)
    figure.update_xaxes(type="log")
    return figure


def inverse_distribution(record: Record) -> go.Figure:
    """The share of the eigenvalues of G/α₀ that are at most a value, a line for each run.

    Args:
      record: as :func:`~lodo_experiments.analysis.network_curvature.cumulative` takes it.
    """
    figure = go.Figure()
    for run, seed in enumerate(record.provenance["seeds"]):
        values, shares = network_curvature.cumulative(record, run)
        every = max(1, len(values) // _POINTS)
        figure.add_scatter(
            x=values[every - 1 :: every], y=shares[every - 1 :: every], name=f"seed {seed}", mode="lines",
            line={"color": COLOURS[run % 4], "dash": list(DASHES)[run % 4], "width": 2},
        )  # fmt: skip
    _unlearned(figure, "x")
    figure.update_layout(xaxis_title="eigenvalue of G / α₀", yaxis_title="share at most that", showlegend=True)
    figure.update_xaxes(type="log")
    return figure


def _unlearned(figure: go.Figure, axis: str) -> None:
    """A line at 1, where G = α₀ I."""
    line = {"line_dash": "dash", "line_color": COLOURS[-1], "line_width": 1.5}
    if axis == "y":
        figure.add_hline(y=1, **line)
    else:
        figure.add_vline(x=1, **line)
