"""Figures of the experiments, each drawn from records alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lodo_experiments.analysis import statistics
from lodo_experiments.report.plotly_html import COLOURS
from lodo_experiments.results.records import Record

#: The horizontal axes of a loss curve, and their labels.
AXES = {"step": "step", "gradient": "gradient evaluations", "second": "seconds (synchronised, without compilation)"}


def line_of(name: str, names: Any) -> dict[str, Any]:
    """Colour and dash of an optimizer: its place among those shown, LODO always first, dashed after the last colour.

    >>> line_of("Adam", ["Adam", "LODO"])["color"] == COLOURS[1]
    True
    """
    ordered = sorted(names, key=lambda other: (other != "LODO", list(names).index(other)))
    turn, place = divmod(ordered.index(name), len(COLOURS))
    return {"color": COLOURS[place], "dash": ("solid", "dash", "dot")[turn % 3]}


def loss_curves(
    runs: Mapping[str, Record],
    *,
    against: str = "step",
    floor: float | None = None,
    floor_name: str = "",
    ceiling: float | None = None,
) -> go.Figure:
    """Loss of each optimizer, window means, with a band from the least to the greatest run.

    Args:
      runs: optimizer → record of its runs.
      against: "step", "gradient" (evaluations) or "second".
      floor: a loss to draw as a dashed line.
      floor_name: what it is.
      ceiling: where the loss axis ends; curves above it leave the picture.

    Raises:
      ValueError: ``against`` is none of the three.
    """
    if against not in AXES:
        raise ValueError(f"against must be one of {', '.join(AXES)}; got {against!r}.")
    figure = go.Figure()
    for name, record in runs.items():
        curve, x = record.arrays["curve"], statistics.axis(record, against)
        line = line_of(name, runs)
        finite = np.isfinite(curve).any(axis=0)
        curve, x = np.where(np.isfinite(curve), curve, np.nan)[:, finite], x[finite]
        low, high, middle = (f(curve, axis=0) for f in (np.nanmin, np.nanmax, np.nanmean))
        band = np.concatenate([high, low[::-1]])
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]), y=band, fill="toself", fillcolor=_faint(line["color"]), line_width=0,
            legendgroup=name, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(x=x, y=middle, name=name, legendgroup=name, line={**line, "width": 2})
    if floor is not None:
        figure.add_hline(y=floor, line_dash="dash", line_color=COLOURS[-1], annotation_text=floor_name)
    figure.update_layout(xaxis_title=AXES[against], yaxis_title="loss", yaxis_type="log", legend_title="optimizer")
    if against == "second":
        figure.update_xaxes(type="log")
    if ceiling is not None:
        least = min(float(np.nanmin(record.arrays["curve"])) for record in runs.values())
        bottom = min(least, floor if floor is not None else least)
        figure.update_yaxes(range=[np.log10(0.9 * bottom), np.log10(ceiling)])
    return figure


def measured_curve(runs: Mapping[str, Record], quantity: str, title: str) -> go.Figure:
    """A measured quantity by step, one thin line for each run."""
    figure = go.Figure()
    for name, record in runs.items():
        values = record.arrays[f"measured.{quantity}"]
        for lane, line in enumerate(values):
            figure.add_scatter(
                x=record.arrays["measured_steps"], y=line, name=name, legendgroup=name, showlegend=lane == 0,
                line={**line_of(name, runs), "width": 1.5}, opacity=0.8,
            )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis_title=title)
    return figure


def learned_inverse(eigenvalues: np.ndarray, along: np.ndarray) -> go.Figure:
    """What G does along each eigenvector of H, against the inverse Hessian's 1/λ.

    Args:
      eigenvalues: [n] λ of the Hessian.
      along: [runs, n] qᵀ G q for each eigenvector q.
    """
    figure = go.Figure()
    figure.add_scatter(x=eigenvalues, y=1 / eigenvalues, name="H⁻¹", line={"dash": "dash", "color": COLOURS[-1]})
    for lane, values in enumerate(along):
        figure.add_scatter(
            x=eigenvalues, y=values, name="learned G", legendgroup="G", showlegend=lane == 0, mode="markers",
            marker={"color": COLOURS[0], "size": 5}, opacity=0.7,
        )  # fmt: skip
    figure.update_layout(xaxis={"title": "eigenvalue λ of H", "type": "log"}, yaxis={"title": "qᵀ G q", "type": "log"})
    return figure


def trajectories(runs: Mapping[str, Record]) -> go.Figure:
    """Rosenbrock: each optimizer's first run over a heat map of log₁₀(f + 1e-3), with a slider through the steps."""
    x, y = np.linspace(-1.6, 1.6, 121), np.linspace(-0.4, 2.4, 106)
    X, Y = np.meshgrid(x, y)
    landscape = np.log10(0.01 * (1 - X) ** 2 + (Y - X**2) ** 2 + 1e-3)
    figure = go.Figure()
    figure.add_heatmap(
        x=x, y=y, z=landscape.round(3), colorscale="Greys_r", opacity=0.6, colorbar_title="log₁₀ (f + 10⁻³)",
        hoverinfo="skip",
    )  # fmt: skip
    paths = {name: _path(record) for name, record in runs.items()}
    for name, path in paths.items():
        line = {**line_of(name, runs), "width": 2}
        figure.add_scatter(x=path[0], y=path[1], name=name, mode="lines+markers", line=line, marker_size=3)
    figure.add_scatter(
        x=[1.0], y=[1.0], name="minimum", mode="markers",
        marker={"symbol": "star", "size": 14, "color": "#E69F00", "line": {"width": 1, "color": "#7F7F7F"}},
    )  # fmt: skip
    total = max(len(path[0]) for path in paths.values()) - 1
    stops = sorted({0, 1, 2, 3, 5, 8, *range(10, total, 10), total})
    traces = list(range(1, len(paths) + 1))

    def until(stop: int) -> go.Frame:
        lines = [go.Scatter(x=x[: stop + 1], y=y[: stop + 1]) for x, y in paths.values()]
        return go.Frame(name=str(stop), traces=traces, data=lines)

    figure.frames = [until(stop) for stop in stops]
    moves = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}
    figure.update_layout(
        xaxis={"title": "x", "range": [-1.6, 1.6]}, yaxis={"title": "y", "range": [-0.4, 2.4]}, height=560,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, margin={"t": 70},
        sliders=[
            {
                "active": len(stops) - 1,
                "currentvalue": {"prefix": "after step "},
                "steps": [{"label": str(s), "method": "animate", "args": [[str(s)], moves]} for s in stops],
            }
        ],
    )  # fmt: skip
    return figure


