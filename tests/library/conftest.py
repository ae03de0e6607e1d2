"""Strict modes for every test of the library: 64 bits, no rank promotion, no silent dtype promotion."""

import jax
import pytest

# For what test files make when they are imported; tests/conftest.py sets it again for the tests.
jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.debug_nans(False):
        yield


def pytest_collection_modifyitems(items):
    """Every warning is an error here."""
    for item in items:
        if "tests/library" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("error"))
