"""What of the results is there, replays, differs or is missing: the list of what there should be, and the command."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.cli import status
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.replays import CLOSE, DIFFERS, EQUAL, SKIPPED, Pass, Replay, Replays, made_and_replayed
from lodo_experiments.results.store import difference_of
from lodo_experiments.studies import notebooks, registry
from lodo_experiments.utils import environment

ROOT = Path(__file__).resolve().parents[2]
BY = Pass("b" * 40, "2026-12-02T10:00:00+00:00", {"jax": "0.10.2"}, "cpu: cpu", 3.0)


def made(kind, settings, **more):
    """A record that other code than ours has made."""
    stated = {"preset": "paper", "commit": "a" * 40, "date": "2026-11-26T10:00:00+00:00", "seeds": list(range(8))}
    stated |= {"wall_seconds": 50.0, "compile_seconds": 10.0, "library": "0" * 64, **more}
    name = kind.split("/")[1]
    values = {"settings": settings, "hyperparameters": dict(OPTIMIZERS[name].defaults) if name in OPTIMIZERS else {}}
    return Record(kind, {"scores": np.ones(1)}, values, stated)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder and what saves a record of Rosenbrock's function into it, with what its replay found."""
    folder = tmp_path / "results"
    monkeypatch.chdir(tmp_path)

    def save(name, state="", settings=None, preset="paper", **more):
        (spec,) = (
            one for one in registry.records(preset, folder) if one.path == Path(preset, "rosenbrock", f"{name}.npz")
        )
        record = made(spec.kind, {**(spec.settings or {}), **(settings or {})}, preset=preset, **more)
        records.save(folder / spec.path, record)
        if state:
            found = Replay(record.digest(), state, 200, 8, 1e-12, 7 if state == DIFFERS else None, "why", BY)
            Replays(folder).save({f"{preset}/rosenbrock/{name}": found})

    return folder, save


def states(folder, preset="paper"):
    items = status.status_of(folder, presets=(preset,)).items
    return {item.name: (item.state, *item.reasons) for item in items if item.group == "rosenbrock"}


def test_a_record_has_the_state_that_its_replay_found(results):
    folder, save = results
    save("Adam-tuning", EQUAL)
    save("Yogi-tuning", CLOSE)
    save("LODO-tuning", DIFFERS)
    save("Momentum-tuning", SKIPPED)
    save("RMSprop-tuning")
    found = states(folder)
    assert found["Adam-tuning"] == found["Yogi-tuning"] == ("same numbers",)
    assert found["LODO-tuning"] == ("differs", "differs from step 7 on (200 steps, 8 runs): why")
    assert found["Momentum-tuning"] == ("not replayed", "why")
    assert found["RMSprop-tuning"] == ("not replayed",)
    assert found["RMSprop"] == ("missing",)


def test_a_record_that_is_made_again_has_no_old_replay(results):
    folder, save = results
    save("Adam-tuning", EQUAL)
    save("Adam-tuning", commit="c" * 40)
    assert states(folder)["Adam-tuning"] == ("not replayed",)


def test_other_settings_too_few_runs_and_damage_are_told(results):
    folder, save = results
    save("Adam-tuning", EQUAL, {"fixed": {"b1": 0.5}})
    save("Yogi-tuning")
    save("Yogi", EQUAL, seeds=[0, 1, 2])
    (folder / "paper" / "rosenbrock" / "LODO-tuning.npz").write_bytes(b"torn")
    found = states(folder)
    assert found["Adam-tuning"] == ("of other settings", "fixed was {'b1': 0.5}, now {}")
    assert found["Yogi"] == ("incomplete", "3 of 8 runs")
    assert "is damaged" in found["LODO-tuning"][1]


def test_at_smoke_other_code_is_to_be_made_again(results):
    folder, save = results
    save("Adam-tuning", preset="smoke")
    save("Yogi-tuning", preset="smoke", library=environment.library(), versions={"jax": records.version_of("jax")})
    save("LODO-tuning", preset="smoke", library=environment.library(), versions={"jax": "0.1"})
    found = states(folder, "smoke")
    assert found["Adam-tuning"] == found["LODO-tuning"] == ("of other code",)
    assert found["Yogi-tuning"] == ("of this code",)


def test_command_lists_what_is_there_by_whom_and_what_is_missing(results, capsys):
    folder, save = results
    save("Adam-tuning", EQUAL)
    save("LODO-tuning", DIFFERS)
    arguments = ["--results-dir", str(folder), "--preset", "paper"]
    assert status.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "  rosenbrock: 1 same numbers, 1 differs, 8 missing; to make: 1.0 min, and 8 of unknown cost" in printed
    assert "made by commit aaaaaaa on 26 Nov 2026; replayed by commit bbbbbbb on 2 Dec 2026: 1 other numbers" in printed
    assert "differs: differs from step 7 on (200 steps, 8 runs): why — LODO-tuning" in printed
    assert status.main([*arguments, "--strict"]) == 1
    (folder / "replay.json").write_text("torn", encoding="utf-8")
    assert status.main(arguments) == 2
    assert "make replay" in capsys.readouterr().err


def test_the_story_of_records_is_told_in_few_words(tmp_path):
    record = made("a/b", {})
    assert made_and_replayed([], Replays(tmp_path)) == ""
    records.save(tmp_path / "paper" / "a" / "b.npz", record)
    Replays(tmp_path).save({"paper/a/b": Replay(record.digest(), CLOSE, by=BY)})
    assert made_and_replayed([record], Replays(tmp_path)) == (
        "made by commit aaaaaaa on 26 Nov 2026; replayed by commit bbbbbbb on 2 Dec 2026: same numbers"
    )


def test_markdown_has_a_row_for_each_group_and_no_markup_from_reasons(tmp_path):
    item = status.Item("rosenbrock", "paper", "Adam", status.DIFFERS, ("a_b changed",), seconds=60.0)
    text = status.markdown(status.Status((item, dataclasses.replace(item, group="pages")), Replays(tmp_path)))
    assert text.count("| `rosenbrock` | 1 differs |  | 1.0 min | differs: a\\_b changed (`Adam`) |") == 1
    assert "In all: 2 differs; to make: 2.0 min." in text


def test_every_stored_record_is_expected_with_its_settings():
    results = ROOT / "results"
    for preset in ("laptop", "desktop", "paper"):
        specs = [spec for spec in registry.records(preset, results) if (results / spec.path).exists()]
        assert specs
        for spec in specs:
            if spec.settings is not None:
                assert not difference_of(records.load(results / spec.path, spec.kind).values, spec.settings), spec.kind
    assert not list(registry.unknown_records(results))


def test_a_notebook_that_cannot_be_read_is_named(results, tmp_path, capsys):
    folder, _ = results
    (tmp_path / "torn.ipynb").write_text('{"cells": [', encoding="utf-8")
    executed = tmp_path / "executed" / "paper" / "torn.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text('{"metadata": {"lodo": {"content": {}, "parameters": {}}}}', encoding="utf-8")
    asked = ["--preset", "paper", "--results-dir", str(folder), "--notebooks", str(tmp_path)]
    assert status.main([*asked, "--executed", str(tmp_path / "executed")]) == 2
    assert "torn.ipynb is damaged or no notebook" in capsys.readouterr().err


def test_strangers_are_listed_and_not_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records.save(tmp_path / "paper" / "of_somebody" / "x.npz", made("of_somebody/x", {}))
    found = status.status_of(tmp_path)
    assert [path.name for path in found.others] == ["x.npz"]
    assert "1 records of experiments that are not known here" in "\n".join(status.lines_of(found))


def test_pages_say_what_of_theirs_changed(tmp_path):
    source, executed = tmp_path / "notebooks" / "x.ipynb", tmp_path / "x.ipynb"
    source.parent.mkdir()
    cell = {"cell_type": "code", "metadata": {}, "source": "1 + 1"}
    source.write_text(json.dumps({"cells": [cell]}))
    assert notebooks.state_of(source, executed) == ("not executed", ())
    parameters = {"preset": "smoke"}

    def seal(**more):
        stated = {"parameters": parameters, "content": {**notebooks.content(source, parameters), **more}}
        executed.write_text(json.dumps({"cells": [], "metadata": {"lodo": stated}}))

    seal()
    assert notebooks.state_of(source, executed) == ("up to date", ())
    seal(library="0", versions={})
    assert notebooks.state_of(source, executed) == ("changed", ("library", "versions"))
    seal()
    source.write_text(json.dumps({"cells": [cell, cell]}))
    assert notebooks.state_of(source, executed) == ("changed", ("notebook",))
