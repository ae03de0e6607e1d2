"""Presets of the comparison on the problem suites: which problems, how many steps of each, and which optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lodo_experiments.config.parameters import NamedPreset, setting


@dataclass(frozen=True, kw_only=True)
class SuitePreset(NamedPreset):
    """How much of the problem suites is computed; the name is smoke, laptop, desktop or paper."""

    seeds: int = setting(about="reported runs of each optimizer on each problem", minimum=1)
    suites: tuple[str, ...] = setting(("development", "held_out"), "suites", choices=("development", "held_out"))
    problems: tuple[str, ...] = setting((), "names of the problems to compute; empty: all of the suites")
    optimizers: tuple[str, ...] = setting((), "those to compare; empty: all")
    most_steps: int = setting(0, "steps of a run at most; 0: each problem's own number", minimum=0)
    tuned: bool = setting(True, "whether to tune; otherwise the middle of each grid is taken")
    timed_steps: int = setting(100, "steps of a block that is timed; 0: no times are taken", minimum=0)
    timed_blocks: int = setting(7, "blocks of each optimizer", minimum=1)


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
