"""The batch as people call it: killed, called again, complete, equal to one run; and nothing to do after that."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lodo_experiments.cli.batch import __main__ as batch
from lodo_experiments.cli.batch import batch_lock, failures
from lodo_experiments.results import records
from lodo_experiments.studies import registry

pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
ROOT = Path(__file__).resolve().parents[2]
ONLY = ["--preset", "smoke", "--only", "rosenbrock/Momentum", "--seeds-per-job", "2", "--no-notebooks"]
NAMES = ["rosenbrock/Momentum", *(f"rosenbrock/Momentum/{name}" for name in ("seeds-0-1", "seeds-2-3", "tuning"))]


def started(folder, log):
    command = [sys.executable, "-m", "lodo_experiments.cli.batch", *ONLY, "--cores", "2", "--results-dir", str(folder)]
    with log.open("ab") as sink:
        return subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, "the batch ended by itself"
        time.sleep(0.05)


def alive(folder):
    """Processes that work for the batch in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc, and needs leashes")
def test_a_batch_that_is_stopped_and_killed_completes_when_called_again(tmp_path, monkeypatch, capsys):
    folder, log = tmp_path / "results", tmp_path / "log"
    state = folder / "smoke" / ".batch"

    process = started(folder, log)
    wait_for((state / "plan.json").exists, process)
    process.terminate()
    assert process.wait() == 75, log.read_text()
    # Whether a job had begun by then is the machine's affair.
    told = "not done rosenbrock/Momentum/tuning: the same command goes on|before anything was started; the same command"
    assert re.search(told, log.read_text())

    process = started(folder, log)
    batch_id = json.loads((state / "plan.json").read_text())["batch"]
    wait_for(lambda: json.loads((state / "plan.json").read_text())["batch"] != batch_id, process)
    batch_id = json.loads((state / "plan.json").read_text())["batch"]
    events = state / "status" / batch_id / "rosenbrock" / "Momentum" / "tuning.jsonl"
    wait_for(lambda: failures.state(failures.attempts(events)) == "running", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not alive(folder):
            break
        time.sleep(0.1)
    assert not alive(folder), "what the batch had started lives on"
    assert not list(folder.rglob("Momentum*.npz")) or (folder / "smoke/rosenbrock/Momentum-tuning.npz").exists()

    process = started(folder, log)
    assert process.wait() == 0, log.read_text()
    assert "4 done now, 0 done before, 0 retried, 0 skipped, 0 failed." in log.read_text()
    receipts = state / "receipts"
    assert sorted(path.relative_to(receipts).as_posix() for path in receipts.rglob("*.done")) == [
        f"{name}.done" for name in NAMES
    ]

    # The same as what one process makes in programs of the same width.
    with jax.enable_x64(True):
        alone = registry.build("rosenbrock", "smoke", results_dir=str(tmp_path / "alone"), show=False)
        alone.tune("Momentum")
        expected = replace(alone, setup=replace(alone.setup, lanes=2)).run("Momentum")
    for name in ("Momentum-tuning", "Momentum"):
        made = records.load(folder / "smoke" / "rosenbrock" / f"{name}.npz")
        wanted = records.load(tmp_path / "alone" / "smoke" / "rosenbrock" / f"{name}.npz")
        for array, value in wanted.arrays.items():
            assert array == "wall_seconds" or np.array_equal(value, made.arrays[array], equal_nan=True), (
                f"{name}: {array}"
            )
        assert made.values["hyperparameters"] == wanted.values["hyperparameters"]
    assert made.provenance["seeds"] == expected.provenance["seeds"] == [0, 1, 2, 3]

    # Nothing is left to do, and Snakemake is not even started.
    monkeypatch.chdir(ROOT)
    before = (state / "snakemake.log").stat().st_mtime_ns
    assert batch.main([*ONLY, "--results-dir", str(folder)]) == 0
    assert "Nothing to do: all 4 jobs at the preset smoke are done." in capsys.readouterr().out
    assert (state / "snakemake.log").stat().st_mtime_ns == before

    with batch_lock.acquire(state):
        assert batch.main([*ONLY, "--results-dir", str(folder)]) == 75
    assert re.search(rf"The batch `.*` \(process {os.getpid()} of .*\) holds .*Wait for it", capsys.readouterr().err)


def test_a_batch_whose_time_is_over_is_to_be_called_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert batch.main([*ONLY, "--minutes", "0.00001", "--results-dir", str(tmp_path)]) == 75
    told = capsys.readouterr()
    assert [line for line in told.out.splitlines() if line.startswith("not done")] == [
        f"not done {name}: the same command goes on with it" for name in (NAMES[3], NAMES[1], NAMES[2], NAMES[0])
    ]
    assert told.err == ""  # that Snakemake could not do its jobs has its reason
    assert not list(tmp_path.rglob("*.npz"))


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, capsys):
    (tmp_path / "results").write_text("a file, not a folder")
    assert batch.main([*ONLY, "--results-dir", str(tmp_path / "results")]) == 1
    assert "cannot be worked in" in capsys.readouterr().err


def test_a_dead_holder_keeps_nothing(tmp_path):
    script = (
        "import os; from pathlib import Path; from lodo_experiments.cli.batch.batch_lock import acquire\n"
        f"with acquire(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert "pid" in (tmp_path / "holder.note").read_text()
    with batch_lock.acquire(tmp_path):
        pass
