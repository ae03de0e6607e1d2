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
