"""What was ``lodo.experiments`` and ``lodo.released`` is found for one version more, with a word on where it is."""

import importlib
import subprocess
import sys

import pytest

import lodo
from lodo_experiments.optimizers import reference


@pytest.mark.parametrize(
    ("former", "today"),
    [
        ("parameters", "config.parameters"), ("records", "results.records"), ("run", "cli.run"), ("data", "data"),
        ("atomic", "utils.atomic_files"), ("training", "training.loop"), ("batch", "cli.batch"),
    ],
)  # fmt: skip
def test_modules_are_found_by_their_former_names(former, today):
    for name in [name for name in sys.modules if name.startswith("lodo.experiments.")]:
        del sys.modules[name]
    with pytest.warns(FutureWarning, match=rf"is lodo_experiments\.{today} now; the former name goes in 0\.2"):
        module = importlib.import_module(f"lodo.experiments.{former}")
    assert module.__file__ == importlib.import_module(f"lodo_experiments.{today}").__file__


def test_the_released_forms_are_the_reference():
    sys.modules.pop("lodo.released", None)
    vars(lodo).pop("released", None)
    with pytest.warns(FutureWarning, match=r"lodo_experiments\.optimizers\.reference"):
        assert lodo.released.yogi is reference.yogi


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"lodo\.experiments\.nothing"):
        importlib.import_module("lodo.experiments.nothing")
    with pytest.raises(AttributeError, match="nothing"):
        lodo.nothing  # noqa: B018


def test_a_former_command_runs_and_says_where_it_is():
    command = [sys.executable, "-m", "lodo.experiments.batch", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0
    assert "python -m lodo_experiments.cli.batch" in ran.stdout
    assert "lodo.experiments.batch is lodo_experiments.cli.batch now" in ran.stderr
