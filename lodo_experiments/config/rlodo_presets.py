"""Presets of relative LODO on the noisy bowl: how much is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RlodoBowlPreset:
    """How much of relative LODO's study on the noisy bowl is computed.

    Attributes:
      name: smoke, laptop or paper.
      seeds: runs at the paper's protocol, with seeds 0, 1, ….
      steps: of each.
      other_seeds: runs of each variant, on each other bowl.
      other_steps: of each.
      size: n of the bowl, where a case does not change it.
      cases: names of the cases that are computed; empty: all.
    """

    name: str
    seeds: int
    steps: int
    other_seeds: int
    other_steps: int
    size: int = 100
    cases: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records."""
        return asdict(self)


RLODO_BOWL: Mapping[str, RlodoBowlPreset] = {
    "smoke": RlodoBowlPreset(
        name="smoke", seeds=2, steps=1_000, other_seeds=2, other_steps=500, size=20,
        cases=("rlodo", "loss_30", "no_whitening", "anisotropic_10", "gradient_noise"),
    ),
    "laptop": RlodoBowlPreset(name="laptop", seeds=4, steps=20_000, other_seeds=2, other_steps=10_000),
    "paper": RlodoBowlPreset(name="paper", seeds=8, steps=100_000, other_seeds=4, other_steps=20_000),
}  # fmt: skip
