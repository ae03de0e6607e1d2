"""The static picture of a figure: SVG from the same specification that plotly draws, with no browser and no plotly.

The book's pages show it until their script has drawn the interactive figure, without JavaScript, and on paper. It knows
what the book's figures use: lines, markers, texts, bands and error bars, bars, heat maps, panels, references and
annotations. Its text and grid take the page's colours by variables of the style sheet.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lodo_experiments.report import axes
from lodo_experiments.report.axes import Specification, categories, edges, key_of, marks, text_width
from lodo_experiments.report.style import COLOURS, DASHES

#: Pixels of the picture's width: the book's column.
WIDTH = 700

#: Pixels between a title and a legend below it, of which plotly's ticks outside of the panel take most.
LEGEND_GAP = 18

#: The types of traces that are drawn.
TYPES = frozenset({"scatter", "bar", "heatmap"})

_FONT = 13  # pixels of the text
_INK = "var(--lodo-ink,#24303a)"
_GRID = "var(--lodo-grid,#d9dfe4)"

#: Shades of heat maps: plotly's names → colours from the lowest value to the highest.
_SCALES: Mapping[str, tuple[str, ...]] = {
    "Greys_r": ("#000000", "#ffffff"),
    "Blues": ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b"),
}


def draw(specification: Specification) -> str:
    """The picture, :data:`WIDTH` pixels wide.

    Args:
      specification: a figure with ``layout.height``, ``layout.margin`` of four sides, and complete axes
        (:func:`lodo_experiments.report.axes.complete`).
      Its traces are of :data:`TYPES`.
    """
    return _Picture(specification).draw()


class _Picture:
    """One figure, being drawn."""

    def __init__(self, specification: Specification) -> None:
        self.specification, self.layout = specification, specification["layout"]
        self.data: list[dict[str, Any]] = specification["data"]
        margin = self.layout["margin"]
        self.left, self.top = margin["l"], margin["t"]
        self.width, self.height = WIDTH - margin["l"] - margin["r"], self.layout["height"] - margin["t"] - margin["b"]
        self.panels = list(dict.fromkeys((t.get("xaxis", "x"), t.get("yaxis", "y")) for t in self.data))
        self.boxes = {panel: self._box(*panel) for panel in self.panels}

    def draw(self) -> str:
        height = self.layout["height"]
        parts = [
            f'<svg class="lodo-static" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'aria-hidden="true" font-size="{_FONT}" fill="{_INK}" xmlns="http://www.w3.org/2000/svg">'
        ]
        for panel in self.panels:
            parts += self._axes(*panel)
        parts += [self._shape(shape) for shape in self.layout.get("shapes", ())]
        for panel in self.panels:
            x, y, width, high = self.boxes[panel]
            # A nested element clips what leaves its panel, without a name that another figure might have too.
            parts.append(f'<svg x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{high:.1f}" overflow="hidden">')
            parts.append(f'<g transform="translate({-x:.1f} {-y:.1f})">')
            for place, trace in enumerate(self.data):
                if (trace.get("xaxis", "x"), trace.get("yaxis", "y")) == panel:
                    parts += self._trace(trace, COLOURS[place % len(COLOURS)], panel)
            parts.append("</g></svg>")
            for trace in self.data:
                if (trace.get("xaxis", "x"), trace.get("yaxis", "y")) == panel and "text" in marks(trace):
                    parts += self._texts(trace, panel)
        parts += [self._annotation(annotation) for annotation in self.layout.get("annotations", ())]
        parts += self._legend()
        return "".join([*parts, "</svg>"])

    def _box(self, x: str, y: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of a panel in pixels."""
        across, up = self.layout[key_of(x)].get("domain", [0, 1]), self.layout[key_of(y)].get("domain", [0, 1])
        left, width = self.left + across[0] * self.width, (across[1] - across[0]) * self.width
        top, height = self.top + (1 - up[1]) * self.height, (up[1] - up[0]) * self.height
        if self.layout[key_of(y)].get("scaleanchor") == x:  # equal units: the panel shrinks about its middle
            units = [abs(np.diff(self.layout[key_of(axis)]["range"])[0]) for axis in (x, y)]
            scale = min(width / units[0], height / units[1])
            left, top = left + (width - scale * units[0]) / 2, top + (height - scale * units[1]) / 2
            width, height = scale * units[0], scale * units[1]
        return left, top, width, height

    def _place(self, axis: str, panel: tuple[str, str], value: Any) -> float:
        """The pixel of a value; nan for what has none."""
        described = self.layout[key_of(axis)]
        if value is None:
            return math.nan
        if described["type"] == "category" and isinstance(value, str):
            value = categories(self.specification, axis).index(value)
        elif described["type"] == "log":
            value = math.log10(value) if value > 0 else math.nan
        low, high = described["range"]
        share = (value - low) / (high - low)
        x, y, width, height = self.boxes[panel]
        return x + share * width if axis[0] == "x" else y + (1 - share) * height

    def _points(self, trace: Mapping[str, Any], panel: tuple[str, str]) -> list[tuple[float, float]]:
        count = len(trace.get("x") or trace["y"])
        xs, ys = trace.get("x") or range(count), trace.get("y") or range(count)
        return [(self._place(panel[0], panel, x), self._place(panel[1], panel, y)) for x, y in zip(xs, ys, strict=True)]

    def _axes(self, x: str, y: str) -> Iterator[str]:
        left, top, width, height = self.boxes[x, y]
        for axis in (x, y):
            described = self.layout[key_of(axis)]
            if described.get("visible") is False:
                continue
            values, texts = described.get("tickvals"), described.get("ticktext")
            if values is None:
                values = texts = categories(self.specification, axis)
            low, high = sorted(described["range"])
            above = described.get("side") == "top"
            for value, text in zip(values, texts or map(axes.label, values), strict=True):
                at = math.log10(value) if described["type"] == "log" else value
                if not isinstance(at, str) and not low - 1e-9 <= at <= high + 1e-9:
                    continue
                place = self._place(axis, (x, y), value)
                if axis[0] == "x":
                    yield _line(place, top, place, top + height, _GRID, 1)
                    for line, part in enumerate(str(text).split("<br>")):
                        yield _text(place, top - 8 if above else top + height + 17 + 14 * line, part, "middle")
                else:
                    yield _line(left, place, left + width, place, _GRID, 1)
                    if described.get("showticklabels") is not False:
                        yield _text(left - 6, place + 4.5, text, "end")
            title = (described.get("title") or {}).get("text")
            if title and axis[0] == "x":
                yield _text(left + width / 2, top + height + 38, title, "middle")
            elif title:
                along = 15 if left < self.left + 1 else left - 48
                turn = f' transform="rotate(-90 {along:.1f} {top + height / 2:.1f})"'
                yield _text(along, top + height / 2, title, "middle", turn)

    def _trace(self, trace: Mapping[str, Any], fallback: str, panel: tuple[str, str]) -> Iterator[str]:
        kind = trace.get("type", "scatter")
        if kind == "heatmap":
            yield from self._heatmap(trace, panel)
        elif kind == "bar":
            yield from self._bars(trace, fallback, panel)
        else:
            line, marker = trace.get("line") or {}, trace.get("marker") or {}
            colour = line.get("color") or marker.get("color") or fallback
            points, faded = self._points(trace, panel), _opacity(trace)
            if trace.get("fill") == "toself":
                yield f'<path d="{_path(points)}Z" {_filled(trace["fillcolor"])}/>'
                return
            yield from self._error_bars(trace, colour, panel)
            if "lines" in marks(trace) and line.get("width") != 0:
                dash = DASHES[line.get("dash", "solid")]
                dashed = f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""
                yield (
                    f'<path d="{_path(points)}" fill="none" stroke="{colour}" stroke-width="{line.get("width", 2)}"'
                    f' stroke-linejoin="round"{dashed}{faded}/>'
                )
            # Dots on a line that are hardly wider than it are left to the interactive figure.
            if "markers" in marks(trace) and not ("lines" in marks(trace) and marker.get("size", 6) <= 3):
                colour = marker.get("color") or colour
                yield from (_marker(*point, {**marker, "color": colour}, faded) for point in points if _seen(point))

    def _error_bars(self, trace: Mapping[str, Any], colour: str, panel: tuple[str, str]) -> Iterator[str]:
        for along, axis in zip("xy", panel, strict=True):
            spread = trace.get(f"error_{along}") or {}
            if not spread.get("array"):
                continue
            up, down = spread["array"], spread.get("arrayminus") or spread["array"]
            for place, (x, y) in enumerate(self._points(trace, panel)):
                value = (trace["x"] if along == "x" else trace["y"])[place]
                ends = [value + (up[place] or 0), value - (down[place] or 0)] if value is not None else [None, None]
                one, other = (self._place(axis, panel, end) for end in ends)
                other = self.boxes[panel][1] + self.boxes[panel][3] if math.isnan(other) and along == "y" else other
                start, end = ((one, y), (other, y)) if along == "x" else ((x, one), (x, other))
                if _seen(start) and _seen(end):
                    yield _line(*start, *end, spread.get("color") or colour, 1.5)

    def _bars(self, trace: Mapping[str, Any], fallback: str, panel: tuple[str, str]) -> Iterator[str]:
        group = [t for t in self.data if t.get("type") == "bar"]
        slot = next(i for i, t in enumerate(group) if t is trace)
        unit = self.boxes[panel][2] / len(categories(self.specification, panel[0]))
        width = 0.8 * unit / len(group)
        floor = self.boxes[panel][1] + self.boxes[panel][3]
        colour = (trace.get("marker") or {}).get("color") or fallback
        for place, value in zip(trace["x"], trace["y"], strict=True):
            if value is None:
                continue
            start, end = (self._place(panel[1], panel, height) for height in (0, value))
            start = floor if math.isnan(start) else start
            left = self._place(panel[0], panel, place) - 0.4 * unit + slot * width
            yield (
                f'<rect x="{left:.1f}" y="{min(start, end):.1f}" width="{width:.1f}" height="{abs(end - start):.1f}" '
                f'fill="{colour}"/>'
            )
        if spread := (trace.get("error_y") or {}).get("array"):
            down = trace["error_y"].get("arrayminus") or spread
            for place, value, above, below in zip(trace["x"], trace["y"], spread, down, strict=True):
                middle = self._place(panel[0], panel, place) - 0.4 * unit + (slot + 0.5) * width
                high, low = (self._place(panel[1], panel, end) for end in (value + above, value - below))
                yield _line(middle, high, middle, low, _INK, 1.5)

    def _heatmap(self, trace: Mapping[str, Any], panel: tuple[str, str]) -> Iterator[str]:
        values = np.array(trace["z"], dtype=float)
        low = trace.get("zmin", float(np.nanmin(values)))
        high = trace.get("zmax", float(np.nanmax(values)))
        shade = _shades(trace.get("colorscale"), np.clip((values - low) / ((high - low) or 1), 0, 1))
        pixels = np.concatenate([shade, np.where(np.isnan(values), 0, 255)[..., None]], axis=-1).astype(np.uint8)
        (x0, x1), (y0, y1) = edges(trace.get("x"), values.shape[1]), edges(trace.get("y"), values.shape[0])
        left, right = (self._place(panel[0], panel, value) for value in (x0, x1))
        first, last = (self._place(panel[1], panel, value) for value in (y0, y1))
        if first > last:  # the first row lies at the bottom
            pixels = pixels[::-1]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        yield (
            f'<image x="{left:.1f}" y="{min(first, last):.1f}" width="{right - left:.1f}" '
            f'height="{abs(last - first):.1f}" preserveAspectRatio="none" style="image-rendering:pixelated"'
            f'{_opacity(trace)} href="data:image/png;base64,{data}"/>'
        )
        for row, texts in enumerate(trace.get("text") or ()):
            for column, text in enumerate(texts):
                dark = float(shade[row, column] @ (0.2126, 0.7152, 0.0722)) < 140
                x = left + (column + 0.5) * (right - left) / values.shape[1]
                y = first + (row + 0.5) * (last - first) / values.shape[0]
                yield _text(x, y + 4.5, text, "middle", f' fill="{"#ffffff" if dark else "#111111"}"')

    def _texts(self, trace: Mapping[str, Any], panel: tuple[str, str]) -> Iterator[str]:
        right = self.boxes[panel][0] + self.boxes[panel][2]
        for (x, y), text in zip(self._points(trace, panel), trace["text"], strict=True):
            if _seen((x, y)):
                half = text_width(text) / 2
                yield _text(min(max(x, half + 2), max(right, x) - half), y - 9, text, "middle")

    def _ends(self, shape: Mapping[str, Any], letter: str) -> tuple[float, float]:
        """Where a shape begins and ends along one direction."""
        reference = shape.get(f"{letter}ref", letter)
        panel = next((p for p in self.panels if reference.split()[0] in p), self.panels[0])
        x, y, width, height = self.boxes[panel]
        start, end = shape[f"{letter}0"], shape[f"{letter}1"]
        if reference.endswith("domain"):
            if letter == "x":
                return x + start * width, x + end * width
            return y + (1 - start) * height, y + (1 - end) * height
        if reference == "paper":
            if letter == "x":
                return self.left + start * self.width, self.left + end * self.width
            return self.top + (1 - start) * self.height, self.top + (1 - end) * self.height
        return self._place(reference, panel, start), self._place(reference, panel, end)

    def _shape(self, shape: Mapping[str, Any]) -> str:
        (x0, x1), (y0, y1) = self._ends(shape, "x"), self._ends(shape, "y")
        line = shape.get("line") or {}
        return _line(x0, y0, x1, y1, line.get("color", COLOURS[-1]), line.get("width", 2), line.get("dash", "solid"))

    def _annotation(self, annotation: Mapping[str, Any]) -> str:
        place = {}
        for letter in ("x", "y"):
            value, reference = annotation[letter], annotation.get(f"{letter}ref", letter)
            if reference in ("x", "y") or reference[1:].isdigit():  # on a logarithmic axis, the logarithm
                logarithmic = self.layout[key_of(reference)]["type"] == "log"
                value = 10**value if logarithmic else value
            place[letter] = self._ends({f"{letter}ref": reference, f"{letter}0": value, f"{letter}1": value}, letter)[0]
        anchor = {"left": "start", "right": "end"}.get(annotation.get("xanchor", ""), "middle")
        drop = {"bottom": -5, "top": 14}.get(annotation.get("yanchor", ""), 4.5) - annotation.get("yshift", 0)
        colour = (annotation.get("font") or {}).get("color")
        own = f' fill="{colour}"' if colour else ""
        return _text(place["x"] + annotation.get("xshift", 0), place["y"] + drop, annotation["text"], anchor, own)

    def _legend(self) -> Iterator[str]:
        shown = [(place, t) for place, t in enumerate(self.data) if axes.in_legend(t)]
        scale = next((t for t in self.data if t.get("colorbar")), None)
        if scale is not None:
            yield from self._scale(scale)
        if not axes.legend_names(self.specification):
            return
        for (x, y), (place, trace) in zip(places(self.layout, [t["name"] for _, t in shown]), shown, strict=True):
            line, marker = trace.get("line") or {}, trace.get("marker") or {}
            colour = line.get("color") or marker.get("color") or COLOURS[place % len(COLOURS)]
            if trace.get("type") == "bar":
                yield f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="14" height="12" fill="{colour}"/>'
            else:
                if "lines" in marks(trace):
                    yield _line(x, y - 4.5, x + 26, y - 4.5, colour, line.get("width", 2), line.get("dash", "solid"))
                if "markers" in marks(trace):
                    described = {**marker, "color": marker.get("color") or colour}
                    yield _marker(x + 13, y - 4.5, {**described, "size": min(marker.get("size", 6), 10)}, "")
            yield _text(x + 32, y, trace["name"], "start")

    def _scale(self, trace: Mapping[str, Any]) -> Iterator[str]:
        """The colour bar of a heat map, right of the panels."""
        values = np.array(trace["z"], dtype=float)
        low, high = (trace.get(k, float(f(values))) for k, f in (("zmin", np.nanmin), ("zmax", np.nanmax)))
        left, cells = self.left + self.width + 14, 40
        for place, shade in enumerate(_shades(trace.get("colorscale"), np.linspace(1, 0, cells))):
            red, green, blue = (int(c) for c in shade)
            yield (
                f'<rect x="{left}" y="{self.top + place * self.height / cells:.1f}" width="14" '
                f'height="{self.height / cells + 0.5:.1f}" fill="rgb({red},{green},{blue})"{_opacity(trace)}/>'
            )
        for value in axes.linear_ticks(low, high, 5):
            yield _text(
                left + 20, self.top + (high - value) / (high - low) * self.height + 4.5, axes.label(value), "start"
            )
        title = (trace["colorbar"].get("title") or {}).get("text", "")
        yield _text(WIDTH - 4, self.top - 10, title, "end")


