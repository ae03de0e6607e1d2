"""How far LODO's G moves from α₀ I over a run, as a figure."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from lodo_experiments.analysis.evidence import MOVED
from lodo_experiments.report.figures import BAND_FROM
from lodo_experiments.report.style import COLOURS, DASHES, line_of
from lodo_experiments.results.records import Record


def measured(runs: Mapping[str, Record]) -> dict[str, Record]:
    """The records that say how far G moved over their runs."""
    return {name: record for name, record in runs.items() if "inverse_hessian_displacement" in record.arrays}


def displacement_curves(runs: Mapping[str, Record]) -> go.Figure:
    """‖G − α₀ I‖_F/(α₀ √n) by step, a line for each run, and where the ledger takes G for moved.

    Fewer than :data:`~lodo_experiments.report.figures.BAND_FROM` runs of a record are told apart by their dashes.

    Args:
      runs: optimizer → record of its runs; those that did not measure it are left out.

    Raises:
      ValueError: none of them measured it.
    """
    found = measured(runs)
    if not found:
        raise ValueError(f"None of the records of {', '.join(runs) or 'no optimizer'} says how far G moved.")
    figure = go.Figure()
    for name, record in found.items():
        values = record.arrays["inverse_hessian_displacement"]
        few, line = len(values) < BAND_FROM, line_of(name, found)
        for lane, (seed, one) in enumerate(zip(record.provenance["seeds"], values, strict=True)):
            dash = list(DASHES)[lane] if few else line["dash"]
            figure.add_scatter(
                x=record.arrays["displacement_steps"], y=one, name=f"{name}, seed {seed}" if few else name,
                legendgroup=name, showlegend=few or lane == 0, mode="lines", opacity=1.0 if few else 0.6,
                line={**line, "dash": dash, "width": 2 if few else 1.5},
            )  # fmt: skip
    figure.add_hline(y=MOVED, line_dash="dash", line_color=COLOURS[-1], line_width=1.5)
    figure.add_annotation(
        x=1, xref="x domain", y=MOVED, yref="y", text="below: momentum SGD", showarrow=False, xanchor="right",
        yanchor="bottom",
    )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis_title="‖G − α₀ I‖ / (α₀ √n)")
    figure.update_yaxes(rangemode="tozero")
    return figure
