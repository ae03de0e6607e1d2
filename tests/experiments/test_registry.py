"""The registry: what it declares is what the project has, and each thing is declared once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.analysis import best_trials
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.store import difference_of
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import values_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


def test_the_projects_records_state_the_kinds_and_settings_that_are_declared():
    found = 0
    for spec in [spec for preset in ("laptop", "desktop", "paper") for spec in registry.records(preset, RESULTS)]:
        if (RESULTS / spec.path).exists():
            record = records.load(RESULTS / spec.path, spec.kind)
            assert spec.settings is not None, spec.path
            assert not difference_of(record.values, spec.settings), spec.path
            found += 1
    assert found > 150
    assert [path for path in registry.unknown_records(RESULTS) if path.parts[-3] != "smoke"] == []


def test_every_record_has_one_place_and_its_kind_begins_with_its_folder(tmp_path):
    for preset in PRESETS:
        specs = registry.records(preset, tmp_path)
        assert len({spec.path for spec in specs}) == len({spec.kind for spec in specs}) == len(specs)
        assert all(spec.kind.split("/")[0] == spec.path.parts[1] == spec.experiment for spec in specs)
    (differences,) = registry.named("paper_and_code").records("paper", tmp_path)
    assert differences.settings["values"]["BFGS"][0] == "stated"  # nothing is tuned in this folder


def test_settings_follow_from_a_tuning_once_it_is_stored(tmp_path):
    def of_lodo(name):
        specs = registry.named(name).records("paper", tmp_path)
        return {spec.role: spec for spec in specs if spec.optimizer in ("LODO", "LODO-rolled")}

    assert of_lodo("noisy_bowl_compact")["tuning"].settings is None
    place = tmp_path / "paper" / "noisy_bowl"
    place.mkdir(parents=True)
    (place / "LODO-tuning.npz").write_bytes((RESULTS / "paper" / "noisy_bowl" / "LODO-tuning.npz").read_bytes())
    tuned = of_lodo("noisy_bowl")["runs"].settings["hyperparameters"]
    assert of_lodo("noisy_bowl_compact")["tuning"].settings["fixed"] == tuned


def test_pages_draw_from_the_experiments_that_name_them():
    of_rosenbrock = ["rosenbrock", "rosenbrock_defaults", "rosenbrock_best_trial"]
    assert [one.name for one in registry.of_notebook("rosenbrock", "paper")] == of_rosenbrock
    assert "image_generation_ablations" not in [one.name for one in registry.of_notebook("ablations", "smoke")]
    assert registry.of_notebook("step_cost", "paper") == []
    assert len(registry.of_notebook("claims", "paper")) > 10
    pages = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    named = {page for one in registry.EXPERIMENTS.values() for page in one.notebooks}
    assert named | registry.INDEPENDENT_PAGES <= pages
    assert pages - named - registry.INDEPENDENT_PAGES == registry.PAGES_OF_ALL


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: registry.named("bowl"), "There is no experiment 'bowl'; there are noisy_bowl, "),
        (lambda: registry.variants("rosenbrock", "parts"), "rosenbrock has no variant 'parts'; it has defaults."),
        (lambda: registry.variants("image_classification", "x"), "has no variant 'x'; it has others."),
        (lambda: registry.variants("problem_suites", "x"), "it has no variants."),
        (lambda: registry.records("big"), "There is no preset 'big'; there are smoke"),
        (lambda: registry.build_parts("rosenbrock", "smoke"), "rosenbrock trains its optimizers; use registry.build"),
        (lambda: registry.outline("representability", "smoke"), "trains nothing; use registry.build_parts"),
    ],
)
def test_what_is_not_declared_is_refused_with_what_there_is(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_desktop_trains_the_papers_network_and_has_the_papers_amounts_of_the_rest():
    generation, classification = registry.named("image_generation"), registry.named("image_classification")
    chosen = generation.preset("desktop")
    assert generation.parameters(chosen) == generation.parameters(generation.preset("paper")) == 94_696
    assert (chosen.dataset, chosen.reduce, chosen.batch_size, chosen.seeds) == ("mnist", 1, 64, 2)
    assert chosen.optimizers == generation.preset("paper").optimizers
    assert chosen.steps >= 3_000
    assert classification.preset("desktop").steps >= 1_000
    # A trial is long enough for learning to pay: a good part of the run it stands for.
    assert all(4 * experiment.preset("desktop").schedule[-1].steps > experiment.preset("desktop").steps
               for experiment in (generation, classification))  # fmt: skip
    bowl = registry.named("noisy_bowl")
    assert bowl.preset("desktop") == dataclasses.replace(bowl.preset("paper"), name="desktop")
    assert bowl.preset("desktop", 3).seeds == 3


def test_the_bowls_ablations_start_from_values_that_were_not_tuned_too_briefly(tmp_path):
    for preset in ("laptop", "paper"):
        specs = registry.named("noisy_bowl_ablations").records(preset, tmp_path)
        momenta = {s.name: s.settings["fixed"]["momentum"] for s in specs if s.role == "tuning" and "beta" in s.name}
        assert len(set(momenta.values())) == 8
        assert momenta["LODO-beta-7-tuning"] == pytest.approx(0.195)


@pytest.mark.parametrize(
    ("name", "preset", "told"), [("noisy_bowl", "smoke", "page"), ("understanding", "smok", "preset")]
)
def test_a_page_or_preset_that_is_not_there_is_refused(name, preset, told):
    with pytest.raises(ValueError, match=f"There is no {told}.*there are "):
        registry.build_page(name, preset)


def test_the_best_trial_is_the_lowest_of_the_longest_ones():
    arrays = {"steps": np.array([10, 100, 100, 100]), "score": np.array([0.1, np.nan, 2.0, 3.0])}
    rates = {"rate": np.array([1.0, 2.0, 3.0, 4.0]), "seed": np.arange(4)}
    tuning = Record("toy/A/tuning", arrays | rates, {"hyperparameters": {"rate": 9.0}}, {})
    assert values_of(tuning) == {"rate": 9.0}
    assert values_of(tuning, best_trial=True) == {"rate": 3.0}
    lost = Record("toy/A/tuning", arrays | rates | {"score": np.full(4, np.nan)}, tuning.values, {})
    assert values_of(lost, best_trial=True) == {"rate": 9.0}


@pytest.mark.parametrize("name", [*best_trials.BEST_TRIALS.values()])
def test_the_stored_runs_at_the_best_trials_state_their_values(name):
    experiment = registry.named(name)
    specs = [spec for spec in experiment.records("paper", RESULTS) if spec.role == "runs"]
    assert [spec.optimizer for spec in specs] == list(experiment.preset("paper").optimizers)
    for spec in specs:
        record = records.load(RESULTS / spec.path)
        assert record.values["settings"] == spec.settings
        tuning = records.load(RESULTS / "paper" / experiment.start.name / f"{spec.optimizer}-tuning.npz")
        best = values_of(tuning, best_trial=True)
        own = {**best, "meta_learning_rate": 0.0} if "frozen" in name else best
        assert record.values["hyperparameters"] == own
