"""A notebook's parameters: what is taken, what is refused, and what the refusal says."""

import dataclasses
import math

import pytest

from lodo.experiments import parameters
from lodo.experiments.parameters import NotebookParameters, ParameterError, check, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(NotebookParameters):
    dimension: int = setting(100, "number of parameters", minimum=1)
    rate: float = setting(0.5, "step size", minimum=0.0, maximum=1.0)


def test_defaults_stand_where_nothing_is_given():
    assert check(Example, {}) == Example()


def test_given_values_are_taken_with_their_types():
    settings = check(Example, {"preset": "paper", "seeds": 3, "rate": 1, "dimension": 7, "download": True})
    assert settings == Example(preset="paper", seeds=3, rate=1.0, dimension=7, download=True)
    assert type(settings.rate) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seeds = 4


def test_a_notebooks_own_names_are_let_through():
    namespace = {"_private": 1, "In": [""], "Out": {}, "math": math, "check": check, "Example": Example}
    namespace["__name__"] = "__main__"
    assert check(Example, namespace) == Example()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sedes": 3}, "sedes = 3: there is no such parameter; did you mean 'seeds'"),
        ({"zzz": None}, "zzz = None: there is no such parameter; remove it"),
        ({"preset": "huge"}, "expected one of 'smoke', 'laptop', 'paper'"),
        ({"preset": 3}, "expected str, got int; with papermill, pass it by `-r`"),
        ({"seeds": "3"}, "expected int, got str; with papermill, pass it by `-p`"),
        ({"seeds": 3.0}, "expected int, got float"),
        ({"seeds": True}, "expected int, got bool"),
        ({"seeds": None}, "expected int, got NoneType"),
        ({"seeds": -1}, "expected at least 0"),
        ({"rate": 1.5}, "expected at most 1.0"),
        ({"rate": math.nan}, "expected a finite number"),
        ({"rate": math.inf}, "expected a finite number"),
        ({"rate": False}, "expected float, got bool"),
        ({"download": 1}, "expected bool, got int"),
        ({"download": "yes"}, "expected bool, got str"),
        ({"dimension": 0}, "number of parameters"),
    ],
)
def test_refusal_says_what_was_given_and_what_is_expected(given, says):
    with pytest.raises(ParameterError) as refusal:
        check(Example, given)
    assert says in str(refusal.value)
    (name,) = given
    assert f"{name} = {given[name]!r}" in str(refusal.value)


def test_all_refusals_come_at_once():
    with pytest.raises(ParameterError, match="3 parameters of this notebook were refused") as refusal:
        check(Example, {"sedes": 1, "rate": "fast", "preset": "huge"})
    assert len(str(refusal.value).splitlines()) == 4


@pytest.mark.parametrize("declaration", [Example(), dict, "Example", None])
def test_declaration_has_to_be_one(declaration):
    with pytest.raises(TypeError, match="derived from NotebookParameters"):
        check(declaration, {})


def test_presets_are_listed_cheapest_first():
    assert parameters.PRESETS == ("smoke", "laptop", "paper")
    assert NotebookParameters().preset == parameters.PRESETS[0]
