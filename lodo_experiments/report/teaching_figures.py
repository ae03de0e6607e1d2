"""Figures of the page that teaches LODO: losses, which entries layers can reach, and what G becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plotly.graph_objects as go

from lodo import diagnostics
from lodo_experiments.report import sliders, style
from lodo_experiments.report.style import COLOURS

#: A quiet grey to blue, for magnitudes, on a light page and on a dark one.
_SCALE = [[0, "#d5dce2"], [1, COLOURS[0]]]


#: How often a run is looked at, at equal distances, and at which of these looks at the whole of G H.
LOOKS = 40
MOMENTS = (0, 1, 2, 4, 6, 10, 16, 24, 32, 40)
#: Those of the moments that the picture without a slider has.
STILL = (0, 2, 10, 40)


class Watched(NamedTuple):
    """A run that was looked at now and then."""

    steps: np.ndarray  # [looks]: when
    products: np.ndarray  # [moments, n, n]: G H in the basis of H's eigenvectors, steepest first
    shares: np.ndarray  # [looks, n]: λ qᵀ G q for each eigenvector q, steepest first
    eigenvalues: np.ndarray  # [n]: λ, descending

    @property
    def moments(self) -> list[int]:
        """The steps of the products."""
        return [int(self.steps[look]) for look in MOMENTS]


def losses(curves: Mapping[str, Any], floor: float | None = None, window: int = 200) -> go.Figure:
    """Loss by step, means over windows; over the loss of Newton's method where it is given."""
    figure = go.Figure()
    for place, (name, values) in enumerate(curves.items()):
        curve = np.asarray(values)
        curve = curve[: len(curve) // window * window].reshape(-1, window).mean(axis=1)
        line = style.line_of(name) if name in style.OPTIMIZERS else {"color": COLOURS[place]}
        figure.add_scatter(x=window * (np.arange(len(curve)) + 0.5), y=curve, name=name, line={**line, "width": 2})
    if floor is not None:
        figure.add_hline(y=floor, line_dash="dash", line_color=COLOURS[-1], annotation_text="Newton's method")
    title = f"loss, means over {window} steps" if window > 1 else "loss"
    figure.update_layout(xaxis_title="step", yaxis_title=title, yaxis_type="log")
    return figure


def reachable(size: int, block_size: int, depth: int, seed: int) -> list[np.ndarray]:
    """Which entries of ĜᵀĜ can differ from zero, after each layer.

    Args:
      size: n, a multiple of k; nothing is padded here.
      block_size: k.
      depth: N.
      seed: of the permutations.

    Returns:
      After 1 to N layers, [n, n] booleans.

    >>> [int(pattern.sum()) for pattern in reachable(size=16, block_size=4, depth=2, seed=0)]
    [64, 256]
    """
    rng = np.random.default_rng(seed)
    blocks = np.kron(np.eye(size // block_size), np.ones((block_size, block_size)))
    path = np.eye(size)
    patterns = []
    for _ in range(depth):
        path = blocks @ path[rng.permutation(size)]
        patterns.append((path.T @ path) > 0)
    return patterns


def reachable_figure(patterns: Sequence[np.ndarray]) -> go.Figure:
    """The patterns side by side, with the share of entries that each can change."""
    titles = [
        f"{count} layer{'s' if count > 1 else ''}: {pattern.mean():.0%}" for count, pattern in enumerate(patterns, 1)
    ]
    return _squares([pattern.astype(int) for pattern in patterns], titles, 0, 1)


def watch(H: np.ndarray, optimizer: Any, steps: int, seed: int) -> Watched:
    """Follow a wandering minimum with LODO, and look at G on the way.

    Args:
      H: [n, n].
      optimizer: LODO.
      steps: of the run, at least :data:`LOOKS`.
      seed: of the walk.
    """
    eigenvalues, Q = np.linalg.eigh(H)
    eigenvalues, Q = eigenvalues[::-1], Q[:, ::-1]
    matrix = jnp.asarray(H)

    def one(carry: Any, key: jax.Array) -> tuple[Any, None]:
        offset, state = carry
        offset = offset - jax.random.normal(key, offset.shape, offset.dtype)
        change, state = optimizer.update(matrix @ offset, state)
        return (optax.apply_updates(offset, change), state), None

    @jax.jit
    def advance(carry: Any, keys: jax.Array) -> Any:
        return jax.lax.scan(one, carry, keys)[0]

    start = jnp.zeros(len(H))
    carry, keys = (start, optimizer.init(start)), jax.random.split(jax.random.key(seed), steps)
    looks = np.linspace(0, steps, LOOKS + 1).astype(int)
    products, shares = [], []
    for look, now in enumerate(looks):
        if look:
            carry = advance(carry, keys[looks[look - 1] : now])
        G = np.asarray(diagnostics.dense(carry[1]))
        shares.append(eigenvalues * np.einsum("iq,ij,jq->q", Q, G, Q))
        if look in MOMENTS:
            products.append(Q.T @ G @ H @ Q)
    return Watched(looks, np.array(products), np.array(shares), eigenvalues)


def products(run: Watched) -> go.Figure:
    """G H as a heat map, with a slider through the moments."""
    figure, places = go.Figure(), list(range(1, len(run.eigenvalues) + 1))
    for product in np.abs(run.products):
        figure.add_heatmap(
            x=places, y=places, z=product.round(3), zmin=0, zmax=1, colorscale=_SCALE, colorbar_title="|entry|",
        )  # fmt: skip
    axis = {"showgrid": False, "constrain": "domain", "dtick": max(1, len(places) // 4)}
    ends = [0.5, len(places) + 0.5]
    figure.update_layout(
        xaxis={**axis, "title": "eigenvector of H, from the steepest to the flattest", "range": ends},
        yaxis={**axis, "scaleanchor": "x", "range": ends[::-1]}, height=540,
    )  # fmt: skip
    sliders.through_moments(figure, run.moments)
    return figure


def products_side_by_side(run: Watched) -> go.Figure:
    """G H at some of the moments, for a picture without a slider."""
    shown = [MOMENTS.index(look) for look in STILL]
    titles = [f"step {run.moments[place]:,}" for place in shown]
    return _squares(np.abs(run.products[shown]), titles, 0, 1, columns=2)


def along_eigenvectors(run: Watched, lines: int = 5) -> go.Figure:
    """λ qᵀGq over steps along some eigenvectors, from the steepest to the flattest."""
    figure = go.Figure()
    chosen = np.unique(np.linspace(0, len(run.eigenvalues) - 1, lines).astype(int))
    for place, index in enumerate(chosen):
        figure.add_scatter(
            x=run.steps, y=run.shares[:, index], name=f"λ = {run.eigenvalues[index]:.2g}",
            line={"color": COLOURS[place], "width": 2},
        )  # fmt: skip
    figure.add_hline(y=1, line_dash="dash", line_color=COLOURS[-1], annotation_text="inverse Hessian")
    figure.update_layout(xaxis_title="step", yaxis_title="λ qᵀ G q", legend_title="eigenvector of")
    return figure


def _squares(
    matrices: Sequence[np.ndarray], titles: Sequence[str], low: float, high: float, columns: int = 0
) -> go.Figure:
    """Square heat maps side by side, or in so many columns: one map, with gaps, so that all have the same size."""
    columns = columns or len(matrices)
    rows = -(-len(matrices) // columns)
    size, gap = len(matrices[0]), max(2, len(matrices[0]) // 8)
    z = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap), np.nan)
    corners = [(place // columns * (size + gap), place % columns * (size + gap)) for place in range(len(matrices))]
    for (top, left), matrix in zip(corners, matrices):
        z[top : top + size, left : left + size] = matrix
    cells = [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in z]
    figure = go.Figure(go.Heatmap(z=cells, zmin=low, zmax=high, colorscale=_SCALE, showscale=False, hoverongaps=False))
    for (top, left), title in zip(corners, titles):
        figure.add_annotation(x=left + size / 2 - 0.5, y=top - 0.6, text=title, showarrow=False, yanchor="bottom")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, range=[len(z) - 0.5, -0.5])
    side = 10 if rows == 1 else 120  # so that the squares are square
    # Room above the titles for the buttons that show themselves there.
    high_px = 660 // columns if rows == 1 else 460 * len(z) // len(z[0])
    figure.update_layout(height=80 + 10 * (rows == 1) + high_px, margin={"t": 70, "b": 10, "l": side, "r": side})
    return figure
