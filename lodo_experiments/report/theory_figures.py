"""Figures and tables of the notebooks on theory, and on relative LODO, drawn from records."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lodo_experiments.report.style import COLOURS, line_of
from lodo_experiments.results.records import Record
from lodo_experiments.studies.theory.representability import counting_depth, sufficient_depth

_GREY = COLOURS[-1]

#: Which of the ten groups of eigenvectors are drawn, flattest first, and what they are called.
TENTHS = {0: "flattest tenth", 3: "fourth tenth", 6: "seventh tenth", 9: "steepest tenth"}

#: What marks each of them: colour and dash say which optimizer it is.
_SYMBOLS = ("circle-open", "circle", "x", "star")

#: The distances from the inverse Hessian in which G comes to rest.
_BALL = {"squared_A": "‖I − G H‖²", "squared_D": "‖G − H⁻¹‖²", "excess": "loss above Newton's"}


def decay(record: Record) -> go.Figure:
    """Absolute value of E A_ij by step for some (i, j) of H's eigenbasis, with the mean dynamics as lines."""
    steps, mean, error = (record.arrays[name] for name in ("steps", "mean", "standard_error"))
    path = np.abs(np.concatenate([record.arrays["start"][None], record.arrays["predicted"]]))
    last = mean.shape[1] - 1
    figure = go.Figure()
    for colour, (i, j) in zip(COLOURS, ((0, 0), (0, last), (last, 0), (last, last)), strict=False):
        name = f"i = {i + 1}, j = {j + 1}"
        figure.add_scatter(x=[0, *steps], y=path[:, i, j], name=f"{name}, predicted", line_color=colour)
        _measured(figure, steps, np.abs(mean[:, i, j]), error[:, i, j], colour, f"{name}, measured")
    return _titled(figure, "step", "|E A_ij|", logarithmic="y")


def rates(record: Record) -> go.Figure:
    """Measured share that a step takes from E A_ij against the mean dynamics', for all i and j."""
    names = ("predicted_rate", "measured_rate", "measured_rate_error")
    predicted, measured, error = (record.arrays[name].ravel() for name in names)
    ends = [predicted.min(), predicted.max()]
    figure = go.Figure(go.Scatter(x=ends, y=ends, name="equal", line={"dash": "dash", "color": _GREY}))
    _measured(figure, predicted, measured, error, name="measured, ± 2 standard errors")
    return _titled(figure, "rate of the mean dynamics", "measured rate")


def usual_start(record: Record) -> go.Figure:
    """The diagonal of E A in H's eigenbasis from G₀ = α₀ I, measured and by the mean dynamics."""
    steps, predicted, mean, error = (record.arrays[name] for name in ("steps", "predicted", "mean", "standard_error"))
    figure = go.Figure()
    for i, colour in zip(range(mean.shape[1]), itertools.cycle(COLOURS)):
        figure.add_scatter(x=steps, y=predicted[:, i, i], name=f"λ{i + 1}, mean dynamics", line_color=colour)
        _measured(figure, steps, mean[:, i, i], error[:, i, i], colour, f"λ{i + 1}, measured")
    return _titled(figure, "step", "E A_ii", logarithmic="")


def ball(record: Record) -> go.Figure:
    """Stationary distances from H⁻¹ against ε, measured and to first order in ε."""
    x, figure = record.arrays["rates"], go.Figure()
    for colour, (name, label) in zip(COLOURS, _BALL.items(), strict=False):
        measured, error, predicted = _triple(record, name)
        figure.add_scatter(x=x, y=predicted, name=f"{label}, predicted", line_color=colour)
        _measured(figure, x, measured, error, colour, f"{label}, measured")
    return _titled(figure, "ε", "stationary mean")


