"""A healthy run of LODO and two sick ones, as the page on monitoring shows them; computed when the book is built."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Watched(NamedTuple):
    """One run, watched each :data:`EVERY` steps."""

    loss: np.ndarray  # [stretches] mean over the steps of each stretch
    smallest: np.ndarray  # [stretches] eigenvalue of G after it
    largest: np.ndarray  # [stretches] likewise


@functools.cache
def watch() -> Mapping[str, Watched]:
    """What is shown → its run."""
    return {name: _watch(*rates) for name, rates in RUNS.items()}


def loss() -> str:
    """The figure of the losses, as HTML."""
    return _figure(
        {"": "loss"},
        "loss",
        "Loss of three runs: healthy, it falls soon; with rates that are too small it stays high for long; with too "
        "large a meta-learning rate it climbs.",
    )


def eigenvalues() -> str:
    """The figure of G's extreme eigenvalues, as HTML."""
    return _figure(
        {", largest": "largest", ", smallest": "smallest"},
        "eigenvalues of G",
        "The largest and the smallest eigenvalue of G in the same runs. Healthy, the largest grows towards 100 and the "
        "smallest stays near 1; with rates that are too small both grow slowly from far below; with too large a "
        "meta-learning rate both collapse, and the smallest soon leaves the picture.",
        least=1e-5,
    )


def _watch(alpha0: float, alpha: float) -> Watched:
    curvature = jnp.logspace(-2, 0, SIZE)
    optimizer = lodo.lodo(alpha0, alpha, momentum=0.0)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        offset, state = carry
        offset = offset - jax.random.normal(key, (SIZE,))
        value = 0.5 * jnp.sum(curvature * offset**2)
        updates, state = optimizer.update(curvature * offset, state, offset)
        return (optax.apply_updates(offset, updates), state), value

    def stretch(carry: Any, keys: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
        carry, values = jax.lax.scan(step, carry, keys)
        eigenvalues = diagnostics.spectrum(carry[1])
        return carry, (jnp.mean(values), eigenvalues[0], eigenvalues[-1])

    start = jnp.zeros(SIZE)
    keys = jax.random.split(jax.random.key(0), STEPS).reshape(STEPS // EVERY, EVERY)
    _, seen = jax.jit(lambda carry: jax.lax.scan(stretch, carry, keys))((start, optimizer.init(start)))
    return Watched(*(np.asarray(values, float) for values in seen))


def _figure(shown: Mapping[str, str], title: str, description: str, least: float = 0.0) -> str:
    """Lines of each run: what follows the run's name in the legend → the field of :class:`Watched`.

    Values below ``least`` are left out.
    """
    figure = go.Figure()
    for place, (name, run) in enumerate(watch().items()):
        for dash, (what, field) in zip(("solid", "dot"), shown.items()):
            values = getattr(run, field)
            figure.add_scatter(
                x=EVERY * np.arange(1, len(values) + 1),
                y=np.where(np.isfinite(values) & (values > least), values, np.nan),
                name=name + what,
                line={"color": style.COLOURS[place], "width": 2, "dash": dash},
            )
    figure.update_layout(xaxis_title="step", yaxis_title=title, yaxis_type="log", height=300)
    return plotly_html.to_html(figure, description)
