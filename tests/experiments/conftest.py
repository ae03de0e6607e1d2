"""Fixtures that several files of tests of the experiments share."""

import jax
import pytest


@pytest.fixture(scope="module")
def sixty_four_bits():
    """64-bit types for a file of tests: ``pytestmark = pytest.mark.usefixtures("sixty_four_bits")``."""
    with jax.enable_x64(True):
        yield
