"""How far G moved: the right number, at the right times, in the record, and no number of a run is changed by it."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from lodo.diagnostics import dense
from lodo_experiments.analysis.displacement import displacement_table, still_table
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.results.records import Record
from lodo_experiments.studies.run_records import arrays_of, join
from lodo_experiments.tasks.noisy_bowl import noisy_bowl
from lodo_experiments.training import displacement
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.displacement import inverse_hessian_displacement
from lodo_experiments.training.loop import train
from lodo_experiments.utils.time_limit import OutOfTime

TUNED = {"initial_learning_rate": 0.270, "meta_learning_rate": 0.00096, "momentum": 0.195}


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture(scope="module")
def bowl():
    return noisy_bowl(6)


def lodo_run(bowl, **more):
    return train(
        bowl, optimizer_named("LODO"), steps=60, seeds=[3, 4], hyperparameters=TUNED, chunk=7, measure_every=10, **more
    )


def watched_run(bowl, **more):
    return lodo_run(bowl, displacement=inverse_hessian_displacement, displacements=3, **more)


@pytest.fixture(scope="module")
def run(bowl):
    return watched_run(bowl)


@pytest.mark.exhaustive
def test_asking_for_it_changes_no_number(bowl, run):
    without = lodo_run(bowl)
    np.testing.assert_array_equal(run.losses, without.losses)
    for name, measured in without.measured.items():
        np.testing.assert_array_equal(run.measured[name], measured)
    jax.tree.map(np.testing.assert_array_equal, run.params, without.params)
    assert without.displacement.shape == (2, 0)
    assert "inverse_hessian_displacement" not in arrays_of(without)


def test_it_is_the_distance_of_the_dense_matrix(run):
    G = np.asarray(jax.vmap(dense)(run.optimizer_state))
    alpha0, identity = TUNED["initial_learning_rate"], np.eye(6)
    distance = np.linalg.norm(G - alpha0 * identity, axis=(1, 2)) / (alpha0 * math.sqrt(6))
    assert (distance > 0.01).all()
    np.testing.assert_allclose(run.displacement[:, -1], distance, rtol=1e-10)
    assert run.displacement_steps.tolist() == [0, 20, 40, 60]
    np.testing.assert_allclose(run.displacement[:, 0], 0, atol=1e-12)


def test_probes_estimate_it_where_a_dense_matrix_is_too_much(run, monkeypatch):
    jax.clear_caches()
    monkeypatch.setattr(displacement, "PROBES", 5)
    estimate = inverse_hessian_displacement(run.optimizer_state)
    monkeypatch.undo()
    jax.clear_caches()
    assert not np.array_equal(estimate, run.displacement[:, -1])
    np.testing.assert_allclose(estimate, run.displacement[:, -1], rtol=0.5)


def test_g_that_learns_nothing_does_not_move_and_others_have_none(bowl):
    def moved(name, **values):
        asked = {"displacement": inverse_hessian_displacement, "displacements": 2}
        return train(bowl, optimizer_named(name), steps=20, seeds=[0], hyperparameters=values, **asked).displacement

    np.testing.assert_allclose(moved("LODO", meta_learning_rate=0.0), 0, atol=1e-12)
    assert moved("Momentum").shape == (1, 0)
    assert moved("LODO-Dense", **TUNED)[0, -1] > 1e-4


def test_a_run_that_was_stopped_has_the_same(bowl, run, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state", every=0.0)
    seen = iter([False, False, False, False, True])

    class Ends(Checkpoint):
        def out_of_time(self):
            return next(seen, False)

    with pytest.raises(OutOfTime):
        watched_run(bowl, checkpoint=Ends(checkpoint.path, every=math.inf))
    again = watched_run(bowl, checkpoint=checkpoint)
    np.testing.assert_array_equal(again.displacement, run.displacement)
    np.testing.assert_array_equal(again.displacement_steps, run.displacement_steps)


def test_a_record_has_it_and_joined_records_too(run):
    arrays = arrays_of(run)
    stated = {"seeds": [0, 1], "wall_seconds": 1.0, "compile_seconds": 0.0}
    values = {"settings": {}, "steps": 60}
    one = Record("bowl/LODO", arrays, values, stated)
    both = join(one, dataclasses.replace(one, provenance={**stated, "seeds": [2, 3]}))
    assert both.arrays["inverse_hessian_displacement"].shape == (4, 4)
    assert both.arrays["displacement_steps"].tolist() == [0, 20, 40, 60]


def test_tables_say_how_far_g_moved_and_what_its_layers_changed():
    def record(scores, rate=0.5, **arrays):
        rates = {"initial_learning_rate": rate, "meta_learning_rate": 1e-3}
        settings = {"steps": 60, "hyperparameters": rates}
        return Record(
            "bowl/LODO",
            {"scores": np.array(scores), **arrays},
            {"hyperparameters": rates, "steps": 60, "settings": settings},
            {"seeds": list(range(len(scores))), "preset": "smoke"},
        )

    spectrum = np.array([[0.5, 1.0], [0.5, 0.5]])  # of G where α₀ = 0.5: the distance is √mean (λ/α₀ − 1)²
    runs = {"of a spectrum": record([1.0, 2.0], spectrum=spectrum), "Momentum": record([1.0, 2.0])}
    (row,) = displacement_table(runs)
    assert (row["run"], row["least"], row["most"]) == ("of a spectrum", 0.0, pytest.approx(math.sqrt(0.5)))
    deep = {"LODO-depth-0": record([1.0, 2.0]), "LODO-depth-4": record([0.75, 2.5])}
    (row,) = still_table(deep)
    assert (row["minus LODO-depth-0, mean"], row["largest on a seed"]) == (0.125, 0.5)
    assert still_table({"LODO-depth-4": deep["LODO-depth-4"]}) == []
