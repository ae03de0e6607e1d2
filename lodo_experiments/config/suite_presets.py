"""Presets of the comparison on the problem suites: which problems, how many steps of each, and which optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SuitePreset:
    """How much of the problem suites is computed.

    Attributes:
      name: smoke, laptop or paper.
      seeds: reported runs of each optimizer on each problem, with seeds 0, 1, ….
      suites: "development", "held_out".
      problems: names of those of their problems that are computed; empty: all.
      optimizers: names of the peers; empty: all.
      most_steps: of a run, where a problem has more; 0: the problem's own number.
      tuned: whether peers are tuned; otherwise they run with the middle of their grid.
      timed_steps: steps of one interleaved block that is timed; 0: no times are taken.
      timed_blocks: blocks of each optimizer.
    """

    name: str
    seeds: int
    suites: tuple[str, ...] = ("development", "held_out")
    problems: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    most_steps: int = 0
    tuned: bool = True
    timed_steps: int = 100
    timed_blocks: int = 7

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records."""
        return asdict(self)


#: At smoke, which is computed again with every change, no held-out problem is touched.
SUITE_PRESETS: Mapping[str, SuitePreset] = {
    "smoke": SuitePreset(
        name="smoke", seeds=2, suites=("development",), problems=("quadratic_1e2", "rosenbrock_2"),
        optimizers=("LODO tuned", "LODO", "rlodo", "Adam"), most_steps=120, tuned=False, timed_steps=0,
    ),
    "laptop": SuitePreset(name="laptop", seeds=4),
    "paper": SuitePreset(name="paper", seeds=16),
}  # fmt: skip
