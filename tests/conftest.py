"""What test files of several folders share: the notebooks are executed once a session, whoever asks first."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def executed() -> Path:
    """The folder of the notebooks executed at the preset `smoke`; executes those that are not up to date."""
    command = [sys.executable, "-m", "lodo.experiments.execute", "--preset", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "_build" / "executed" / "smoke"


# First, because xdist reads the groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """With pytest-xdist a file's tests stay together, and so do all that share the executed notebooks and the site."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1] if item.path.is_relative_to(ROOT / "tests") else ""
        group = "pages" if folder in ("site", "notebooks") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
