"""A slider through the steps of a figure, with a button that moves it.

In a notebook they are plotly's own. The book's script has ones that a keyboard can move: it finds the steps and what
they change in the layout's ``meta`` (see :func:`lodo_experiments.report.plotly_html.to_html`).
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go


def through_paths(figure: go.Figure, stops: Sequence[int], traces: Sequence[int]) -> None:
    """Shows so many points of some traces at each stop; the figure begins at the last one.

    Args:
      figure: it is changed.
      stops: steps, ascending.
      traces: places of the traces that grow.
    """

    def until(stop: int) -> list[go.Scatter]:
        return [go.Scatter(x=figure.data[i].x[: stop + 1], y=figure.data[i].y[: stop + 1]) for i in traces]

    frames = [go.Frame(name=str(stop), traces=list(traces), data=until(stop)) for stop in stops]
    _add(figure, stops, frames, "paths", traces, active=len(stops) - 1, milliseconds=150)


def through_moments(figure: go.Figure, stops: Sequence[int]) -> None:
    """Shows one heat map of the figure at each stop; it begins at the first one.

    Args:
      figure: of as many heat maps as there are stops, and of nothing else; it is changed.
      stops: steps, ascending.
    """
    traces = list(range(len(stops)))
    for place, trace in enumerate(figure.data):
        trace.visible = place == 0
    frames = [
        go.Frame(name=str(stop), traces=traces, data=[go.Heatmap(visible=place == one) for one in traces])
        for place, stop in enumerate(stops)
    ]
    _add(figure, stops, frames, "moments", traces, active=0, milliseconds=500)


def _add(
    figure: go.Figure, stops: Sequence[int], frames: list[go.Frame], what: str, traces: Sequence[int], *, active: int,
    milliseconds: int,
) -> None:  # fmt: skip
    figure.frames = frames
    # Without redraw plotly moves the lines and drops the heat map.
    moves = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    playing = {**moves, "frame": {"duration": milliseconds, "redraw": True}, "fromcurrent": True}
    figure.update_layout(
        meta={"stops": list(stops), what: list(traces)},
        sliders=[
            {
                "active": active,
                "currentvalue": {"prefix": "after step "},
                "pad": {"t": 80},
                "steps": [{"label": str(s), "method": "animate", "args": [[str(s)], moves]} for s in stops],
            }
        ],
        updatemenus=[
            {
                "type": "buttons", "direction": "left", "showactive": False, "x": 0, "xanchor": "left", "y": 1.02,
                "yanchor": "bottom",
                "buttons": [
                    {"label": "Play", "method": "animate", "args": [None, playing]},
                    {"label": "Pause", "method": "animate", "args": [[None], moves]},
                ],
            }
        ],
    )  # fmt: skip
