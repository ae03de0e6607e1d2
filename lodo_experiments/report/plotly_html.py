"""Plotly figures for notebooks and for the book.

In a notebook a figure is shown as plotly shows it. While the book's notebooks are executed (``LODO_BOOK=1``, set by
:mod:`lodo_experiments.cli.execute`), it is published as plain HTML instead: its JSON, a place to draw it and a text.
The book's script draws it with the copy of plotly that ships with the book, in the reader's colours, again whenever
the reader switches between light and dark; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import html
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Line colours in the order in which to use them: distinguishable with the common forms of colour blindness and
#: readable on white and on near-black alike (after Okabe and Ito, 2008, without yellow and black).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#7F7F7F")

#: How the book's build finds a figure in an executed notebook.
MARK = 'class="lodo-figure"'

_HEIGHT = 420  # pixels


def show(figure: go.Figure, description: str) -> None:
    """Shows a figure in a notebook, or publishes it for the book.

    Args:
      figure: A plotly figure. Colours of the background, the axes and the text follow the reader's theme in the
        book; colours of traces are the figure's (:data:`COLOURS` suits both themes). A height in pixels may be
        set by its layout; the width follows the page.
      description: What the figure shows and what to see in it, in words: the text for readers who cannot see it.

    Raises:
      ValueError: If ``figure`` has no traces, or ``description`` is empty.
    """
    if not figure.data:
        raise ValueError("figure: got one without traces, which would be an empty frame; add a trace.")
    if not description.strip():
        raise ValueError("description: got an empty text; say in a sentence what the figure shows.")
    if os.environ.get("LODO_BOOK") != "1":
        figure.show()
        return
    from IPython.display import publish_display_data

    publish_display_data({"text/html": to_html(figure, description), "text/plain": f"Figure: {description}"})


def to_html(figure: go.Figure, description: str) -> str:
    """The HTML of a figure, for a page that loads the book's script.

    Args:
      figure: A plotly figure.
      description: What it shows, in words.

    Returns:
      A ``<div>`` of JSON, a place to draw and a text, which is what a reader without JavaScript is left with.

    Example:
      >>> import plotly.graph_objects as go
      >>> page = to_html(go.Figure(go.Scatter(y=[3, 1, 2], name="loss")), "The loss falls.")
      >>> MARK in page, "The loss falls." in page, "https:" in page
      (True, True, False)
    """
    specification: dict[str, Any] = json.loads(figure.to_json())
    # The template is half of the JSON, and its colours would fight with the reader's theme.
    specification["layout"].pop("template", None)
    specification["layout"].setdefault("colorway", list(COLOURS))
    height = specification["layout"].setdefault("height", _HEIGHT)
    # "</script>" inside a string would end the element.
    text = json.dumps(specification, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    caption = html.escape(description)
    return (
        f'<div {MARK}><script type="application/json">{text}</script>'
        f'<div class="lodo-plot" role="img" aria-label="{caption}" style="height:{height}px"></div>'
        f'<p class="lodo-figure-text">Figure (drawn by JavaScript): {caption}</p></div>'
    )
