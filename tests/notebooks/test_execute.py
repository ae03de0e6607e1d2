"""Execution by papermill: what is kept, what is refused, and what is left when something goes wrong."""

import contextlib
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from lodo_experiments.cli import execute
from lodo_experiments.cli.execute import Executor
from lodo_experiments.results import records
from lodo_experiments.results.replays import DIFFERS, Pass, Replay, Replays
from lodo_experiments.studies import notebooks
from lodo_experiments.utils import environment


def make(folder, name, *code):
    """A small notebook; its first cell holds the parameters."""
    cells = [nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "nowhere", "display_name": "Nowhere", "language": "python"}}
    )
    path = folder / f"{name}.ipynb"
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if "partial" in path.name]


def test_executed_once_and_again_when_something_changes(tmp_path):
    source = make(tmp_path, "x", "import sys; print(number, sys.executable)")
    out = tmp_path / "out"
    first = Executor(out, {"number": 2}).run(source)
    assert first.status == "executed", first.message
    text = (out / "x.ipynb").read_text(encoding="utf-8")
    # This interpreter, though the notebook names a kernel that is nowhere.
    assert f"2 {sys.executable}" in text
    assert str(tmp_path) not in json.dumps(json.loads(text)["metadata"])
    assert Executor(out, {"number": 2}).run(source).status == "unchanged"
    assert notebooks.stored_hash(out / "x.ipynb") == notebooks.digest(notebooks.content(source, {"number": 2}))
    assert Executor(out, {"number": 3}).run(source).status == "executed"
    assert not leftovers(out)


@pytest.mark.exhaustive
def test_braces_in_a_folder_are_no_parameters(tmp_path):
    folder = tmp_path / "runs {number} {of} {"
    folder.mkdir()
    source = make(folder, "x", "print(number)")
    done = Executor(folder / "out", {"number": 2}).run(source)
    assert done.status == "executed", done.message
    assert notebooks.stored_hash(folder / "out" / "x.ipynb")
    assert not leftovers(folder)


@pytest.mark.parametrize(
    ("code", "timeout", "says"),
    [
        ("raise ValueError('bad luck')", 0, "bad luck"),
        # papermill's file calls all cells of a killed kernel completed; its exception does not.
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 0, "died"),
        ("import time; time.sleep(600)", 6, "gave up after 6 s"),
    ],
    ids=["error", "killed kernel", "timeout"],
)
def test_a_failure_replaces_nothing_and_says_where_to_look(tmp_path, code, timeout, says):
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.ipynb").write_text("what was there", encoding="utf-8")
    source = make(tmp_path, "x", code, "print('after')")
    outcome = Executor(out, {"number": 2}, timeout).run(source)
    assert outcome.status == "failed"
    assert says in outcome.message
    assert str(out / "logs" / "x.log") in outcome.message
    assert (out / "x.ipynb").read_text(encoding="utf-8") == "what was there"
    assert not leftovers(out)


@pytest.mark.exhaustive
def test_a_kernel_that_never_began_is_started_again(tmp_path, monkeypatch):
    folder, made = execute._kernel_folder, []

    @contextlib.contextmanager
    def dies_at_first():
        with folder() as name:
            made.append(name)
            if len(made) == 1:
                (specification,) = name.glob("kernels/*/kernel.json")
                argv = {"argv": [sys.executable, "-c", "raise SystemExit(1)", "{connection_file}"]}
                specification.write_text(json.dumps(json.loads(specification.read_text()) | argv))
            yield name

    monkeypatch.setattr(execute, "_kernel_folder", dies_at_first)
    outcome = Executor(tmp_path / "out", {}).run(make(tmp_path, "x", "print('begun')"))
    assert (outcome.status, len(made)) == ("executed", 2), outcome.message


@pytest.mark.parametrize(
    ("given", "says"),
    [({"prest": "smoke"}, "did you mean 'preset'"), ({"seeds": "three"}, "expected int, got str")],
    ids=["unknown", "ill-typed"],
)
def test_real_notebook_refuses_a_bad_parameter(tmp_path, root, given, says):
    outcome = Executor(tmp_path, given).run(root / "notebooks" / "rosenbrock.ipynb")
    assert outcome.status == "failed"
    assert says in outcome.message


def test_every_notebook_executes_at_smoke(executed, root):
    for source in (root / "notebooks").glob("*.ipynb"):
        record = json.loads((executed / source.name).read_text(encoding="utf-8"))["metadata"]["lodo"]
        assert record["parameters"]["preset"] == "smoke"
        assert record["content"] == notebooks.content(source, record["parameters"])
        assert record["fingerprint"] == notebooks.digest(record["content"])


def test_fingerprint_counts_every_source_file_of_the_library(tmp_path, monkeypatch):
    (tmp_path / "lodo" / "inner").mkdir(parents=True)
    (tmp_path / "lodo_experiments").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    known = {environment.read_library()}
    for name in ("lodo/__init__.py", "lodo/inner/x.py", "lodo/inner/x.cc", "lodo_experiments/x.py"):
        for text in ("a = 1\n", "a = 2\n"):
            (tmp_path / name).write_text(text, encoding="utf-8")
            assert environment.read_library() not in known
            known.add(environment.read_library())
    (tmp_path / "lodo" / "x.pyc").write_text("no source", encoding="utf-8")
    assert environment.read_library() in known