def image_grid(rows: Mapping[str, np.ndarray], levels: int) -> go.Figure:
    """Rows of grey images, each under its name.

    Args:
      rows: name → [images, height, width], the same number and size for each.
      levels: grey levels, so that 0 is black and levels − 1 white.
    """
    from plotly.subplots import make_subplots

    count = len(next(iter(rows.values())))
    figure = make_subplots(rows=len(rows), cols=1, subplot_titles=list(rows), vertical_spacing=0.3 / max(len(rows), 1))
    for index, images in enumerate(rows.values(), start=1):
        height = images.shape[1]
        # One picture a row, with a gap between two images.
        strip = np.full((height, count * (images.shape[2] + 1) - 1), np.nan)
        for place, image in enumerate(images):
            left = place * (images.shape[2] + 1)
            strip[:, left : left + images.shape[2]] = image
        figure.add_heatmap(
            z=strip[::-1], zmin=0, zmax=levels - 1, colorscale="Greys_r", showscale=False, row=index, col=1,
            hoverinfo="skip",
        )  # fmt: skip
    figure.update_xaxes(visible=False, constrain="domain")
    for index in range(1, len(rows) + 1):
        # Square pixels, however wide the page is.
        figure.update_yaxes(visible=False, scaleanchor=f"x{index}", constrain="domain", row=index, col=1)
    side = 700 / count  # pixels of one image on a wide page
    figure.update_layout(height=round(len(rows) * (side + 45)) + 40, margin={"t": 40})
    return figure


