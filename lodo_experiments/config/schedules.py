"""A tuning's schedule: its generations, each with a deviation, a length and a population."""

from __future__ import annotations

from dataclasses import dataclass

from lodo._validation import check_integer, check_real


@dataclass(frozen=True)
class Generation:
    """One generation of a schedule."""

    deviation: float  # σ of the population in every normalised coordinate
    steps: int  # length of each member's training
    population: int  # how many members

    def __post_init__(self) -> None:
        check_real("deviation", self.deviation, minimum=0.0)
        check_integer("steps", self.steps, 1)
        check_integer("population", self.population, 2)
