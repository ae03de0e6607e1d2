"""optax's common demands on a transformation, of every form of ours: see battery.py, which prints them as a table."""

import battery
import pytest


@pytest.mark.parametrize("assertion", battery.ASSERTIONS.values(), ids=battery.ASSERTIONS.keys())
@pytest.mark.parametrize("name", battery.FORMS)
def test_form(name, assertion):
    if name not in battery.forms():
        pytest.skip("there is no C++ compiler")
    with battery.optax_modes():
        assertion(name)
