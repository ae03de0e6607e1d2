"""The notebooks as they are stored: clean, with one cell of parameters, and able to install what they need."""

import ast
import json
import re
import subprocess
import symtable
import sys

import pytest

from lodo_experiments.config.parameters import NotebookParameters

NOTEBOOKS = (
    "ablations",
    "claims",
    "image_classification",
    "image_generation",
    "learning_dynamics",
    "noisy_bowl",
    "paper_and_code",
    "physics_informed",
    "problem_suites",
    "relative_lodo",
    "representability",
    "rosenbrock",
    "step_cost",
    "understanding",
)


#: Those that show stored runs of training beside their own.
EXPERIMENTS = ("ablations", "image_classification", "image_generation", "noisy_bowl", "problem_suites", "rosenbrock")

#: What shows a table of runs.
TABLES = {"show_scores", "show_rows"}

#: What computes: a study's tuning, its runs, or one of them by name.
COMPUTES = re.compile(r"\.(?:tune|all)\(|\.run\(\"")


@pytest.fixture(params=NOTEBOOKS)
def cells(request, root) -> list[dict]:
    """The code cells of a stored notebook."""
    text = (root / "notebooks" / f"{request.param}.ipynb").read_text(encoding="utf-8")
    return [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tagged(cells: list[dict], tag: str) -> list[dict]:
    return [cell for cell in cells if tag in cell["metadata"].get("tags", [])]


def test_every_notebook_is_tested(root):
    assert sorted(path.stem for path in (root / "notebooks").glob("*.ipynb")) == list(NOTEBOOKS)


def test_nothing_that_was_run_is_stored(cells):
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]
    assert not tagged(cells, "injected-parameters")


def test_parameters_are_typed_documented_and_checked_next(cells):
    (parameters,) = tagged(cells, "parameters")
    lines = source(parameters).splitlines()
    for statement in ast.parse(source(parameters)).body:
        assert isinstance(statement, ast.AnnAssign), f"line {statement.lineno}: no annotation"
        assert re.search(r"  # \w", lines[statement.end_lineno - 1]), f"line {statement.lineno}: no comment"
    after = source(cells[cells.index(parameters) + 1])
    assert re.search(r"parameters\.check\(.*, globals\(\)\)", after)


def test_parameters_and_first_cells_are_as_declared(root):
    done = subprocess.run(
        [sys.executable, "tools/notebook_cells.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_common_parameters_have_their_declared_defaults(cells):
    namespace = {}
    exec(source(tagged(cells, "parameters")[0]), namespace)
    defaults = NotebookParameters()
    for name in NotebookParameters.__dataclass_fields__:
        assert namespace[name] == getattr(defaults, name), name


def test_no_cell_has_a_variable_with_a_parameters_name(cells):
    """A second pass of the check would take it for the parameter."""
    (parameters,) = tagged(cells, "parameters")
    names = {statement.target.id for statement in ast.parse(source(parameters)).body}
    for cell in cells:
        if cell is not parameters:
            symbols = symtable.symtable(source(cell), cell["id"], "exec").get_symbols()
            assigned = {symbol.get_name() for symbol in symbols if symbol.is_assigned()}
            assert not assigned & names, cell["id"]


def test_prose_is_readable_in_a_plain_notebook(root):
    """Roles that only the book resolves belong to its pages; sentences with numbers are said by cells."""
    for name in NOTEBOOKS:
        assert "{glue:" not in (root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"), name


def test_every_notebook_says_its_numbers(cells):
    assert [cell for cell in cells if "glue.say(" in source(cell)]


def test_every_notebook_shows_something_to_change(cells):
    if cells[0]["id"].startswith(("understanding", "physics-informed")):  # made of such cells
        assert len([cell for cell in cells if "hide-input" not in cell["metadata"].get("tags", [])]) > 3
        return
    (try_it,) = [cell for cell in cells if cell["id"].endswith("-try-run")]
    assert "hide-input" not in try_it["metadata"].get("tags", [])
    assert len(source(try_it).splitlines()) <= 40


def called(nodes: list[ast.stmt]) -> set[str]:
    """Names of the functions that statements call, without those inside definitions."""
    within = [node for node in nodes if not isinstance(node, ast.FunctionDef)]
    calls = [call.func for node in within for call in ast.walk(node) if isinstance(call, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}


def order_of(cells: list[dict]) -> tuple[list[int], list[int], list[int]]:
    """Places of the code cells that show a table, that show the claims, and that compute."""
    shows, claims, computes, tables = [], [], [], set(TABLES)
    for place, cell in enumerate(cells[1:], start=1):  # the first one installs
        body = ast.parse(source(cell)).body
        tables |= {node.name for node in body if isinstance(node, ast.FunctionDef) and called(node.body) & tables}
        names = called(body)
        shows += [place] * bool(names & tables)
        claims += [place] * ("show_claims" in names)
        computes += [place] * bool(COMPUTES.search(source(cell)))
    return shows, claims, computes


@pytest.mark.parametrize("cells", EXPERIMENTS, indirect=True)
def test_stored_records_come_before_the_run(cells):
    """The answer is that of the best records; what the notebook itself computes comes after them."""
    shows, claims, computes = order_of(cells)
    assert computes
    assert shows[0] < computes[0]
    assert max(shows) > computes[0]  # the run has its table too
    assert all(place < computes[0] for place in claims)
    assert claims or cells[0]["id"].startswith("problem_suites")  # which the paper claims nothing of
    assert "show_provenance" in source(cells[-1])
    assert "hide-cell" in cells[-1]["metadata"]["tags"]


def test_what_computes_says_first_how_long_it_takes(cells):
    text = "\n".join(map(source, cells))
    computes = re.search(r"\b\w+\.(?:all\(\)|tune\(|record\(\")|^\w+ = show\(compare\(", text, re.MULTILINE)
    if computes:
        assert 0 < text.find("print(cost.expected(") < computes.start()


def test_all_notebooks_begin_alike(root):
    first = set()
    for name in NOTEBOOKS:
        text = (root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        first.add(next(source(cell) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"))
    assert len(first) == 1


def test_hosted_runtime_keeps_its_own_versions(cells):
    begin = source(cells[0])
    assert "--constraint" in begin
    assert '("jax", "jaxlib", "flax", "numpy")' in begin
    assert "--upgrade" not in begin
    assert "returncode" in begin


def test_files_agree_about_the_address(root):
    done = subprocess.run(
        [sys.executable, "tools/address.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
