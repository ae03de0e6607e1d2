"""Which records a page is drawn from."""

import shutil
from pathlib import Path

import pytest

from lodo_experiments.results.records import RecordError
from lodo_experiments.studies import stored_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(monkeypatch):
    """Called from within the project, as notebooks are."""
    monkeypatch.chdir(ROOT / "notebooks")
    return ROOT / "results" / "paper" / "rosenbrock"


def test_a_folder_of_its_own_is_shown_beside_the_projects_large_results(project, tmp_path):
    found = stored_results.load_or_bundled(tmp_path, "rosenbrock", "paper")
    assert set(found.runs) == {path.stem for path in project.glob("*.npz") if not path.stem.endswith("-tuning")}
    assert not stored_results.load_or_bundled(tmp_path, "rosenbrock", "smoke-that-nobody-ran").runs
    assert not stored_results.load_all(tmp_path, "rosenbrock", "paper").runs


def test_a_folder_with_records_is_not_mixed_with_the_projects(project, tmp_path):
    own = tmp_path / "paper" / "rosenbrock"
    own.mkdir(parents=True)
    shutil.copy(project / "Adam.npz", own)
    assert set(stored_results.load_or_bundled(tmp_path, "rosenbrock", "paper").runs) == {"Adam"}
    (own / "Adam.npz").write_bytes(b"not a record")
    with pytest.raises(RecordError, match=r"Adam\.npz"):
        stored_results.load_or_bundled(tmp_path, "rosenbrock", "paper")
