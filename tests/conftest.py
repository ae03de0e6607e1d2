"""What test files of several folders share: compiled programs, and notebooks that are executed once a session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lodo.experiments import compilation_cache

ROOT = Path(__file__).resolve().parent.parent

# For this process, and for those that tests start.
os.environ.setdefault(compilation_cache.VARIABLE, str(ROOT / "_build" / "compiled"))
compilation_cache.enable()


def pytest_runtest_teardown(item, nextitem):
    """After a test file, what it compiled is shared with the other processes."""
    if nextitem is None or nextitem.path != item.path:
        compilation_cache.exchange()


@pytest.fixture(scope="session")
def executed() -> Path:
    """The folder of the notebooks executed at the preset `smoke`; executes those that are not up to date."""
    command = [sys.executable, "-m", "lodo.experiments.execute", "--preset", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "_build" / "executed" / "smoke"
