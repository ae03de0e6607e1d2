"""Timing in turns: what is compared is measured in one process, one after the other, again and again.

A machine that is busy, or whose clock changes, then slows all of them alike, and a ratio taken within a turn keeps
its value.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass
class Samples:
    """Seconds of one thing; turns in which it did not take part are nan.

    Attributes:
      seconds: [turns].
    """

    seconds: np.ndarray

    @property
    def median(self) -> float:
        """Median over the turns in which it took part."""
        return float(np.nanmedian(self.seconds))

    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile."""
        low, high = np.nanquantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)

    def ratio(self, other: Samples) -> Samples:
        """This one's over another's, turn by turn."""
        return Samples(self.seconds / other.seconds)


@dataclass
class Timed:
    """Something to time.

    Attributes:
      call: does it ``steps`` times; what it returns is waited for.
      steps: by which a sample is divided.
      turns: in how many turns it takes part, spread evenly; 0: in all.
    """

    call: Callable[[], Any]
    steps: int = 1
    turns: int = 0
    seconds: list[float] = field(default_factory=list)


def take_turns(timed: Mapping[str, Timed], turns: int, warm_up: int = 1) -> dict[str, Samples]:
    """Time each in turns.

    Args:
      timed: name → what to time.
      turns: how many.
      warm_up: calls of each before the first turn, which do not count.

    Returns:
      name → seconds a step, [turns]; nan where it did not take part.
    """
    for one in timed.values():
        for _ in range(warm_up):
            jax.block_until_ready(one.call())
    taking_part = {
        name: set(np.linspace(0, turns - 1, min(one.turns or turns, turns)).round().astype(int).tolist())
        for name, one in timed.items()
    }
    seconds = {name: np.full(turns, np.nan) for name in timed}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(turns):
            for name, one in timed.items():
                if turn in taking_part[name]:
                    start = time.perf_counter()
                    jax.block_until_ready(one.call())
                    seconds[name][turn] = (time.perf_counter() - start) / one.steps
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return {name: Samples(values) for name, values in seconds.items()}
