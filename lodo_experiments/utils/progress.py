"""Progress for people: share done, rate, time left and loss; one line that moves, or plain lines where none can."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

#: Called with (steps done, steps in all, mean loss lately).
Report = Callable[[int, int, float], None]


class Progress:
    """Reports a run's progress.

    Args:
      label: what runs.
      stream: where to write; default standard error.
      clock: seconds, for tests.
      every: least seconds between two lines where lines cannot be overwritten (no terminal).

    Example:
      >>> import sys
      >>> progress = Progress("bowl", stream=sys.stdout, clock=iter([0.0, 10.0]).__next__)
      >>> progress(250, 1000, 3.5)
      bowl: 25 % (250 of 1,000 steps), 25 steps/s, 0:00:30 left, loss 3.5
    """

    def __init__(
        self, label: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic, every: float = 10.0
    ):
        self._label, self._stream, self._clock, self._every = label, stream or sys.stderr, clock, every
        self._started = clock()
        self._shown = -every
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, loss: float) -> None:
        """Show where the run is; on a terminal in place, else a line now and then and at the end."""
        now = self._clock()
        # The first report's time holds the compilation; the rate is taken from there on as soon as it can be.
        since, before = self._first or (self._started, 0)
        rate = (done - before) / max(now - since, 1e-9)
        self._first = self._first or (now, done)
        moves = getattr(self._stream, "isatty", lambda: False)()
        if not moves and done < total and now - self._started - self._shown < self._every:
            return
        self._shown = now - self._started
        left = duration((total - done) / rate)
        text = (
            f"{self._label}: {done * 100 // total} % ({done:,} of {total:,} steps), {rate:,.3g} steps/s, "
            f"{left} left, loss {loss:.4g}"
        )
        self._stream.write(f"\r\x1b[K{text}" + ("\n" if done == total else "") if moves else f"{text}\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, with days where needed.

    >>> duration(3725.2), duration(200_000)
    ('1:02:05', '2 d 7:33:20')
    """
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock
