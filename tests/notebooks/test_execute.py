"""Execution by papermill: what is kept, what is refused, and what is left when something goes wrong."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest

from lodo_experiments.cli import execute
from lodo_experiments.studies.provenance import keys
from lodo_experiments.cli.execute import Executor, stored_key


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
    assert stored_key(out / "x.ipynb") == keys.digest(keys.notebook_key(source, {"number": 2}))
    assert Executor(out, {"number": 3}).run(source).status == "executed"
    assert not leftovers(out)


def test_braces_in_a_folder_are_no_parameters(tmp_path):
    folder = tmp_path / "runs {number} {of} {"
    folder.mkdir()
    source = make(folder, "x", "print(number)")
    done = Executor(folder / "out", {"number": 2}).run(source)
    assert done.status == "executed", done.message
    assert stored_key(folder / "out" / "x.ipynb")
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
        assert record["key"] == keys.notebook_key(source, record["parameters"])
        assert record["fingerprint"] == keys.digest(record["key"])


def test_fingerprint_counts_every_source_file_of_the_library(tmp_path, monkeypatch):
    from lodo_experiments.utils import environment as module

    package = tmp_path / "lodo"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/x.py"):
        (package / name).write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(module.lodo, "__file__", str(package / "__init__.py"))
    before = module.library.__wrapped__()
    (package / "inner" / "x.py").write_text("a = 2\n", encoding="utf-8")
    assert module.library.__wrapped__() != before


def test_versions_are_those_of_what_notebooks_need():
    from lodo_experiments.utils import environment as module

    assert {"python", "jax", "optax", "plotly", "papermill", "scikit-learn"} <= module.versions().keys()
    assert "sphinx-proof" not in module.versions()
    assert "absent" not in module.versions().values()


def test_command_line_names_what_it_found(tmp_path, capsys):
    make(tmp_path, "x", "1 + 1")
    assert execute.main(["--notebooks", str(tmp_path), "--only", "y"]) == 2
    assert "no notebook y" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        execute.main(["--jobs", "0"])
    with pytest.raises(SystemExit):
        execute.main(["--preset", "huge"])


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
