"""The optimizers that the experiments compare, each with the hyperparameters that it is tuned from.

An entry builds its transformation from named hyperparameters, which may be traced: one compiled program serves every
value of them, and a whole population of values at once under ``vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import optax

from lodo import quasi_newton
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.diagonal import Diagonal, Scalar
from lodo.operators.residuals import Residuals
from lodo.transform import lodo
from lodo_experiments.optimizers import extended, reference
from lodo_experiments.optimizers.optimizer import LODO_DEFAULTS, Build, Optimizer
from lodo_experiments.utils.lodo_kernel import lodo_kernel

_ADAM = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}
_LIMITED_MEMORY = {"learning_rate": 1e-3, "decay_steps": 1e4, "epsilon": 1e-10}


def lodo_with(meta: Callable[[Any], optax.GradientTransformation] | None = None, **arguments: Any) -> Build:
    """LODO with another meta-optimizer (learning rate → transformation) or other arguments."""

    def build(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
        given = {"operator": BlockPermutation(), **h, **arguments}
        if isinstance(given["operator"], BlockPermutation):
            given["operator"] = replace(given["operator"], kernel=lodo_kernel())
        if meta is not None:
            given["meta_optimizer"] = meta(given.pop("meta_learning_rate"))
        return lodo(**given, seed=key)

    return build


def _plain(factory: Callable[..., optax.GradientTransformation], **arguments: Any) -> Build:
    return lambda h, key, steps: factory(**h, **arguments)


def _lars(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
    decayed = reference.lars_decay(h["learning_rate"], steps)
    return reference.lars(decayed, weight_decay=h["weight_decay"], momentum=h["momentum"])


_ALL = (
    Optimizer("LODO", lodo_with(), LODO_DEFAULTS, "the paper's optimizer"),
    Optimizer("LODO-Diagonal", lodo_with(operator=Diagonal()), LODO_DEFAULTS, "G = α₀ diag(θ)"),
    Optimizer("LODO-Global", lodo_with(operator=Scalar()), LODO_DEFAULTS, "G = α₀ θ I, one number"),
    Optimizer("LODO-Residuals", lodo_with(operator=Residuals()), LODO_DEFAULTS, "layers x + w ⊙ P x, 64 of them"),
    Optimizer("LODO-SGD", lodo_with(optax.sgd), LODO_DEFAULTS, "SGD as the meta-optimizer"),
    Optimizer(
        "LODO-No-Momentum",
        lodo_with(momentum=0.0),
        {name: value for name, value in LODO_DEFAULTS.items() if name != "momentum"},
        "β = 0",
    ),
    Optimizer("Momentum", _plain(optax.sgd), {"learning_rate": 0.01, "momentum": 0.0}, "optax.sgd"),
    Optimizer(
        "RMSprop",
        _plain(optax.rmsprop, eps=1e-7),
        {"learning_rate": 1e-3, "decay": 0.9, "momentum": 0.0},
        "optax.rmsprop, ε = 1e-7 inside the root",
    ),
    Optimizer("Adam", _plain(optax.adam, eps=1e-7), _ADAM, "optax.adam, ε = 1e-7"),
    Optimizer("Yogi", _plain(optax.yogi, eps=1e-3), _ADAM, "optax.yogi, ε = 1e-3"),
    Optimizer(
        "LARS",
        _lars,
        {"learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 5e-4},
        "the released code's LARS, with its polynomial decay over the run",
        uses_steps=True,
    ),
    Optimizer(
        "L-BFGS",
        _plain(quasi_newton.lbfgs_no_line_search),
        _LIMITED_MEMORY,
        "Schraudolph 2007, without line search",
        gradients_per_step=2,
    ),
    Optimizer(
        "O-LBFGS", _plain(quasi_newton.olbfgs), _LIMITED_MEMORY, "Schraudolph 2007, online", gradients_per_step=2
    ),
    Optimizer("BFGS", _plain(quasi_newton.bfgs), {"learning_rate": 0.01, "initial_scale": 1.0}, "dense BFGS"),
    Optimizer(
        "Levenberg-Marquardt",
        _plain(quasi_newton.levenberg_marquardt),
        {"damping": 1.0},
        "with the exact Hessian",
        needs_hessian=True,
    ),
    Optimizer(
        "BFGS-same-sample",
        _plain(quasi_newton.bfgs, same_batch=True),
        {"learning_rate": 1.0, "initial_scale": 1.0},
        "dense BFGS, both gradients on the same sample",
        gradients_per_step=2,
    ),
    Optimizer(
        "L-BFGS-100",
        _plain(quasi_newton.lbfgs_no_line_search, buffer_size=100),
        {"learning_rate": 1.0, "decay_steps": 1e6, "epsilon": 0.1},
        "L-BFGS with a memory of 100 pairs, both gradients on the same sample",
        gradients_per_step=2,
    ),
    Optimizer(
        "Whitening",
        _plain(extended.whitening),
        {"learning_rate": 1.0, "decay": 0.999},
        "a step along (E ggᵀ)^(−1/2) g, a full matrix that is not learned",
    ),
    Optimizer(
        "LODO-Dense",
        lodo_with(operator=extended.Dense()),
        LODO_DEFAULTS,
        "G = α₀ (θ + θᵀ)/2, a free matrix learned by hypergradients",
    ),
    Optimizer(
        "Newton",
        _plain(extended.newton),
        {"learning_rate": 1.0},
        "with the exact Hessian: the floor",
        needs_hessian=True,
    ),
)

OPTIMIZERS: Mapping[str, Optimizer] = {optimizer.name: optimizer for optimizer in _ALL}

#: The parameterised ablations' numbers: j = 0 … 7.
ABLATION_VALUES = range(8)


def ablated_momentum(momentum: float, j: int) -> float:
    """β_j = 1 − (1 − β)^(j/7): from no momentum to the tuned β.

    >>> [round(ablated_momentum(0.9, j), 3) for j in (0, 7)]
    [0.0, 0.9]
    """
    return 1.0 - (1.0 - momentum) ** (j / (len(ABLATION_VALUES) - 1))


def _ablations() -> dict[str, tuple[Optimizer, ...]]:
    def form(name: str, about: str, **operator: Any) -> Optimizer:
        build = lodo_with(operator=BlockPermutation(**operator))
        return Optimizer(f"LODO-{name}", build, LODO_DEFAULTS, about)

    return {
        "momentum": tuple(form(f"beta-{j}", f"β_{j}") for j in ABLATION_VALUES),
        "depth": tuple(form(f"depth-{4 * j}", f"N = {4 * j} layers", depth=4 * j) for j in ABLATION_VALUES),
        "block_size": tuple(
            form(f"block-{k}", f"blocks of k = {k}, N = {64 // k} layers", depth=64 // k, block_size=k)
            for k in range(2, 10)
        ),
    }


#: The parameterised ablations of the paper, by what they change; everything else is as tuned for LODO.
ABLATIONS: Mapping[str, tuple[Optimizer, ...]] = _ablations()
