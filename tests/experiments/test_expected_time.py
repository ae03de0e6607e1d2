"""How long a cell will take: said from records of such work, and never made up."""

import dataclasses

import numpy as np
import pytest

from lodo_experiments.config.parameters import NamedPreset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.results import records
from lodo_experiments.studies import cost, registry
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.utils.progress import duration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount(NamedPreset):
    size: int = 3


def parts(preset, results):
    one = Part(preset.settings(), [0], lambda: Computed({"x": np.ones(preset.size)}, {}))
    return {"first": one, "second": one}


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    presets = {name: Amount(name=name) for name in ("smoke", "laptop", "paper")}
    monkeypatch.setitem(registry.EXPERIMENTS, "toy", Experiment(name="toy", presets=presets, parts=parts))
    monkeypatch.setattr(cost, "kept_folder", lambda: tmp_path / "kept")


def study(folder, preset="laptop", **changes):
    return registry.build_parts("toy", preset, results_dir=str(folder), changes=changes)


def keep(folder, *names):
    """Records at laptop that say to have taken 100 seconds each, on a CPU."""
    made = study(folder / "kept")
    for name in names:
        record = made.record(name)
        took = {"device": "cpu: one", "wall_seconds": 90.0, "compile_seconds": 10.0}
        records.save(made.store.path(name), dataclasses.replace(record, provenance={**record.provenance, **took}))


def test_of_parts_it_is_what_the_same_parts_took(tmp_path):
    assert cost.expected(study(tmp_path / "new")) == (
        "To compute: first, second. Expected time: on a CPU not measured; on a T4-class GPU not measured "
        "([h:]mm:ss, by the records of such work)."
    )
    keep(tmp_path, "first")
    said = cost.expected(study(tmp_path / "new"))
    assert "on a CPU about 01:40 without 1 of 2 records, not measured; on a T4-class GPU not measured" in said
    keep(tmp_path, "first", "second")
    assert "on a CPU about 03:20; on a T4-class GPU not measured" in cost.expected(study(tmp_path / "new"))
    assert cost.expected(study(tmp_path / "kept")) == "Every record is there: nothing is left to compute."


@pytest.mark.parametrize(("preset", "changes"), [("paper", {}), ("laptop", {"size": 4})])
def test_of_other_work_it_is_not_known_but_what_there_is_is_said(tmp_path, preset, changes):
    keep(tmp_path, "first", "second")
    said = cost.expected(study(tmp_path / "new", preset, **changes))
    assert "on a CPU not measured (the records of the preset laptop took 03:20); on a T4-class GPU not measured" in said


def test_without_records_of_such_training_nothing_is_predicted(tmp_path):
    changes = {"optimizers": ("Adam",), "schedule": (Generation(1.0, 10, 2),)}
    bowl = registry.outline("noisy_bowl", "paper", results_dir=str(tmp_path), changes=changes)
    assert "To train: Adam. Expected time: on a CPU not measured; on a T4-class GPU not measured" in cost.expected(bowl)


def test_training_is_scaled_by_its_steps_also_where_a_variants_records_lie_elsewhere(monkeypatch, tmp_path):
    monkeypatch.undo()
    bowl = registry.outline("noisy_bowl", "paper", results_dir=str(tmp_path), changes={"steps": 50_000})
    (with_parts,) = registry.variant_of(bowl, "parts")
    with_parts = with_parts.with_preset(optimizers=("LODO-SGD",), schedule=())
    record = records.load(cost.kept_folder() / "paper" / "noisy_bowl" / "LODO-SGD.npz")
    wall, compiling = (record.provenance[f"{what}_seconds"] for what in ("wall", "compile"))
    assert f"about {duration(compiling + wall / 2)};" in cost.expected(with_parts, "noisy_bowl_parts")


def test_progress_of_parts_is_told_where_any_is_computed(tmp_path, capsys):
    study(tmp_path).all()
    assert "toy laptop: 100%|##########| 2/2" in capsys.readouterr().err
    study(tmp_path).all()
    assert not capsys.readouterr().err
