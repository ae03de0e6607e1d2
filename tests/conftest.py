"""What test files of several folders share: compiled programs, and notebooks that are executed once a session."""

import collections
import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lodo_experiments.utils import compilation_cache

ROOT = Path(__file__).resolve().parent.parent

# For this process, and for those that tests start; Windows has no cache.
os.environ.setdefault(compilation_cache.VARIABLE, str(ROOT / "_build" / "compiled") if os.name == "posix" else "")
compilation_cache.enable()

# Most of the time of a test whose programs are compiled is tracing: without noting where in the source an operation is,
# and with fewer looks for garbage, it takes a tenth less or two.
jax.config.update("jax_traceback_in_locations_limit", 0)
gc.set_threshold(100_000, 50, 1_000)

# Test processes side by side are the parallel work: threads within an operation would be in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NPROC", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under ``--dist loadfile`` all tests of the pages go together, as they share what is executed and built."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "pages" if nodeid.startswith(("tests/site/", "tests/notebooks/")) else super()._split_scope(nodeid)

    return Scheduling(config, log)


_started: set[Path] = set()

#: Files about what XLA makes of our programs: they are compiled as users' are, and so is what pages are made of. In all
#: others, and in processes that they start, the compiler takes short cuts, as it takes most of their time; with
#: LODO_TESTS_AS_USERS_DO=1 in none.
AS_USERS_DO = {
    "test_baseline_parity.py", "test_compilation_cache.py", "test_determinism.py", "test_image_generation_parity.py",
    "test_lodo_parity.py", "test_passes.py", "test_readme_example.py", "test_reproduction.py",
}  # fmt: skip
SHORT_CUTS = "JAX_DISABLE_MOST_OPTIMIZATIONS"

#: Files of few tests that take long: they begin first, so that they are not what is left at the end for one process.
LONG = ("test_reproduction.py", "test_sharding.py", "test_speed.py", "test_batch.py", "test_readme_example.py")


#: File → one in how many of each test's parametrised cases is run by default: all of them take longer than continuous
#: integration may. The others are marked `exhaustive`; `make test-exhaustive` has every one.
ONE_IN = {
    "test_browser.py": 4, "test_buffers.py": 3, "test_common_battery.py": 6, "test_compact_lodo.py": 3,
    "test_compact_moments.py": 3, "test_compact_rounding.py": 3, "test_determinism.py": 2, "test_diagnostics.py": 2,
    "test_differences.py": 3, "test_displacement.py": 3, "test_execute.py": 4, "test_image_classification.py": 3,
    "test_image_generation.py": 2, "test_image_generation_network.py": 2, "test_lodo_limits.py": 2, "test_memory.py": 2,
    "test_narrow_dtypes.py": 6, "test_native.py": 8, "test_operators.py": 4, "test_passes.py": 4, "test_problems.py": 4,
    "test_quasi_newton.py": 2, "test_redraw.py": 2, "test_replay.py": 2, "test_resnet.py": 4, "test_resume.py": 2,
    "test_rlodo.py": 3, "test_rlodo_twin.py": 3, "test_suites.py": 2, "test_theory_dynamics.py": 5,
    "test_theory_representability.py": 3, "test_training.py": 3,
}  # fmt: skip


def _leave_cases_out(items) -> None:
    cases: collections.Counter[str] = collections.Counter()
    for item in items:
        share = ONE_IN.get(item.path.name)
        if share and hasattr(item, "callspec") and not item.get_closest_marker("exhaustive"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % share:
                item.add_marker(pytest.mark.exhaustive)
            cases[test] += 1


def _of_pages(item) -> bool:
    return item.path.parent.name in ("site", "notebooks")


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(config, items):
    """Some cases of the longest files; the pages' tests first, then the long ones, then all others."""
    if not any("[" in argument for argument in config.args):  # who names a case wants it
        _leave_cases_out(items)

    def place(item):
        if _of_pages(item):
            return 0
        return 1 + LONG.index(item.path.name) if item.path.name in LONG else 1 + len(LONG)

    items.sort(key=place)


def _take_short_cuts(wanted: bool) -> None:
    # Unset rather than 0: what is set for JAX is part of what a result was made with, so that pages would be stale.
    os.environ.pop(SHORT_CUTS, None)
    if wanted:
        os.environ[SHORT_CUTS] = "1"
    if jax.config.read("jax_disable_most_optimizations") != wanted:
        jax.config.update("jax_disable_most_optimizations", wanted)
        jax.clear_caches()  # of programs compiled in the other way


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A test file begins in its folder's precision, whatever ran before it, and has programs compiled in its own way.

    The precision is 64 bits in the library's tests, elsewhere JAX's own.
    """
    if item.path not in _started:
        _started.add(item.path)
        jax.config.update("jax_enable_x64", item.path.parent == ROOT / "tests" / "library")
        as_users_do = item.path.name in AS_USERS_DO or _of_pages(item) or os.environ.get("LODO_TESTS_AS_USERS_DO")
        _take_short_cuts(not as_users_do)


def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.path != item.path:
        _started.discard(item.path)


@pytest.fixture(scope="session")
def executed() -> Path:
    """The folder of the notebooks executed at the preset `smoke`; executes those that are not up to date."""
    command = [sys.executable, "-m", "lodo_experiments.cli.execute", "--preset", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "_build" / "executed" / "smoke"
