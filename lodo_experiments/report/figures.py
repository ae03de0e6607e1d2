"""Figures of the experiments, each drawn from records alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lodo_experiments.analysis import statistics
from lodo_experiments.analysis.suite_comparison import Outcome
from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.report import sliders
from lodo_experiments.report.style import COLOURS, faint, line_of
from lodo_experiments.report.tables import INTERVAL_FROM
from lodo_experiments.results.records import Record

#: The horizontal axes of a loss curve, and their labels.
AXES = {"step": "step", "gradient": "gradient evaluations", "second": "seconds, without compilation"}


#: From so many runs on, the runs are drawn as a band.
BAND_FROM = 6

#: The largest factor over the best score that is drawn.
FARTHEST = 1e4

#: What annotations that stand for a legend are called.
END = "end"

_POINTS = 160  # of a curve: a figure has 700 pixels across
_BAND_POINTS = 80
_EIGENVALUE_POINTS = 100


def loss_curves(
    runs: Mapping[str, Record],
    *,
    against: str = "step",
    floor: float | None = None,
    floor_name: str = "",
    ceiling: float | None = None,
) -> go.Figure:
    """Loss of each optimizer, window means: the mean over runs, and a band in which the middle half of the runs lies.

    Of fewer than :data:`BAND_FROM` runs the band reaches from the least to the greatest.

    Args:
      runs: optimizer → record of its runs.
      against: "step", "gradient" (evaluations) or "second".
      floor: a loss to draw as a dashed line.
      floor_name: what it is.
      ceiling: where the loss axis ends at the latest; curves above it leave the picture.

    Raises:
      ValueError: ``against`` is none of the three.
    """
    if against not in AXES:
        raise ValueError(f"against must be one of {', '.join(AXES)}; got {against!r}.")
    figure = go.Figure()
    curves = {name: (statistics.axis(record, against), record.arrays["curve"]) for name, record in runs.items()}
    _draw_curves(figure, curves, logarithmic=against == "second")
    means = [trace for trace in figure.data if trace.name]
    figure.update_layout(xaxis_title=AXES[against], yaxis_title="loss", yaxis_type="log")
    if against == "second":
        figure.update_xaxes(type="log")
    levels = [np.asarray(trace.y, dtype=float) for trace in means]
    levels = [level[np.isfinite(level) & (level > 0)] for level in levels]
    near = [level for level in levels if len(level) and (ceiling is None or level[-1] <= ceiling)] or levels
    # The first steps may leave the picture; a curve that ends within the ceiling stays in it but for these.
    highest = [float(level.max() if ceiling is None else np.quantile(level, 0.99)) for level in near]
    top = min(max(highest), ceiling or math.inf)
    least = min(float(level.min()) for level in near)
    if floor is not None:
        top, least = max(top, floor), min(least, floor)
        _reference(figure, floor, floor_name, float(np.median([level[-1] for level in near])))
    outside = [trace.name for trace, level in zip(means, levels, strict=True) if not len(level) or level.min() > top]
    if outside:
        figure.add_annotation(
            x=1, xref="x domain", y=1, yref="y domain", text=f"above: {', '.join(outside)}", showarrow=False,
            xanchor="right", yanchor="top",
        )  # fmt: skip
    low, high = np.log10(least), np.log10(top)
    room = 0.05 * (high - low)
    bottom, summit = low - room, high + room * (1 + 2 * bool(outside))
    figure.update_yaxes(range=[bottom, summit])
    if against == "step" and not outside:
        with np.errstate(divide="ignore"):
            ends = {trace.name: float(np.log10(trace.y[-1])) for trace in means}
        _name_ends(figure, ends, bottom, summit)
    return figure


def measured_curve(runs: Mapping[str, Record], quantity: str, title: str) -> go.Figure:
    """A measured quantity by step: a thin line for each run, or from :data:`BAND_FROM` runs on the mean and a band."""
    figure = go.Figure()
    for name, record in runs.items():
        values = record.arrays[f"measured.{quantity}"]
        steps = _measured_at(record, values.shape[1])
        if len(values) >= BAND_FROM:
            _draw_curves(figure, {name: (steps, values)}, names=runs)
            continue
        for lane, one in enumerate(values):
            x, (y,) = _binned(steps, one[None], _POINTS)
            figure.add_scatter(
                x=x, y=y, name=name, legendgroup=name, showlegend=lane == 0,
                line={**line_of(name, runs), "width": 1.5}, opacity=0.8,
            )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis_title=title)
    if all(len(record.arrays[f"measured.{quantity}"]) >= BAND_FROM for record in runs.values()):
        values = np.concatenate([np.asarray(trace.y, dtype=float) for trace in figure.data])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        room = 0.05 * (high - low)
        figure.update_yaxes(range=[low - room, high + room])
        ends = {trace.name: float(trace.y[-1]) for trace in figure.data if trace.name}
        _name_ends(figure, ends, low - room, high + room)
    return figure


def _measured_at(record: Record, count: int) -> np.ndarray:
    """The steps of a measured quantity, which some records have at every other of their measured steps, or fewer.

    Raises:
      ValueError: so many measurements do not lie at every k-th of the steps, for one k.
    """
    steps = record.arrays["measured_steps"]
    fits = [every for every in range(1, len(steps) + 1) if len(steps[::every]) == count]
    if len(fits) != 1:
        raise ValueError(f"{record.kind}: {count} measurements at {len(steps)} measured steps; expected as many.")
    return steps[:: fits[0]]


def _draw_curves(
    figure: go.Figure,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    logarithmic: bool = False,
    names: Any = (),
) -> None:
    """Bands, and over them the mean of each optimizer, from the one that ends highest to the one that ends lowest."""
    drawn = []
    for name, (x, runs) in curves.items():
        finite = np.isfinite(runs).any(axis=0)
        x, runs = x[finite], np.where(np.isfinite(runs), runs, np.nan)[:, finite]
        across, binned = _binned(x, runs, _BAND_POINTS, logarithmic=logarithmic)
        inner = len(runs) >= BAND_FROM
        low, high = np.nanquantile(binned, [0.25, 0.75] if inner else [0, 1], axis=0)
        x, (mean,) = _binned(x, np.nanmean(runs, axis=0)[None], _POINTS, logarithmic=logarithmic)
        drawn.append((mean[-1] if len(mean) else np.inf, name, across, low, high, x, mean, len(runs)))
    drawn.sort(key=lambda curve: -curve[0])
    for _, name, across, low, high, _, _, count in drawn:
        if count > 1:
            _band(figure, across, low, high, name, line_of(name, [*curves, *names])["color"])
    for _, name, _, _, _, x, mean, _ in drawn:
        line = line_of(name, [*curves, *names])
        figure.add_scatter(x=x, y=mean, name=name, legendgroup=name, mode="lines", line={**line, "width": 2})


def _band(figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, group: str, colour: str) -> None:
    """What lies between two curves, in a faint colour; it has no entry in the legend."""
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", line_width=0, mode="lines",
        fillcolor=faint(colour, 0.18), legendgroup=group, showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _name_ends(figure: go.Figure, ends: Mapping[str, float], low: float, high: float) -> None:
    """Writes each curve's name at its end instead of a legend, where the ends lie apart enough for that.

    Args:
      figure: whose curves end at the right side.
      ends: name → where its curve ends on the vertical axis (on a logarithmic one, the logarithm).
      low: where that axis begins.
      high: where it ends.
    """
    apart = 18 / 330 * (high - low)  # a line of text, of the panel's height
    places = sorted(ends.values())
    inside = all(low <= place <= high for place in places)
    if not inside or not places or any(b - a < apart for a, b in itertools.pairwise(places)):
        return
    for name, place in ends.items():
        figure.add_annotation(
            name=END, x=1, xref="x domain", y=place, yref="y", text=name, showarrow=False, xanchor="left",
            yanchor="middle", xshift=6,
        )  # fmt: skip
    figure.update_layout(showlegend=False)


def _binned(
    x: np.ndarray, curves: np.ndarray, count: int, *, logarithmic: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Means over intervals that are equally long on the axis, where there are more points than a figure can show.

    Args:
      x: [points], increasing.
      curves: [runs, points]; nan where there is none.
      count: how many intervals.
      logarithmic: whether the axis is.
    """
    if len(x) <= count:
        return x, curves
    along = np.log(x) if logarithmic else np.asarray(x, dtype=float)
    place = np.minimum(((along - along[0]) / (along[-1] - along[0]) * count).astype(int), count - 1)
    kept = np.unique(place)
    inside = (place == kept[:, None]).astype(float)  # [intervals, points]
    there = np.isfinite(curves)
    sums, weights = np.where(there, curves, 0) @ inside.T, there.astype(float) @ inside.T
    with np.errstate(invalid="ignore"):
        return inside @ np.asarray(x, dtype=float) / inside.sum(axis=1), sums / weights


