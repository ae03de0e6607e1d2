"""Presets of the pages whose own cells compute all that they show: how LODO comes about, a physics-informed network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lodo_experiments.config.parameters import PRESETS, NamedPreset, setting

#: What the page on a physics-informed network compares.
PHYSICS_OPTIMIZERS = ("Adam", "LODO", "rlodo", "L-BFGS")


@dataclass(frozen=True, kw_only=True)
class PhysicsPreset(NamedPreset):
    """A network that learns the solution u(x) = sin πx + a sin ωπx of −u″ = s on (0, 1) from the equation."""

    steps: int = setting(about="updates in each run", minimum=10)
    seeds: int = setting(about="runs for each optimizer", minimum=1)
    optimizers: tuple[str, ...] = setting(PHYSICS_OPTIMIZERS, "names of those compared", choices=PHYSICS_OPTIMIZERS)
    adam_rates: tuple[float, ...] = setting(about="learning rates of Adam that are tried", above=0.0)
    lodo_rates: tuple[float, ...] = setting(about="values of LODO's α₀ that are tried", above=0.0)
    resample: bool = setting(True, "whether to compare with points drawn anew at each step too")
    width: int = setting(20, "units of each hidden layer", minimum=1)
    layers: int = setting(2, "hidden layers", minimum=1)
    points: int = setting(64, "collocation points", minimum=2)
    frequency: int = setting(5, "ω of the solution's second sine, a whole number", minimum=1)
    amplitude: float = setting(0.2, "a of the same", minimum=0.0)
    boundary_weight: float = setting(100.0, "weight of the boundary's residuals in the loss", minimum=0.0)

    def __post_init__(self) -> None:
        if {"Adam", "LODO"} <= set(self.optimizers) and len(self.adam_rates) != len(self.lodo_rates):
            raise ValueError(
                f"adam_rates has {len(self.adam_rates)} values and lodo_rates {len(self.lodo_rates)}: who is tried at "
                "more rates has the better chance. Give as many of both, or leave one out of optimizers."
            )


_LAPTOP = PhysicsPreset(
    name="laptop", steps=2_000, seeds=5, adam_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    lodo_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
)  # fmt: skip

PHYSICS: Mapping[str, PhysicsPreset] = {
    # Without the points drawn anew, to save the time of compiling them.
    "smoke": replace(
        _LAPTOP, name="smoke", steps=500, seeds=3, adam_rates=(3e-3, 1e-2, 3e-2), lodo_rates=(3e-4, 1e-3, 3e-3),
        resample=False,
    ),
    "laptop": _LAPTOP,
    "desktop": replace(_LAPTOP, name="desktop", steps=5_000),
    "paper": replace(_LAPTOP, name="paper", steps=5_000),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UnderstandingPreset(NamedPreset):
    """A minimum that wanders on a quadratic bowl, and what learns to follow it."""

    size: int = setting(20, "number n of parameters", minimum=2)
    condition_number: float = setting(1e3, "largest over smallest eigenvalue of H", minimum=1.0)
    steps: int = setting(20_000, "updates in each run", minimum=100)
    meta_learning_rate: float = setting(3e-3, "α, the rate of Adam down the hypergradient", minimum=0.0)
    initial_learning_rate: float = setting(1.0, "where the learned numbers start, and α₀ of LODO", above=0.0)
    momentum: float = setting(0.0, "β of LODO", minimum=0.0, below=1.0)
    depth: int = setting(16, "layers N of LODO's G", minimum=1)
    block_size: int = setting(4, "block size k of LODO's G", minimum=1)


#: The same at every preset: it takes seconds.
UNDERSTANDING: Mapping[str, UnderstandingPreset] = {name: UnderstandingPreset(name=name) for name in PRESETS}
