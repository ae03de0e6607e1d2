"""Imports run one way: within the library, and down the rooms of the experiments; the library needs little."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY_PACKAGES = {"jax", "jaxlib", "optax", "numpy", "lodo"}
#: Rooms of the experiments, from below to above: each imports itself and those before it.
ROOMS = (
    "utils", "config", "results", "data", "models", "optimizers", "tasks", "training", "studies", "analysis",
    "report", "cli",
)  # fmt: skip


def layer(module: str) -> int:
    """How high a module stands: it may import its own layer and those below.

    0: private helpers; 1: operators and compact arrays; 2: the transformation; 3: the rest of the library;
    4 and more: the experiments, a number for each room.
    """
    parts = module.split(".")
    if parts[0] == "lodo_experiments":
        # The package itself turns on the compilation cache, of the lowest room.
        return 4 + (ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else 0)
    if len(parts) == 1:
        return 3
    return {"operators": 1, "compact": 1, "transform": 2}.get(parts[1], 0 if parts[1].startswith("_") else 3)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool) -> set[str]:
    """The modules that a source file imports anywhere in it, inside functions too, relative ones resolved.

    Of `from a import b` both `a` and `a.b` count: b may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | ({base} if base != "lodo" else set())
    return found


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module of the package imports and may not."""
    wrong = []
    for name in sorted(imported(source, module, is_package)):
        top = name.split(".")[0]
        upward = top in ("lodo", "lodo_experiments") and layer(name) > layer(module)
        foreign = layer(module) < 4 and top not in LIBRARY_PACKAGES | sys.stdlib_module_names
        outside = top in {"tests", "notebooks", "benchmarks", "tools", "book"}
        if upward or foreign or outside:
            wrong.append(name)
    return wrong


def test_imports_run_one_way():
    files = [path for package in ("lodo", "lodo_experiments") for path in sorted((ROOT / package).rglob("*.py"))]
    assert {path.parts[len(ROOT.parts) + 1] for path in files} >= {*ROOMS, "operators"}
    for path in files:
        name = module_name(path, ROOT)
        wrong = wrong_imports(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
        assert not wrong, f"{path.relative_to(ROOT)} may not import {', '.join(wrong)}"


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
    ],
)
def test_an_import_the_wrong_way_would_be_noticed(module, source):
    assert wrong_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lodo.transform", "import math\nimport jax.numpy as jnp\nfrom lodo.operators import BlockPermutation"),
        ("lodo.operators.base", "from .._validation import check_integer"),
        ("lodo_experiments.training.loop", "import flax\nfrom lodo import transform\nfrom ..tasks import base"),
    ],
)
def test_an_import_the_right_way_is_let_through(module, source):
    assert not wrong_imports(source, module)


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
