"""Progress for people, as tqdm shows it: a bar that moves, on terminals and in notebooks; else plain lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm.std import tqdm

#: Called with (steps done, steps in all, mean loss lately).
Report = Callable[[int, int, float], None]


class Progress:
    """Reports a run's progress.

    Args:
      label: what runs.
      stream: where to write; default standard error.
      clock: seconds, for tests.
      every: least seconds between two lines where lines cannot be overwritten (no terminal).
      unit: what is counted.

    Example:
      >>> import sys
      >>> progress = Progress("bowl", stream=sys.stdout, clock=iter([0.0, 10.0]).__next__)
      >>> progress(250, 1000, 3.5)
      bowl:  25%|##5       | 250/1000 [00:10<00:30, 25.00 steps/s, loss 3.5]
    """

    def __init__(
        self, label: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic,
        every: float = 10.0, unit: str = "steps",
    ):  # fmt: skip
        self._label, self._stream, self._clock, self._every = label, stream or sys.stderr, clock, every
        self._unit = unit
        self._started = clock()
        self._shown = -every
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Show where the run is: in place where the stream can do that, else a line now and then and at the end."""
        elapsed = self._clock() - self._started
        # The first report's time holds the compilation; the rate is taken from there on as soon as it can be.
        since, before = self._first or (0.0, 0)
        self._first = self._first or (elapsed, done)
        moves = _overwrites(self._stream)
        pause = {"": self._every, "\r": 0.5}.get(moves, 0.0)  # each line in a notebook is a message to the browser
        if done < total and elapsed - self._shown < pause:
            return
        self._shown = elapsed
        text = tqdm.format_meter(
            done, total, elapsed, prefix=self._label, unit=f" {self._unit}", ascii=True,
            postfix=None if loss is None else f"loss {loss:.4g}",
            rate=(done - before) / max(elapsed - since, 1e-9),
        ).replace("s/ ", "s/")  # fmt: skip
        self._stream.write(moves + text + ("\n" if done == total or not moves else ""))
        self._stream.flush()


def _overwrites(stream: TextIO) -> str:
    """What makes a stream show a line in place of the one before; empty where nothing does, as in logs and pages."""
    if getattr(stream, "isatty", lambda: False)():
        return "\r\x1b[K"
    in_notebook = type(stream).__module__.startswith("ipykernel.") and os.environ.get("LODO_BOOK") != "1"
    return "\r" if in_notebook else ""


def duration(seconds: float) -> str:
    """Seconds as mm:ss or h:mm:ss.

    >>> duration(62.3), duration(3725.2)
    ('01:02', '1:02:05')
    """
    return str(tqdm.format_interval(seconds))
