"""What is stale, missing or not known, and why: verdicts, the list of what there should be, and the command."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.cli import status
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.studies import expected_records
from lodo_experiments.studies.provenance import history, keys
from lodo_experiments.studies.provenance.sources import Sources
from lodo_experiments.studies.provenance.staleness import FRESH, STALE, UNKNOWN, page_verdict, verdict

ROOT = Path(__file__).resolve().parents[2]
KIND = "rosenbrock/Adam"


def stated(kind=KIND, **more):
    """The provenance of a record that is made now."""
    key = keys.record_key(kind, {})
    versions = {name: records.version_of(name) for name in ("jax", "jaxlib", "optax", "flax", "numpy")}
    own = {"commit": "unknown", "versions": versions, "seeds": [0], "wall_seconds": 50.0, "compile_seconds": 10.0}
    return {"preset": "smoke", "key": key, **own, **more}


def made(kind=KIND, settings=None, **more):
    values = {"settings": settings or {}, "hyperparameters": {"learning_rate": 0.5}}
    return Record(kind, {"scores": np.ones(1)}, values, stated(kind, **more))


def without_key(**more):
    given = {name: value for name, value in stated().items() if name != "key"}
    return Record(KIND, {}, {}, {**given, **more})


def test_a_record_made_now_is_fresh():
    assert str(verdict(made(settings={"steps": 7}), settings={"steps": 7})) == "fresh"


def test_every_part_of_the_key_can_make_it_stale_and_is_named():
    record = made(settings={"steps": 7}, dataset_sha256="1")
    key = record.provenance["key"]
    code = {**key["code"], "lodo_experiments.training.loop.train": "0", "lodo.gone.f": "0"}
    del code["lodo_experiments.tasks.rosenbrock.rosenbrock"]
    other = dataclasses.replace(
        record,
        provenance={**record.provenance, "key": {**key, "code": code, "versions": {**key["versions"], "jax": "0.1"}}},
    )
    found = verdict(other, settings={"steps": 8}, dataset="2")
    assert found.state == STALE
    assert found.reasons == (
        "training.loop.train changed",
        "tasks.rosenbrock.rosenbrock is used now",
        "gone.f is used no longer",
        f"jax was 0.1, now {records.version_of('jax')}",
        "steps was 7, now 8",
        "the data set changed",
    )


def test_packages_that_it_does_not_use_do_not_count():
    assert "flax" not in keys.record_key(KIND, {})["versions"]
    assert "flax" in keys.record_key("image_generation/Adam", {})["versions"]


def test_a_record_in_parts_is_as_stale_as_its_stalest():
    key = keys.record_key(KIND, {})
    old = {**key, "code": {**key["code"], "lodo_experiments.training.loop.train": "0"}}
    parts = [stated(key=key["sha256"]), stated(key=old)]
    assert verdict(made(parts=parts[:1])).state == FRESH
    assert verdict(made(parts=parts)).reasons == ("training.loop.train changed",)
    keyless = {name: value for name, value in parts[0].items() if name != "key"}
    assert verdict(made(parts=[parts[0], keyless])).state == UNKNOWN


def test_a_record_without_a_key_is_never_called_fresh_where_nothing_is_known():
    for commit, why in {
        "unknown": "it was made outside of a checkout",
        "0" * 40: "its commit is not in this folder's history",
        "0" * 40 + "+changes": "it was made from changes that had not been committed",
    }.items():
        found = verdict(without_key(commit=commit))
        assert (found.state, found.reasons) == (UNKNOWN, (why,))
        assert found.note.startswith(f"made before keys were kept; commit {commit[:12].partition('+')[0]}")
    found = verdict(without_key(versions={"jax": "0.1"}))
    assert found.state == STALE
    assert found.reasons[0].startswith("jax was 0.1")


@pytest.fixture
def repository(tmp_path):
    """A checkout whose first commit has a library and whose second has changed one function of it."""

    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "lodo"
    package.mkdir()
    git("init", "-q")
    commits = []
    for text in ("def f():\n    return 1\n\n\ndef g():\n    return 'ü'\n", "def f():\n    return 2\n"):
        (package / "__init__.py").write_text(text, encoding="utf-8")
        git("add", "-A")
        git("commit", "-q", "-m", "a commit")
        commits.append(git("rev-parse", "HEAD"))
    return tmp_path, commits


def test_history_has_the_source_of_each_commit(repository):
    folder, commits = repository
    first, second = (history.sources_at(commit, folder) for commit in commits)
    assert first.has("lodo.g")
    assert not second.has("lodo.g")
    assert first.definition("lodo.f").digest != second.definition("lodo.f").digest
    assert second.definition("lodo.f") == Sources.of_folder(folder / "lodo").definition("lodo.f")
    assert history.sources_at("0" * 40, folder) is None
    assert history.sources_at(commits[0], folder / "lodo") is None  # no checkout's root


def test_a_record_without_a_key_is_compared_with_its_commit(monkeypatch):
    same = keys.library_sources()
    monkeypatch.setattr(history, "sources_at", lambda commit: same if commit.startswith("a") else None)
    assert verdict(without_key(commit="a" * 40)) == status.Verdict(
        FRESH, (), "made before keys were kept; commit aaaaaaaaaaaa"
    )
    path = ROOT / "lodo_experiments" / "training" / "loop.py"
    files = {p.relative_to(ROOT / "lodo").as_posix(): p.read_text("utf-8") for p in (ROOT / "lodo").rglob("*.py")}
    beside = (ROOT / "lodo_experiments").rglob("*.py")
    files |= {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in beside}
    files["lodo_experiments/training/loop.py"] = path.read_text("utf-8").replace(
        "DEFAULT_CHUNK = 1000", "DEFAULT_CHUNK = 1001"
    )
    files["lodo_experiments/report/figures.py"] += "\n\ndef another():\n    return 1\n"
    then = Sources(files)
    monkeypatch.setattr(history, "sources_at", lambda commit: then)
    assert verdict(without_key(commit="b" * 40)).reasons == ("training.loop.DEFAULT_CHUNK changed",)


def test_pages_say_what_of_theirs_changed(tmp_path):
    source, executed = tmp_path / "notebooks" / "x.ipynb", tmp_path / "x.ipynb"
    source.parent.mkdir()
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": "from lodo_experiments.report import glue\nglue.publish(a=1)",
    }
    source.write_text(json.dumps({"cells": [cell]}))
    assert page_verdict(source, executed).state == UNKNOWN
    key = keys.notebook_key(source, {"preset": "smoke"})
    lodo = {"fingerprint": keys.digest(key), "parameters": {"preset": "smoke"}, "key": key}

    def seal(**more):
        executed.write_text(json.dumps({"cells": [], "metadata": {"lodo": {**lodo, **more}}}))

    seal()
    assert page_verdict(source, executed).state == FRESH
    seal(key={**key, "code": {**key["code"], "lodo_experiments.report.glue.publish": "0"}})
    assert str(page_verdict(source, executed)) == "stale: report.glue.publish changed"
    seal(key=None)
    assert page_verdict(source, executed).reasons == ("it was executed before keys were kept",)
    seal()
    source.write_text(json.dumps({"cells": [cell, cell]}))
    assert page_verdict(source, executed).reasons == ("the notebook itself changed",)


def test_what_is_expected_is_what_the_kept_records_are():
    for preset in ("laptop", "paper"):
        places = {one.path(ROOT / "results") for one in expected_records.expected(ROOT / "results", preset)}
        kept = [path for path in (ROOT / "results" / preset).rglob("*.npz") if ".partial" not in path.parts]
        known = [path for path in kept if path.parent.name in keys.FAMILIES]
        assert known
        assert not set(known) - places
        for one in expected_records.expected(ROOT / "results", preset):
            if one.path(ROOT / "results").exists() and one.settings is not None:
                record = records.load(one.path(ROOT / "results"), one.kind)
                found = keys.value_changes("", record.values["settings"], one.settings, ("seeds",))
                assert not found, (one.kind, found)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder with a fresh record, a stale one and a damaged one; the rest is missing."""
    folder = tmp_path / "results"
    wanted = {one.part: one for one in expected_records.expected(folder, "smoke") if one.experiment == "rosenbrock"}

    def save(part, **more):
        one = wanted[part]
        given = dict(one.settings or {"hyperparameters": {}})
        records.save(one.path(folder), made(one.kind, given, **more))

    save("Adam-tuning", seeds=[1, 2])
    stale = keys.record_key("rosenbrock/Yogi/tuning", {})
    save("Yogi-tuning", key={**stale, "code": {**stale["code"], "lodo_experiments.training.tuning.tune": "0"}})
    save("LODO-tuning")
    wanted["LODO-tuning"].path(folder).write_bytes(b"torn")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def test_command_lists_what_is_not_fresh_and_its_cost(results, capsys):
    assert status.main(["--results-dir", str(results), "--preset", "smoke"]) == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("  rosenbrock:"))
    assert "1 fresh, 1 stale, 7 missing, 1 refused" in line
    assert "to refresh: 1.0 min, and 8 of unknown cost" in line
    assert "stale: training.tuning.tune changed — Yogi-tuning" in printed
    assert "LODO-tuning.npz is damaged or no record" in printed
    assert "noisy_bowl: 18 missing; to refresh: not known\n    missing: all of them" in printed
    assert status.main(["--results-dir", str(results), "--preset", "smoke", "--strict"]) == 1


def test_too_few_runs_are_incomplete(results):
    (one,) = (one for one in expected_records.expected(results, "smoke") if one.kind == "rosenbrock/Adam")
    assert one.settings["hyperparameters"] == {"learning_rate": 0.5}  # what the stored tuning found
    records.save(one.path(results), made(one.kind, dict(one.settings), seeds=[0, 1, 2]))
    items = status.status_of(results, presets=("smoke",)).items
    found = {item.name: item for item in items if item.group == "rosenbrock"}
    assert found["Adam-tuning"].state == FRESH
    assert (found["Adam"].state, found["Adam"].reasons) == ("incomplete", ("3 of 4 runs",))


def test_markdown_has_a_row_for_each_group_and_no_markup_from_reasons():
    item = status.Item("rosenbrock", "paper", "Adam", STALE, ("training._plan changed",), seconds=60.0)
    text = status.markdown(status.Status((item, dataclasses.replace(item, group="pages"))))
    assert text.count("| `rosenbrock` | 1 stale | 1.0 min | stale: training.\\_plan changed (`Adam`) |") == 1
    assert "In all: 2 stale; to refresh: 2.0 min." in text


def test_strangers_are_listed_and_not_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records.save(tmp_path / "paper" / "of_somebody" / "x.npz", made("of_somebody/x"))
    found = status.status_of(tmp_path)
    assert [path.name for path in found.others] == ["x.npz"]
    assert "1 records of experiments that are not known here" in "\n".join(status.lines_of(found))
