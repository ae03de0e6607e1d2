"""Figures of the book's page on speed, each drawn from one record of ``make bench``."""

from __future__ import annotations

import plotly.graph_objects as go

from lodo_experiments.analysis.step_times import NATIVE, OURS, REST, SCAN, STEP, Row, rows_of
from lodo_experiments.report.style import COLOURS, line_of
from lodo_experiments.results.records import Record

_GREY = COLOURS[-1]


def step_times(record: Record, dtype: str = "float32") -> go.Figure:
    """Milliseconds a step inside a scan against n: every form, with the floor under LODO's.

    Args:
      record: of the part "steps".
      dtype: of parameters and states.
    """
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


def over_floor(record: Record) -> go.Figure:
    """LODO's step over its floor against n, by XLA and by C++ kernels, in both precisions and both ways of running."""
    figure = go.Figure()
    for form in (OURS, NATIVE):
        selected = rows_of(record.values["rows"], form=form)
        variants = dict.fromkeys((row["dtype"], row["way"]) for row in selected if "way" in row)
        for dash, (dtype, way) in zip(("solid", "dash", "dot", "dashdot"), variants, strict=False):
            rows = rows_of(selected, dtype=dtype, way=way)
            _line(figure, rows, "by_floor", f"{form}, {dtype}, {way}", line_of(form)["color"], dash=dash)
    figure.update_layout(xaxis={"title": "n", "type": "log"}, yaxis={"title": "step / floor", "type": "log"})
    return figure


def split(record: Record) -> go.Figure:
    """Shares of a step's time by part against n; more than 1 in sum where the step fuses parts measured separately.

    Args:
      record: of the part "split".
    """
    rows: list[Row] = record.values["rows"]
    figure = go.Figure()
    parts = [part for part in dict.fromkeys(row["part"] for row in rows) if part != STEP]
    for place, part in enumerate(parts):
        selected = rows_of(rows, part=part)
        figure.add_bar(
            x=[f"n = {row['n']:,}" for row in selected], y=[row["share"] for row in selected], name=part,
            marker_color=_GREY if part == REST else COLOURS[place % (len(COLOURS) - 1)],
        )  # fmt: skip
    figure.update_layout(barmode="relative", yaxis_title="share of the whole step's time")
    return figure


def memory(record: Record, dtype: str = "float32") -> go.Figure:
    """Memory of a step against n: what a process took beyond its libraries, and XLA's analysis.

    Args:
      record: of the part "memory".
      dtype: of parameters and states.
    """
    rows = rows_of(record.values["rows"], dtype=dtype)
    figure = go.Figure()
    forms = list(dict.fromkeys(row["form"] for row in rows))
    for form in forms:
        colour = line_of(form, forms)["color"]
        selected = rows_of(rows, form=form)
        sizes = [row["n"] for row in selected]
        taken = [(row["peak_bytes"] - row["before_bytes"]) / 2**20 for row in selected]
        analysed = [row["xla_peak_bytes"] / 2**20 for row in selected]
        # A logarithmic axis has no place for what was too little to be seen beside the libraries.
        figure.add_scatter(x=sizes, y=[size if size > 0 else None for size in taken], name=f"{form}, process",
                           mode="markers", marker={"color": colour, "size": 11, "symbol": "circle-open"})  # fmt: skip
        figure.add_scatter(x=sizes, y=analysed, name=f"{form}, XLA's analysis", line_color=colour)
    figure.update_layout(xaxis={"title": "n", "type": "log"}, yaxis={"title": "MiB", "type": "log"})
    return figure


def tasks(record: Record) -> go.Figure:
    """A whole training step of each task over the same with Adam.

    Args:
      record: of the part "tasks".
    """
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
