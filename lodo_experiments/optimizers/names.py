"""Optimizers by name: those of the paper, its ablations, and the compact forms of LODO."""

from __future__ import annotations

from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.search_spaces import ABLATIONS, OPTIMIZERS, Optimizer


def optimizer_named(name: str) -> Optimizer:
    """The entry of that name.

    Raises:
      ValueError: there is none; the message lists those there are.

    >>> optimizer_named("Adam").defaults["b1"]
    0.9
    """
    ablations = {ablation.name: ablation for family in ABLATIONS.values() for ablation in family}
    known = {**OPTIMIZERS, **ablations, **COMPACT}
    if name not in known:
        raise ValueError(f"There is no optimizer {name!r}; there are {', '.join(known)}.")
    return known[name]