def test_records_that_a_notebook_names_are_part_of_what_it_is_made_from(tmp_path):
    (tmp_path / "notebooks").mkdir()
    source, silent = (
        make(tmp_path / "notebooks", name, code) for name, code in (("x", "'rosenbrock'"), ("y", "1 + 1"))
    )
    base = notebooks.content(source, {})
    assert notebooks.content(source, {"download": True}) == base
    assert notebooks.content(source, {"preset": "laptop"}) != base

    def save(place, score):
        path = tmp_path / "results" / f"{place}.npz"
        record = records.Record("a", {}, {"score": score})
        records.save(path, record)
        return record

    save("paper/noisy_bowl/LODO", 1.0)
    save("smoke/rosenbrock/LODO", 1.0)
    assert notebooks.content(source, {}) == base
    record = save("paper/rosenbrock_defaults/LODO", 1.0)
    first, every = notebooks.content(source, {}), notebooks.content(silent, {})
    assert [name for name in base if base[name] != first[name]] == ["records"]
    # A record that no longer replays changes what a page says of it; one that does changes nothing.
    for state, same in (("equal", True), (DIFFERS, False)):
        found = Replay(record.digest(), state, by=Pass("", "", {}, ""))
        Replays(tmp_path / "results").save({"paper/rosenbrock_defaults/LODO": found})
        assert (notebooks.content(source, {}) == first) is same
    save("paper/noisy_bowl/LODO", 2.0)
    assert notebooks.content(silent, {}) != every  # it names none, so it may show any


def test_versions_are_those_of_what_notebooks_need():
    assert {"python", "jax", "optax", "plotly", "papermill", "scikit-learn"} <= environment.versions().keys()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, capsys):
    make(tmp_path, "x", "1 + 1")
    (tmp_path / "file").touch()
    given = ["--notebooks", str(tmp_path), "--output", str(tmp_path / "file" / "out")]
    assert execute.main(given) == 74
    assert re.search(r"out.smoke cannot be worked in: .*name another by --output", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["", '{"cells": [{}]}', "[]"])
def test_a_source_that_is_no_notebook_is_named_and_fails_alone(tmp_path, monkeypatch, capsys, content):
    make(tmp_path, "whole")
    (tmp_path / "x.ipynb").write_text(content, encoding="utf-8")
    monkeypatch.setattr(Executor, "_papermill", lambda self, source, partial, log: log.write_text("") or "was begun")
    assert execute.main(["--notebooks", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert re.search(r"NotebookError: .*x\.ipynb is damaged or no notebook: .*git checkout", said)
    assert "was begun" in said
    assert "failed: whole, x" in said


def test_command_line_names_what_it_found(tmp_path, capsys):
    make(tmp_path, "x", "1 + 1")
    assert execute.main(["--notebooks", str(tmp_path), "--only", "y"]) == 2
    assert "no notebook y" in capsys.readouterr().err
    refused = {"--jobs 0": "at least 1; got 0", "--preset huge": "invalid choice"}
    refused |= {f"--timeout {given}": f"from 0 to 100,000,000; got {given}" for given in ("-5.0", "nan", "inf")}
    for given, says in refused.items():
        with pytest.raises(SystemExit):
            execute.main(given.split())
        assert says in capsys.readouterr().err


@pytest.mark.exhaustive
def test_command_line_fails_when_one_of_several_fails(tmp_path):
    source, out = tmp_path / "notebooks", tmp_path / "out"
    source.mkdir()
    # Nothing declares these notebooks' parameters, so papermill's are simply set.
    make(source, "bad", "1 / 0")
    make(source, "good", "print(preset)")
    command = [sys.executable, "-m", "lodo_experiments.cli.execute", "--notebooks", source, "--output", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "failed: bad" in done.stderr
    assert (out / "smoke" / "good.ipynb").is_file()
    assert not (out / "smoke" / "bad.ipynb").exists()
    shutil.rmtree(out)


def test_the_ledger_is_of_all_records_and_another_page_of_its_own(root):
    """The ledger's page names one experiment, in an example; a new record of any other makes it stale too."""
    folder = root / "results"
    stored = {path for path in folder.glob("*/*/*.npz") if path.parts[-3] != "smoke"}
    assert set(notebooks.records_shown(root / "notebooks" / "claims.ipynb", folder)) == stored
    shown = notebooks.records_shown(root / "notebooks" / "rosenbrock.ipynb", folder)
    of_page = {path.parts[-2] for path in shown if path.parts[-3] != "benchmarks"}
    assert {"rosenbrock", "rosenbrock_frozen", "rosenbrock_best_trial"} <= of_page
    assert "image_generation" not in of_page
