"""A notebook that is missing, failed or without a figure ends the build."""

import json
import shutil

import lodo_book
import pytest
import source_links
from building import build
from pages import NOTEBOOKS, ROOT

FIGURE = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [f"<div {lodo_book.MARK}></div>"]}}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "bad luck", "traceback": []}


def notebook(*outputs, sealed=True) -> str:
    metadata = {"lodo": {"fingerprint": "0" * 64, "parameters": {}}} if sealed else {}
    cells = [{"cell_type": "code", "metadata": {}, "source": [], "outputs": list(outputs)}]
    return json.dumps({"cells": cells, "metadata": metadata})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (notebook(FIGURE), ""),
        (notebook({**FIGURE, "data": {"image/png": "aGk="}}), ""),
        (notebook(), "has no figure"),
        (notebook(FIGURE, ERROR), "failed with ValueError: bad luck"),
        (notebook(FIGURE, sealed=False), "is no notebook that papermill finished"),
        ("half a fi", "is no notebook that papermill finished"),
    ],
)
def test_what_is_wrong_with_an_executed_notebook(tmp_path, text, complaint):
    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="utf-8")
    found = lodo_book.problem(path)
    assert found.startswith(complaint)
    assert bool(found) == bool(complaint)


@pytest.mark.exhaustive
def test_build_names_every_bad_notebook_and_what_to_do(tmp_path, executed):
    (tmp_path / "smoke").mkdir()
    missing, figureless, *rest = NOTEBOOKS
    for name in rest:
        shutil.copy(executed / f"{name}.ipynb", tmp_path / "smoke")
    (tmp_path / "smoke" / f"{figureless}.ipynb").write_text(notebook(), encoding="utf-8")
    done = build(tmp_path / "out", LODO_EXECUTED=str(tmp_path))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"notebooks/{missing}.ipynb was not executed" in said
    assert f"notebooks/{figureless}.ipynb has no figure" in said
    assert not [name for name in rest if f"notebooks/{name}.ipynb was" in said or f"notebooks/{name}.ipynb has" in said]
    assert "make book" in said
    assert not (tmp_path / "out" / "_build" / "html" / "index.html").exists()


def test_a_named_test_that_does_not_exist_is_noticed():
    reference = "tests/site/test_refusal.py::test_a_named_test_that_does_not_exist_is_noticed"
    assert source_links.missing(ROOT, reference) == ""
    assert "defines no" in source_links.missing(ROOT, reference + "_x")
    assert "no file" in source_links.missing(ROOT, "tests/nowhere.py::test_x")


@pytest.mark.parametrize(
    ("dotted", "file"),
    [
        ("lodo_experiments.models.resnet", "lodo_experiments/models/resnet.py"),
        ("lodo_experiments.models", "lodo_experiments/models/__init__.py"),
        ("lodo_experiments.optimizers.reference.yogi", "lodo_experiments/optimizers/reference.py::yogi"),
    ],
)
def test_a_name_of_the_experiments_is_found_in_its_file(dotted, file):
    assert source_links.in_file(ROOT, dotted) == file
    assert source_links.missing(ROOT, file) == ""


@pytest.mark.parametrize("dotted", ["lodo_experiments.optimizers.reference.nowhere", "lodo_experiments.nowhere.yogi"])
def test_a_name_that_the_experiments_do_not_have_is_noticed(dotted):
    assert source_links.missing(ROOT, source_links.in_file(ROOT, dotted))
