"""Presets of the comparison on the problem suites: which problems, how many steps of each, and which optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SuitePreset:
    """How much of the problem suites is computed."""

    name: str  # smoke, laptop, desktop or paper
    seeds: int  # reported runs of each optimizer on each problem
    suites: tuple[str, ...] = ("development", "held_out")  # development, held_out
    problems: tuple[str, ...] = ()  # names of the problems to compute; empty: all
    optimizers: tuple[str, ...] = ()  # those to compare; empty: all
    most_steps: int = 0  # steps of a run at most; 0: each problem's own number
    tuned: bool = True  # whether to tune those that are tuned; otherwise they run with the middle of their grid
    timed_steps: int = 100  # steps of a block that is timed; 0: no times are taken
    timed_blocks: int = 7  # blocks of each optimizer

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records."""
        return asdict(self)


#: At smoke, which is computed again with every change, no held-out problem is touched.
SUITE_PRESETS: Mapping[str, SuitePreset] = {
    "smoke": SuitePreset(
        name="smoke", seeds=2, suites=("development",), problems=("quadratic_1e2",),
        optimizers=("LODO", "rlodo", "Adam"), most_steps=120, tuned=False, timed_steps=0,
    ),
    "laptop": SuitePreset(name="laptop", seeds=4),
    "desktop": SuitePreset(name="desktop", seeds=8),
    "paper": SuitePreset(name="paper", seeds=16),
}  # fmt: skip