def _reference(figure: go.Figure, value: float, name: str, ends: float) -> None:
    """A dashed line across, named where the curves are not: below on the left, if they end above it."""
    below = ends > value
    figure.add_hline(y=value, line_dash="dash", line_color=COLOURS[-1], line_width=1.5)
    figure.add_annotation(
        x=0 if below else 1, xref="x domain", y=math.log10(value), yref="y", text=name, showarrow=False,
        xanchor="left" if below else "right", yanchor="bottom", xshift=4 if below else -4,
    )  # fmt: skip


def learned_inverse(eigenvalues: np.ndarray, along: np.ndarray) -> go.Figure:
    """What G does along each eigenvector of H, against the inverse Hessian's 1/λ: the mean over runs, and a band.

    Args:
      eigenvalues: [n] λ of the Hessian, increasing.
      along: [runs, n] qᵀ G q for each eigenvector q.
    """
    figure = go.Figure()
    x, values = _binned(eigenvalues, along, _EIGENVALUE_POINTS, logarithmic=True)
    if len(values) >= BAND_FROM:
        low, high = np.quantile(values, [0.25, 0.75], axis=0)
        _band(figure, x, low, high, "G", line_of("LODO")["color"])
        values = values.mean(axis=0, keepdims=True)
    figure.add_scatter(x=x, y=1 / x, name="H⁻¹: 1/λ", line={"dash": "dash", "color": COLOURS[-1]}, mode="lines")
    for lane, one in enumerate(values):
        figure.add_scatter(
            x=x, y=one, name="learned G", legendgroup="G", showlegend=lane == 0, mode="markers",
            marker={"color": line_of("LODO")["color"], "size": 5},
        )  # fmt: skip
    figure.update_layout(xaxis={"title": "eigenvalue λ of H", "type": "log"}, yaxis={"title": "qᵀ G q", "type": "log"})
    return figure


