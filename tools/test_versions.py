"""Run the library's tests with other versions of Python, jax and optax than the lock has.

    python tools/test_versions.py oldest   Python 3.11, the lowest versions that pyproject.toml allows
    python tools/test_versions.py colab    Python 3.12, what a Colab runtime has
    python tools/test_versions.py newest   Python 3.13, the newest versions there are
    python tools/test_versions.py system   the Python that runs this, the newest versions; on any system, without uv

Each builds its own environment, `.venv-<leg>`, with uv (the last one with pip), and runs tests/library in it;
arguments after the leg go to pytest.  The Python interpreter is looked for on the path and among pyenv's; name
another with
`--python`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = {"oldest": "3.11", "colab": "3.12", "newest": "3.13", "system": ""}
# What the tests of the library need beside the library: pytest, and flax for models in them.
TEST_PACKAGES = ("flax", "pytest", "hypothesis")
# The versions of Colab's runtime, as read on 2026-11-22; two numbers stand for any patch of them.
COLAB_RUNTIME = {
    "jax": "0.7.2",
    "jaxlib": "0.7.2",
    "flax": "0.11.2",
    "optax": "0.2.8",
    "numpy": "2.0",
    "tensorflow-datasets": "4.9.10",
    "plotly": "5.24",
}
SHOW = """
import sys, importlib.metadata as metadata
packages = ("jax", "jaxlib", "optax", "numpy", "flax")
versions = [f"{name} {metadata.version(name)}" for name in packages]
print(f"Python {sys.version.split()[0]}", *versions, sep=", ")
"""


def requirements(leg: str, project: dict) -> list[str]:
    """What uv is asked to install for a leg, from pyproject.toml's table.

    Args:
        leg: "oldest", "colab" or "newest".
        project: pyproject.toml, parsed.

    Returns:
        Requirement strings: the library's own dependencies and the test packages; on the Colab leg
        those that the runtime has are pinned to its versions.

    Raises:
        KeyError: pyproject.toml no longer asks for one of the test packages.
    """
    extras = {name(text): text for texts in project["project"]["optional-dependencies"].values() for text in texts}
    wanted = [*project["project"]["dependencies"], *(extras[package] for package in TEST_PACKAGES)]
    return [pinned(text) for text in wanted] if leg == "colab" else wanted


def name(requirement: str) -> str:
    """The package that a requirement string names."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def pinned(requirement: str) -> str:
    """A requirement at the version that Colab's runtime has; as it is where the runtime has none."""
    version = COLAB_RUNTIME.get(name(requirement))
    if version is None:
        return requirement
    return f"{name(requirement)}=={version}" + (".*" if version.count(".") == 1 else "")


def interpreter(version: str) -> str:
    """The path of a working Python of a version ("3.12").

    Raises:
        SystemExit: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [Path(on_path)] if on_path else []
    for candidate in candidates + sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True):
        # A pyenv shim is on the path even where the version that it stands for is not active.
        found = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.startswith(f"Python {version}."):
            return str(candidate)
    sys.exit(f"No Python {version} here: install it, or name one with --python PATH.")


def build(leg: str, python: str) -> Path:
    """Make the environment of a leg afresh; return the path of its Python."""
    environment = ROOT / f".venv-{leg}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if leg == "system":
        subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
        inside = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([inside, "-m", "pip", "install", "--quiet", *requirements(leg, project)], check=True)
        return inside
    uv = [sys.executable, "-m", "uv"]
    lowest = ["--resolution", "lowest-direct"] if leg == "oldest" else []
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, environment], check=True)
    inside = environment / "bin" / "python"
    install = [
        *uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(inside),
        *lowest,
        *requirements(leg, project),
    ]
    subprocess.run(install, check=True)
    return inside


def main() -> int:
    """Run the command line; return pytest's exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("leg", choices=PYTHON)
    parser.add_argument("--python", help="path of the Python interpreter to use")
    arguments, for_pytest = parser.parse_known_args()
    version = PYTHON[arguments.leg]
    python = arguments.python or (interpreter(version) if version else sys.executable)
    inside = build(arguments.leg, python)
    subprocess.run([inside, "-c", SHOW], check=True)
    # The library is the working tree's, not an installed one; PYTHONPATH says so to subprocesses too.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(inside), "-m", "pytest", "tests/library", "-p", "no:cacheprovider", *for_pytest]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
