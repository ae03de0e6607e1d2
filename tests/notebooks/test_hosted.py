"""Every notebook from top to bottom where Colab would run it: its Python, its versions, outside of any checkout.

The library comes by the notebooks' own first cell, by git from a local address in place of the public one.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
KERNEL = "lodo-hosted"
#: Papermill, patient: by default a kernel has 60 s to start and 4 s to say that it is done, too little on a busy one.
PAPERMILL = """import sys, papermill
source, executed, kernel = sys.argv[1:]
patience = {"start_timeout": 300, "iopub_timeout": 300}
papermill.execute_notebook(source, executed, kernel_name=kernel, progress_bar=False, **patience)
"""
#: What is looked at in the end: the runtime's own packages, which no notebook may touch.
SHOW = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('jax', 'jaxlib', 'flax', 'numpy')))"


def run(*command: object, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="session")
def versions():
    """tools/test_versions.py as a module: the runtime's versions, and where its Python is."""
    specification = importlib.util.spec_from_file_location("test_versions", ROOT / "tools" / "test_versions.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def address(tmp_path_factory) -> str:
    """A git repository of the working tree, by its local address and a tag; its newest commit cannot be installed."""
    folder = tmp_path_factory.mktemp("public") / "lodo"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *identity, "commit", "--quiet", "--message", "test", cwd=folder)
    run("git", "tag", "v0.0.1", cwd=folder)
    run("git", "rm", "--quiet", "pyproject.toml", cwd=folder)
    run("git", *identity, "commit", "--quiet", "--message", "broken", cwd=folder)
    return f"{folder.as_uri()}@v0.0.1"


@pytest.fixture(scope="session")
def runtime(versions, tmp_path_factory) -> Path:
    """The Python of an environment that has what the runtime has, but not the library."""
    pytest.importorskip("uv", reason="uv builds the environment; it comes with the extra `dev`")
    try:
        python = versions.interpreter(versions.PYTHON["colab"])
    except SystemExit as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("runtime") / "env"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--seed", "--python", python, folder)
    inside = folder / "bin" / "python"
    pinned = [versions.pinned(name) for name in versions.COLAB_RUNTIME]
    packages = ("ipykernel", "scikit-learn", *pinned)
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", inside, *packages)
    kernel = folder / "share" / "jupyter" / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    argv = [str(inside), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Hosted", "language": "python"}))
    return inside


def execute(name: str, address: str, runtime: Path, folder: Path) -> subprocess.CompletedProcess:
    """A notebook with the address in it, executed outside of the checkout by the runtime's kernel."""
    public = Path(
        url2pathname(urlsplit(address).path.partition("@")[0])
    )  # of the same commit as what it installs, where that is there
    source = (public if public.is_dir() else ROOT) / "notebooks" / f"{name}.ipynb"
    text = source.read_text(encoding="utf-8")
    assert text.count('_REPOSITORY = \\"\\"') == 1
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(text.replace('_REPOSITORY = \\"\\"', f'_REPOSITORY = \\"{address}\\"'))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LODO_", "PYTHON", "JAX_"))}
    environment |= {"JUPYTER_PATH": str(runtime.parents[1] / "share" / "jupyter"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PAPERMILL, f"{name}.ipynb", f"{name}-out.ipynb", KERNEL]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.exhaustive
def test_a_failed_installation_stops_the_notebook(runtime, tmp_path):
    done = execute("claims", (tmp_path / "nowhere").as_uri(), runtime, tmp_path / "outside")
    assert done.returncode != 0
    assert "pip could not install lodo from file://" in done.stderr
    assert "Check the address and the network" in done.stderr
    executed = json.loads((tmp_path / "outside" / "claims-out.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in code if cell["execution_count"] and cell["outputs"]]
    assert all("error" in {one["output_type"] for one in cell["outputs"]} or cell is ran[0] for cell in ran)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_outside_of_the_checkout(name, address, runtime, tmp_path):
    before = run(runtime, "-c", SHOW, cwd=tmp_path)
    done = execute(name, address, runtime, tmp_path / "outside")
    assert done.returncode == 0, done.stderr[-6000:]
    assert run(runtime, "-c", SHOW, cwd=tmp_path) == before
    assert "jax 0.7.2" in before
    executed = json.loads((tmp_path / "outside" / f"{name}-out.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert [output for output in outputs if "lodo_said" in output.get("metadata", {})], "no sentence with numbers"
    assert "{glue:" not in json.dumps(executed)