def trajectories(runs: Mapping[str, Record]) -> go.Figure:
    """Rosenbrock: each optimizer's first run over a heat map of log₁₀(f + 1e-3), with a slider through the steps."""
    paths = {name: _path(record) for name, record in runs.items()}
    wide = _reach([path[0] for path in paths.values()], -1.6, 1.6)
    high = _reach([path[1] for path in paths.values()], -0.4, 2.4)
    x, y = np.linspace(wide[0], wide[1], 97), np.linspace(high[0], high[1], 85)
    X, Y = np.meshgrid(x, y)
    landscape = np.log10(0.01 * (1 - X) ** 2 + (Y - X**2) ** 2 + 1e-3)
    figure = go.Figure()
    figure.add_heatmap(
        x=x, y=y, z=landscape.round(2), colorscale="Greys_r", opacity=0.6, colorbar_title="log₁₀ (f + 10⁻³)",
        hoverinfo="skip",
    )  # fmt: skip
    for name, path in paths.items():
        line = {**line_of(name, runs), "width": 2}
        figure.add_scatter(x=path[0], y=path[1], name=name, mode="lines+markers", line=line, marker_size=3)
    figure.add_scatter(
        x=[1.0], y=[1.0], name="minimum", mode="markers", marker={"symbol": "star", "size": 14, "color": COLOURS[-1]}
    )
    total = max(len(path[0]) for path in paths.values()) - 1
    stops = sorted({stop for stop in (0, 1, 2, 3, 5, 8, *range(10, total, 10), total) if stop <= total})
    figure.update_layout(
        xaxis={"title": "x", "range": wide}, yaxis={"title": "y", "range": high}, height=560,
    )  # fmt: skip
    sliders.through_paths(figure, stops, range(1, len(paths) + 1))
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
    """Every run's score as a point, and the mean with its 95 % interval over seeds, an optimizer a row.

    Fewer runs than :data:`lodo_experiments.report.tables.INTERVAL_FROM` have no interval. Diverged runs have no score;
    their number stands behind the optimizer's name.

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
        low, high = summary.interval
        if np.isfinite([summary.mean, low, high]).all():
            low, high = (low, high) if summary.runs >= INTERVAL_FROM else (summary.mean, summary.mean)
            figure.add_scatter(
                x=[summary.mean], y=[label], mode="markers", showlegend=False, marker={"color": colour, "size": 9},
                error_x={"array": [high - summary.mean], "arrayminus": [summary.mean - low], "color": colour},
            )  # fmt: skip
    if floor is not None:
        figure.add_vline(x=floor, line_dash="dash", line_color=COLOURS[-1])
    figure.update_layout(xaxis_title=title, xaxis_type="log", height=60 + 34 * len(runs))
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def verdicts(rows: Mapping[str, tuple[str, str]], order: tuple[str, ...]) -> go.Figure:
    """The ledger at a glance: a row a claim, a column a verdict; filled for the first kind of claims.

    Args:
      rows: claim → (verdict, its kind: whose claim it is).
      order: the verdicts, from the left.
    """
    figure = go.Figure()
    for words in dict.fromkeys(kind for _, kind in rows.values()):
        large = not figure.data
        shown = {claim: verdict for claim, (verdict, kind) in rows.items() if kind == words}
        figure.add_scatter(
            x=list(shown.values()), y=list(shown), mode="markers", name=words,
            marker={"size": 14, "color": COLOURS[-1], "symbol": "circle" if large else "circle-open", "line_width": 2},
        )  # fmt: skip
    figure.update_xaxes(categoryorder="array", categoryarray=list(order), range=[-0.5, len(order) - 0.5], side="top")
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(list(rows))), automargin=True)
    figure.update_layout(height=120 + 32 * len(rows), margin={"r": 60}, legend={"orientation": "h"})
    return figure


def ablation_curves(runs: Mapping[str, Record]) -> go.Figure:
    """Score against the value of one hyperparameter, a panel a family: every run, and the mean of those that ended.

    A dotted line marks a value at which a run diverged.

    Args:
      runs: ablation's name → record of its runs, e.g. "LODO-depth-8"; families without records have no panel.
    """
    from plotly.subplots import make_subplots

    found = {family: [runs[one.name] for one in members if one.name in runs] for family, members in ABLATIONS.items()}
    found = {family: members for family, members in found.items() if members}
    figure = make_subplots(rows=1, cols=len(found), shared_yaxes=True, horizontal_spacing=0.03)
    line = {"color": line_of("LODO")["color"], "width": 2}
    for place, (family, members) in enumerate(found.items(), start=1):
        panel = {"row": 1, "col": place}
        values, means = [], []
        for record in members:
            at = record.values["hyperparameters"]["momentum"] if family == "momentum" else record.kind.rsplit("-", 1)[1]
            summary, scores = statistics.summarise(record.arrays["scores"]), record.arrays["scores"]
            values.append(float(at))
            means.append(summary.mean if np.isfinite(summary.mean) else None)
            scores = scores[np.isfinite(scores)]
            figure.add_scatter(
                x=[values[-1]] * len(scores), y=scores, mode="markers", showlegend=False, opacity=0.6,
                marker={"color": line["color"], "size": 5, "symbol": "circle-open"}, **panel,
            )  # fmt: skip
            if summary.diverged:
                figure.add_vline(x=values[-1], line_dash="dot", line_color=COLOURS[-1], **panel)
        figure.add_scatter(x=values, y=means, mode="lines+markers", showlegend=False, line=line, **panel)
        figure.update_xaxes(title={"momentum": "β", "depth": "depth N", "block_size": "block size k"}[family], **panel)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title="loss, last 10 % of steps", row=1, col=1)
    return figure


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
        line = {**line_of(name, list(found)), "shape": "hv"}
        figure.add_scatter(x=factors, y=share, name=name, mode="lines", line=line)
    figure.update_layout(
        xaxis={"title": "factor over the best score of all", "type": "log"},
        yaxis={"title": "share of problems", "range": [0, 1.02]},
    )
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


def _reach(paths: list[np.ndarray], least: float, most: float) -> list[float]:
    """From ``least`` to ``most``, and as much further as the paths reach, up to 3 from 0."""
    ends = np.concatenate(paths)
    return [max(-3.0, min(least, float(ends.min()) - 0.1)), min(3.0, max(most, float(ends.max()) + 0.1))]
