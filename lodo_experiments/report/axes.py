"""Ranges and ticks of a figure's axes, decided once for its static picture and its interactive form.

plotly decides both in the browser. Here they are set before: from the data (and the lines that mark a reference), with
ticks that say what they mean: a logarithmic axis over less than two decades says 8, 10 and 20, not 8, 10 and "2".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

#: A figure as plotly writes it in JSON, its arrays as lists.
Specification = dict[str, Any]

_PAD = 0.04  # of the range, at each end
_POWERS = 300  # of ten, beyond which a logarithmic axis has no ticks: losses of a run that blows up get there
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def complete(specification: Specification, width: float, height: float) -> None:
    """Gives every axis that a trace uses its type, range and ticks, in place; what the figure sets itself stays.

    Args:
      specification: a figure.
      width: of the area between the margins, in pixels.
      height: of the same.
    """
    layout = specification["layout"]
    used = {
        letter: sorted({trace.get(f"{letter}axis", letter) for trace in specification["data"]}) for letter in ("x", "y")
    }
    for letter, length in (("x", width), ("y", height)):
        values = {one: list(_values(specification, letter, one)) for one in used[letter]}
        for one in used[letter]:
            axis = layout.setdefault(key_of(one), {})
            group = [other for other in used[letter] if _group(layout, other) == _group(layout, one)]
            together = [value for other in group for value in values[other]]
            axis.setdefault("type", "category" if any(isinstance(v, str) for v in together) else "linear")
            _set_range(axis, together, padded=letter == "y" or _has_markers(specification, one))
            share = axis.get("domain", [0, 1])
            if letter == "x" and axis["type"] == "category":
                _break_names(axis, categories(specification, one), (share[1] - share[0]) * length)
            _set_ticks(axis, (share[1] - share[0]) * length, across=letter == "x")


def key_of(axis: str) -> str:
    """The layout's name of a trace's axis.

    >>> key_of("x"), key_of("y12")
    ('xaxis', 'yaxis12')
    """
    return f"{axis[0]}axis{axis[1:]}"


def categories(specification: Specification, axis: str) -> list[str]:
    """The names along an axis of categories, in its order."""
    given = specification["layout"][key_of(axis)].get("categoryarray")
    return list(dict.fromkeys(given or _values(specification, axis[0], axis)))


def marks(trace: Mapping[str, Any]) -> set[str]:
    """What a scatter trace draws: "lines", "markers", "text"."""
    points = max(len(trace.get("x") or ()), len(trace.get("y") or ()))
    return set((trace.get("mode") or ("lines+markers" if points < 20 else "lines")).split("+"))


def in_legend(trace: Mapping[str, Any]) -> bool:
    """Whether a trace has an entry of its own."""
    return bool(trace.get("name")) and trace.get("showlegend", True) and trace.get("type", "scatter") != "heatmap"


def legend_names(specification: Specification) -> list[str]:
    """The entries of a figure's legend; none where it has no legend."""
    shown = [trace for trace in specification["data"] if in_legend(trace)]
    wanted = specification["layout"].get("showlegend", len(shown) > 1 or any(t.get("showlegend") for t in shown))
    return [trace["name"] for trace in shown] if wanted else []


