"""Presets of relative LODO on the noisy bowl: how much is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lodo_experiments.config.parameters import NamedPreset, setting


@dataclass(frozen=True, kw_only=True)
class RlodoBowlPreset(NamedPreset):
    """How much of relative LODO's study on the noisy bowl is computed."""

    seeds: int = setting(about="runs at the paper's protocol", minimum=1)
    steps: int = setting(about="updates in each of them", minimum=1)
    other_seeds: int = setting(about="runs of each variant, and on each other bowl", minimum=1)
    other_steps: int = setting(about="updates in each of those", minimum=1)
    size: int = setting(100, "number n of parameters", minimum=2)
    condition_number: float = setting(1e3, "of the Hessian, whose largest eigenvalue is 1", minimum=1)
    drift_ratio: float = setting(1.0, "the drift's largest standard deviation over its smallest", minimum=1)
    gradient_noise: float = setting(0.0, "standard deviation of noise in each entry of the gradient", minimum=0)
    cases: tuple[str, ...] = setting((), "names of the cases that are computed; none: all")


RLODO_BOWL: Mapping[str, RlodoBowlPreset] = {
    "smoke": RlodoBowlPreset(
        name="smoke", seeds=2, steps=1_000, other_seeds=2, other_steps=500, size=20,
        cases=("rlodo", "loss_30", "no_whitening", "anisotropic_10", "gradient_noise"),
    ),
    "laptop": RlodoBowlPreset(name="laptop", seeds=4, steps=20_000, other_seeds=2, other_steps=10_000),
    "paper": RlodoBowlPreset(name="paper", seeds=8, steps=100_000, other_seeds=4, other_steps=20_000),
}  # fmt: skip
