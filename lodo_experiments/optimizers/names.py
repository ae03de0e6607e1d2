"""Optimizers by name: those of the paper, its ablations, and the compact forms of LODO."""

from __future__ import annotations

from collections.abc import Mapping

from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.search_spaces import ABLATIONS, OPTIMIZERS, Optimizer

#: Name → optimizer, in the order in which pages show them.
KNOWN: Mapping[str, Optimizer] = {
    **OPTIMIZERS,
    **{ablation.name: ablation for family in ABLATIONS.values() for ablation in family},
    **COMPACT,
}


def optimizer_named(name: str) -> Optimizer:
    """The entry of that name.

    Raises:
      ValueError: there is none; the message lists those there are.

    >>> optimizer_named("Adam").defaults["b1"]
    0.9
    """
    if name not in KNOWN:
        raise ValueError(f"There is no optimizer {name!r}; there are {', '.join(KNOWN)}.")
    return KNOWN[name]
