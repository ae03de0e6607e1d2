"""What the tests of the project's own files share: where they are, and the files that git would keep."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict:
    """pyproject.toml, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def kept_files() -> list[Path]:
    """The files that are in the repository or would be by `git add`: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the repository is unknown")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    # A file that was deleted but not yet committed is still listed.
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def tools():
    """Import a script of tools/ by name; they import each other as scripts do."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import clean_notebooks
        import constraints
        import import_graph
        import release_notes
        import test_versions

        modules = (clean_notebooks, constraints, import_graph, release_notes, test_versions)
        yield {module.__name__: module for module in modules}
    finally:
        sys.path.remove(str(ROOT / "tools"))
