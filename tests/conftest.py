"""What test files of several folders share: compiled programs, and notebooks that are executed once a session."""

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


def _of_pages(item) -> bool:
    return item.path.parent.name in ("site", "notebooks")


def pytest_collection_modifyitems(items):
    """The pages' tests first, then the long ones, then all others."""

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