def linear_ticks(low: float, high: float, count: float) -> list[float]:
    """About so many round numbers from low to high.

    >>> linear_ticks(0, 97, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def log_ticks(low: float, high: float, count: float) -> list[float]:
    """About so many round numbers from low to high, both above 0, for a logarithmic axis.

    >>> log_ticks(7, 25, 5), log_ticks(0.2, 3000, 5)
    ([7.5, 10.0, 12.5, 15.0, 17.5, 20.0, 22.5, 25.0], [1.0, 10.0, 100.0, 1000.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    within = (1 - 1e-9) * low, (1 + 1e-9) * high

    def choose(factors: Iterable[int], every: int = 1) -> list[float]:
        found = [float(f"{f}e{power}") for power in range(first, last + 1) if power % every == 0 for f in factors]
        return [value for value in found if within[0] <= value <= within[1]]

    for factors in ((1,), (1, 3), (1, 2, 5)):
        chosen = choose(factors)
        if len(chosen) >= max(3, 0.6 * count):
            every = max(1, math.ceil(len(chosen) / (1.6 * count))) if factors == (1,) else 1
            return choose(factors, every)
    if high / low > 30:
        return choose((1, 2, 5))
    return linear_ticks(low, high, max(count, 4) + 3)


def label(value: float) -> str:
    """A tick's text.

    >>> [label(value) for value in (20000.0, 0.05, 1e6, 2e-7, 0.0, -3.0)]
    ['20,000', '0.05', '10⁶', '2·10⁻⁷', '0', '−3']
    """
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.6g}" if abs(value) < 1e4 else f"{value:,.0f}"
    else:
        factor, power = f"{value:.6e}".split("e")
        short = f"{float(factor):.6g}"
        written = f"10{str(int(power)).translate(_SUPERSCRIPT)}"
        text = written if short == "1" else f"{short}·{written}"
    return text.replace("-", "−")


def _break_names(axis: dict[str, Any], names: list[str], length: float) -> None:
    """Puts names that are wider than their place on two lines."""
    place = length / len(names) - 8
    if any(text_width(name) > place for name in names):
        spaces = [[i for i, c in enumerate(name) if c == " "] for name in names]
        middles = [min(found, key=lambda i: abs(i - len(n) / 2), default=-1) for n, found in zip(names, spaces)]
        broken = [n if i < 0 or text_width(n) <= place else f"{n[:i]}<br>{n[i + 1 :]}" for n, i in zip(names, middles)]
        axis.update(tickmode="array", tickvals=names, ticktext=broken)


def _group(layout: Mapping[str, Any], axis: str) -> str:
    """The axis that an axis goes with."""
    matched = layout.get(key_of(axis), {}).get("matches")
    return _group(layout, matched) if matched else axis


def _has_markers(specification: Specification, axis: str) -> bool:
    traces = [t for t in specification["data"] if t.get(f"{axis[0]}axis", axis[0]) == axis]
    return any(t.get("type", "scatter") == "scatter" and "markers" in marks(t) for t in traces)


def _values(specification: Specification, letter: str, axis: str) -> Iterable[Any]:
    """All that has to be seen along an axis."""
    layout = specification["layout"]
    for trace in specification["data"]:
        if trace.get(f"{letter}axis", letter) != axis:
            continue
        kind, given = trace.get("type", "scatter"), trace.get(letter)
        if kind == "heatmap":
            rows = trace["z"]
            named = given is not None and isinstance(given[0], str)
            yield from given if named else edges(given, len(rows[0]) if letter == "x" else len(rows))
            continue
        if given is None:
            given = range(len(trace["y" if letter == "x" else "x"]))
        if kind == "bar" and letter == "y" and layout.get(key_of(axis), {}).get("type") != "log":
            yield 0.0
        spread = trace.get(f"error_{letter}") or {}
        up = spread.get("array") or [0] * len(given)
        down = spread.get("arrayminus") or up
        for value, above, below in zip(given, up, down, strict=True):
            if value is None or isinstance(value, str):
                if value is not None:
                    yield value
                continue
            yield value
            yield value + (above or 0)
            yield value - (below or 0)
    for shape in layout.get("shapes", ()):
        if shape.get(f"{letter}ref") == axis:
            yield from (shape[f"{letter}0"], shape[f"{letter}1"])


def edges(centres: Sequence[float] | None, count: int) -> tuple[float, float]:
    """Where a heat map begins and ends along one side, whose cells have these centres."""
    if centres is None or any(isinstance(c, str) for c in centres):
        return -0.5, count - 0.5
    half = (centres[-1] - centres[0]) / (2 * max(count - 1, 1)) if count > 1 else 0.5
    return centres[0] - half, centres[-1] + half


def _set_range(axis: dict[str, Any], values: list[Any], *, padded: bool) -> None:
    backwards = axis.pop("autorange", None) == "reversed"
    if "range" in axis:
        return
    if axis["type"] == "category":
        count = len(axis.get("categoryarray") or dict.fromkeys(v for v in values if isinstance(v, str)))
        low, high = -0.5, count - 0.5
    else:
        logarithmic = axis["type"] == "log"
        found = np.array([v for v in values if not isinstance(v, str)], dtype=float)
        found = found[np.isfinite(found) & ((found > 0) | (not logarithmic))]
        found = np.log10(found) if logarithmic else found
        low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        pad = _PAD * (high - low) if padded else 0.0
        if not padded and not logarithmic:  # the means of the first and the last steps lie a little inside
            step = 10.0 ** math.floor(math.log10(high - low))
            outer = math.floor(low / step) * step, math.ceil(high / step) * step
            low, high = (end if abs(end - at) < _PAD * (high - low) else at for end, at in zip(outer, (low, high)))
        zero = axis.get("rangemode") == "tozero" and not logarithmic
        # What begins at 0 needs no room below it.
        low = min(0.0, low) if zero else low if low == 0 and not logarithmic else low - pad
        high += pad
    axis["range"] = [high, low] if backwards else [low, high]


def _set_ticks(axis: dict[str, Any], length: float, *, across: bool) -> None:
    spacing = 95 if across else 55  # pixels between two ticks, about
    if axis["type"] == "category" or axis.get("visible") is False or "tickvals" in axis:
        return
    low, high = sorted(axis["range"])
    if "dtick" in axis:
        step = axis["dtick"]
        values = [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    elif axis["type"] == "log":
        values = log_ticks(10.0 ** max(low, -_POWERS), 10.0 ** min(high, _POWERS), length / spacing)
    else:
        values = linear_ticks(low, high, max(length / spacing, 2.5))
    # The roundest first; those whose text would run into theirs are left out.
    kept: dict[float, float] = {}
    for value in sorted(values, key=lambda value: (len(f"{value:.12g}".replace(".", "").strip("-0")), abs(value))):
        at = ((math.log10(value) if axis["type"] == "log" else value) - low) / (high - low) * length
        room = text_width(label(value)) + 10 if across else 17
        if all(abs(at - other) >= room for other in kept.values()):
            kept[value] = at
    values = sorted(kept)
    axis.update(tickmode="array", tickvals=values, ticktext=[label(value) for value in values])


def text_width(text: str, size: float = 13) -> float:
    """About how many pixels a text takes, in a wide sans-serif.

    Args:
      text: of one line.
      size: of its font in pixels.

    >>> text_width("WWWW") > text_width("iiii") > 0
    True
    """
    narrow, wide = sum(c in "ijl.,:;'|()[] tfr·" for c in text), sum(c in "mwMW—%" for c in text)
    return size * (0.38 * narrow + 0.9 * wide + 0.64 * (len(text) - narrow - wide))
