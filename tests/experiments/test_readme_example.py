"""The README's examples: the first runs as it stands; the second is a file of examples/ and learns what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

ROOT = Path(__file__).resolve().parents[2]


def python_block(heading: str) -> str:
    """The one Python block of a section of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(sections) == 1, f"README.md has {len(sections)} sections called {heading!r}"
    (block,) = re.findall(r"^```python\n(.*?)^```$", sections[0], re.MULTILINE | re.DOTALL)
    return block


def run(code: str, folder: Path) -> str:
    """What the code prints, run as a script of a user's own in another folder, on the CPU."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, script]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def linear_accuracy() -> float:
    """The test accuracy of a linear least-squares classifier on the example's own split."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.data[order] / 16, digits.target[order]
    return RidgeClassifier().fit(x[:1400], y[:1400]).score(x[1400:], y[1400:])


@pytest.mark.slow
def test_the_flax_example_learns(tmp_path):
    block = python_block("In your own training")
    assert block == (ROOT / "examples" / "digits_flax.py").read_text(encoding="utf-8")
    printed = run(block, tmp_path)
    lines = re.findall(r"^(\w+) +training loss (\S+)  test accuracy (\S+)$", printed, re.MULTILINE)
    assert [name for name, _, _ in lines] == ["Adam", "LODO", "rlodo"]
    for _, loss, accuracy in lines:
        assert float(loss) < 0.005 * np.log(10), "far below a guess among ten digits"
        assert 0.9 < linear_accuracy() < float(accuracy) - 0.01


def test_the_first_example_runs(tmp_path):
    code = python_block("Use it") + "\nprint('loss', float(loss(jnp.ones(3))), float(loss(x)))\n"
    _, before, after = run(code, tmp_path).split()
    assert float(after) < 0.2 * float(before)
