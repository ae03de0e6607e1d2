"""How a series is drawn everywhere in the book: one colour and one dash for each optimizer, and colours for all else.

Every colour stands out from the book's light background and from its dark one (contrast of 3:1 or more, WCAG 2.2,
1.4.11), so that a figure looks the same in both. There are fewer such colours than optimizers: a family shares one and
differs by its dashes. The book's style sheet gets the same colours as variables (:func:`style_sheet`), for figures
drawn in the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BLUE, VERMILION, GREEN, PURPLE, OLIVE = "#0072B2", "#D55E00", "#00916A", "#9467BD", "#8A8200"
RED, TEAL, BROWN, PINK, SLATE, GREY = "#D1404F", "#0E8FA8", "#A0703C", "#C2529B", "#66799C", "#7F7F7F"

#: Colours of series that are no optimizers, in the order in which to use them; the last one is for references.
COLOURS = (BLUE, VERMILION, GREEN, PINK, TEAL, OLIVE, PURPLE, GREY)

#: plotly's names of dashes → lengths of lines and gaps in pixels, for a line two pixels wide.
DASHES: Mapping[str, tuple[int, ...]] = {
    "solid": (),
    "dash": (9, 5),
    "dot": (2, 4),
    "dashdot": (9, 4, 2, 4),
    "longdash": (16, 6),
    "longdashdot": (16, 5, 2, 5),
}


@dataclass(frozen=True)
class Line:
    """How an optimizer is drawn."""

    colour: str  # ``#rrggbb``
    dash: str = "solid"  # one of :data:`DASHES`


#: Optimizer → how it is drawn.
OPTIMIZERS: Mapping[str, Line] = {
    "LODO": Line(BLUE),
    "LODO, authors' values": Line(BLUE, "dash"),
    "LODO at its defaults": Line(BLUE, "dashdot"),
    "LODO-Dense": Line(BLUE, "dot"),
    "LODO tuned": Line(BLUE, "longdash"),
    "LODO guarded": Line(SLATE, "longdash"),
    "rlodo": Line(PINK),
    "rlodo guarded": Line(PINK, "longdash"),
    "rlodo-untuned": Line(PINK, "longdashdot"),  # where "rlodo" is tuned
    "gradient descent": Line(GREEN, "dot"),
    "Newton": Line(GREY),
    "Adam": Line(VERMILION),
    "Adam untuned": Line(VERMILION, "dot"),
    "Momentum": Line(GREEN),
    "RMSprop": Line(PURPLE),
    "Yogi": Line(OLIVE),
    "LARS": Line(BROWN),
    "Muon": Line(BROWN, "dash"),
    "Kron": Line(BROWN, "dot"),
    "Schedule-free": Line(PURPLE, "longdash"),
    "Prodigy": Line(OLIVE, "dot"),
    "Prodigy untuned": Line(OLIVE, "dashdot"),
    "Sophia": Line(SLATE, "dashdot"),
    "Online scaling": Line(GREEN, "longdash"),
    "L-BFGS": Line(RED),
    "O-LBFGS": Line(RED, "dash"),
    "L-BFGS-100": Line(RED, "dot"),
    "BFGS": Line(SLATE),
    "BFGS-same-sample": Line(SLATE, "dash"),
    "Levenberg-Marquardt": Line(TEAL),
    "Whitening": Line(TEAL, "dash"),
    # LODO with a part taken away or replaced
    "LODO-Diagonal": Line(VERMILION, "dash"),
    "LODO-Global": Line(GREEN, "dash"),
    "LODO-Residuals": Line(PURPLE, "dash"),
    "LODO-No-Momentum": Line(OLIVE, "dash"),
    "LODO-SGD": Line(PINK, "dash"),
    "LODO, k = 2": Line(BLUE, "longdashdot"),
    # the frozen-Hessian test
    "frozen": Line(TEAL, "dot"),
    "learning on": Line(PINK, "dot"),
    # LODO's step by other means, on the page about speed
    "C++ kernels": Line(TEAL, "longdash"),
    "rows rolled": Line(TEAL, "longdashdot"),
    "C++ kernels, rows rolled": Line(TEAL, "dashdot"),
    "rlodo, C++ kernels": Line(PINK, "dashdot"),
    "compact": Line(PURPLE, "dashdot"),
    "autodiff, arranged": Line(GREY, "longdash"),
    "plain autodiff": Line(GREY, "dot"),
}

#: Other names of the same.
_ALSO: Mapping[str, str] = {
    "Levenberg–Marquardt": "Levenberg-Marquardt",
    "learning from nothing": "LODO, authors' values",
    "LODO, k = 4": "LODO",
    "Residuals": "LODO-Residuals",
    "Diagonal": "LODO-Diagonal",
    "lodo.lodo": "LODO",
    "lodo.lodo, native": "C++ kernels",
    "lodo.lodo, rows rolled": "rows rolled",
    "lodo.lodo, native, rows rolled": "C++ kernels, rows rolled",
    "lodo.lodo, compact": "compact",
    "optax.adam": "Adam",
    "optax.contrib.muon": "Muon",
    "optax.lbfgs, no line search": "L-BFGS",
    "lodo.rlodo": "rlodo",
    "lodo.rlodo, native": "rlodo, C++ kernels",
    "Online-scaling": "Online scaling",
    "PSGD": "Kron",
    "psgd_jax.kron": "Kron",
}


def line_of(name: str, names: Iterable[str] = ()) -> dict[str, str]:
    """Colour and dash of an optimizer, in plotly's words.

    Args:
      name: of the optimizer.
      names: all that are in the same figure. One that the table does not have is drawn as none of these, and as none
        that the table has: those of a reader's own, in their order.

    >>> line_of("Adam") == line_of("optax.adam", ["LODO", "optax.adam"]) == {"color": VERMILION, "dash": "solid"}
    True
    >>> line_of("mine", ["mine", "LODO"]) in [line_of(name) for name in OPTIMIZERS]
    False
    """
    known = _ALSO.get(name, name)
    if known in OPTIMIZERS:
        return {"color": OPTIMIZERS[known].colour, "dash": OPTIMIZERS[known].dash}
    unknown = [other for other in dict.fromkeys((*names, name)) if _ALSO.get(other, other) not in OPTIMIZERS]
    taken = set(OPTIMIZERS.values())
    free = [line for dash in DASHES for colour in COLOURS[:-1] if (line := Line(colour, dash)) not in taken]
    line = free[unknown.index(name) % len(free)]
    return {"color": line.colour, "dash": line.dash}


def variable(name: str) -> str:
    """The style sheet's variable for an optimizer's colour.

    >>> variable("LODO, authors' values")
    '--lodo-series-lodo-authors-values'
    """
    return "--lodo-series-" + re.sub(r"[^a-z0-9]+", "-", name.lower().replace("'", "")).strip("-")


def style_sheet() -> str:
    """The colours as variables of a style sheet: each optimizer's, and ``--lodo-colour-1`` and so on for all else."""
    lines = [f"  {variable(name)}: {line.colour};" for name, line in OPTIMIZERS.items()]
    lines += [f"  --lodo-colour-{place}: {colour};" for place, colour in enumerate(COLOURS, start=1)]
    return "/* Written by lodo_experiments/report/style.py */\n:root {\n" + "\n".join(lines) + "\n}\n"


def faint(colour: str, opacity: float) -> str:
    """A colour as plotly's ``rgba(…)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
