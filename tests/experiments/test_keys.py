"""Keys of records and notebooks: a change in what they use changes them, and a change elsewhere does not."""

import ast
import concurrent.futures
import dataclasses
import json
import random
import sys
from pathlib import Path

import jax
import pytest

import lodo
from lodo_experiments.config.presets import BOWL, ROSENBROCK
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.studies.provenance import keys
from lodo_experiments.studies.provenance.sources import Sources, module_name, within
from lodo_experiments.studies.study import Study
from lodo_experiments.tasks import noisy_bowl, rosenbrock

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(lodo.__file__).parent
PATHS = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*.py")}
PATHS |= {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "lodo_experiments").rglob("*.py")}
FILES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}
NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in ROOT.glob("notebooks/*.ipynb")
}
KINDS = (
    "noisy_bowl/LODO", "noisy_bowl/Adam/tuning", "noisy_bowl/BFGS", "noisy_bowl_frozen/LODO",
    "noisy_bowl_ablations/LODO-depth-8", "rosenbrock/LODO", "rosenbrock/Adam", "image_generation/LODO-Residuals",
    "image_generation/Adam", "image_classification/LARS", "learning_dynamics/ball", "representability/fits",
    "paper_and_code/differences",
)  # fmt: skip


def code_of_all(files):
    """Record kind or page → definition → digest."""
    sources = Sources(files)
    found = {kind: keys.record_code(kind, sources).code for kind in KINDS}
    return found | {f"page {name}": keys.notebook_code(cells, sources).code for name, cells in NOTEBOOKS.items()}


@pytest.fixture(scope="module")
def before():
    return code_of_all(FILES)


def changed_by(before, path, old, new):
    assert FILES[path].count(old) == 1, f"{path} has {FILES[path].count(old)} of {old!r}"
    after = code_of_all({**FILES, path: FILES[path].replace(old, new)})
    return {name for name in before if before[name] != after[name]}


def pages(*names):
    return {f"page {name}" for name in names}


BOWLS = {kind for kind in KINDS if kind.startswith("noisy_bowl")}


@pytest.mark.parametrize(
    ("path", "old", "new", "records", "shown"),
    [
        # A figure is no part of a record.
        ("lodo_experiments/report/figures.py", "def trajectories(runs", "def trajectories(rums", set(), "rosenbrock"),
        (
            "lodo_experiments/tasks/noisy_bowl.py", "(H + H.T) / 2", "(H + H.T) / 3",
            BOWLS | {"paper_and_code/differences"}, "noisy_bowl ablations paper_and_code claims",
        ),
        (
            "lodo_experiments/models/resnet.py", "class ResNet(", "class ResNet(object, ",
            {"image_classification/LARS"}, "image_classification",
        ),
        (
            "lodo_experiments/studies/theory/operator_fits.py", "def best_kronecker(", "def best_kronecker(*, ",
            {"representability/fits"}, "representability",
        ),
        # A comment and a docstring change nothing.
        ("lodo_experiments/training/loop.py", '"""One training loop', '"""A training loop', set(), ""),
        ("lodo_experiments/tasks/rosenbrock.py", "from __future__", "# a comment\nfrom __future__", set(), ""),
    ],
)  # fmt: skip
def test_a_change_makes_just_those_stale_that_use_it(before, path, old, new, records, shown):
    assert changed_by(before, path, old, new) == records | pages(*shown.split())


def numbers_in(files):
    """(path, node, names of the definitions that hold it) of every number in a function, class or constant."""
    for path, text in sorted(files.items()):
        module = module_name(path)
        for statement in ast.parse(text).body:
            names = {getattr(statement, "name", "")}
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            if names == {"_ALL"} and module.endswith(".optimizers.search_spaces"):
                parts = [({"_ALL", f"_ALL[{entry.args[0].value!r}]"}, entry) for entry in statement.value.elts]
            else:
                parts = [(names, statement)]
            for own, part in parts:
                for node in ast.walk(part):
                    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and all(own):
                        yield path, node, {f"{module}.{name}" for name in own}


def mutated(text, node):
    """The text with one digit more at a number: in front of a leading zero, else at the end."""
    lines = text.encode().splitlines(keepends=True)
    line, start, end = lines[node.lineno - 1], node.col_offset, node.end_col_offset
    place = start if line[start:end].startswith(b"0") else end
    lines[node.lineno - 1] = line[:place] + b"1" + line[place:]
    return b"".join(lines).decode()


@pytest.mark.parametrize("seed", range(4))
def test_a_random_character_makes_stale_what_holds_its_definition(before, seed):
    path, node, names = random.Random(seed).choice(list(numbers_in(FILES)))
    after = code_of_all({**FILES, path: mutated(FILES[path], node)})
    expected = {kind for kind, code in before.items() if names & code.keys()}
    assert {kind for kind in before if before[kind] != after[kind]} == expected, (path, node.lineno, names)
    for kind in expected:  # and nothing but that definition is named as changed
        assert {name for name in before[kind] if before[kind][name] != after[kind].get(name)} <= names


def test_every_entry_point_and_every_choice_exists():
    sources = keys.library_sources()
    for family in keys.FAMILIES.values():
        for name in (*family.code, *([family.presets] if family.presets else [])):
            assert sources.has(name), name
    for name, chosen in keys.CHOOSERS.items():
        uses = sources.definition(name).uses
        for place in chosen:
            assert any(within(use, [place]) for use in uses), f"{name} does not use {place}"
    assert sources.entries("lodo_experiments.optimizers.search_spaces._ALL").keys() == OPTIMIZERS.keys()
    assert set(keys.PLUMBING) <= set(sources.modules())


