"""The figure of the page on the problem suites."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from lodo_experiments.analysis.suite_comparison import Outcome
from lodo_experiments.report.style import line_of

#: The largest factor that is drawn.
FARTHEST = 1e4


def profiles(found: Mapping[str, Outcome]) -> go.Figure:
    """Performance profiles: the share of problems on which an optimizer's score is within a factor of the best of all.

    Args:
      found: optimizer → outcome on the same problems.

    References:
      Dolan and Moré, "Benchmarking optimization software with performance profiles", Mathematical Programming 91, 2002.
    """
    best = np.min([one.scores for one in found.values()], axis=0)
    factors, figure = np.geomspace(1, FARTHEST, 200), go.Figure()
    for name, one in found.items():
        with np.errstate(invalid="ignore"):
            over = np.where(np.isfinite(one.scores), one.scores / best, np.inf)
        share = (over[:, None] <= factors * (1 + 1e-9)).mean(axis=0)
        figure.add_scatter(
            x=factors, y=share, name=name, mode="lines", line={**line_of(name, list(found)), "shape": "hv"}
        )
    figure.update_layout(
        xaxis={"title": "factor over the best score of all", "type": "log"},
        yaxis={"title": "share of problems", "range": [0, 1.02]},
    )
    return figure
