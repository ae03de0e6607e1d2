"""A notebook's parameters: what is taken, what is refused, and what the refusal says."""

import dataclasses
import math

import pytest

from lodo_experiments.config import parameters
from lodo_experiments.config.parameters import NotebookParameters, ParameterError, check, setting
from lodo_experiments.config.schedules import Generation
from lodo_experiments.report import pages
from lodo_experiments.studies import changes, registry


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
        ({"preset": "huge"}, "expected one of 'smoke', 'laptop', 'desktop', 'paper'"),
        ({"preset": 3}, "expected str, got int; with papermill, pass it by `-r`"),
        ({"seeds": "three"}, "expected int, got str; write a number"),
        ({"seeds": 3.5}, "expected int, got float"),
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
        ({"data_dir": None}, "expected str, got NoneType; leave it out, or give a text"),
        *[
            ({"download": value}, "write True or False, with papermill by `-p`")
            for value in ("true", "false", "yes", "True", "", 1, 0, 1.0, None)
        ],
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
    assert parameters.PRESETS == ("smoke", "laptop", "desktop", "paper")
    assert NotebookParameters().preset == parameters.PRESETS[0]


# Cells as IPython records them, the one that runs last.
DECLARED = "preset: str = 'smoke'\nseeds: int = 0\nrate: float = 0.5"
CHECK = "settings = check(Example, globals())"
RESULTS = "rows, (low, high) = [1], (2, 3)\nfor line in rows:\n    last = line"
LEFT = {"rows": [1], "low": 2, "high": 3, "line": 1, "last": 1}


@pytest.mark.parametrize(
    "cells",
    [
        [DECLARED, CHECK, RESULTS, DECLARED, CHECK],
        [DECLARED, CHECK, RESULTS, CHECK],
        [DECLARED, CHECK, RESULTS, "preset = 'paper'", CHECK],
        [DECLARED, "# Parameters\npreset = 'paper'", CHECK, RESULTS, DECLARED, "# Parameters\nseeds = 3", CHECK],
        [DECLARED, CHECK, RESULTS, DECLARED, RESULTS, CHECK],
        [DECLARED, CHECK, RESULTS, CHECK, RESULTS, DECLARED, CHECK],
        ["%%not python", "rows = 1", DECLARED, CHECK, RESULTS, DECLARED.replace("smoke", "paper"), CHECK],
    ],
)
def test_a_second_pass_takes_the_notebooks_own_variables(cells):
    assert check(Example, {**LEFT, "preset": "paper", "In": ["", *cells]}) == Example(preset="paper")


@pytest.mark.parametrize(
    "cells",
    [
        [DECLARED, "# Parameters\nsedes = 3", CHECK],
        [DECLARED, "# Parameters\nsedes = 3", CHECK, CHECK],
        ["sedes = 3\n" + DECLARED, CHECK],
        [DECLARED, CHECK, RESULTS, DECLARED, "# Parameters\nsedes = 3\nseeds = 1", CHECK],
        [DECLARED, CHECK, RESULTS, DECLARED + "\nsedes = 3", CHECK],
    ],
)
def test_a_misspelt_parameter_is_refused_in_any_pass(cells):
    with pytest.raises(
        ParameterError, match="1 parameter of this notebook was refused:\n  sedes = 3: there is no such"
    ):
        check(Example, {**LEFT, "sedes": 3, "In": ["", *cells]})


def test_a_misspelt_parameter_that_was_mended_is_forgotten():
    cells = [DECLARED + "\nsedes = 3", CHECK, DECLARED, CHECK]
    assert check(Example, {"sedes": 3, "seeds": 3, "In": ["", *cells]}) == Example(seeds=3)


BOWL = registry.parameters_of("noisy_bowl")


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        # What `papermill -p`, `-r` and a YAML file (where 1e4 is a text, and steps may be 2e4) make of it.
        ({"condition_number": 1e4}, "condition_number", 1e4),
        ({"condition_number": "1e4"}, "condition_number", 1e4),
        ({"steps": 2e4}, "steps", 20_000),
        ({"steps": "20000"}, "steps", 20_000),
        ({"optimizers": "LODO, Adam"}, "optimizers", ("LODO", "Adam")),
        ({"optimizers": ["LODO", "Adam"]}, "optimizers", ("LODO", "Adam")),
        ({"momentum": 0}, "momentum", 0.0),
        ({"depth": 0}, "depth", 0),
        ({"operator": "diagonal"}, "operator", "diagonal"),
        ({"schedule": "3:100:12, 1:300:8"}, "schedule", (Generation(3, 100, 12), Generation(1, 300, 8))),
        ({"schedule": [[3, 100, 12]]}, "schedule", (Generation(3, 100, 12),)),
        ({"schedule": ""}, "schedule", ()),
        ({"schedule": []}, "schedule", ()),
    ],
)
def test_a_field_of_the_preset_is_a_parameter(given, name, value):
    changes = check(BOWL, given).changes()
    assert changes == {name: value}
    assert type(changes[name]) is type(value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, "expected at least 1"),
        ({"steps": 1.5}, "expected int, got float"),
        ({"steps": "many"}, "expected int, got str; write a number"),
        ({"optimizers": "LODO,adam"}, "which 'adam' is not; did you mean 'Adam'?"),
        ({"optimizers": "LODO,Adam,LODO"}, "expected each once, and 'LODO' is there twice"),
        ({"optimizers": ""}, "expected at least one of 'LODO'"),
        ({"optimizers": 3}, "expected str, got int"),
        ({"optimizers": {}}, "expected a list, got dict; write them as LODO,Adam"),
        ({"condition_number": 0.5}, "expected at least 1"),
        ({"condition_number": "nan"}, "expected a finite number"),
        ({"momentum": 1.0}, "expected less than 1.0"),
        ({"initial_learning_rate": 0}, "expected more than 0.0"),
        ({"operator": "dense"}, "expected one of 'block_permutation'"),
        ({"schedule": "3:100"}, "write generations as 3:300:12"),
        ({"schedule": "3:100:1"}, "population"),
        ({"conditon_number": 3}, "did you mean 'condition_number'"),
        ({"width": 3}, "there is no such parameter"),
    ],
)
def test_a_bad_field_is_refused_in_words(given, says):
    with pytest.raises(ParameterError) as refusal:
        check(BOWL, given)
    assert says in str(refusal.value)


