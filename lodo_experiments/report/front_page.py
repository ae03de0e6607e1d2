"""The book's front page: its numbers and its picture, from the paper-scale records and the benchmark alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lodo_experiments.analysis import statistics, step_times
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor

#: Optimizers of the bowl that are given gradients alone, one a step, in the order of the picture's lines.
_DRAWN = ("LODO", "O-LBFGS", "Yogi", "RMSprop", "Adam", "Momentum")
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

# The picture: sizes in its own units, of which the page shows about one a pixel.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 250, 44, 110, 14, 34


def numbers() -> dict[str, float | str]:
    """What the front page quotes, by name.

    Raises:
      RecordError: a record is damaged.
      KeyError: the results folder lacks one of the records that the page is about.
    """
    folder = results_folder()
    bowl = stored_results.load_or_bundled(folder, "noisy_bowl", "paper").runs
    valley = stored_results.load_or_bundled(folder, "rosenbrock", "paper").runs
    bowl_scores = {name: _mean(record) for name, record in bowl.items() if name in _DRAWN}
    best, place = _best_other(bowl_scores)
    valley_scores = {name: _mean(record) for name, record in valley.items()}
    valley_best, valley_place = _best_other(valley_scores)
    rows = step_times.load_all(folder).get("steps") or step_times.load_bundled()["steps"]

    def milliseconds(form: str) -> float:
        case = {"n": 94_696, "dtype": "float32", "way": step_times.SCAN}
        return 1e3 * float(step_times.rows_of(rows.values["rows"], form=form, **case)[0]["seconds"])

    return {
        "bowl_lodo": bowl_scores["LODO"],
        "bowl_spread": float(np.std(bowl["LODO"].arrays["scores"], ddof=1)),
        "bowl_best": best,
        "bowl_best_loss": bowl_scores[best],
        "bowl_adam": bowl_scores["Adam"],
        "bowl_place": place,
        "bowl_floor": newton_floor(hessian(100)),
        "bowl_runs": len(bowl["LODO"].arrays["scores"]),
        "valley_lodo": valley_scores["LODO"],
        "valley_place": valley_place,
        "valley_count": len(valley_scores),
        "valley_best": valley_best,
        "valley_best_loss": valley_scores[valley_best],
        "step_ms": milliseconds(step_times.OURS),
        "step_native_ms": milliseconds(step_times.NATIVE),
        "step_adam_ms": milliseconds("optax.adam"),
    }


def picture() -> str:
    """Loss by step on the bowl at the paper's scale, as an SVG that follows the reader's theme."""
    runs = stored_results.load_or_bundled(results_folder(), "noisy_bowl", "paper").runs
    return draw({name: runs[name] for name in _DRAWN}, newton_floor(hessian(100)))


def draw(runs: Mapping[str, Record], floor: float) -> str:
    """Mean loss over runs by step, smoothed over a fiftieth of the steps, each line named at its end."""
    low, high = 6.5, 18.5
    curves = {name: _smoothed(record.arrays["curve"].mean(axis=0)) for name, record in runs.items()}
    steps = max(float(statistics.axis(record)[-1]) for record in runs.values())

    def x(share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        return _TOP + (high - min(max(loss, low), high)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for loss in (8, 10, 12, 14, 16, 18):
        parts.append(f'<path class="grid" d="M{x(0):.0f} {y(loss):.1f}H{x(1):.0f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{x(0) - 6:.0f}" y="{y(loss) + 4:.1f}">{loss}</text>')
    for share in (0, 0.5, 1):
        label = f"{share * steps:,.0f}" + (" steps" if share == 1 else "")
        anchor = ("start", "middle", "end")[round(2 * share)]
        parts.append(f'<text class="tick" text-anchor="{anchor}" x="{x(share):.0f}" y="{_HEIGHT - 12}">{label}</text>')
    parts.append(f'<path class="floor" d="M{x(0):.0f} {y(floor):.1f}H{x(1):.0f}"/>')
    ends = {name: y(float(curve[-1])) for name, curve in curves.items()}
    newton = "Newton's method"
    labels = _apart({**ends, newton: y(floor)}, 13.5)
    for place, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(i / (len(curve) - 1)):.1f},{y(float(loss)):.1f}" for i, loss in enumerate(curve))
        parts.append(f'<polyline class="line-{place}" points="{points}"/>')
        parts.append(f'<text class="name-{place}" x="{x(1) + 6:.0f}" y="{labels[name] + 4:.1f}">{name}</text>')
    parts.append(f'<text class="tick" x="{x(1) + 6:.0f}" y="{labels[newton] + 4:.1f}">{newton}</text>')
    return (
        f'<figure class="lodo-front"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Loss by step on the '
        "noisy bowl: LODO falls below every other optimizer that is given gradients alone, towards Newton's "
        f'method">{"".join(parts)}</svg></figure>'
    )


def _mean(record: Record) -> float:
    return float(np.mean(record.arrays["scores"]))


def _best_other(scores: Mapping[str, float]) -> tuple[str, str]:
    """The best optimizer beside LODO, and LODO's place in words."""
    others = {name: score for name, score in scores.items() if name != "LODO"}
    return min(others, key=lambda name: others[name]), _PLACES[
        sorted(scores, key=lambda name: scores[name]).index("LODO")
    ]


def _smoothed(curve: np.ndarray) -> np.ndarray:
    """Means over a fiftieth of the curve, [50]."""
    return np.array([part.mean() for part in np.array_split(curve, min(50, len(curve)))])


def _apart(places: Mapping[str, float], least: float) -> dict[str, float]:
    """The same heights, moved so that labels are at least so far apart, and stay in order."""
    ordered = sorted(places, key=lambda name: places[name])
    heights = [places[name] for name in ordered]
    for _ in range(200):
        for i in range(len(heights) - 1):
            if (gap := heights[i + 1] - heights[i]) < least:
                heights[i] -= (least - gap) / 2
                heights[i + 1] += (least - gap) / 2
    return dict(zip(ordered, heights))
