"""kill -9 of the kernel, of papermill and of the batch that executes notebooks, with their orphans running on."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import tiny

from lodo_experiments.results import locks
from lodo_experiments.utils import atomic_files

HERE = Path(__file__).resolve().parent
exhaustive = pytest.mark.exhaustive


@pytest.fixture
def batch(tmp_path, undisturbed):
    """Starts executions of one notebook that runs the tiny study; whatever is left of them is ended."""
    own = Batch(tmp_path)
    yield own
    own.end()


class Batch:
    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results"
        self.started: list[subprocess.Popen] = []

    def start(self, **fault) -> subprocess.Popen:
        """Starts an execution; a fault goes into the kernel."""
        source = self.folder / "notebooks" / "tiny.ipynb"
        source.parent.mkdir(exist_ok=True)
        code = (
            f"import sys; sys.path.insert(0, {str(HERE)!r}); import tiny\ntiny.main({str(self.results)!r}, {fault!r})"
        )
        cells = [
            nbformat.v4.new_code_cell("preset = ''", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(f"{code} == 0 or exit('failed')\nprint('came to the end')"),
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        source.write_text(nbformat.writes(notebook), encoding="utf-8")
        command = [sys.executable, "-m", "lodo_experiments.cli.execute", "--notebooks", str(source.parent)]
        command += ["--output", str(self.folder / "out"), "--jobs", "1"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.started.append(process)
        return process

    def kernel(self, process: subprocess.Popen) -> int:
        """Waits until the kernel is at work; its process id is in the lock on what it makes."""
        while process.poll() is None:
            for path in self.results.rglob("*.lock"):
                holder = locks.read_holder(path.parents[1] / f"{path.stem}.npz")
                if holder and atomic_files.alive(holder["process"]):
                    return holder["process"]
            time.sleep(0.02)
        raise AssertionError(process.communicate()[0])

    def finished(self, process: subprocess.Popen, undisturbed) -> str:
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output
        assert tiny.results(self.results) == undisturbed["results"]
        assert tiny.leftovers(self.results) == []
        executed = self.folder / "out" / "smoke"
        assert "came to the end" in (executed / "tiny.ipynb").read_text(encoding="utf-8")
        return output

    def end(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def papermill_of(process: subprocess.Popen) -> int:
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    (only,) = [int(child) for path in children for child in path.read_text().split()]
    return only


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=exhaustive) for seed in range(3)])
def test_a_killed_kernel(batch, undisturbed, fault, seed):
    at = random.Random(seed).randint(1, undisturbed["events"] // 2)
    process = batch.start(kind="storage", at=at)
    output = process.communicate(timeout=600)[0]
    fault()
    assert process.returncode == 1
    assert "failed: tiny" in output
    assert "died" in output
    assert not (batch.folder / "out" / "smoke" / "tiny.ipynb").exists()
    assert tiny.results(batch.results).items() <= undisturbed["results"].items()
    batch.finished(batch.start(), undisturbed)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=exhaustive) for seed in range(10, 13)])
def test_a_killed_papermill(batch, undisturbed, fault, seed):
    process = batch.start()
    batch.kernel(process)
    time.sleep(random.Random(seed).uniform(0.0, 0.5) * undisturbed["seconds"])
    os.kill(papermill_of(process), signal.SIGKILL)
    fault()
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 1
    assert "papermill ended with exit code -9" in output
    # Its kernel may still be at work: the next one takes its turn, and finds what the orphan made.
    batch.finished(batch.start(), undisturbed)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=exhaustive) for seed in range(20, 23)])
def test_a_killed_batch_and_its_orphans(batch, undisturbed, fault, seed):
    process = batch.start()
    batch.kernel(process)
    time.sleep(random.Random(seed).uniform(0.0, 0.5) * undisturbed["seconds"])
    process.kill()
    process.wait()
    fault()
    # papermill and its kernel go on: two writers.
    batch.finished(batch.start(), undisturbed)
