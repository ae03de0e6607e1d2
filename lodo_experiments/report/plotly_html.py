"""Plotly figures for notebooks and for the book.

In a notebook a figure is shown as plotly shows it. While the book's notebooks are executed (``LODO_BOOK=1``, set by
:mod:`lodo_experiments.cli.execute`), it is published as plain HTML instead: a static picture, its specification as
JSON, and a caption. When the picture scrolls into view, the book's script draws the specification in its place with the
copy of plotly that ships with the book, in the reader's colours. Without the script, and on paper, the picture stays;
nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lodo_experiments.report import axes, static_svg
from lodo_experiments.report.axes import Specification
from lodo_experiments.report.style import COLOURS

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["COLOURS", "CONFIG", "MARK", "show", "specification_of", "to_html"]

#: How the book's build finds a figure in an executed notebook.
MARK = 'class="lodo-figure"'

#: What plotly offers beside a figure: nothing that sends it anywhere.
CONFIG: Mapping[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}

_HEIGHT = 420  # pixels
_DIGITS = 5  # of a number in the page: more than a picture has pixels
_MODE_BAR = 34  # pixels above the panels that are the mode bar's


def show(figure: go.Figure, description: str, still: go.Figure | None = None) -> None:
    """Shows a figure in a notebook, or publishes it for the book.

    Args:
      figure: A plotly figure of lines, markers, bars or heat maps. Colours of the background, the axes and the text
        follow the reader's theme in the book; colours of traces are the figure's
        (:mod:`lodo_experiments.report.style` suits both themes). A height in pixels may be set by its layout; the
        width follows the page. Ranges, ticks, margins and the legend's place are decided here, unless the figure does.
      description: What the figure shows and what to see in it, in words: its caption.
      still: what the book's static picture shows, where that is another figure: moments side by side in place of a
        slider.

    Raises:
      ValueError: If ``figure`` has no traces, or ``description`` is empty.
    """
    if not figure.data:
        raise ValueError("figure: got one without traces, which would be an empty frame; add a trace.")
    if not description.strip():
        raise ValueError("description: got an empty text; say in a sentence what the figure shows.")
    if os.environ.get("LODO_BOOK") != "1":
        import plotly.graph_objects as go

        shown = go.Figure(figure)
        if {trace.type for trace in figure.data} <= static_svg.TYPES:
            shown.update_layout(specification_of(figure)["layout"])
        shown.show(config=dict(CONFIG))
        return
    from IPython.display import publish_display_data

    publish_display_data({"text/html": to_html(figure, description, still), "text/plain": f"Figure: {description}"})


def to_html(figure: go.Figure, description: str, still: go.Figure | None = None) -> str:
    """The HTML of a figure, for a page that loads the book's script.

    Args:
      figure: A plotly figure. One whose layout has ``meta={"stops": [...], "paths": [...]}`` is shown with a slider
        through those numbers of points of the traces at those places, one with ``"moments"`` in place of ``"paths"``
        with a slider through those traces, of which it shows one; its own frames and sliders are left out.
      description: What it shows, in words.
      still: as :func:`show` has it.

    Returns:
      A ``<figure>`` of a static picture, JSON and a caption.

    Raises:
      ValueError: a trace of another type than the static picture has.

    Example:
      >>> import plotly.graph_objects as go
      >>> page = to_html(go.Figure(go.Scatter(y=[3, 1, 2], name="loss")), "The loss falls.")
      >>> MARK in page, "<svg" in page, "The loss falls." in page, "https:" in page
      (True, True, True, False)
    """
    if others := {trace.type for trace in figure.data} - static_svg.TYPES:
        known = ", ".join(sorted(static_svg.TYPES))
        raise ValueError(f"figure: got traces of {', '.join(sorted(others))}; the book's pages can show {known}.")
    specification = specification_of(figure)
    steps = ""
    if meta := specification["layout"].pop("meta", None):
        for part in ("sliders", "updatemenus"):
            specification["layout"].pop(part, None)
        specification.pop("frames", None)
        steps = "".join(f' data-{name}="{",".join(map(str, meta[name]))}"' for name in meta)
    height = specification["layout"]["height"]
    # "</script>" inside a string would end the element.
    text = json.dumps(specification, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("</", "<\\/")
    picture = static_svg.draw(specification if still is None else specification_of(still))
    return (
        f'<figure {MARK}{steps} style="--lodo-height:{height}px"><div class="lodo-stage">{picture}</div>'
        f'<script type="application/json">{text}</script>'
        f"<figcaption>{html.escape(description)}</figcaption></figure>"
    )


def specification_of(figure: go.Figure) -> Specification:
    """A figure's JSON with axes, margins and legend decided, numbers of :data:`_DIGITS` digits, and no template."""
    specification: Specification = _plain(json.loads(figure.to_json()))
    layout = specification["layout"]
    # The template is half of the JSON, and its colours would fight with the reader's theme.
    layout.pop("template", None)
    layout.setdefault("colorway", list(COLOURS))
    layout.setdefault("height", _HEIGHT)
    given = layout.pop("margin", {})
    names = axes.legend_names(specification)
    longest = max(map(axes.text_width, names), default=0)
    scale = any(trace.get("colorbar") for trace in specification["data"])
    column = not scale and longest < 175 and 20 * len(names) < layout["height"] - 130
    if names and "legend" not in layout:
        layout["legend"] = {} if column else {"orientation": "h"}
    ends = [a for a in layout.get("annotations", ()) if a["x"] == 1 and a.get("xanchor") == "left"]
    below = (layout.get("legend") or {}).get("orientation") == "h"
    layout["margin"] = {
        "l": 60,
        "r": 78 if scale else longest + 54 if names and not below else 24 + max(map(_width, ends), default=0),
        "t": _MODE_BAR + 22 * any(a.get("yref") == "paper" and a["y"] >= 1 for a in layout.get("annotations", ())),
        "b": static_svg.legend_drop(layout) - 14,
        **given,
    }
    if any(axis.get("side") == "top" for key, axis in layout.items() if key.startswith("xaxis")):
        layout["margin"]["t"] = _MODE_BAR + 24
    if names and below:
        rows = len({y for _, y in static_svg.places(layout, names)})
        layout["margin"]["b"] += 20 * rows + 6 + static_svg.LEGEND_GAP
        layout["height"] += 20 * (rows - 1) + static_svg.LEGEND_GAP
    margin = layout["margin"]
    axes.complete(
        specification,
        static_svg.WIDTH - margin["l"] - margin["r"],
        layout["height"] - margin["t"] - margin["b"],
    )
    if any("<br>" in text for key, a in layout.items() if key.startswith("xaxis") for text in a.get("ticktext", ())):
        margin["b"] += 15
    if "l" not in given:
        margin["l"] = _left(specification)
    high = layout["height"] - margin["t"] - margin["b"]
    layout["margin"] = {side: round(size) for side, size in margin.items()}
    if names:
        drop = static_svg.legend_drop(layout) + static_svg.LEGEND_GAP - 14
        layout["legend"] |= (
            {"x": 0, "xanchor": "left", "y": round(-drop / high, 4), "yanchor": "top"}
            if below
            else {"x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
        )
    return specification


def _width(annotation: Mapping[str, Any]) -> float:
    """Pixels that an annotation takes."""
    return axes.text_width(annotation["text"])


def _left(specification: Specification) -> float:
    """Pixels that the ticks and the title of the leftmost vertical axis take."""
    widest, titled = 0.0, False
    for axis in {trace.get("yaxis", "y") for trace in specification["data"]}:
        described = specification["layout"][axes.key_of(axis)]
        if described.get("visible") is False:
            continue
        texts = described.get("ticktext") or axes.categories(specification, axis)
        widest = max([widest, *(axes.text_width(str(text)) for text in texts)])
        titled |= bool((described.get("title") or {}).get("text"))
    return 14 + widest + 24 * titled


def _plain(value: Any) -> Any:
    """Plotly's JSON with arrays as lists, and numbers no longer than a picture can show."""
    if isinstance(value, dict):
        if "bdata" in value:
            found = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
            if "shape" in value:
                found = found.reshape([int(side) for side in str(value["shape"]).split(",")])
            return _plain(found.tolist())
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{_DIGITS}g}")
    return value
