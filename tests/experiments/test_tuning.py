"""The evolution strategy: its coordinates, its selection, and that it finds what is known."""

import numpy as np
import pytest

from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.studies import registry
from lodo_experiments.tasks.noisy_bowl import noisy_bowl
from lodo_experiments.training import tuning
from lodo_experiments.training.loop import train
from lodo_experiments.training.tuning import better_half, denormalise, normalise, tune

pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture(scope="module")
def tuned():
    task = noisy_bowl(4)
    schedule = [Generation(3.0, 60, 12), Generation(2.0, 120, 12), Generation(1.0, 180, 12)]
    return task, schedule, tune(task, optimizer_named("Momentum"), schedule, chunk=60)


def test_coordinates_round_trip():
    for name, values in (("learning_rate", [1e-5, 1.0, 30.0]), ("momentum", [0.0, 0.5, 0.999])):
        for value in values:
            assert float(denormalise(name, np.array(normalise(name, value)))) == pytest.approx(
                value, rel=1e-12, abs=1e-15
            )
    assert denormalise("b2", np.array(0.7)) == 0.0  # clipped: log(1 - h) above 0 would be a negative decay


def test_better_half_counts_nan_as_worst():
    coordinates = np.arange(12.0).reshape(6, 2)
    scores = np.array([3.0, np.nan, 1.0, 2.0, np.nan, np.inf])
    np.testing.assert_array_equal(better_half(coordinates, scores), coordinates[[2, 3, 0]].mean(axis=0))
    np.testing.assert_array_equal(better_half(coordinates, np.full(6, np.nan)), coordinates.mean(axis=0))


def test_finds_better_values_than_the_defaults(tuned):
    task, _, found = tuned
    report = {"steps": 600, "seeds": list(range(8)), "chunk": 60}
    before = train(task, optimizer_named("Momentum"), **report)
    after = train(task, optimizer_named("Momentum"), hyperparameters=found.hyperparameters, **report)
    assert after.scores.mean() < 0.5 * before.scores.mean()
    # The default rate of 0.01 is far too small here; the steepest direction allows up to 2.
    assert 0.02 < found.hyperparameters["learning_rate"] < 4


def test_the_same_seed_gives_the_same_trials_and_another_gives_others(tuned):
    task, schedule, found = tuned
    again = tune(task, optimizer_named("Momentum"), schedule, chunk=20)
    assert again.hyperparameters == found.hyperparameters
    for name, values in found.trials.items():
        np.testing.assert_array_equal(again.trials[name], values)
    other = tune(task, optimizer_named("Momentum"), schedule[:1], seed=1, chunk=60)
    assert other.trials["learning_rate"][0] != found.trials["learning_rate"][0]


def test_every_trial_is_recorded_with_its_generations_seed_apart_from_report_seeds(tuned):
    _, _, found = tuned
    assert len(found.trials["seed"]) == 36
    np.testing.assert_array_equal(np.unique(found.trials["seed"]), tuning.FIRST_TUNING_SEED + np.arange(3))
    np.testing.assert_array_equal(found.trials["seed"], tuning.FIRST_TUNING_SEED + found.trials["generation"])
    assert found.trials["seed"].min() >= tuning.FIRST_TUNING_SEED
    assert set(found.trials) == {"generation", "seed", "steps", "score", "learning_rate", "momentum"}
    trained = [one for one in registry.EXPERIMENTS.values() if one.parts is None]
    reported = max(one.preset(name).seeds for one in trained for name in PRESETS)
    assert reported < tuning.FIRST_TUNING_SEED


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizers_defaults_have_coordinates(name):
    for parameter, value in optimizer_named(name).defaults.items():
        assert np.isfinite(normalise(parameter, value))


def test_presets_are_whole_and_the_papers_numbers_are_the_papers():
    for experiment in registry.EXPERIMENTS.values():
        presets = {name: experiment.preset(name) for name in PRESETS}
        assert all(preset.name == name for name, preset in presets.items())
        if experiment.parts is None:
            assert all(optimizer_named(name) for preset in presets.values() for name in preset.optimizers)
            assert presets["smoke"].optimizer_steps() <= presets["paper"].optimizer_steps()
    bowl = registry.named("noisy_bowl").preset("paper")
    assert (bowl.steps, bowl.seeds, bowl.size, len(bowl.optimizers)) == (100_000, 8, 100, 9)
    assert [(g.deviation, g.steps, g.population) for g in bowl.schedule][3:5] == [(3, 10_000, 32), (2, 10_000, 32)]
    images = registry.named("image_generation").preset("paper")
    assert (images.steps, images.seeds, images.batch_size, images.rate_factor) == (300_000, 8, 256, 0.5)
    with pytest.raises(ValueError, match="There is no preset 'big'; there are smoke"):
        registry.named("noisy_bowl").preset("big")
    with pytest.raises(ValueError, match="There is no experiment 'bowl'; there are noisy_bowl"):
        registry.named("bowl")


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1.0, 10, 4), "deviation"), ((1.0, 0, 4), "steps"), ((1.0, 10, 1), "population")]
)
def test_bad_generations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Generation(*arguments)


def test_an_empty_schedule_is_refused():
    with pytest.raises(ValueError, match="at least one generation"):
        tune(noisy_bowl(4), optimizer_named("Adam"), [])
