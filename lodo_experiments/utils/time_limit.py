"""The end of the time given: a signal that the process was asked to end, and the exception that says so."""

from __future__ import annotations

import threading

#: Set when the process was asked to end: every run saves its state and stops.
ending = threading.Event()


class OutOfTime(RuntimeError):
    """The time given is over. What was computed is saved: the same command goes on from there."""
