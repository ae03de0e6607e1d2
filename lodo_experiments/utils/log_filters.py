"""Keeping libraries from saying in their logs what is said here in a sentence."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def absl_from(level: int) -> Iterator[None]:
    """Of what tensorflow-datasets logs, through absl, only that of a level or above.

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