def test_an_empty_list_of_numbers_is_refused_where_it_means_nothing():
    with pytest.raises(ParameterError, match=r"stages.*expected at least one value"):
        check(registry.parameters_of("image_classification"), {"stages": ""})


def test_a_pair_needs_two():
    with pytest.raises(ParameterError, match=r"expected 2 values, got 1; write them as 0\.1,0\.1"):
        check(registry.parameters_of("rosenbrock"), {"start": "0.5"})
    assert check(registry.parameters_of("rosenbrock"), {"start": "-1,2"}).changes() == {"start": (-1.0, 2.0)}


BASES = [name for name, one in registry.EXPERIMENTS.items() if one.base is None]


@pytest.mark.parametrize("name", [*BASES, *registry.PAGE_PRESETS])
def test_every_value_of_every_preset_can_be_given_as_it_is_written(name):
    declaration = registry.parameters_of(name)
    for preset in parameters.PRESETS:
        stated = (
            registry.PAGE_PRESETS[name][preset]
            if name in registry.PAGE_PRESETS
            else registry.named(name).preset(preset)
        )
        names = [field.name for field in dataclasses.fields(declaration) if hasattr(stated, field.name)]
        given = {n: getattr(stated, n) for n in names if n != "seeds" and getattr(stated, n) not in (None, ())}
        # papermill's `-p` makes booleans of True and False itself.
        written = {n: value if isinstance(value, bool) else changes.written(value) for n, value in given.items()}
        assert check(declaration, written).changes() == given


def test_fields_without_rules_have_the_usual_ones():
    declaration = registry.parameters_of("learning_dynamics")
    for given, says in (({"size": 0}, "expected at least 1"), ({"momenta": "0.5,-1"}, "expected at least 0")):
        with pytest.raises(ParameterError, match=says):
            check(declaration, given)
    with pytest.raises(ParameterError, match=r"\(values of β\)"):
        check(declaration, {"momenta": "much"})
    assert check(declaration, {"momenta": 0.5}).changes() == {"momenta": (0.5,)}


@pytest.mark.parametrize("name", registry.PAGE_PRESETS)
def test_each_parameter_of_a_page_without_records_is_used_by_its_cells(root, name):
    text = (root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    fields = dataclasses.fields(registry.PAGE_PRESETS[name]["smoke"])
    assert not [field.name for field in fields if field.name != "name" and f"chosen.{field.name}" not in text]


def test_no_page_is_silent_about_the_seeds_that_it_was_given(root, monkeypatch):
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        assert "settings.seeds" in path.read_text(encoding="utf-8"), path.name
    said = []
    monkeypatch.setattr(pages, "_say", said.append)
    pages.show_unused_seeds(0, "it runs each optimizer once")
    pages.show_unused_seeds(4, "it runs each optimizer once")
    assert said == ["**`seeds` is `4`, which this page does not look at:** it runs each optimizer once."]


def test_a_page_without_records_says_what_was_changed(monkeypatch):
    said = []
    monkeypatch.setattr(pages, "_say", said.append)
    settings = check(
        registry.parameters_of("physics_informed"), {"width": "40", "steps": 500, "adam_rates": "0.1,1e-2,1e-3"}
    )
    page = registry.build_page("physics_informed", "smoke", seeds=7, changes=settings.changes())
    assert (page.preset.width, page.preset.adam_rates, page.preset.seeds) == (40, (0.1, 0.01, 0.001), 7)
    pages.show_changes(page)
    assert said == [
        "**Changed from the preset `smoke`:** `adam_rates` is `0.1,0.01,0.001` instead of `0.003,0.01,0.03`; "
        "`width` is `40` instead of `20`."
    ]
    pages.show_changes(registry.build_page("physics_informed", "smoke"))
    assert len(said) == 1


def test_adam_and_lodo_are_tried_at_as_many_rates():
    one = {"adam_rates": (1e-2,)}
    with pytest.raises(ValueError, match="adam_rates has 1 values and lodo_rates 3: who is tried"):
        registry.build_page("physics_informed", "smoke", changes=one)
    alone = registry.build_page("physics_informed", "smoke", changes={**one, "optimizers": ("Adam", "rlodo")})
    assert alone.preset.adam_rates == (1e-2,)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("physics_informed", {"optimizers": "adam"}, "did you mean 'Adam'?"),
        ("physics_informed", {"lodo_rates": "0.1,-1"}, "expected more than 0.0"),
        ("physics_informed", {"lodo_rates": ""}, "expected at least one value"),
        ("physics_informed", {"frequency": 2.5}, "expected int, got float"),
        ("understanding", {"momentum": 1}, "expected less than 1.0"),
        ("understanding", {"condition_number": 0.1}, "expected at least 1.0"),
        ("understanding", {"optimizers": "Adam"}, "there is no such parameter"),
    ],
)
def test_a_page_without_records_refuses_a_bad_value(name, given, says):
    with pytest.raises(ParameterError) as refusal:
        check(registry.parameters_of(name), given)
    assert says in str(refusal.value)
