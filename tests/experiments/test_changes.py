"""Changed presets: another task, another LODO, and records that are kept apart."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lodo.operators import BlockPermutation
from lodo.transform import lodo
from lodo_experiments.cli import run
from lodo_experiments.config import paths, presets
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results import records
from lodo_experiments.studies import registry
from lodo_experiments.studies.changed_optimizer import as_asked
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor, noisy_bowl
from lodo_experiments.training.loop import train
from lodo_experiments.utils.double_precision import double_precision

TINY = {
    "size": 4,
    "steps": 20,
    "schedule": (Generation(1.0, 10, 2),),
    "optimizers": ("LODO", "Adam"),
    "measure_every": 10,
}


@pytest.fixture(autouse=True)
def double():
    """In float64, as the bowl is."""
    with double_precision():
        yield


def bowl(folder: Path, **changes):
    return registry.build(
        "noisy_bowl", "smoke", seeds=1, results_dir=str(folder), changes={**TINY, **changes}, show=False
    )


def test_a_changed_run_has_records_of_its_own(tmp_path):
    study = bowl(tmp_path, condition_number=1e4)
    record = study.run("LODO")
    (path,) = tmp_path.rglob("LODO.npz")
    assert path.parts[-5] == "changed"
    assert path.is_relative_to(study.folder)
    assert record.values["settings"]["condition_number"] == 1e4
    assert record.provenance["changes"]["condition_number"] == 1e4
    assert "--set" in record.provenance["command"]
    assert "condition_number=10000.0" in record.provenance["command"]
    other = bowl(tmp_path, condition_number=1e5)
    assert other.folder != study.folder
    assert not other.is_complete("LODO")
    assert bowl(tmp_path, condition_number=1e4).is_complete("LODO")
    # The preset's own records lie elsewhere, and nothing of them is taken or replaced.
    assert registry.outline("noisy_bowl", "smoke", results_dir=str(tmp_path)).folder == tmp_path


def test_what_a_preset_says_already_is_no_change(tmp_path):
    study = registry.outline(
        "noisy_bowl", "smoke", results_dir=str(tmp_path), changes={"steps": 2_000, "optimizers": ("LODO", "Adam")}
    )
    assert study.changes == {"optimizers": ("LODO", "Adam")}
    assert study.folder == tmp_path


def test_records_of_the_presets_are_stated_as_before():
    stated = records.load(paths.kept_folder() / "paper" / "noisy_bowl" / "LODO.npz").values["settings"]
    for preset in presets.BOWL.values():
        assert not presets.STATED_WHERE_CHANGED & preset.settings().keys()
    changed = dataclasses.replace(presets.BOWL["paper"], drift=0.5, momentum=0.0)
    assert {"drift": 0.5, "momentum": 0.0}.items() <= changed.settings().items()
    assert registry.outline("noisy_bowl", "paper", results_dir=str(paths.kept_folder())).is_complete("LODO"), stated


def test_the_task_is_the_one_that_was_asked_for(tmp_path):
    task = bowl(tmp_path, condition_number=100.0, drift=0.5).task
    np.testing.assert_allclose(np.linalg.eigvalsh(task.data.hessian), np.geomspace(1e-2, 1, 4), rtol=1e-9)
    run = train(task, optimizer_named("Momentum"), steps=1, seeds=[3], hyperparameters={"learning_rate": 0.0})
    usual = train(noisy_bowl(4, condition_number=100.0), optimizer_named("Momentum"), steps=1, seeds=[3])
    np.testing.assert_allclose(run.losses, 0.25 * usual.losses, rtol=1e-12)  # at x = 0, one step of the centre
    np.testing.assert_allclose(newton_floor(hessian(4), 0.5), 0.25 * newton_floor(hessian(4)))
    own = np.diag([1.0, 3.0])
    np.testing.assert_array_equal(noisy_bowl(H=own).data.hessian, own)
    with pytest.raises(ValueError, match="symmetric matrix"):
        noisy_bowl(H=np.array([[1.0, 2.0], [0.0, 1.0]]))


def test_given_rates_are_taken_and_the_others_tuned(tmp_path):
    study = bowl(tmp_path, momentum=0.5, meta_learning_rate=0.01)
    tuned = study.tune("LODO")
    assert tuned.values["hyperparameters"]["momentum"] == 0.5
    assert tuned.values["hyperparameters"]["meta_learning_rate"] == 0.01
    assert tuned.values["hyperparameters"]["initial_learning_rate"] != 1.0
    assert "momentum" not in tuned.arrays
    assert len(tuned.arrays["score"]) == 2
    assert study.run("LODO").values["hyperparameters"]["momentum"] == 0.5
    assert len(study.tune("Adam").arrays["b1"]) == 2
    # All three given: there is nothing to tune.
    whole = bowl(tmp_path, momentum=0.5, meta_learning_rate=0.01, initial_learning_rate=0.2).tune("LODO")
    assert not whole.arrays
    assert whole.values["hyperparameters"] == {
        "initial_learning_rate": 0.2,
        "meta_learning_rate": 0.01,
        "momentum": 0.5,
    }


@pytest.mark.exhaustive
def test_a_given_rate_is_not_multiplied_by_the_presets_factor(tmp_path):
    study = bowl(tmp_path, initial_learning_rate=0.2, rate_factor=0.5)
    assert study.run("LODO").values["hyperparameters"]["initial_learning_rate"] == 0.2
    tuned = study.tune("Adam").values["hyperparameters"]["learning_rate"]
    assert study.run("Adam").values["hyperparameters"]["learning_rate"] == 0.5 * tuned


@pytest.mark.parametrize(
    ("changes", "like"),
    [
        ({"depth": 2, "block_size": 2}, {"operator": BlockPermutation(2, 2)}),
        ({"operator": "diagonal"}, "LODO-Diagonal"),
        pytest.param({"operator": "scalar"}, "LODO-Global", marks=pytest.mark.exhaustive),
        pytest.param({"operator": "residuals"}, "LODO-Residuals", marks=pytest.mark.exhaustive),
        ({"meta_optimizer": "sgd"}, "LODO-SGD"),
    ],
)
def test_lodo_takes_the_form_that_was_asked_for(tmp_path, changes, like):
    study = bowl(tmp_path, schedule=(), **changes)
    if not isinstance(like, str):
        twin = Optimizer(
            "twin", lambda h, key, steps: lodo(**h, **like, seed=key), optimizer_named("LODO").defaults, ""
        )
    else:
        twin = optimizer_named(like)
    expected = train(study.task, twin, steps=20, seeds=[0])
    np.testing.assert_allclose(study.run("LODO").arrays["scores"], expected.scores, rtol=1e-9)
    assert as_asked(optimizer_named("Adam"), study.preset) is optimizer_named("Adam")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"operator": "diagonal", "depth": 3}, "leave them out"),
        ({"optimizers": ("LODO", "Eve")}, "There is no optimizer 'Eve'"),
        ({"widht": 3}, "There is no field 'widht'"),
    ],
)
def test_a_change_that_cannot_be_is_refused_at_once(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        registry.outline("noisy_bowl", "smoke", results_dir=str(tmp_path), changes=changes)
    assert not list(tmp_path.iterdir())


def test_the_command_line_takes_changes(tmp_path, capsys):
    sizes = ["size=4", "steps=20", "schedule=1:10:2", "measure_every=10", "optimizers=LODO"]
    arguments = ["noisy_bowl", "--seeds", "1", "--results-dir", str(tmp_path), "--set", *sizes, "condition_number=1e4"]
    assert run.main(arguments) == 0
    study = bowl(tmp_path, optimizers=("LODO",), condition_number=1e4)
    assert study.is_complete("LODO")
    # The command of the record makes the same record.
    words = study.run("LODO").provenance["command"].split()[3:]
    assert run.main([*words, "--results-dir", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("LODO.npz"))) == 1
    assert run.main([*arguments[:5], "--set", "stepz=3"]) == run.REFUSED
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert run.main(["small", "--set", "steps=3"]) == run.REFUSED


def test_parts_take_changes_too(tmp_path):
    study = registry.build_parts(
        "learning_dynamics", "smoke", results_dir=str(tmp_path), changes={"runs": 8, "size": 3}
    )
    assert study.preset.runs == 8
    assert study.store.folder.parent == tmp_path / "changed"
    assert "--set runs=8" in study.command
    assert study.kept == tmp_path


def test_a_variant_takes_the_changes_of_its_base(tmp_path):
    changed = {"steps": 40, "optimizers": ("LODO", "LODO-Diagonal"), "condition_number": 10.0}
    usual, own = (
        registry.outline("noisy_bowl_parts", "smoke", results_dir=str(tmp_path), changes=changes).preset
        for changes in ({}, changed)
    )
    parts = ("LODO", "LODO-Diagonal", "LODO-SGD", "LODO-No-Momentum")
    assert (usual.steps, usual.optimizers) == (1_500, parts)
    assert (own.steps, own.optimizers, own.condition_number) == (40, ("LODO", "LODO-Diagonal"), 10.0)
    assert own.schedule == usual.schedule
