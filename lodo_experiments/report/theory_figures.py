"""Figures and tables of the theory's notebooks, each drawn from one record."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lodo_experiments.report.style import COLOURS, line_of
from lodo_experiments.results.records import Record
from lodo_experiments.studies.theory.representability import counting_depth, sufficient_depth

_GREY = COLOURS[-1]


def decay(record: Record) -> go.Figure:
    """Absolute value of E A_ij by step for some (i, j) of H's eigenbasis, with the mean dynamics as lines."""
    steps, mean, error = (record.arrays[name] for name in ("steps", "mean", "standard_error"))
    path = np.abs(np.concatenate([record.arrays["start"][None], record.arrays["predicted"]]))
    last = mean.shape[1] - 1
    figure = go.Figure()
    for colour, (i, j) in zip(COLOURS, ((0, 0), (0, last), (last, 0), (last, last)), strict=False):
        name = f"i = {i + 1}, j = {j + 1}"
        figure.add_scatter(x=[0, *steps], y=path[:, i, j], name=f"{name}, predicted", line_color=colour)
        figure.add_scatter(
            x=steps, y=np.abs(mean[:, i, j]), name=f"{name}, measured", mode="markers", marker_color=colour,
            error_y={"array": 2 * error[:, i, j]},
        )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis={"title": "|E A_ij|", "type": "log"})
    return figure


def rates(record: Record) -> go.Figure:
    """Measured share that a step takes from E A_ij against the mean dynamics', for all i and j."""
    predicted, measured, error = (
        record.arrays[name].ravel() for name in ("predicted_rate", "measured_rate", "measured_rate_error")
    )
    ends = [predicted.min(), predicted.max()]
    figure = go.Figure()
    figure.add_scatter(x=ends, y=ends, name="equal", line={"dash": "dash", "color": _GREY})
    figure.add_scatter(
        x=predicted, y=measured, name="measured, ± 2 standard errors", mode="markers", marker_color=COLOURS[0],
        error_y={"array": 2 * error},
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "rate of the mean dynamics", "type": "log"}, yaxis={"title": "measured rate", "type": "log"}
    )
    return figure


def usual_start(record: Record) -> go.Figure:
    """The diagonal of E A in H's eigenbasis from G₀ = α₀ I, measured and by the mean dynamics."""
    steps = record.arrays["steps"]
    figure = go.Figure()
    for index in range(record.arrays["mean"].shape[1]):
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=steps,
            y=record.arrays["predicted"][:, index, index],
            name=f"λ{index + 1}, mean dynamics",
            line_color=colour,
        )
        figure.add_scatter(
            x=steps, y=record.arrays["mean"][:, index, index], name=f"λ{index + 1}, measured", mode="markers",
            marker_color=colour, error_y={"array": 2 * record.arrays["standard_error"][:, index, index]},
        )  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis_title="E A_ii")
    return figure


def ball(record: Record) -> go.Figure:
    """Stationary distances from H⁻¹ against ε, measured and to first order in ε."""
    labels = {"squared_A": "‖I − G H‖²", "squared_D": "‖G − H⁻¹‖²", "excess": "loss above Newton's"}
    figure = go.Figure()
    for colour, (name, label) in zip(COLOURS, labels.items(), strict=False):
        x = record.arrays["rates"]
        figure.add_scatter(x=x, y=record.arrays[f"{name}_predicted"], name=f"{label}, predicted", line_color=colour)
        figure.add_scatter(
            x=x, y=record.arrays[name], name=f"{label}, measured", mode="markers", marker_color=colour,
            error_y={"array": 2 * record.arrays[f"{name}_error"]},
        )  # fmt: skip
    figure.update_layout(xaxis={"title": "ε", "type": "log"}, yaxis={"title": "stationary mean", "type": "log"})
    return figure


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
    figure.update_layout(
        xaxis_title="ε as a share of the mean dynamics' limit 2 / (σ² λ_max³)", yaxis_title="share of runs diverged"
    )
    return figure


