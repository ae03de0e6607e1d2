"""Studies: what is computed is kept, what is kept is used, and nothing wrong is taken for right."""

import dataclasses

import numpy as np
import pytest

from lodo_experiments.config.paths import results_folder
from lodo_experiments.config.presets import BowlPreset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.report import figures
from lodo_experiments.results import records
from lodo_experiments.studies import stored_results
from lodo_experiments.studies.cost import cost_note, training_seconds
from lodo_experiments.studies.runner import Study
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.noisy_bowl import learned_inverse, noisy_bowl

PRESET = BowlPreset(
    name="smoke",
    steps=40,
    seeds=2,
    optimizers=("LODO", "Momentum"),
    schedule=(Generation(1.0, 20, 4),),
    measure_every=20,
    size=4,
)


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    setup = Setup(task=noisy_bowl(4), chunk=20, after=learned_inverse)
    return Study("noisy_bowl", PRESET, folder, "make book", setup, show=False)


@pytest.fixture(scope="module")
def found(study):
    return study.all()


def test_records_hold_the_runs_and_say_where_they_come_from(study, found):
    record = found["LODO"]
    assert record.arrays["scores"].shape == (2,)
    assert record.arrays["curve"].shape == (2, 40)
    assert record.arrays["along_eigenvectors"].shape == (2, 4)
    np.testing.assert_array_equal(record.arrays["measured_steps"], [0, 20, 40])
    assert record.values["hyperparameters"] == study.tune("LODO").values["hyperparameters"]
    assert record.provenance["command"] == "make book"
    assert record.provenance["seeds"] == [0, 1]
    assert len(study.tune("LODO").arrays["score"]) == 4
    assert "along_eigenvectors" not in found["Momentum"].arrays


def test_nothing_is_computed_twice(study, found, monkeypatch):
    monkeypatch.setattr("lodo_experiments.studies.runner.train", None)
    monkeypatch.setattr("lodo_experiments.studies.runner.tune", None)
    for name, record in study.all().items():
        assert record.digest() == found[name].digest()
    runs = stored_results.load_all(study.folder, "noisy_bowl", "smoke").runs
    assert {name: record.digest() for name, record in runs.items()} == {
        name: record.digest() for name, record in found.items()
    }


def test_other_data_are_noticed(study, tmp_path):
    def on_data(digest):
        setup = dataclasses.replace(study.setup, facts={"dataset_sha256": digest})
        preset = dataclasses.replace(PRESET, name="laptop")
        return dataclasses.replace(study, preset=preset, folder=tmp_path, setup=setup)

    assert on_data("1" * 64).run("Momentum").provenance["dataset_sha256"] == "1" * 64
    other = on_data("2" * 64)
    with pytest.raises(records.RecordError, match="the data set's fingerprint was 111111111111, now 222222222222"):
        other.run("Momentum")


def test_a_long_record_of_other_settings_is_refused_by_name(study, tmp_path, monkeypatch):
    long = dataclasses.replace(study, preset=dataclasses.replace(PRESET, name="laptop"), folder=tmp_path)
    long.run("Momentum")
    with pytest.raises(records.RecordError, match=r"Momentum\.npz was made with other settings.*steps was 40, now 60"):
        long.with_preset(steps=60).run("Momentum")
    monkeypatch.setenv("LODO_RECOMPUTE", "1")
    assert long.with_preset(steps=60).run("Momentum").values["steps"] == 60


def test_a_smoke_record_of_other_settings_is_made_again(study, tmp_path):
    own = dataclasses.replace(study, folder=tmp_path)
    assert own.run("Momentum").values["steps"] == 40
    assert own.with_preset(steps=60).run("Momentum").values["steps"] == 60


def test_an_outline_says_what_is_stored_and_computes_nothing(study, found, tmp_path):
    outline = dataclasses.replace(study, setup=None)
    assert outline.is_complete("Momentum")
    assert not dataclasses.replace(outline, folder=tmp_path).is_complete("Momentum")
    with pytest.raises(RuntimeError, match="is an outline here and computes nothing"):
        outline.with_preset(steps=60).run("Momentum")


def test_a_damaged_record_is_refused_by_name(study, tmp_path):
    own = dataclasses.replace(study, folder=tmp_path)
    own.run("Momentum")
    path = tmp_path / "smoke" / "noisy_bowl" / "Momentum.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(records.RecordError, match=r"Momentum\.npz is damaged"):
        own.run("Momentum")


def test_fixed_hyperparameters_are_taken_as_they_are_and_rates_are_scaled(study, tmp_path):
    values = {"learning_rate": 0.5, "momentum": 0.25}
    own = dataclasses.replace(study, folder=tmp_path, fixed={"Momentum": values})
    assert own.run("Momentum").values["hyperparameters"] == values
    assert len(own.tune("Momentum").arrays) == 0
    halved = dataclasses.replace(own, folder=tmp_path / "halved").with_preset(rate_factor=0.5)
    assert halved.run("Momentum").values["hyperparameters"] == {"learning_rate": 0.25, "momentum": 0.25}


def test_cost_note_scales_what_was_measured(study, found, monkeypatch):
    long = dataclasses.replace(PRESET, name="laptop", steps=4000)
    wider = dataclasses.replace(long, name="paper", size=8)
    presets = {"smoke": PRESET, "laptop": long, "paper": wider}
    assert training_seconds(study, found) > 0
    # 16 s: 2 for the runs of each optimizer, 6 for its tuning.
    monkeypatch.setattr(Study, "tune", lambda self, name: records.Record("", {}, {}, {"wall_seconds": 6.0}))
    runs = {name: dataclasses.replace(record, provenance={"wall_seconds": 2.0}) for name, record in found.items()}
    lines = cost_note(study, presets, runs)
    assert "this run, 00:16" in lines[0]
    # 2 × (40·2 + 20·4) steps took 16 s; 2 × (4000·2 + 20·4) take 50.5 times as long.
    assert "about 13:28" in lines[1]
    assert "no time is predicted" in lines[2]


def test_figures_are_drawn_from_records_alone(found):
    for against in figures.AXES:
        drawn = figures.loss_curves(found, against=against, floor=0.5, floor_name="floor", ceiling=100.0)
        assert {trace.name for trace in drawn.data if trace.name} == {"LODO", "Momentum"}
        assert drawn.to_json()
    with pytest.raises(ValueError, match="against must be one of step, gradient, second"):
        figures.loss_curves(found, against="epoch")
    error = figures.measured_curve({"LODO": found["LODO"]}, "inverse_hessian_error", "error")
    assert len(error.data) == 2
    strips = figures.image_grid({"a": np.zeros((3, 4, 5)), "b": np.ones((3, 4, 5))}, 2)
    assert np.asarray(strips.data[0].z).shape == (4, 17)


def test_results_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LODO_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert results_folder() == tmp_path / "results"
    monkeypatch.setenv("LODO_RESULTS", str(tmp_path / "elsewhere"))
    assert results_folder() == tmp_path / "elsewhere"
    assert results_folder("given").name == "given"
