"""Figures of the page that teaches LODO: losses, which entries layers can reach, and what G becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lodo import diagnostics
from lodo_experiments.report.style import COLOURS

#: White to blue, for magnitudes; readable in grey too.
_SCALE = [[0, "rgba(127,127,127,0.10)"], [1, COLOURS[0]]]


class Watched(NamedTuple):
    """A run that was looked at now and then."""

    steps: tuple[int, ...]  # when
    products: np.ndarray  # [looks, n, n]: G H in the basis of H's eigenvectors, steepest first
    dense_steps: np.ndarray  # [more looks]
    shares: np.ndarray  # [more looks, n]: λ qᵀ G q for each eigenvector q, steepest first
    eigenvalues: np.ndarray  # [n]: λ, descending


def losses(curves: Mapping[str, Any], floor: float, window: int = 200) -> go.Figure:
    """Loss by step, means over windows, over Newton's floor."""
    figure = go.Figure()
    for place, (name, values) in enumerate(curves.items()):
        curve = np.asarray(values)
        curve = curve[: len(curve) // window * window].reshape(-1, window).mean(axis=1)
        figure.add_scatter(
            x=window * (np.arange(len(curve)) + 0.5), y=curve, name=name, line={"color": COLOURS[place], "width": 2}
        )
    figure.add_hline(y=floor, line_dash="dash", line_color=COLOURS[-1], annotation_text="Newton's method")
    figure.update_layout(xaxis_title="step", yaxis_title=f"loss, means over {window} steps", yaxis_type="log")
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
      H: [n, n], the Hessian.
      optimizer: LODO.
      steps: when to look at the whole of G; ascending.
      seed: of the minimum's steps.
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
    figure = make_subplots(rows=1, cols=len(matrices), subplot_titles=list(titles), horizontal_spacing=0.03)
    for column, matrix in enumerate(matrices, 1):
        figure.add_heatmap(
            z=np.round(matrix, 3), zmin=low, zmax=high, colorscale=_SCALE, showscale=False, row=1, col=column
        )
    figure.update_xaxes(showticklabels=False, ticks="", constrain="domain")
    figure.update_yaxes(showticklabels=False, ticks="", autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_layout(height=260, margin={"t": 40, "b": 10, "l": 10, "r": 10})
    return figure
