"""The figure of the page on relative LODO: how much of Newton's step G makes, direction by direction."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from lodo_experiments.analysis.rlodo_bowl import shares_by_step
from lodo_experiments.report.style import COLOURS
from lodo_experiments.results.records import Record

#: Which of the ten groups of eigenvectors are drawn, flattest first, and what they are called.
DRAWN = {0: "flattest tenth", 3: "fourth tenth", 6: "seventh tenth", 9: "steepest tenth"}


def shares(found: Mapping[str, Record]) -> go.Figure:
    """λ qᵀ G q by step: 1 is Newton's step along q; the first record in full lines, the second in dashes.

    Args:
      found: how the records are called → record, two at most.
    """
    figure = go.Figure()
    for dash, (name, record) in zip(("solid", "dash"), found.items(), strict=False):
        steps, values = shares_by_step(record)
        for colour, (group, about) in zip(COLOURS, DRAWN.items(), strict=False):
            figure.add_scatter(
                x=steps, y=values[:, group], name=f"{name}, {about}", line={"color": colour, "dash": dash}
            )
    figure.update_layout(xaxis_title="step", yaxis={"title": "share of Newton's step", "rangemode": "tozero"})
    return figure
