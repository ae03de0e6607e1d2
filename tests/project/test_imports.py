"""Imports run one way: within the library, and down the rooms of the experiments; the library needs little.

tools/import_graph.py says which room may import which; `make graph` prints what is there.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def graph(tools):
    return tools["import_graph"]


def test_imports_run_one_way_without_a_cycle_in_chains_of_limited_length(graph, capsys):
    assert graph.main() == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert printed.endswith("no cycle, no forbidden import\n")
    for folder in sorted((ROOT / "lodo_experiments").iterdir()):
        if (folder / "__init__.py").exists():
            assert re.search(rf"^{folder.name} +[1-9]", printed, re.MULTILINE), f"{folder.name}: a room without a rule"


def test_a_rule_of_a_room_names_rooms_below_it(graph):
    for rooms in (graph.LIBRARY, graph.EXPERIMENTS):
        names = list(rooms)
        for position, name in enumerate(names):
            assert set(rooms[name]) <= set(names[:position])


def test_contributing_shows_the_rules(graph):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]*)\|$", text, re.MULTILINE)
    shown = {room: tuple(filter(None, allowed.strip().split(", "))) for room, allowed in rows}
    rules = {room: tuple(name.removeprefix("lodo.") for name in allowed) for room, allowed in graph.LIBRARY.items()}
    assert graph.EXPERIMENTS["cli"] == tuple(graph.EXPERIMENTS)[:-1]
    assert shown == {**rules, **graph.EXPERIMENTS, "cli": ("every room above",)}


def write(root: Path, **sources: str) -> Path:
    """Two packages of given modules; `a__b` stands for a.b."""
    for package in ("lodo", "lodo_experiments"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("", encoding="utf-8")
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


def test_a_cycle_is_noticed_also_through_a_function(graph, tmp_path, capsys):
    lazy = "def f():\n    from lodo import b\n"
    assert graph.main(write(tmp_path, lodo__a=lazy, lodo__b="from lodo.a import f\n")) == 1
    assert capsys.readouterr().out == "cycle: lodo.a -> lodo.b -> lodo.a\n"


def test_too_long_a_chain_is_noticed(graph, tmp_path, capsys, monkeypatch):
    sources = {"lodo_experiments__utils__a": "import lodo.b\n", "lodo__b": "from . import c\n", "lodo__c": ""}
    write(tmp_path, **sources)
    monkeypatch.setattr(graph, "MAX_LEVELS", 3)
    assert graph.main(tmp_path) == 0
    assert "   3 lodo_experiments.utils.a\n   2 lodo.b\n   1 lodo.c\n" in capsys.readouterr().out
    monkeypatch.setattr(graph, "MAX_LEVELS", 2)
    assert graph.main(tmp_path) == 1
    assert "the longest chain has 3 modules, more than 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lodo.operators.base", "from lodo.transform import lodo"),
        ("lodo.operators.base", "from .. import transform"),
        ("lodo.operators.base", "from ..transform import lodo"),
        ("lodo._validation", "import lodo.operators"),
        ("lodo.transform", "from lodo import diagnostics"),
        ("lodo.transform", "def f():\n    import lodo_experiments.training.loop"),
        ("lodo.diagnostics", "import flax"),
        ("lodo_experiments.data", "from tests.library import traces"),
        ("lodo_experiments.training.loop", "def f():\n    from lodo_experiments.studies import study"),
        ("lodo_experiments.tasks.base", "from lodo_experiments import training"),
        ("lodo_experiments.models.resnet", "from ..data import images"),
        ("lodo_experiments.report.figures", "import lodo_experiments.training.loop"),
    ],
)
def test_an_import_the_wrong_way_would_be_noticed(graph, module, source):
    assert graph.forbidden(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lodo.transform", "import math\nimport jax.numpy as jnp\nfrom lodo.operators import BlockPermutation"),
        ("lodo.operators.base", "from .._validation import check_integer"),
        ("lodo_experiments.training.loop", "import flax\nfrom lodo import transform\nfrom ..tasks import base"),
    ],
)
def test_an_import_the_right_way_is_let_through(graph, module, source):
    assert not graph.forbidden(source, module)


def test_importing_lodo_loads_no_package_beyond_what_jax_and_optax_load():
    script = (
        "import json, sys\nimport jax, optax, numpy\nbefore = set(sys.modules)\n"
        "import lodo\nprint(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before, added = json.loads(ran.stdout)
    assert "lodo.transform" in added
    known = {name.split(".")[0] for name in before} | sys.stdlib_module_names | {"lodo"}
    assert not [name for name in added if name.split(".")[0] not in known]
    assert not [name for name in added if name.startswith("lodo_experiments")]
    heavy = {"flax", "tensorflow_datasets", "matplotlib", "plotly", "sklearn", "papermill", "orbax"}
    assert not heavy & {name.split(".")[0] for name in before + added}
