"""Optimizers by name: those of the paper, its ablations, and the compact forms of LODO."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo._state import LodoState, nodes_of
from lodo.relative.transform import rlodo
from lodo_experiments.optimizers.compact_forms import COMPACT, COUNTED_SIZE
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.optimizers.peers import PEERS
from lodo_experiments.optimizers.search_spaces import ABLATIONS, OPTIMIZERS


def _rlodo(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
    return rlodo(lambda count: h["meta_learning_rate"] / (1 + count / h["decay_steps"]), seed=key)


#: Here and not beside the others, as it imports more of the library than they do.
RELATIVE = Optimizer(
    "rlodo",
    _rlodo,
    {"meta_learning_rate": 2.5e-3, "decay_steps": 1.5e3},
    "lodo.rlodo with the meta-rate α / (1 + t/τ); tuned from its defaults at n = 100",
)

#: The same as it comes, without a hyperparameter.
UNTUNED = replace(PEERS["rlodo"].optimizer, name="rlodo-untuned")

#: Optimizers of the problem suites that the paper does not compare; a search begins in the middle of their grids.
OTHERS: Mapping[str, Optimizer] = {
    one.name: one
    for one in (
        replace(PEERS[name].optimizer, name=name.replace(" ", "-"))
        for name in ("Muon", "Schedule-free", "Prodigy", "Sophia", "Online scaling", "Kron")
    )
}

#: Name → optimizer, in the order in which pages show them.
KNOWN: Mapping[str, Optimizer] = {
    **OPTIMIZERS,
    RELATIVE.name: RELATIVE,
    UNTUNED.name: UNTUNED,
    **OTHERS,
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


@functools.cache
def numbers_a_parameter(name: str, size: int = COUNTED_SIZE) -> Mapping[str, float]:
    """Bytes of a form's state, counted from its arrays, in float32 numbers for each float32 parameter.

    Args:
      name: "LODO", or one of :data:`COMPACT`.
      size: n, the number of parameters.

    Returns:
      "θ", "moments", "permutations" (int32 indices), "momentum in the layers" (kept for the next hypergradient) and "in
      all" (momentum, the last step and counters included).

    >>> {part: round(count) for part, count in numbers_a_parameter("LODO").items()}
    {'θ': 128, 'moments': 256, 'permutations': 64, 'momentum in the layers': 64, 'in all': 515}
    """
    optimizer = optimizer_named(name)
    values = {key: jnp.float32(value) for key, value in optimizer.defaults.items()}
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    state = jax.eval_shape(lambda p: optimizer.build(values, jax.random.key(0), 1).init(p), params)
    found = nodes_of(state, LodoState)

    def numbers(tree: Any) -> float:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / (4 * size)

    return {
        "θ": numbers([s.theta for s in found]),
        "moments": numbers([s.meta_state for s in found]),
        "permutations": numbers([s.fixed for s in found]),
        "momentum in the layers": numbers([s.inputs for s in found]),
        "in all": numbers(found),
    }