def test_what_is_not_followed_is_named_elsewhere():
    """Whatever a chooser may choose is an entry point of some experiment, or an optimizer."""
    sources = keys.library_sources()
    kinds = [*KINDS, "noisy_bowl_compact/LODO-narrow", *(f"noisy_bowl/{name}" for name in OPTIMIZERS)]
    named = {name for kind in kinds for name in keys.record_code(kind, sources).code}
    named |= {family.presets for family in keys.FAMILIES.values()}
    lists = ("lodo_experiments.optimizers.search_spaces.OPTIMIZERS", "lodo_experiments.config.presets.EXPERIMENTS")
    for name, chosen in keys.CHOOSERS.items():
        left_out = {use for use in sources.definition(name).uses if within(use, chosen)} - set(lists)
        assert left_out <= named, name


class Traced:
    """Notes every function of the library that runs."""

    def __enter__(self):
        self.seen = set()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def _note(self, frame, event, argument):
        if event == "call":
            self.seen.add(frame.f_code)

    def definitions(self):
        found = set()
        places = {(code.co_filename, code.co_firstlineno) for code in self.seen}
        for file, line in places:
            path = next((name for name, path in PATHS.items() if str(path) == file), None)
            if path is None:
                continue
            for statement in ast.parse(FILES[path]).body:
                first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
                if first <= line <= statement.end_lineno and hasattr(statement, "name"):
                    found.add(f"{module_name(path)}.{statement.name}")
        return found


TINY = {"steps": 7, "seeds": 1, "schedule": (Generation(1.0, 5, 2),), "measure_every": 3}


@pytest.mark.parametrize(
    ("experiment", "name"),
    [("noisy_bowl", "O-LBFGS"), ("rosenbrock", "LODO-Residuals")],
)
def test_every_function_that_ran_for_a_record_is_in_its_key(tmp_path, experiment, name):
    optimizer_named(name)  # what is imported on the first call runs for no record
    with jax.enable_x64(True):
        own = {"task": noisy_bowl.noisy_bowl(5), "after": noisy_bowl.learned_inverse}
        if experiment == "rosenbrock":
            own = {"task": rosenbrock.rosenbrock()}
        preset = dataclasses.replace((BOWL if experiment == "noisy_bowl" else ROSENBROCK)["smoke"], **TINY)
        study = Study(experiment, preset=preset, folder=tmp_path, command="", show=False, **own)
        with Traced() as traced:
            record = study.ran(name)
    ran = {definition for definition in traced.definitions() if not within(definition, keys.PLUMBING)}
    assert {"lodo_experiments.studies.study.Study", "lodo_experiments.training.loop.train"} <= ran
    assert ran <= record.provenance["key"]["code"].keys()
    assert optimizer_named(name).name == name


def test_notebook_key_depends_on_what_decides_the_result(tmp_path, monkeypatch):
    source = tmp_path / "notebooks" / "x.ipynb"
    source.parent.mkdir()
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": "from lodo_experiments.config import paths\npaths.results_folder('x')",
    }
    source.write_text(json.dumps({"cells": [cell]}))
    given = {"preset": "smoke", "download": False}
    base = keys.notebook_key(source, given)
    assert "lodo_experiments.config.paths.results_folder" in base["code"]
    assert keys.notebook_key(source, {**given, "download": True}) == base
    assert keys.notebook_key(source, {**given, "preset": "laptop"}) != base
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert keys.notebook_key(source, given) != base
    with monkeypatch.context() as patch:
        patch.setattr("lodo_experiments.utils.environment.versions", lambda: {"jax": "0"})
        assert keys.notebook_key(source, given) != base
    changed = json.dumps({"cells": [{**cell, "source": cell["source"] + " "}]})
    source.write_text(changed)
    assert keys.notebook_key(source, given)["notebook"] != base["notebook"]


def test_keys_of_notebooks_are_worked_out_in_threads():
    sources = [ROOT / "notebooks" / f"{name}.ipynb" for name in ("rosenbrock", "claims", "ablations", "noisy_bowl")]
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(lambda source: keys.notebook_key(source, {}, Sources(FILES)), sources))
    assert [key["code"] for key in found] == [keys.notebook_key(source, {})["code"] for source in sources]


def test_notebook_key_depends_on_kept_records_of_experiments_that_it_names(tmp_path):
    source, place = tmp_path / "notebooks" / "x.ipynb", tmp_path / "results" / "paper"
    source.parent.mkdir()
    source.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": "name = 'rosenbrock'"}]}))
    base = keys.notebook_key(source, {})
    for experiment, same in (("noisy_bowl", True), ("rosenbrock_defaults", False)):
        (place / experiment).mkdir(parents=True)
        (place / experiment / "LODO.npz").write_bytes(b"1")
        assert (keys.notebook_key(source, {}) == base) is same


def test_a_record_of_an_unknown_experiment_is_over_the_whole_library():
    code = keys.record_code("of somebody/else", keys.library_sources()).code
    assert {"lodo.transform.lodo", "lodo_experiments.report.figures.loss_curves"} <= code.keys()
