"""Figures of the page on what a step costs: times by ``make bench``, and what the compact forms lose."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from lodo_experiments.analysis.compact_memory import NOT_ABOVE
from lodo_experiments.analysis.step_times import OURS, SCAN, Row, rows_of
from lodo_experiments.report.style import COLOURS, line_of
from lodo_experiments.results.records import Record

_GREY = COLOURS[-1]


def step_times(record: Record, dtype: str = "float32") -> go.Figure:
    """Milliseconds a step inside a scan against n: every form, with the floor under LODO's."""
    rows = rows_of(record.values["rows"], dtype=dtype, way=SCAN)
    figure = go.Figure()
    forms = list(dict.fromkeys(row["form"] for row in rows))
    for form in forms:
        line = line_of(form, forms)
        _line(figure, rows_of(rows, form=form), "seconds", form, line["color"], factor=1e3, dash=line["dash"])
    ours = rows_of(rows, form=OURS)
    _line(figure, ours, "floor_seconds", "floor: bytes over bandwidth", _GREY, factor=1e3, dash="dash")
    figure.update_layout(xaxis={"title": "n", "type": "log"}, yaxis={"title": "milliseconds a step", "type": "log"})
    return figure


def tasks(record: Record) -> go.Figure:
    """A whole training step of each task over the same with Adam."""
    rows: list[Row] = record.values["rows"]
    figure = go.Figure()
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
    for optimizer in optimizers:
        colour = line_of(optimizer, optimizers)["color"]
        selected = rows_of(rows, optimizer=optimizer)
        figure.add_bar(x=[row["task"] for row in selected], y=[row["by_adam"] for row in selected], name=optimizer,
                       marker_color=colour, error_y=_spread(selected, "by_adam", 1.0))  # fmt: skip
    figure.update_layout(barmode="group", yaxis={"title": "time of a step / Adam's", "type": "log"})
    return figure


def losses_of_forms(rows: list[Row]) -> go.Figure:
    """Difference to LODO in full, with its interval: a row a form, with the numbers that it holds for a parameter."""
    compared = [row for row in rows if row["difference"] is not None and np.isfinite(row["difference"])]
    labels = {row["form"]: f"{row['form'].removeprefix('LODO-')} ({row['θ and moments']:.0f})" for row in compared}
    figure = go.Figure()
    for words, above in {"not above LODO in full": False, "above it": True}.items():
        chosen = [row for row in compared if (row["against LODO in full"] not in NOT_ABOVE) == above]
        figure.add_scatter(
            x=[row["difference"] for row in chosen], y=[labels[row["form"]] for row in chosen], name=words,
            mode="markers", error_x={
                "array": [row["95 % high"] - row["difference"] for row in chosen],
                "arrayminus": [row["difference"] - row["95 % low"] for row in chosen],
            },
            marker={"size": 9, "color": line_of("LODO")["color"], "symbol": "circle-open" if above else "circle"},
        )  # fmt: skip
    figure.add_vline(x=0, line_color=_GREY, line_width=1)
    figure.update_xaxes(title="loss above LODO in full")
    order = list(reversed(labels.values()))
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    figure.update_layout(height=150 + 34 * len(labels), legend={"orientation": "h"})
    return figure


def _line(
    figure: go.Figure, rows: list[Row], name: str, label: str, colour: str, *, factor: float = 1.0, dash: str = "solid"
) -> None:
    figure.add_scatter(
        x=[row["n"] for row in rows], y=[row[name] * factor for row in rows], name=label, mode="lines+markers",
        line={"color": colour, "dash": dash}, error_y=_spread(rows, name, factor),
    )  # fmt: skip


def _spread(rows: list[Row], name: str, factor: float) -> dict[str, object]:
    """Error bars from the first to the third quartile."""
    return {
        "type": "data", "symmetric": False,
        "array": [(row[f"{name}_high"] - row[name]) * factor for row in rows],
        "arrayminus": [(row[name] - row[f"{name}_low"]) * factor for row in rows],
    }  # fmt: skip
