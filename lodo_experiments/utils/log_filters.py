"""Keeping libraries from saying in their logs what is said here in a sentence."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def absl_from(level: int) -> Iterator[None]:
    """Of what orbax and tensorflow-datasets log, through absl, only that of a level or above.

    Args:
      level: of :mod:`logging`.

    >>> with absl_from(logging.CRITICAL):
    ...     logging.getLogger("absl").isEnabledFor(logging.ERROR)
    False
    """
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@functools.cache
def closed_loops() -> None:
    """From now on, nothing is printed of results that come after their event loop was closed; all else is, as before.

    orbax closes its loop when the first array of several cannot be written. The writes of the others end later, in
    threads of tensorstore's, which then find no loop to tell it to, and have a traceback printed for each.

    >>> closed_loops()
    """
    before = sys.unraisablehook

    def hook(unraisable: Any, /) -> None:
        of_a_loop = isinstance(unraisable.exc_value, RuntimeError) and unraisable.object is None
        if not (of_a_loop and str(unraisable.exc_value) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