def limits(record: Record) -> go.Figure:
    """Share of runs that diverged by three times, against ε as a share of the mean dynamics' limit."""
    steps = record.arrays["steps"]
    figure = go.Figure()
    for colour, (name, label) in zip(COLOURS, {"gaussian": "Gaussian steps", "bounded": "uniform steps"}.items()):
        for dash, place in zip(("dot", "dash", "solid"), (0, len(steps) // 3, len(steps) - 1), strict=True):
            figure.add_scatter(
                x=record.arrays["shares"], y=record.arrays[name][:, place], name=f"{label}, {steps[place]:,} steps",
                mode="lines+markers", line={"color": colour, "dash": dash},
            )  # fmt: skip
    x = "ε as a share of the mean dynamics' limit 2 / (σ² λ_max³)"
    return _titled(figure, x, "share of runs diverged", logarithmic="")


def momentum(record: Record) -> go.Figure:
    """Where G rests and what loss that gives, against β."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("tr(G H)/n", "loss / Newton's"), horizontal_spacing=0.12)
    x = record.arrays["momenta"]
    betas = np.linspace(0, float(x.max()), 91)
    curves = {"factor": ("1 + β", 1 + betas), "loss": ("1/(1 − β²)", 1 / (1 - betas**2))}
    for column, (name, (label, curve)) in enumerate(curves.items(), start=1):
        figure.add_scatter(x=betas, y=curve, name=label, line_color=COLOURS[column - 1], row=1, col=column)
        measured, error, _ = _triple(record, name)
        _measured(figure, x, measured, error, COLOURS[2], showlegend=column == 1, row=1, col=column)
    figure.update_xaxes(title="β")
    return figure


def condition(record: Record) -> go.Figure:
    """Steps until the flat direction is half learned against the condition number, measured and predicted."""
    x, (measured, error, predicted) = record.arrays["condition"], _triple(record, "time")
    figure = go.Figure(go.Scatter(x=x, y=predicted, name="predicted", line_color=_GREY))
    _measured(figure, x, measured, error)
    return _titled(figure, "condition number χ", "steps until half is learned")


def bound(record: Record) -> go.Figure:
    """Expected loss above Newton's, averaged over T steps, and the theorem's bound."""
    steps, bound, mean, error = (record.arrays[name] for name in ("steps", "bound", "mean", "standard_error"))
    figure = go.Figure(go.Scatter(x=steps, y=bound, name="the theorem's bound", line_color=_GREY))
    _measured(figure, steps, mean, error, mode="lines+markers", line_color=COLOURS[0])
    return _titled(figure, "steps T", "mean loss above Newton's")


def dynamics_table(parts: Mapping[str, Record]) -> list[dict[str, str]]:
    """Measured over predicted for everything that the notebook on learning dynamics predicts, ± 2 standard errors."""
    decay, ball, limits, momentum, condition = (
        parts[name] for name in ("decay", "ball", "limits", "momentum", "condition")
    )
    rows: list[tuple[str, str, float, float]] = []

    def add(label: str, record: Record, name: str, at: Iterable[str]) -> None:
        places = zip(at, *_triple(record, name), strict=True)
        rows.extend((label, where, value / by, spread / by) for where, value, spread, by in places)

    shown = {"predicted_rate": "decay rate of E A_ij, mean over i, j", "limit_rate": "… over ε λᵢ λⱼ²"}
    for name, label in shown.items():
        by = decay.arrays[name]
        share = decay.arrays["measured_rate"] / by
        error = np.sqrt(np.sum((decay.arrays["measured_rate_error"] / by) ** 2)) / share.size
        rows.append((label, f"ε = {decay.values['settings']['decay_rate']:g}", share.mean(), error))
    for name, label in _BALL.items():
        add(f"E{label}" if label[0] == "‖" else label, ball, name, [f"ε = {rate:g}" for rate in ball.arrays["rates"]])
    rows.append(("limit of the mean dynamics", "", limits.values["measured"] / limits.values["predicted"], 0.0))
    rate = momentum.values["settings"]["momentum_rate"]
    at = [f"β = {beta:g}, ε = {rate:g}" for beta in momentum.arrays["momenta"]]
    for name, label in {"factor": "tr(G H)/n with momentum", "loss": "loss with momentum"}.items():
        add(label, momentum, name, at)
    at = [f"χ = {chi}" for chi in condition.arrays["condition"]]
    add("steps until the flat direction is half learned", condition, "time", at)
    return [
        {
            "quantity": label, "at": at,
            "measured / predicted": f"{value:.4f}" + (f" ± {2 * spread:.4f}" if spread else ""),
        }
        for label, at, value, spread in rows
    ]  # fmt: skip


def _measured(
    figure: go.Figure, x: Any, y: Any, error: Any, colour: str = COLOURS[0], name: str = "measured", **more: Any
) -> None:
    """Points with two standard errors."""
    more = {"mode": "markers", "marker_color": colour, **more}
    figure.add_scatter(x=x, y=y, name=name, error_y={"array": 2 * error}, **more)


def _titled(figure: go.Figure, x: str, y: str, logarithmic: str = "xy") -> go.Figure:
    """The figure, its axes named."""
    for axis, title in (("xaxis", x), ("yaxis", y)):
        figure.update_layout({axis: {"title": title, "type": "log" if axis[0] in logarithmic else "linear"}})
    return figure


def _triple(record: Record, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was measured, its standard error, and what is predicted."""
    return record.arrays[name], record.arrays[f"{name}_error"], record.arrays[f"{name}_predicted"]


def ranks(record: Record, size: int) -> go.Figure:
    """Mean rank over the draws by depth, as a share of n (n + 1)/2, for one n; the counting bound as dotted lines."""
    arrays, entries = record.arrays, size * (size + 1) // 2
    figure = go.Figure()
    cases = sorted({(int(k), int(h)) for n, k, h in _columns(record) if n == size})
    for place, (k, hidden) in enumerate(cases):
        chosen = (arrays["size"] == size) & (arrays["block_size"] == k) & (arrays["hidden_size"] == hidden)
        count = len(set(arrays["seed"][chosen]))
        depths = np.arange(1, arrays["depth"][chosen].max() + 1)
        line = {"color": COLOURS[place % len(COLOURS)]}
        for name, dash in (("rank", "solid"), ("bound", "dot")):
            # A draw whose rank is full at N layers keeps it at more.
            totals = [arrays[name][chosen & (arrays["depth"] == depth)] for depth in depths]
            means = [(values.sum() + entries * (count - len(values))) / count / entries for values in totals]
            label = f"k = {k}, ñ = {hidden}" + (", bound" if name == "bound" else "")
            figure.add_scatter(x=depths, y=means, name=label, mode="lines+markers", line={**line, "dash": dash})
    figure.update_layout(xaxis={"title": "depth N", "dtick": 1}, yaxis_title=f"rank / {entries}")
    return figure


def depth_table(record: Record) -> list[dict[str, str]]:
    """For each n, k and ñ: depth that counting asks for, depth at which the rank was full, depth that suffices."""
    arrays, rows = record.arrays, []
    for n, k, hidden in sorted(set(_columns(record))):
        chosen = (arrays["size"] == n) & (arrays["block_size"] == k) & (arrays["hidden_size"] == hidden)
        full = sorted(arrays["depth"][chosen & (arrays["rank"] == n * (n + 1) // 2)])
        draws = len(set(arrays["seed"][chosen]))
        measured = f"{full[0]} to {full[-1]}" if full and full[0] < full[-1] else f"{full[0]}" if full else "—"
        some = f" ({len(full)} of {draws} draws)" if len(full) < draws else ""
        rows.append({
            "n": f"{n}", "k": f"{k}", "ñ": f"{hidden}",
            "N that counting asks for": f"{counting_depth(n, k, hidden)}",
            "N at which the rank is full": measured + some,
            "N that suffices with probability ½": f"{sufficient_depth(n, k, hidden)}",
        })  # fmt: skip
    return rows


def default_table(record: Record) -> list[dict[str, str]]:
    """The Jacobian at the optimizer's initial θ."""
    names = ("size", "entries", "parameters", "rank", "smallest", "largest")
    return [
        {
            "n": f"{n}", "entries of a symmetric matrix": f"{entries:,}", "numbers in θ": f"{parameters:,}",
            "rank": f"{rank:,}", "smallest singular value / largest": f"{low / high:.2g}",
        }
        for n, entries, parameters, rank, low, high in zip(*(record.arrays[name] for name in names), strict=True)
    ]  # fmt: skip


def errors(record: Record, chosen: dict[str, int]) -> go.Figure:
    """Heat map of the median relative error of each form (rows) on each family (columns)."""
    families = record.values["families"]
    table = np.array([np.median(record.arrays["error"][place], axis=(1, 2)) for place in chosen.values()])
    rows = [f"{form} ({record.arrays['parameters'][place]})" for form, place in chosen.items()]
    text = [[f"{value:.2f}" if value > 5e-3 else f"{value:.0e}" for value in row] for row in table]
    figure = go.Figure(
        go.Heatmap(
            x=families, y=rows, z=table, zmin=0, zmax=1, colorscale="Blues", text=text, texttemplate="%{text}",
            colorbar_title="error",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def error_curves(record: Record) -> go.Figure:
    """Median relative error by number of parameters, one panel a family; dotted: the entries of a symmetric matrix."""
    families = record.values["families"]
    figure = make_subplots(rows=2, cols=3, subplot_titles=families, shared_yaxes=True, vertical_spacing=0.17)
    forms = list(dict.fromkeys(str(form) for form in record.arrays["form"]))
    for index in range(len(families)):
        row, column = divmod(index, 3)
        for form in forms:
            chosen = record.arrays["form"] == form
            error = np.median(record.arrays["error"][chosen][:, index], axis=(1, 2))
            figure.add_scatter(
                x=record.arrays["parameters"][chosen], y=np.maximum(error, 1e-8), name=form, legendgroup=form,
                showlegend=index == 0, mode="lines+markers", line=line_of(form, forms), row=row + 1, col=column + 1,
            )  # fmt: skip
        figure.add_vline(x=record.values["entries"], line_dash="dot", line_color=_GREY, row=row + 1, col=column + 1)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title="error", col=1)
    figure.update_xaxes(title="parameters", row=2)
    figure.update_layout(height=560)
    return figure


def shares(found: Mapping[str, Record]) -> go.Figure:
    """λ qᵀ G q by step: 1 is Newton's step along q; an optimizer's colour and dash, a symbol for each group.

    Args:
      found: optimizer → record.
    """
    figure = go.Figure()
    for name, record in found.items():
        steps, values = record.arrays["measured_steps"], record.arrays["shares"].mean(axis=0)
        for symbol, (group, about) in zip(_SYMBOLS, TENTHS.items(), strict=True):
            figure.add_scatter(
                x=steps, y=values[:, group], name=f"{name}, {about}", mode="lines+markers", line=line_of(name, found),
                marker={"symbol": symbol, "size": 9},
            )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis={"title": "share of Newton's step", "rangemode": "tozero"})
    return figure


def drifts(lines: Mapping[str, Mapping[float, Sequence[float]]]) -> go.Figure:
    """Loss above Newton's against how unequal the drift is.

    Args:
      lines: how each is called → ratio of the drift's largest standard deviation to its smallest → one value a run.
    """
    figure = go.Figure()
    for dash, (name, values) in zip(itertools.cycle(("solid", "dash", "dot", "dashdot")), lines.items()):
        line = line_of("LODO") if name == "LODO" else {**line_of("rlodo"), "dash": dash}
        means = [float(np.mean(one)) for one in values.values()]
        spread = [float(np.std(one, ddof=1)) for one in values.values()]
        figure.add_scatter(x=list(values), y=means, name=name, line=line, error_y={"array": spread})
    return _titled(
        figure, "largest over smallest standard deviation of the drift", "loss above Newton's", logarithmic="x"
    )


def _columns(record: Record) -> list[tuple[int, int, int]]:
    names = ("size", "block_size", "hidden_size")
    return [(int(n), int(k), int(h)) for n, k, h in zip(*(record.arrays[name] for name in names), strict=True)]
