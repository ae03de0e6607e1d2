"""The picture of the book's front page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lodo_experiments.analysis import headline
from lodo_experiments.report import style

#: The losses that the picture shows, from the least to the greatest, and those that its axis names.
SHOWN, TICKS = (6.9, 18.5), (8, 10, 12, 14, 16, 18)

# Sizes in the picture's own units, of which the page shows about one a pixel.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 470, 268, 30, 92, 26, 34


def picture() -> str:
    """Loss by step on the bowl at the paper's scale, as an SVG that follows the reader's theme."""
    return draw(*headline.bowl())


def draw(curves: Mapping[str, np.ndarray], floor: float, steps: int) -> str:
    """Loss by step, smoothed over a fiftieth of the steps, each line named at its end."""
    low, high = SHOWN
    curves = {name: smoothed(curve) for name, curve in curves.items()}

    def x(share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        return _TOP + (high - min(max(loss, low), high)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = ['<text class="tick" x="2" y="12">mean loss, noisy bowl in 100 dimensions; all tuned but rlodo</text>']
    for loss in TICKS:
        parts.append(f'<path class="grid" d="M{x(0):.0f} {y(loss):.1f}H{x(1):.0f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{x(0) - 6:.0f}" y="{y(loss) + 4:.1f}">{loss}</text>')
    for share in (0, 0.5, 1):
        label = f"{share * steps:,.0f}" + (" steps" if share == 1 else "")
        anchor = ("start", "middle", "end")[round(2 * share)]
        parts.append(f'<text class="tick" text-anchor="{anchor}" x="{x(share):.0f}" y="{_HEIGHT - 12}">{label}</text>')
    parts.append(f'<path class="floor" d="M{x(0):.0f} {y(floor):.1f}H{x(1):.0f}"/>')
    ends = {name: y(float(curve[-1])) for name, curve in curves.items()}
    newton = "Newton"
    labels = apart({**ends, newton: y(floor)}, 15.5)
    for name, curve in curves.items():
        colour, strength = f"var({style.variable(name)})", " lodo" * (name in ("LODO", "rlodo"))
        points = " ".join(f"{x(i / (len(curve) - 1)):.1f},{y(float(loss)):.1f}" for i, loss in enumerate(curve))
        parts.append(f'<polyline class="line{strength}" style="stroke:{colour}" points="{points}"/>')
        where = f'x="{x(1) + 6:.0f}" y="{labels[name] + 4:.1f}"'
        parts.append(f'<text class="name{strength}" {where}>{name}</text>')
    parts.append(f'<text class="tick" x="{x(1) + 6:.0f}" y="{labels[newton] + 4:.1f}">{newton}</text>')
    words = (
        "Loss by step on the noisy bowl: LODO falls below the paper's other optimizers that work from gradients alone, "
        "and rlodo and whitening almost to Newton's method"
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
    return f'<figure class="lodo-front">{svg}</figure>'


def smoothed(curve: np.ndarray) -> np.ndarray:
    """Means over a fiftieth of the curve, [50]."""
    return np.array([part.mean() for part in np.array_split(curve, min(50, len(curve)))])


def apart(places: Mapping[str, float], least: float) -> dict[str, float]:
    """The same heights, moved so that labels are at least so far apart, and stay in order."""
    ordered = sorted(places, key=lambda name: places[name])
    heights = [places[name] for name in ordered]
    for _ in range(200):
        for i in range(len(heights) - 1):
            if (gap := heights[i + 1] - heights[i]) < least:
                heights[i] -= (least - gap) / 2
                heights[i + 1] += (least - gap) / 2
    return dict(zip(ordered, heights))