def places(layout: Mapping[str, Any], names: Sequence[str]) -> list[tuple[float, float]]:
    """Left end and baseline of each entry of a legend: a column right of the panels, or rows below them."""
    margin, legend = layout["margin"], layout.get("legend") or {}
    if legend.get("orientation") != "h":
        return [(WIDTH - margin["r"] + 14, margin["t"] + 12 + 20 * place) for place in range(len(names))]
    wide = max(text_width(name) for name in names) + 50
    columns = max(1, min(len(names), int((WIDTH - 20) // wide)))
    top = layout["height"] - margin["b"] + legend_drop(layout) + LEGEND_GAP
    return [(12 + (place % columns) * wide, top + 20 * (place // columns)) for place in range(len(names))]


def legend_drop(layout: Mapping[str, Any]) -> float:
    """Pixels from the panels down to a legend below them: past the ticks, and past a title."""
    across = [axis for key, axis in layout.items() if key.startswith("xaxis")]
    if any(axis.get("side") == "top" for axis in across):
        return 24
    return 64 if any((axis.get("title") or {}).get("text") for axis in across) else 42


def _seen(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Lines through points, broken where one is missing; relative, as that is shortest."""
    parts: list[str] = []
    at: tuple[int, int] | None = None
    for point in points:
        if not _seen(point):
            at = None
            continue
        # In tenths of a pixel, so that what is rounded does not add up; what is far outside is cut off by the panel.
        x, y = (round(10 * min(max(value, -9999.0), 9999.0)) for value in point)
        parts.append(f"M{x / 10:g} {y / 10:g}" if at is None else f"l{(x - at[0]) / 10:g} {(y - at[1]) / 10:g}")
        at = (x, y)
    return "".join(parts)


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, width: float, dash: str = "solid") -> str:
    dashed = f' stroke-dasharray="{" ".join(map(str, DASHES[dash]))}"' if DASHES[dash] else ""
    return f'<path d="{_path([(x0, y0), (x1, y1)])}" stroke="{colour}" stroke-width="{width:g}" fill="none"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(str(text))}</text>'


def _marker(x: float, y: float, marker: Mapping[str, Any], faded: str) -> str:
    half, colour, symbol = marker.get("size", 6) / 2, marker["color"], marker.get("symbol", "circle")
    stroke = (marker.get("line") or {}).get("width", 1.5)
    if symbol == "x":
        size = 2 * half
        line = f"M{x - half:.1f} {y - half:.1f}l{size:g} {size:g}m{-size:g} 0l{size:g} {-size:g}"
        return f'<path d="{line}" stroke="{colour}" stroke-width="2.5"{faded}/>'
    if symbol == "star":
        spikes = [
            (x + r * math.sin(k * math.pi / 5), y - r * math.cos(k * math.pi / 5))
            for k in range(10)
            for r in [half * 1.2 if k % 2 == 0 else half * 0.5]
        ]
        return f'<path d="{_path(spikes)}Z" fill="{colour}"{faded}/>'
    inside = f'fill="none" stroke="{colour}" stroke-width="{stroke}"' if symbol == "circle-open" else f'fill="{colour}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{half:g}" {inside}{faded}/>'


def _opacity(trace: Mapping[str, Any]) -> str:
    return f' opacity="{trace["opacity"]}"' if trace.get("opacity", 1) != 1 else ""


def _filled(colour: str) -> str:
    """``rgba(…)`` as two attributes, which every program that reads SVG knows."""
    red, green, blue, opacity = colour.removeprefix("rgba(").removesuffix(")").split(",")
    return f'fill="rgb({red},{green},{blue})" fill-opacity="{opacity}"'


def _shades(scale: Any, shares: np.ndarray) -> np.ndarray:
    """[..., 3] red, green and blue of shares of a colour scale."""
    if isinstance(scale, str):
        scale = [[place / (len(_SCALES[scale]) - 1), colour] for place, colour in enumerate(_SCALES[scale])]
    stops = np.array([stop for stop, _ in scale], dtype=float)
    colours = np.array([_rgb(colour) for _, colour in scale], dtype=float)
    return np.stack([np.interp(np.nan_to_num(shares), stops, colours[:, channel]) for channel in range(3)], axis=-1)


def _rgb(colour: str) -> list[int]:
    if colour.startswith("#"):
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return [int(float(part)) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
