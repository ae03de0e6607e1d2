"""The batch through a real SLURM: all done; jobs cancelled and killed, and each result there once, to the same bits.

What is run is a part of the preset `smoke`, cut as fine as at the larger presets: tuning, then seeds in jobs of their
own, then one job that joins them. With LODO_SLURM_WHOLE set, as `make test-slurm` does, jobs are disturbed, and the
whole smoke batch runs; `make test-slurm BATCH=small` leaves that out.
"""

import os
import signal
from pathlib import Path

import pytest
from batches import Batch, results

#: The jobs are rosenbrock/Adam/tuning, …/seeds-0-0 and …/seeds-1-1, and rosenbrock/Adam, which joins them.
PART = ("--only", "rosenbrock/Adam", "--seeds", "2", "--seeds-per-job", "1", "--no-notebooks")
JOBS = 4
WHOLE = pytest.mark.skipif(not os.environ.get("LODO_SLURM_WHOLE"), reason="left out by make test-slurm BATCH=small")


def states(slurm, before: int) -> list[str]:
    """How the cluster's jobs ended, those after the first ones."""
    return sorted(job["JobState"] for job in slurm.finished()[before:])


def kinds(batch: Batch, name: str) -> list[str]:
    """How the attempts at a job went."""
    return [attempt["kind"] for attempt in batch.attempts(f"rosenbrock/Adam/{name}")]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory) -> Path:
    """The folder of a batch that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Batch(slurm, folder, PART) as batch:
        assert batch.end() == 0, batch.printed()
    return folder


def test_a_batch_is_done_by_the_clusters_jobs(slurm, undisturbed):
    assert sorted(results(undisturbed)) == [
        "results/smoke/rosenbrock/Adam-tuning.npz",
        "results/smoke/rosenbrock/Adam.npz",
    ]
    assert slurm.queue() == {}
    assert [job["JobState"] for job in slurm.finished()[-JOBS:]] == ["COMPLETED"] * JOBS
    with Batch(slurm, undisturbed, PART) as again:
        assert again.end() == 0, again.printed()
    assert f"Nothing to do: all {JOBS} jobs" in again.printed()


@WHOLE
def test_after_scancel_and_kills_each_result_is_there_once_to_the_same_bits(slurm, undisturbed, tmp_path):
    before = len(slurm.finished())
    with Batch(slurm, tmp_path, PART) as batch:
        batch.at_work("rosenbrock/Adam/tuning")
        slurm.run("scancel", batch.number("tune", "rosenbrock", "Adam"))
        # The job's own process, then a supervisor itself: the Snakemake in SLURM's job tries again.
        os.kill(batch.at_work("rosenbrock/Adam/seeds-0-0")["process"], signal.SIGKILL)
        os.kill(batch.at_work("rosenbrock/Adam/seeds-1-1")["pid"], signal.SIGKILL)
        # Last, Snakemake. What joins the seeds goes on without it; held still until the resumed batch does the same,
        # the two then write at once.
        orphan = batch.at_work("rosenbrock/Adam")
        os.kill(orphan["process"], signal.SIGSTOP)
        # scancel asks politely first (SIGTERM), which the supervisor passes on and notes.
        attempts = {name: kinds(batch, name) for name in ("tuning", "seeds-0-0", "seeds-1-1")}
        assert attempts == {
            "tuning": ["stopped", "done"], "seeds-0-0": ["killed", "done"], "seeds-1-1": ["killed", "done"],
        }  # fmt: skip
        assert states(slurm, before) == ["CANCELLED", "COMPLETED", "COMPLETED", "COMPLETED"]
        (engine,) = batch.children()
        os.kill(engine, signal.SIGKILL)
        assert batch.end() != 0
        assert "Snakemake ended" in batch.printed()
        assert len(slurm.queue()) == 1, "the orphan is gone: there is nothing to test"
    with Batch(slurm, tmp_path, PART) as resumed:
        resumed.until(lambda: resumed.at_work("rosenbrock/Adam")["pid"] != orphan["pid"], "the job is done anew")
        os.kill(orphan["process"], signal.SIGCONT)
        assert resumed.end() == 0, resumed.printed()
        assert f"1 jobs to do, {JOBS - 1} done before" in resumed.printed()
        resumed.until_empty(slurm)
    assert results(tmp_path) == results(undisturbed)


@WHOLE
def test_the_whole_smoke_batch(slurm, tmp_path):
    with Batch(slurm, tmp_path, ()) as batch:
        assert batch.end() == 0, batch.printed()
    sources = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
    assert sorted(path.name for path in (tmp_path / "executed").rglob("*.ipynb")) == sources
    assert results(tmp_path)
    assert slurm.queue() == {}
    with Batch(slurm, tmp_path, ()) as again:
        assert again.end() == 0, again.printed()
    assert "Nothing to do" in again.printed()
