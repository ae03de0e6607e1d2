"""The picture that other sites show beside a link to the book: the front page's, as pixels.

Drawn by Pillow with its own font, so that a build needs no browser and no font of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lodo_experiments.analysis import headline
from lodo_experiments.report import style
from lodo_experiments.report.front_page import SHOWN, TICKS, apart, smoothed

#: Pixels, as those sites ask for.
SIZE = (1200, 630)

#: What the picture shows, for who does not see it.
WORDS = "LODO: learning to optimize during optimization. Loss by step on the noisy bowl, from the stored records"

_SCALE = 2  # drawn so much larger, as Pillow's lines have steps
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 985, 215, 560
_PAPER, _INK, _MUTED, _GRID = "#ffffff", "#24303a", "#5b6770", "#d9dfe4"


def picture() -> Image.Image:
    """The card, drawn from the stored records of the bowl at the paper's scale."""
    return draw(*headline.bowl())


def draw(curves: Mapping[str, np.ndarray], floor: float, steps: int) -> Image.Image:
    """The card of these losses by step, of Newton's loss, and of the number of steps.

    >>> draw({"LODO": np.linspace(18, 8, 100), "Adam": np.full(100, 16.0)}, 7.4, 1000).size
    (1200, 630)
    """
    image = Image.new("RGB", (_SCALE * SIZE[0], _SCALE * SIZE[1]), _PAPER)
    pen = ImageDraw.Draw(image)
    low, high = SHOWN
    curves = {name: smoothed(curve) for name, curve in curves.items()}

    def x(share: float) -> float:
        return _LEFT + share * (_RIGHT - _LEFT)

    def y(loss: float) -> float:
        return _TOP + (high - min(max(loss, low), high)) / (high - low) * (_BOTTOM - _TOP)

    def line(points: list[tuple[float, float]], colour: str, width: int) -> None:
        pen.line([(_SCALE * a, _SCALE * b) for a, b in points], fill=colour, width=_SCALE * width, joint="curve")

    def text(at: tuple[float, float], words: str, size: int, colour: str = _MUTED, anchor: str = "lm") -> None:
        font = ImageFont.load_default(_SCALE * size)
        pen.text((_SCALE * at[0], _SCALE * at[1]), words, font=font, fill=colour, anchor=anchor)

    text((40, 70), "LODO", 76, _INK)
    text((262, 76), "learning to optimize during optimization", 38)
    text((40, 165), "mean loss, noisy bowl in 100 dimensions", 26)
    for loss in TICKS:
        line([(x(0), y(loss)), (x(1), y(loss))], _GRID, 1)
        text((x(0) - 12, y(loss)), str(loss), 24, anchor="rm")
    for share, anchor in ((0, "lm"), (0.5, "mm"), (1, "rm")):
        text((x(share), _BOTTOM + 35), f"{share * steps:,.0f}" + (" steps" if share == 1 else ""), 24, anchor=anchor)
    for dash in np.arange(0, 1, 0.02):
        line([(x(dash), y(floor)), (x(dash + 0.012), y(floor))], _INK, 2)
    ends = {name: y(float(curve[-1])) for name, curve in curves.items()}
    heights = apart({**ends, "Newton": y(floor)}, 32)
    text((x(1) + 14, heights["Newton"]), "Newton", 24)
    for name in sorted(curves, key=_ours):  # ours above the others
        points = [(x(i / (len(curves[name]) - 1)), y(float(loss))) for i, loss in enumerate(curves[name])]
        colour = style.line_of(name)["color"]
        line(points, colour, 6 if _ours(name) else 3)
        text((x(1) + 14, heights[name]), name, 34 if _ours(name) else 24, colour)
    return image.resize(SIZE, Image.Resampling.LANCZOS).quantize(128)  # a third of the bytes


def _ours(name: str) -> bool:
    return name in ("LODO", "rlodo")