def momentum(record: Record) -> go.Figure:
    """Where G rests and what loss that gives, against β."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("tr(G H)/n", "loss / Newton's"), horizontal_spacing=0.12)
    betas = np.linspace(0, float(record.arrays["momenta"].max()), 91)
    curves = {"factor": ("1 + β", 1 + betas), "loss": ("1/(1 − β²)", 1 / (1 - betas**2))}
    for column, (name, (label, curve)) in enumerate(curves.items(), start=1):
        figure.add_scatter(x=betas, y=curve, name=label, line_color=COLOURS[column - 1], row=1, col=column)
        figure.add_scatter(
            x=record.arrays["momenta"], y=record.arrays[name], name="measured", mode="markers", showlegend=column == 1,
            marker_color=COLOURS[2], error_y={"array": 2 * record.arrays[f"{name}_error"]}, row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="β")
    return figure


def condition(record: Record) -> go.Figure:
    """Steps until the flat direction is half learned against the condition number, measured and predicted."""
    x = record.arrays["condition"]
    figure = go.Figure()
    figure.add_scatter(x=x, y=record.arrays["time_predicted"], name="predicted", line_color=_GREY)
    figure.add_scatter(
        x=x, y=record.arrays["time"], name="measured", mode="markers", marker_color=COLOURS[0],
        error_y={"array": 2 * record.arrays["time_error"]},
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "condition number κ", "type": "log"},
        yaxis={"title": "steps until half is learned", "type": "log"},
    )
    return figure


def bound(record: Record) -> go.Figure:
    """Expected loss above Newton's, averaged over T steps, and the theorem's bound."""
    steps = record.arrays["steps"]
    figure = go.Figure()
    figure.add_scatter(x=steps, y=record.arrays["bound"], name="the theorem's bound", line_color=_GREY)
    figure.add_scatter(
        x=steps, y=record.arrays["mean"], name="measured", mode="lines+markers", line_color=COLOURS[0],
        error_y={"array": 2 * record.arrays["standard_error"]},
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "steps T", "type": "log"}, yaxis={"title": "mean loss above Newton's", "type": "log"}
    )
    return figure


def dynamics_table(parts: Mapping[str, Record]) -> list[dict[str, str]]:
    """Measured over predicted for everything that the notebook on learning dynamics predicts, ± 2 standard errors."""
    decay, ball, limits, momentum, condition = (
        parts[name] for name in ("decay", "ball", "limits", "momentum", "condition")
    )
    rows = []
    for name, label in {
        "predicted_rate": "decay rate of E A_ij, mean over i, j",
        "limit_rate": "… over ε λᵢ λⱼ²",
    }.items():
        by = decay.arrays[name]
        share = decay.arrays["measured_rate"] / by
        error = np.sqrt(np.sum((decay.arrays["measured_rate_error"] / by) ** 2)) / share.size
        rows.append((label, f"ε = {decay.values['settings']['decay_rate']:g}", share.mean(), error))
    for name, label in {
        "squared_A": "E‖I − G H‖²",
        "squared_D": "E‖G − H⁻¹‖²",
        "excess": "loss above Newton's",
    }.items():
        measured, errors, predicted = (ball.arrays[name + end] for end in ("", "_error", "_predicted"))
        rows += [
            (label, f"ε = {rate:g}", value / by, spread / by)
            for rate, value, spread, by in zip(ball.arrays["rates"], measured, errors, predicted, strict=True)
        ]
    rows.append(("limit of the mean dynamics", "", limits.values["measured"] / limits.values["predicted"], 0.0))
    for name, label in {"factor": "tr(G H)/n with momentum", "loss": "loss with momentum"}.items():
        measured, errors, predicted = (momentum.arrays[name + end] for end in ("", "_error", "_predicted"))
        rate = momentum.values["settings"]["momentum_rate"]
        rows += [
            (label, f"β = {beta:g}, ε = {rate:g}", value / by, spread / by)
            for beta, value, spread, by in zip(momentum.arrays["momenta"], measured, errors, predicted, strict=True)
        ]
    rows += [
        ("steps until the flat direction is half learned", f"κ = {kappa}", value / by, spread / by)
        for kappa, value, spread, by in zip(
            *(condition.arrays[name] for name in ("condition", "time", "time_error", "time_predicted")), strict=True
        )
    ]
    return [
        {
            "quantity": label,
            "at": at,
            "measured / predicted": f"{value:.4f}" + (f" ± {2 * spread:.4f}" if spread else ""),
        }
        for label, at, value, spread in rows
    ]


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
        rows.append(
            {
                "n": f"{n}",
                "k": f"{k}",
                "ñ": f"{hidden}",
                "N that counting asks for": f"{counting_depth(n, k, hidden)}",
                "N at which the rank is full": measured
                + (f" ({len(full)} of {draws} draws)" if len(full) < draws else ""),
                "N that suffices with probability ½": f"{sufficient_depth(n, k, hidden)}",
            }
        )
    return rows


def default_table(record: Record) -> list[dict[str, str]]:
    """The Jacobian at the optimizer's initial θ."""
    arrays = record.arrays
    return [
        {
            "n": f"{n}",
            "entries of a symmetric matrix": f"{entries:,}",
            "numbers in θ": f"{parameters:,}",
            "rank": f"{rank:,}",
            "smallest singular value / largest": f"{low / high:.2g}",
        }
        for n, entries, parameters, rank, low, high in zip(
            *(arrays[name] for name in ("size", "entries", "parameters", "rank", "smallest", "largest")), strict=True
        )
    ]


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


def _columns(record: Record) -> list[tuple[int, int, int]]:
    names = ("size", "block_size", "hidden_size")
    return [(int(n), int(k), int(h)) for n, k, h in zip(*(record.arrays[name] for name in names), strict=True)]
