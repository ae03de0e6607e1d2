"""Faults are counted: how many were put in, and how many the work survived."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from lodo_experiments.utils import compilation_cache

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def pytest_addoption(parser):
    parser.addoption("--at-least", type=int, default=0, metavar="N", help="fail where fewer faults were injected")


def pytest_configure(config):
    config.pluginmanager.register(Ledger(config))


class Faults:
    """Counts the faults of one test; those of a test that fails are lost."""

    def __init__(self):
        self.injected = 0

    def __call__(self, count=1):
        self.injected += count


class Ledger:
    """Adds up the faults of all tests, in the process that writes the summary."""

    def __init__(self, config):
        self.wanted = config.getoption("at_least", 0)
        self.worker = hasattr(config, "workerinput")
        self.injected = self.survived = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if call.when == "call" and "fault" in getattr(item, "funcargs", {}):
            report.user_properties.append(("faults", item.funcargs["fault"].injected))
        return report

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            count = sum(count for name, count in report.user_properties if name == "faults")
            self.injected += count
            self.survived += count if report.passed else 0

    def pytest_sessionfinish(self, session, exitstatus):
        if self.injected < self.wanted and exitstatus == 0 and not self.worker:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        few = f"; at least {self.wanted} were to be" if self.injected < self.wanted else ""
        lost = self.injected - self.survived
        if self.injected or few:
            terminalreporter.write_sep(
                "=", f"faults: {self.injected} injected{few}, {self.survived} survived, {lost} lost"
            )


@pytest.fixture
def fault():
    """Call it at each fault that is injected."""
    return Faults()


class Warm:
    """A process that has loaded everything, and starts runs of the tiny study."""

    def __init__(self, compiled: Path):
        command = [sys.executable, str(HERE / "warm.py")]
        environment = os.environ | {compilation_cache.VARIABLE: str(compiled)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, folder, **fault) -> int:
        """Starts a run with a fault in it; returns its process id."""
        return self._ask(start={"folder": str(folder), "fault": fault})["pid"]

    def wait(self, pid: int) -> tuple[int, str]:
        """Waits for a run; returns its exit code, negative for a signal, and what it printed."""
        answer = self._ask(wait=pid)
        assert "Traceback" not in answer["output"], answer["output"]
        assert answer["code"] != -14, f"it hung: {answer['output']}"
        return answer["code"], answer["output"]

    def run(self, folder, **fault) -> tuple[int, str]:
        """A run from its start to its end."""
        return self.wait(self.start(folder, **fault))

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """Where programs of these tests are kept: one folder for all workers of xdist, apart from that of other tests."""
    base = tmp_path_factory.getbasetemp()
    # Apart, as every run looks through all of it.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture(scope="module", autouse=True)
def _compiled_apart(compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compilation_cache.VARIABLE, str(compiled))
        yield


@pytest.fixture(scope="session")
def warm(compiled):
    process = Warm(compiled)
    yield process
    process.close()


@pytest.fixture(scope="session")
def undisturbed(warm, tmp_path_factory):
    """The tiny study without any fault: its results, its folder, and how often it touches files."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = warm.run(folder, kind="count")
    assert code == 0, output
    started = time.monotonic()
    assert warm.run(tmp_path_factory.mktemp("again"))[0] == 0
    seconds = time.monotonic() - started  # with all programs compiled before, as those that are disturbed
    found = tiny.results(folder)
    assert sorted(found) == tiny.NAMES
    assert tiny.leftovers(folder) == []
    events = int(output.rpartition("storage events: ")[2])
    return {"results": found, "folder": folder, "events": events, "seconds": seconds}


@pytest.fixture
def completed(warm, undisturbed):
    """Runs the study in a folder to its end and compares it with the undisturbed one, bit by bit."""

    def complete(folder):
        code, output = warm.run(folder)
        assert code == 0, output
        assert tiny.results(folder) == undisturbed["results"]
        assert tiny.leftovers(folder) == []
        return output

    return complete
