"""Which kernel computes LODO's operator in the experiments."""

from __future__ import annotations

import os


def lodo_kernel() -> str:
    """Which kernel computes LODO's block permutations, as the environment says by LODO_KERNEL; default "xla".

    All compute the same numbers but for rounding. "native", the kernels in C++, takes about a third of the time for the
    bowl on one core; give LODO_LANES=1 with it, as it runs one lane after the other anyway.

    Raises:
      ValueError: it is neither.
    """
    given = os.environ.get("LODO_KERNEL", "") or "xla"
    if given not in ("xla", "native"):
        raise ValueError(f"LODO_KERNEL must be xla or native, or unset; got {given!r}.")
    return given