def score_intervals(runs: Mapping[str, Record], title: str, *, floor: float | None = None) -> go.Figure:
    """Every run's score as a point, and the interquartile mean with its 95 % interval, an optimizer a row.

    Diverged runs have no score; their number stands behind the optimizer's name.

    Args:
      runs: optimizer → record of its runs.
      title: of the axis.
      floor: a score to draw as a dashed line.
    """
    figure = go.Figure()
    for name, record in runs.items():
        scores = record.arrays["scores"]
        summary, finite = statistics.summarise(scores), scores[np.isfinite(scores)]
        label = name + (f" ({summary.diverged} of {summary.runs} diverged)" if summary.diverged else "")
        colour = line_of(name, runs)["color"]
        figure.add_scatter(
            x=finite, y=[label] * len(finite), mode="markers", showlegend=False, opacity=0.6,
            marker={"color": colour, "size": 6, "symbol": "circle-open"},
        )  # fmt: skip
        if np.isfinite([summary.iqm, *summary.iqm_interval]).all():
            low, high = summary.iqm_interval
            figure.add_scatter(
                x=[summary.iqm], y=[label], mode="markers", showlegend=False, marker={"color": colour, "size": 9},
                error_x={"array": [high - summary.iqm], "arrayminus": [summary.iqm - low], "color": colour},
            )  # fmt: skip
    if floor is not None:
        figure.add_vline(x=floor, line_dash="dash", line_color=COLOURS[-1])
    figure.update_layout(xaxis_title=title, xaxis_type="log", height=60 + 34 * len(runs))
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def verdicts(rows: Mapping[str, tuple[str, str]], order: tuple[str, ...]) -> go.Figure:
    """The ledger at a glance: a row a claim, a column a verdict; filled where the records are of the paper's scale.

    Args:
      rows: claim → (verdict, scale of its records).
      order: the verdicts, from the left.
    """
    figure = go.Figure()
    for large, words in ((True, "paper's scale, or needs none"), (False, "smaller scale")):
        shown = {claim: verdict for claim, (verdict, scale) in rows.items() if (scale in ("paper", "")) is large}
        figure.add_scatter(
            x=list(shown.values()), y=list(shown), mode="markers", name=words,
            marker={"size": 14, "color": COLOURS[0], "symbol": "circle" if large else "circle-open", "line_width": 2},
        )  # fmt: skip
    figure.update_xaxes(categoryorder="array", categoryarray=list(order), range=[-0.5, len(order) - 0.5], side="top")
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(list(rows))), automargin=True)
    figure.update_layout(
        height=120 + 32 * len(rows), margin={"r": 60}, legend={"orientation": "h", "y": -0.02, "yanchor": "top"}
    )
    return figure


def ablation_curves(families: Mapping[str, tuple[list[float], list[Record]]], titles: Mapping[str, str]) -> go.Figure:
    """Score against the value of one hyperparameter, a panel a family: every run, and the interquartile mean.

    Args:
      families: family → (values on the axis, a record for each).
      titles: family → title of its axis.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(families), shared_yaxes=True, horizontal_spacing=0.03)
    for place, (family, (values, members)) in enumerate(families.items(), start=1):
        summaries = [statistics.summarise(record.arrays["scores"]) for record in members]
        for value, record in zip(values, members, strict=True):
            scores = record.arrays["scores"][np.isfinite(record.arrays["scores"])]
            figure.add_scatter(
                x=[value] * len(scores), y=scores, mode="markers", showlegend=False, row=1, col=place,
                marker={"color": COLOURS[0], "size": 5, "symbol": "circle-open"}, opacity=0.6,
            )  # fmt: skip
        middle = [s.iqm if np.isfinite(s.iqm) else None for s in summaries]
        figure.add_scatter(
            x=values, y=middle, mode="lines+markers", showlegend=False, row=1, col=place,
            line={"color": COLOURS[0], "width": 2},
        )  # fmt: skip
        lost = [value for value, s in zip(values, summaries, strict=True) if s.diverged]
        for value in lost:
            figure.add_vline(x=value, line_dash="dot", line_color=COLOURS[-1], row=1, col=place)
        figure.update_xaxes(title=titles[family], row=1, col=place)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title="loss, last 10 % of steps", row=1, col=1)
    return figure


def provenance_note(runs: Mapping[str, Record]) -> str:
    """Where the numbers on a page come from, as Markdown: one line for all that is common, one for each record."""
    first = next(iter(runs.values())).provenance
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    lines = [
        "**Where these numbers come from.**",
        f"`{first['command']}`; preset {first['preset']}; {first['device']}; {first['platform']}; {versions}.",
        "",
    ]
    for name, record in runs.items():
        provenance = record.provenance
        lines.append(
            f"- {name}: seeds {', '.join(map(str, provenance['seeds']))}; "
            f"{provenance['wall_seconds']:.1f} s of training, "
            f"{provenance['compile_seconds']:.1f} s of compilation{_from_cache(provenance)}; {provenance['date']}; "
            f"commit `{provenance['commit'][:12]}{'+changes' if provenance['commit'].endswith('+changes') else ''}`; "
            f"record SHA-256 `{record.digest()[:12]}`"
        )
    return "\n".join(lines)


def _from_cache(provenance: Mapping[str, Any]) -> str:
    """How many programs were loaded rather than compiled, where any was: their compilation is not in the time."""
    programs = provenance.get("programs_from_cache", 0)
    return f" ({programs} program{'s' * (programs > 1)} from the cache)" if programs else ""


def _path(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The first run's points while they are finite and near the picture."""
    x, y = record.arrays["measured.x"][0], record.arrays["measured.y"][0]
    good = np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e3) & (np.abs(y) < 1e3)
    end = len(x) if good.all() else int(np.argmin(good))
    return x[:end].round(4), y[:end].round(4)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
