"""The wheel and the source distribution: built without a network, installed beside JAX, optax and NumPy alone."""

import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

import lodo

ROOT = Path(__file__).resolve().parents[2]
USER = Path(__file__).with_name("typed_user.py")
#: What the library may ask for beside itself.
NEEDED = ("jax", "jaxlib", "optax", "numpy")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with what `make dist` makes, of a copy of the sources."""
    pytest.importorskip("uv", reason="uv builds the distributions; it comes with the extra `dev`")
    folder = tmp_path_factory.mktemp("distribution")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in {"lodo", "lodo_experiments", "tests", "benchmarks", "examples", "tools", "results"}:
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", "smoke", "changed"))
        elif path.is_file() and path.suffix in {"", ".md", ".toml", ".cff", ".py", ".in"} and path.name != ".git":
            shutil.copy(path, source)
    (line,) = re.findall(r"^dist:.*\n\t\$\(UV\) (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    run(sys.executable, "-m", "uv", *line.split(), cwd=source, VIRTUAL_ENV=sys.prefix)
    return source / "_build" / "dist"


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


def closure(names: tuple[str, ...]) -> set[str]:
    """Packages and all that they need, by the metadata of what is installed here."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop().lower()
        if name not in found:
            found.add(name)
            wanted = map(Requirement, importlib.metadata.requires(name) or [])
            pending += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def user(wheel, tmp_path_factory) -> Path:
    """The Python of an environment that has the wheel, and links to JAX, optax, NumPy and what they need."""
    folder = tmp_path_factory.mktemp("user")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", packages)
    run(sys.executable, "-m", "pip", *install, wheel, cwd=folder)
    for name in closure(NEEDED):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return python


def kept_records() -> set[str]:
    """The records that come with the project, by their paths below the results folder."""
    results = ROOT / "results"
    folders = [results / name for name in ("paper", "laptop", "benchmarks")]
    paths = [*results.glob("*.json"), *(path for folder in folders for path in folder.rglob("*.npz"))]
    names = {path.relative_to(results).as_posix() for path in paths}
    return {name for name in names if "/." not in name}


def test_the_wheel_has_the_two_packages_whole_the_records_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [ROOT / "lodo", ROOT / "lodo_experiments"]
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kernels = {f"lodo/operators/_native/{name}" for name in ("layers.cc", "passes.h")}
    assert {"lodo/py.typed", "lodo_experiments/py.typed", *kernels} <= wanted
    assert "paper/noisy_bowl/LODO.npz" in kept_records()
    wanted |= {f"lodo_experiments/kept_results/{name}" for name in kept_records()}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == wanted


def test_the_source_distribution_has_the_licence_and_makes_that_wheel(built, wheel):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= names
    # uv makes the wheel of the unpacked source distribution: what is in the one is in the other.
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kept = {name for name in inside if name.startswith("lodo_experiments/kept_results/")}
    assert inside - kept <= names
    assert {name.replace("lodo_experiments/kept_results", "results") for name in kept} <= names
    assert not [name for name in names if name.startswith(("benchmarks", "book", "notebooks", "results/smoke"))]


def test_metadata_is_valid_and_says_what_pyproject_says(wheel, project):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    text = archive.read(name)
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.name == "lodo"
    assert str(metadata.version) == lodo.__version__
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert metadata.description_content_type == "text/markdown"
    assert email.message_from_bytes(text).get_payload().strip().startswith("# LODO")
    assert {r.name for r in metadata.requires_dist or [] if r.marker is None} == set(NEEDED)
    assert set(metadata.provides_extra or []) == project["project"]["optional-dependencies"].keys()
    address = project["tool"]["lodo"]["repository"]
    assert [url for url in (metadata.project_urls or {}).values() if not (address and url.startswith(address))] == []
    assert bool(metadata.project_urls) == bool(address)


def test_the_wheel_works_beside_jax_optax_and_numpy_alone(user, tmp_path):
    (first,) = re.findall(
        r"^LODO takes the place.*?```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    (tmp_path / "example.py").write_text(first, encoding="utf-8")
    script = """
import doctest, importlib.util, json, runpy, sys
import lodo
loaded = sorted({name.split(".")[0] for name in sys.modules})
results = [doctest.testmod(module) for module in (lodo, lodo.transform)]
end = runpy.run_path("example.py")
print(json.dumps({
    "file": lodo.__file__,
    "loaded": loaded,
    "attempted": sum(result.attempted for result in results),
    "failed": sum(result.failed for result in results),
    "loss": float(end["loss"](end["x"])),
    "companion": importlib.util.find_spec("lodo_experiments") is not None,
    "records": (__import__("lodo_experiments.config.paths", fromlist=["x"]).kept_folder() / "ledger.json").is_file(),
    "others": [name for name in ("flax", "pytest", "plotly", "setuptools") if importlib.util.find_spec(name)],
}))
"""
    told = json.loads(run(user, "-I", "-c", script, cwd=tmp_path).stdout.splitlines()[-1])
    assert Path(told["file"]).is_relative_to(user.parent.parent)
    assert told["others"] == []
    assert told["companion"]
    assert told["records"]
    assert "lodo_experiments" not in told["loaded"]
    assert told["attempted"] > 0
    assert told["failed"] == 0
    assert told["loss"] < 55.5 / 100, "the example in the README starts at 55.5"


def types(user: Path, file: Path) -> subprocess.CompletedProcess[str]:
    """What mypy says of a user's file, with the installed wheel and without this project's configuration."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(user), str(file)]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(command, cwd=file.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_users_program_has_types(user, tmp_path):
    pytest.importorskip("mypy", reason="mypy comes with the extra `dev`")
    file = tmp_path / "program.py"
    file.write_text(USER.read_text(encoding="utf-8"), encoding="utf-8")
    said = types(user, file)
    assert said.returncode == 0, said.stdout + said.stderr
    # Were the library not marked as typed, whatever it is called with would pass.
    wrong = USER.read_text(encoding="utf-8").replace("initial_learning_rate=", "learning_rate=")
    wrong = wrong.replace("seed=seed", 'seed="one"').replace('storage="compact"', 'storage="small"')
    file.write_text(wrong + "\ncount: int = lodo.__version__\n", encoding="utf-8")
    said = types(user, file).stdout
    assert 'Unexpected keyword argument "learning_rate" for "lodo"' in said
    assert re.search(r'Argument "seed" to "lodo" has incompatible type "str"', said)
    assert re.search(r"""Argument "storage" to "lodo" has incompatible type "Literal\['small'\]""", said)
    assert 'variable has type "int"' in said
