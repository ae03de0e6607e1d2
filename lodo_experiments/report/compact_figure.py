"""The figure of memory against loss for the compact forms of LODO."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lodo_experiments.analysis.compact_memory import GOAL
from lodo_experiments.report.style import COLOURS, line_of


def price_and_loss(rows: list[dict[str, Any]], title: str) -> go.Figure:
    """Difference to LODO in full, with its interval, against what a form holds.

    Args:
      rows: of :func:`lodo_experiments.analysis.compact_memory.loss_rows`.
      title: of the loss axis.
    """
    figure = go.Figure()
    compared = [row for row in rows if row["difference"] is not None and np.isfinite(row["difference"])]
    for place, (words, chosen) in enumerate(
        {
            "not above LODO in full": [r for r in compared if r["against LODO in full"] in ("within", "lower")],
            "above it": [r for r in compared if r["against LODO in full"] not in ("within", "lower")],
        }.items()
    ):
        figure.add_scatter(
            x=[row["θ and moments"] for row in chosen],
            y=[row["difference"] for row in chosen],
            error_y={
                "array": [row["95 % high"] - row["difference"] for row in chosen],
                "arrayminus": [row["difference"] - row["95 % low"] for row in chosen],
            },
            text=[row["form"].removeprefix("LODO-") for row in chosen],
            mode="markers+text", textposition="top center", name=words,
            marker={"size": 9, "color": line_of("LODO")["color"], "symbol": "circle" if place == 0 else "circle-open"},
        )  # fmt: skip
    figure.add_hline(y=0, line_color=COLOURS[-1], line_width=1)
    figure.add_vline(x=GOAL, line_dash="dot", line_color=COLOURS[-1])
    figure.update_xaxes(title="numbers a parameter (θ, moments)", rangemode="tozero")
    figure.update_yaxes(title=title)
    figure.update_layout(height=460, legend={"orientation": "h"})
    return figure
