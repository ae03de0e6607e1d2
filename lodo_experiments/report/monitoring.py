"""A healthy run of LODO and two sick ones, as the page on monitoring shows them; computed when the book is built."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plotly.graph_objects as go

import lodo
from lodo import diagnostics
from lodo_experiments.report import plotly_html, style

SIZE, STEPS, EVERY = 20, 3000, 30

#: What is shown → LODO's initial learning rate and meta-learning rate.
RUNS = {"healthy": (1.0, 1e-3), "both rates too small": (1e-3, 2e-4), "meta-learning rate too large": (1.0, 1e-2)}


@functools.cache
def watch() -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Loss, means over stretches of :data:`EVERY` steps, and G's largest eigenvalue after each; by run."""
    return {name: _watch(*rates) for name, rates in RUNS.items()}


def loss() -> str:
    """The figure of the losses, as HTML."""
    return _figure(
        0,
        "loss",
        "Loss of three runs: healthy, it falls soon; with rates that are too small it stays high for long; with too "
        "large a meta-learning rate it climbs.",
    )


def eigenvalue() -> str:
    """The figure of G's largest eigenvalue, as HTML."""
    return _figure(
        1,
        "largest eigenvalue of G",
        "The largest eigenvalue of G in the same runs: it grows; it grows from far below; it collapses.",
    )


def _watch(alpha0: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    curvature = jnp.logspace(-2, 0, SIZE)
    optimizer = lodo.lodo(alpha0, alpha, momentum=0.0)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        offset, state = carry
        offset = offset - jax.random.normal(key, (SIZE,))
        value = 0.5 * jnp.sum(curvature * offset**2)
        updates, state = optimizer.update(curvature * offset, state, offset)
        return (optax.apply_updates(offset, updates), state), value

    def stretch(carry: Any, keys: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        carry, values = jax.lax.scan(step, carry, keys)
        return carry, (jnp.mean(values), diagnostics.spectrum(carry[1])[-1])

    start = jnp.zeros(SIZE)
    keys = jax.random.split(jax.random.key(0), STEPS).reshape(STEPS // EVERY, EVERY)
    _, (losses, largest) = jax.jit(lambda carry: jax.lax.scan(stretch, carry, keys))((start, optimizer.init(start)))
    return np.asarray(losses, float), np.asarray(largest, float)


def _figure(which: int, title: str, description: str) -> str:
    figure = go.Figure()
    for place, (name, numbers) in enumerate(watch().items()):
        values = np.where(np.isfinite(numbers[which]), numbers[which], np.nan)
        figure.add_scatter(
            x=EVERY * np.arange(1, len(values) + 1),
            y=values,
            name=name,
            line={"color": style.COLOURS[place], "width": 2},
        )
    figure.update_layout(xaxis_title="step", yaxis_title=title, yaxis_type="log", height=300)
    return plotly_html.to_html(figure, description)
