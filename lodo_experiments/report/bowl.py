"""The two-dimensional bowl that readers play with: the run of ``book/_static/bowl.js``, and its picture without script.

A quadratic loss whose minimum wanders, ½ oᵀ H o with the offset o = x − c, and four optimizers that follow it. LODO's
matrix is G = α₀ TᵀT with a single 2×2 block T, which starts as the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

EIGENVALUES, ANGLE, WANDER, START, STEPS, SEED = (1.0, 0.05), math.pi / 6, 0.3, (-4.0, 2.5), 4000, 1

#: The sliders: name → label, least and greatest value, step, value at the start. Rates are powers of ten; the least
#: meta-learning rate stands for 0.
SLIDERS = {
    "alpha0": ("initial learning rate α₀", -2.0, 1.0, 0.05, 0.0),
    "alpha": ("meta-learning rate α", -4.5, -1.0, 0.05, -1.75),
    "beta": ("momentum β", 0.0, 0.95, 0.05, 0.0),
}
#: Learning rates of the two that have one and no slider.
RATES = {"Adam": 0.1, "Gradient descent": 1.0}
CLASSES = {"LODO": "lodo", "Adam": "adam", "Gradient descent": "descent", "Newton": "newton"}


@dataclass(frozen=True)
class BowlRun:
    """Offsets from the minimum, one more than losses, and what LODO's matrix was."""

    offsets: dict[str, np.ndarray]  # optimizer → [steps + 1, 2]
    losses: dict[str, np.ndarray]  # optimizer → [steps]
    matrices: np.ndarray  # [steps + 1, 2, 2]: G


def hessian() -> np.ndarray:
    """H, [2, 2]."""
    turn = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
    return turn @ np.diag(EIGENVALUES) @ turn.T


def normals(seed: int) -> Iterator[np.ndarray]:
    """Pairs of normal numbers: mulberry32 and Box–Muller, so that a browser draws the same."""

    def imul(a: int, b: int) -> int:
        return (a * b) & 0xFFFFFFFF

    def uniform() -> float:
        nonlocal seed
        seed = (seed + 0x6D2B79F5) & 0xFFFFFFFF
        t = imul(seed ^ (seed >> 15), 1 | seed)
        t = ((t + imul(t ^ (t >> 7), 61 | t)) & 0xFFFFFFFF) ^ t
        return (t ^ (t >> 14)) / 2**32

    while True:
        radius, turn = math.sqrt(-2 * math.log(1 - uniform())), 2 * math.pi * uniform()
        yield np.array([radius * math.cos(turn), radius * math.sin(turn)])


def simulate(alpha0: float = 1.0, alpha: float = 10**-1.75, beta: float = 0.0, steps: int = STEPS) -> BowlRun:
    """Follow the wandering minimum with each of the four optimizers."""
    H = hessian()
    T, m, G = np.eye(2), np.zeros(2), alpha0 * np.eye(2)
    meta, adam = _adam((2, 2), alpha), _adam((2,), RATES["Adam"])

    def lodo(g: np.ndarray) -> np.ndarray:
        nonlocal T, m, G
        T = T + meta(-alpha0 * T @ (np.outer(g, m) + np.outer(m, g)))
        m = beta * m + (1 - beta) * g
        G = alpha0 * T.T @ T
        return -G @ m

    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "LODO": lodo,
        "Adam": adam,
        "Gradient descent": lambda g: -RATES["Gradient descent"] * g,
        "Newton": lambda g: -np.linalg.solve(H, g),
    }
    offsets = {name: [np.array(START)] for name in rules}
    losses: dict[str, list[float]] = {name: [] for name in rules}
    matrices, draw = [G], normals(SEED)
    for _ in range(steps):
        wander = WANDER * next(draw)
        for name, rule in rules.items():
            here = offsets[name][-1] - wander
            losses[name].append(float(0.5 * here @ H @ here))
            offsets[name].append(here + rule(H @ here))
        matrices.append(G)
    return BowlRun(
        {name: np.array(values) for name, values in offsets.items()},
        {name: np.array(values) for name, values in losses.items()},
        np.array(matrices),
    )


