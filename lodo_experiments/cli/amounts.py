"""Amounts that command lines take, refused before anything is done where nothing can be done by them."""

from __future__ import annotations

import math
from typing import Any

from lodo_experiments.config.parameters import MOST_SEEDS

#: Option → the least and the most that it may be. Of time there is a most, so that "inf" is none: "never" is 0.
LIMITS: dict[str, tuple[float, float]] = {
    "seeds": (0, MOST_SEEDS),
    "apart": (0, MOST_SEEDS - 1),
    "seeds_per_job": (0, math.inf),
    "cores": (1, math.inf),
    "jobs": (1, math.inf),
    "minutes": (0, 1_000_000),
    "timeout": (0, 100_000_000),
    "seconds": (0.001, 1_000_000),
}


def check(options: Any) -> None:
    """Refuses an amount that is out of its limits, or no number.

    Args:
      options: has those of :data:`LIMITS` that the command takes as attributes; None is not given.

    Raises:
      ValueError: the message names the option as it is written.

    >>> import argparse
    >>> check(argparse.Namespace(minutes=float("nan")))
    Traceback (most recent call last):
    ValueError: --minutes must be from 0 to 1,000,000; got nan.
    """
    for name, (least, most) in LIMITS.items():
        given = getattr(options, name, None)
        for one in given if isinstance(given, list | tuple) else [given]:
            if one is not None and not least <= one <= most:
                allowed = f"at least {least}" if most == math.inf else f"from {least} to {most:,}"
                raise ValueError(f"--{name.replace('_', '-')} must be {allowed}; got {one}.")
