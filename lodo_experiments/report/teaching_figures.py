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
from lodo_experiments.report import style
from lodo_experiments.report.style import COLOURS

#: A quiet grey to blue, for magnitudes, on a light page and on a dark one.
_SCALE = [[0, "#d5dce2"], [1, COLOURS[0]]]


class Watched(NamedTuple):
    """A run that was looked at now and then."""

    steps: tuple[int, ...]  # when
    products: np.ndarray  # [looks, n, n]: G H in the basis of H's eigenvectors, steepest first
    dense_steps: np.ndarray  # [more looks]
    shares: np.ndarray  # [more looks, n]: λ qᵀ G q for each eigenvector q, steepest first
    eigenvalues: np.ndarray  # [n]: λ, descending


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


def watch(H: np.ndarray, optimizer: Any, steps: tuple[int, ...], seed: int) -> Watched:
    """Follow a wandering minimum with LODO, and look at G on the way.

    Args:
      H: [n, n].
      steps: when to look at the whole of G; ascending.
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
    carry, keys = (start, optimizer.init(start)), jax.random.split(jax.random.key(seed), steps[-1])
    often = np.unique(np.concatenate([np.linspace(0, steps[-1], 33).astype(int), steps]))
    products, shares = [], []
    for before, now in zip((0, *often[:-1]), often):
        if now > before:
            carry = advance(carry, keys[before:now])
        G = np.asarray(diagnostics.dense(carry[1]))
        shares.append(eigenvalues * np.einsum("iq,ij,jq->q", Q, G, Q))
        if now in steps:
            products.append(Q.T @ G @ H @ Q)
    return Watched(steps, np.array(products), often, np.array(shares), eigenvalues)


def products(run: Watched) -> go.Figure:
    """G H as heat maps."""
    return _squares(np.abs(run.products), [f"step {step:,}" for step in run.steps], 0, 1)


def along_eigenvectors(run: Watched, lines: int = 5) -> go.Figure:
    """λ qᵀGq over steps along some eigenvectors, from the steepest to the flattest."""
    figure = go.Figure()
    chosen = np.unique(np.linspace(0, len(run.eigenvalues) - 1, lines).astype(int))
    for place, index in enumerate(chosen):
        figure.add_scatter(
            x=run.dense_steps, y=run.shares[:, index], name=f"λ = {run.eigenvalues[index]:.2g}",
            line={"color": COLOURS[place], "width": 2},
        )  # fmt: skip
    figure.add_hline(y=1, line_dash="dash", line_color=COLOURS[-1], annotation_text="inverse Hessian")
    figure.update_layout(xaxis_title="step", yaxis_title="λ qᵀ G q", legend_title="eigenvector of")
    return figure


def _squares(matrices: Sequence[np.ndarray], titles: Sequence[str], low: float, high: float) -> go.Figure:
    """Square heat maps side by side: one, with gaps, so that all have the same size."""
    size, gap = len(matrices[0]), max(2, len(matrices[0]) // 8)
    z = np.full((size, len(matrices) * (size + gap) - gap), np.nan)
    for place, matrix in enumerate(matrices):
        z[:, place * (size + gap) : place * (size + gap) + size] = matrix
    rows = [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in z]
    figure = go.Figure(go.Heatmap(z=rows, zmin=low, zmax=high, colorscale=_SCALE, showscale=False, hoverongaps=False))
    for place, title in enumerate(titles):
        figure.add_annotation(
            x=place * (size + gap) + size / 2 - 0.5, y=-2, text=title, showarrow=False, yanchor="bottom"
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    # Room above the titles for the buttons that show themselves there.
    figure.update_layout(height=90 + 660 // len(matrices), margin={"t": 70, "b": 10, "l": 10, "r": 10})
    return figure