def to_html() -> str:
    """The figure for a page: a picture of the end of the default run, which the page's script brings to life."""
    run = simulate()
    controls = "".join(
        f'<label>{label} <output data-out="{name}"></output><input type="range" name="{name}" min="{low}" max="{high}"'
        f' step="{step}" value="{start}"></label>'
        for name, (label, low, high, step, start) in SLIDERS.items()
    )
    rates = {name: f", rate {rate:g}" for name, rate in RATES.items()}
    rows = "".join(
        f'<tr><th scope="row"><span class="key {CLASSES[name]}"></span>{name}{rates.get(name, "")}</th>'
        f'<td data-out="{CLASSES[name]}">{losses[-500:].mean():.3g}</td></tr>'
        for name, losses in run.losses.items()
    )
    GH = run.matrices[-1] @ hessian()
    cells = [f'<td data-entry="{i}">{entry:.2f}</td>' for i, entry in enumerate(GH.ravel())]
    error = np.linalg.norm(np.eye(2) - GH) / math.sqrt(2)
    seen = "Where each optimizer is, seen from the minimum: its last 40 steps over the level lines of the loss"
    learned = "The ellipse of G, on its way to that of the inverse Hessian, drawn dashed"
    ellipses = _ellipse(np.linalg.inv(hessian()), "inverse") + _ellipse(run.matrices[-1], "learned")
    at = f'<input type="range" name="at" min="0" max="{STEPS}" step="1" value="{STEPS}">'
    return f"""<div class="lodo-bowl">
<div class="panels">
<figure><svg class="paths" viewBox="-4.6 -4.6 9.2 9.2" role="img" aria-label="{seen}">{_levels()}{_paths(run)}</svg>
<figcaption>Distance from the wandering minimum, last 40 steps</figcaption></figure>
<figure><svg class="shape" viewBox="-5.5 -5.5 11 11" role="img" aria-label="{learned}">{ellipses}</svg>
<figcaption>G (filled) and H⁻¹ (dashed), as ellipses</figcaption></figure>
</div>
<div class="controls" hidden>{controls}
<label>step <output data-out="at"></output>{at}</label>
<button type="button">Play</button></div>
<div class="numbers"><table><caption>Mean loss, last 500 steps</caption><tbody>{rows}</tbody></table>
<table class="heat"><caption>G·H, error <output data-out="error">{error:.2f}</output></caption><tbody>\
<tr>{cells[0]}{cells[1]}</tr><tr>{cells[2]}{cells[3]}</tr></tbody></table></div>
<p data-out="said" role="status"></p></div>"""


def _adam(shape: tuple[int, ...], rate: float) -> Callable[[np.ndarray], np.ndarray]:
    first, second, count = np.zeros(shape), np.zeros(shape), 0

    def step(gradient: np.ndarray) -> np.ndarray:
        nonlocal first, second, count
        count += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        return -rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)

    return step


def _levels() -> str:
    H_inverse = np.linalg.inv(hessian())
    return "".join(_ellipse(2 * level * H_inverse, "level") for level in (0.05, 0.25, 0.7, 1.4))


def _ellipse(A: np.ndarray, kind: str) -> str:
    """The ellipse of all A^½ u with |u| = 1."""
    eigenvalues, Q = np.linalg.eigh(A)
    turn = -math.degrees(math.atan2(Q[1, 1], Q[0, 1]))
    rx, ry = math.sqrt(max(eigenvalues[1], 0)), math.sqrt(max(eigenvalues[0], 0))
    return f'<ellipse class="{kind}" rx="{rx:.3f}" ry="{ry:.3f}" transform="rotate({turn:.2f})"/>'


def _paths(run: BowlRun) -> str:
    drawn = []
    for name, offsets in reversed(run.offsets.items()):
        points = " ".join(f"{x:.3f},{-y:.3f}" for x, y in offsets[-41:])
        x, y = offsets[-1]
        drawn.append(f'<polyline class="{CLASSES[name]}" points="{points}"/>')
        drawn.append(f'<circle class="now {CLASSES[name]}" cx="{x:.3f}" cy="{-y:.3f}" r="0.09"/>')
    return "".join(drawn)
