"""Building the book in tests, as `make html` does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: An address for the tests alone; nothing of this project is there.
ADDRESS = "https://github.com/example/lodo-book"
#: Where that repository's book would be read.
SITE = "https://example.github.io/lodo-book"


def build(output: Path, *options: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the book as `make html` does, into `output/_build/html`."""
    command = [Path(sys.executable).parent / "jupyter-book", "build", ".", "--path-output", output]
    command += options or ["--warningiserror", "--keep-going", "--nitpick"]
    command += ["--quiet"]
    settings = {"LODO_PRESET": "smoke", "LODO_REPOSITORY": "", "LODO_SITE": ""} | environment
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)


def built(output: Path, *options: str | Path, **environment: str) -> Path:
    done = build(output, *options, **environment)
    html = output / "_build" / "html"
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert (html / "index.html").is_file()
    return html
