"""Optimizers that the paper does not compare, on its own tasks."""

import jax.numpy as jnp
import numpy as np
import pytest

from lodo_experiments.analysis import paper_tasks
from lodo_experiments.optimizers import peers
from lodo_experiments.optimizers.names import OTHERS, UNTUNED, optimizer_named
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry, stored_results
from lodo_experiments.studies.experiment import run_settings
from lodo_experiments.tasks.noisy_bowl import noisy_bowl
from lodo_experiments.training.loop import train


@pytest.mark.parametrize("name", ["Sophia", UNTUNED.name])
@pytest.mark.usefixtures("sixty_four_bits")
def test_they_train_side_by_side_in_double_precision(name):
    optimizer = optimizer_named(name)
    given = {key: np.array([value, 0.9 * value]) for key, value in optimizer.defaults.items()}
    run = train(noisy_bowl(6), optimizer, steps=30, seeds=[0, 1], hyperparameters=given)
    assert np.isfinite(run.losses).all()
    assert run.params.dtype == jnp.float64
    assert (np.abs(run.params) > 0).all()


@pytest.mark.parametrize("experiment", ["noisy_bowl", "image_generation", "image_classification"])
def test_they_share_schedule_and_folder_with_the_papers_optimizers(experiment):
    base, (others,) = registry.named(experiment), registry.variants(experiment, "others")
    preset = "paper" if experiment == "noisy_bowl" else "laptop"
    assert others.folder(preset) == base.folder(preset)
    assert others.preset(preset).schedule == base.preset(preset).schedule
    assert set(OTHERS) - {"Kron", "Sophia"} <= set(others.preset(preset).optimizers)
    assert not set(others.preset(preset).optimizers) & set(base.preset(preset).optimizers)


def test_without_its_package_one_is_refused_by_the_extras_name(monkeypatch):
    def not_installed(package):
        raise peers.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(peers.metadata, "version", not_installed)
    peer = peers._of_package("psgdax", peers.PEERS["Kron"])
    assert peer.missing == "psgdax"
    with pytest.raises(ValueError, match=r"Kron needs psgdax, which is not installed.*pip install 'lodo\[peers\]'"):
        peer.optimizer.build({}, None, 10)


def test_without_a_hyperparameter_there_is_no_rate_to_scale():
    preset = registry.named("image_generation_others").preset("paper")
    assert preset.rate_factor == 0.5
    assert run_settings(preset, UNTUNED, {})["hyperparameters"] == {}
    assert run_settings(preset, OTHERS["Muon"], {"learning_rate": 0.2, "beta": 0.9})["hyperparameters"] == {
        "learning_rate": 0.1, "beta": 0.9,
    }  # fmt: skip


def test_the_table_names_each_once_and_leaves_out_who_has_no_record():
    rows = {row["optimizer"]: row for row in paper_tasks.scores()}
    assert list(rows)[:3] == [UNTUNED.name, "rlodo", "LODO"]
    assert rows[UNTUNED.name]["noisy bowl"] < rows["LODO"]["noisy bowl"] < rows["Adam"]["noisy bowl"]
    images = {name: row["image generation"] for name, row in rows.items() if row["image generation"] is not None}
    assert all(abs(images[UNTUNED.name] / images[name] - 1) < 0.01 for name in ("LODO", "Adam", "Momentum"))
    assert images["Muon"] < 0.97 * images[UNTUNED.name]
    sorting = {name: row["image classification"] for name, row in rows.items() if row["image classification"]}
    worst = sorted(sorting, key=sorting.get)[-3:]
    assert worst == [UNTUNED.name, "rlodo", "L-BFGS"], "tuning by short trials does not help rlodo here"
    assert all(any(value is not None for key, value in row.items() if key != "optimizer") for row in rows.values())


def test_means_are_taken_over_the_seeds_that_all_have(monkeypatch):
    def record(*scores):
        facts = {"preset": "laptop", "seeds": list(range(len(scores)))}
        return Record("image_generation", {"scores": np.array(scores)}, {}, facts)

    runs = {"LODO": record(1.0, 2.0, 30.0), "Adam": record(3.0, 4.0), "Muon": record(5.0, np.nan)}
    found = stored_results.Stored("image_generation", "laptop", runs, {})
    monkeypatch.setattr(stored_results, "load_or_bundled", lambda *where: found)
    rows = {row["optimizer"]: row["image generation"] for row in paper_tasks.scores() if row["image generation"]}
    assert rows == {"LODO": 1.5, "Adam": 3.5, "Muon": np.inf}


def test_how_soon_each_is_where_adam_ends():
    rows = {row["optimizer"]: row for row in paper_tasks.steps_to_adam()}
    assert set(rows["Adam"]) == {"optimizer", "image generation", "image classification"}
    assert rows["Muon"]["image generation"] < 1, "its score is below Adam's"
    assert rows[UNTUNED.name]["image classification"] == np.inf, "its score is the highest"
    assert rows["L-BFGS"]["image generation"] is None, "which the paper did not run there"
