"""What `import lodo` sets going: its own few modules, and none of JAX's machinery.

How long that takes is measured by benchmarks/import_time.py, on purpose; here is what keeps it short.
"""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax, optax
from jax._src import xla_bridge
before = set(sys.modules)
import lodo
print(json.dumps({
    "added": sorted(set(sys.modules) - before),
    "arrays": len(jax.live_arrays()) if xla_bridge.backends_are_initialized() else 0,
    "backends": xla_bridge.backends_are_initialized(),
}))
"""


@pytest.fixture(scope="module")
def imported(root):
    ran = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_only_the_modules_that_lodo_needs_are_loaded(imported, root):
    core = set((root / "lodo").rglob("*.py"))
    names = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in core}
    # Not the kernels, which start a compiler, nor the former names: who wants them asks for them.
    asked_for = ("lodo.operators._native", "lodo.experiments", "lodo.released")
    assert set(asked_for) < names
    assert set(imported["added"]) == {name for name in names if not name.startswith(asked_for)}


def test_importing_starts_no_backend_and_makes_no_array(imported):
    assert not imported["backends"]
    assert imported["arrays"] == 0
