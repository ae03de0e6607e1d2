"""What it takes to compile the C++ kernels, once on a machine: in a folder where they have not been compiled."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from unittest import mock

from benchmarks.speed.steps import Row
from lodo.operators._native import build


def measure() -> Row:
    """A row of the compiler's name, seconds, and the size of what it makes."""
    command = build.find_compiler()
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
        began = time.perf_counter()
        path = build.compile_library()
        seconds = time.perf_counter() - began
        size = path.stat().st_size
    # Where the steps find it; without it, the first of them would compile it again.
    build.compile_library()
    return {"compiler": said.splitlines()[0] if said else command[0], "build_seconds": seconds, "build_bytes": size}
