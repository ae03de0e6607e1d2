"""Replays: stored records computed again, what today's code changes in them seen, and what changes nothing not."""

import dataclasses
import errno
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from lodo_experiments.cli import replay as command
from lodo_experiments.config.paths import kept_folder
from lodo_experiments.config.presets import BowlPreset, RosenbrockPreset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.config.theory_presets import REPRESENTABILITY
from lodo_experiments.optimizers import names, search_spaces
from lodo_experiments.report import figures
from lodo_experiments.results import records, replays
from lodo_experiments.results.replays import CLOSE, DIFFERS, EQUAL, SKIPPED, Pass, Replay, Replays
from lodo_experiments.studies import registry, replay
from lodo_experiments.tasks import noisy_bowl

OPTIMIZERS = ("LODO", "Adam", "Momentum")
_AMOUNTS = {"name": "paper", "seeds": 2, "optimizers": OPTIMIZERS, "schedule": (Generation(1.0, 20, 4),)}
TINY = {
    "noisy_bowl": BowlPreset(steps=1_000, measure_every=100, size=4, **_AMOUNTS),
    "rosenbrock": RosenbrockPreset(steps=40, measure_every=1, **_AMOUNTS),
}


@pytest.fixture(scope="module")
def tiny_presets():
    """The paper's preset of two experiments, made small."""
    with pytest.MonkeyPatch.context() as patch:
        for name, tiny in TINY.items():
            one = registry.EXPERIMENTS[name]
            patch.setitem(registry.EXPERIMENTS, name, dataclasses.replace(one, presets={**one.presets, "paper": tiny}))
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_presets):
    """Twelve tiny records: two tasks, three optimizers, their tunings and their runs."""
    folder = tmp_path_factory.mktemp("results")
    with jax.enable_x64(True):
        for experiment in TINY:
            study = registry.build(experiment, "paper", results_dir=str(folder), show=False)
            for name in OPTIMIZERS:
                study.run(name)
    return folder


#: Its tasks are made once, so that what a test does not change is compiled once.
REPLAYER = replay.Replayer()


def replayed(folder, replayer=REPLAYER):
    """Every record's name, shortened, with what its replay finds."""
    found = ((target, replayer.one(target)) for target in replay.targets(folder, ("paper",)))
    return {target.name.removeprefix("paper/"): result for target, result in found}


EVERY = {f"{task}/{name}{end}" for task in TINY for name in OPTIMIZERS for end in ("", "-tuning")}


def test_every_record_replays_to_the_bit(results):
    found = replayed(results)
    assert found.keys() == EVERY
    assert {result.state for result in found.values()} == {EQUAL}
    assert (found["noisy_bowl/LODO"].steps, found["noisy_bowl/LODO"].runs) == (400, 2)
    assert (found["rosenbrock/LODO-tuning"].steps, found["rosenbrock/LODO-tuning"].runs) == (20, 4)


def with_build(monkeypatch, name, build):
    other = dataclasses.replace(search_spaces.OPTIMIZERS[name], build=build)
    monkeypatch.setattr("lodo_experiments.optimizers.names.KNOWN", {**names.KNOWN, name: other})


def another_epsilon(monkeypatch):
    with_build(monkeypatch, "Adam", lambda h, key, steps: optax.adam(**h, eps=1e-6))


def another_momentum(monkeypatch):
    with_build(monkeypatch, "Momentum", lambda h, key, steps: optax.sgd(h["learning_rate"], h["momentum"] + 1e-6))


def another_noise(monkeypatch):
    def sample_with(drift):
        def sample(data, centre, key):
            batch, centre = before(drift)(data, centre, key)
            return batch._replace(centre=batch.centre + 1e-6), centre

        return sample

    before = noisy_bowl._sample_with
    monkeypatch.setattr(noisy_bowl, "_sample_with", sample_with)


def another_start(monkeypatch):
    before = search_spaces.OPTIMIZERS["LODO"].build
    with_build(
        monkeypatch,
        "LODO",
        lambda h, key, steps: before(
            {**h, "initial_learning_rate": h["initial_learning_rate"] * (1 + 1e-6)}, key, steps
        ),
    )


def of(name):
    return {one for one in EVERY if one.partition("/")[2].removesuffix("-tuning") == name}


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (another_epsilon, of("Adam")),
        (another_momentum, of("Momentum")),
        (another_noise, {name for name in EVERY if name.startswith("noisy_bowl/")}),
        (another_start, of("LODO")),
    ],
)
def test_a_constant_of_the_arithmetic_makes_the_right_records_differ(results, monkeypatch, mutate, expected):
    mutate(monkeypatch)
    found = replayed(results, replay.Replayer() if mutate is another_noise else REPLAYER)
    assert {name for name, result in found.items() if result.state == DIFFERS} == expected


def renamed_module(monkeypatch):
    monkeypatch.setattr(noisy_bowl.noisy_bowl, "__module__", "lodo_experiments.tasks.another_name")
    monkeypatch.setattr(search_spaces.Optimizer, "__module__", "lodo_experiments.optimizers.another_name")


def another_figure(monkeypatch):
    monkeypatch.setattr(figures, "line_of", lambda *_, **__: None)


@pytest.mark.parametrize("mutate", [renamed_module, another_figure])
def test_what_computes_nothing_makes_none_differ(results, monkeypatch, mutate):
    mutate(monkeypatch)
    assert {result.state for result in replayed(results).values()} == {EQUAL}


def altered(results, tmp_path, name, **changes):
    """A copy of a record, some of its arrays replaced, alone in a folder."""
    record = records.load(results / "paper" / f"{name}.npz")
    arrays = {**record.arrays, **{n: change(record.arrays[n]) for n, change in changes.items()}}
    records.save(tmp_path / "paper" / f"{name}.npz", dataclasses.replace(record, arrays=arrays))
    return replayed(tmp_path)[name]


def test_rounding_is_told_from_other_numbers(results, tmp_path):
    assert altered(results, tmp_path, "noisy_bowl/Adam", curve=lambda a: a * (1 + 1e-14)).state == CLOSE
    shifted = altered(results, tmp_path, "noisy_bowl/Adam", curve=lambda a: a + 1e-6 * (np.arange(a.shape[1]) >= 50))
    # A point of the curve is a mean over two steps.
    assert (shifted.state, shifted.first_difference) == (DIFFERS, 100)
    assert shifted.words.startswith("curve was ")


def test_a_score_that_no_trial_gives_differs(results, tmp_path):
    found = altered(results, tmp_path, "rosenbrock/Adam-tuning", score=lambda a: a * (1 + 1e-6))
    assert (found.state, found.words.split()[0]) == (DIFFERS, "score")


def test_values_that_the_trials_do_not_lead_to_differ(results, tmp_path):
    path = "paper/rosenbrock/Adam-tuning.npz"
    record = records.load(results / path)
    found = {**record.values["hyperparameters"], "b1": 0.5}
    records.save(tmp_path / path, dataclasses.replace(record, values={**record.values, "hyperparameters": found}))
    result = replayed(tmp_path)["rosenbrock/Adam-tuning"]
    assert (result.state, result.words.split()[:2]) == (DIFFERS, ["b1", "was"])


def test_a_search_from_another_seed_is_replayed_from_that_seed(tmp_path):
    name = "paper/noisy_bowl_retuned_1/LODO-tuning.npz"
    (tmp_path / name).parent.mkdir(parents=True)
    shutil.copy(kept_folder() / name, tmp_path / name)
    (result,) = replayed(tmp_path, replay.Replayer()).values()
    assert result.state in (EQUAL, CLOSE), result.words


def test_the_beginning_of_a_run_is_that_of_the_whole(tiny_presets):
    with jax.enable_x64(True):
        study = registry.build("noisy_bowl", "paper", show=False)
        adam = search_spaces.OPTIMIZERS["Adam"]
        whole, begun = (
            replay.train(study.task, adam, steps=1_000, seeds=[0], measure_every=100, chunk=100, stop_after=stop)
            for stop in (0, 250)
        )
    assert begun.losses.shape == (1, 300)
    np.testing.assert_array_equal(begun.losses, whole.losses[:, :300])
    np.testing.assert_array_equal(begun.measured_steps, [0, 100, 200, 300])


def test_what_cannot_be_replayed_is_skipped_with_a_word(results, tmp_path):
    (one,) = (one for one in replay.targets(results, ("paper",)) if one.name == "paper/noisy_bowl/Adam")
    record, replayer = records.load(results / one.spec.path), replay.Replayer(data_dir=str(tmp_path))

    def words(experiment="noisy_bowl", **changes):
        spec = dataclasses.replace(one.spec, experiment=experiment, kind=f"{experiment}/Adam", **changes)
        records.save(tmp_path / spec.path, dataclasses.replace(record, kind=spec.kind))
        found = replayer.one(replay.Target(registry.named(experiment), spec, tmp_path))
        assert found.state == SKIPPED
        return found.words

    assert "size was 4, now 100" in words(settings={**one.spec.settings, "size": 100})
    assert "mnist" in words("image_generation", settings=None)
    assert words("noisy_bowl_frozen", settings=None).startswith("it starts from what another training has learned")


def test_a_part_of_the_theory_is_cut_to_one_value(tmp_path):
    part = registry.EXPERIMENTS["representability"].parts(REPRESENTABILITY["smoke"], tmp_path)["ranks"]
    path = tmp_path / "smoke" / "representability" / "ranks.npz"
    whole = records.Record("representability/ranks", part.compute().arrays, {"settings": part.settings})
    records.save(path, whole)
    (one,) = replay.targets(tmp_path, ("smoke",))
    assert replay.Replayer().one(one).state == EQUAL
    ranks = {**whole.arrays, "rank": whole.arrays["rank"] + (np.arange(len(whole.arrays["rank"])) == 3)}
    records.save(path, dataclasses.replace(whole, arrays=ranks))
    assert replay.Replayer().one(one).words == f"rank was {ranks['rank'][3]}, now {ranks['rank'][3] - 1}"


def test_command_stores_what_it_finds_and_fails_where_a_record_differs(results, monkeypatch, capsys):
    arguments = ["--results-dir", str(results), "--preset", "paper"]
    assert command.main([*arguments, "--only", "noisy_bowl/Adam"]) == 0
    assert "2 records in" in capsys.readouterr().out
    stored = Replays(results)
    assert stored.by_name.keys() == {"paper/noisy_bowl/Adam", "paper/noisy_bowl/Adam-tuning"}
    record = records.load(results / "paper" / "noisy_bowl" / "Adam.npz")
    assert stored.of(record).state == EQUAL
    assert stored.of(record).by.versions["jax"] == records.version_of("jax")
    assert stored.of(dataclasses.replace(record, values={**record.values, "made": "again"})) is None
    another_epsilon(monkeypatch)
    assert command.main([*arguments, "--only", "noisy_bowl"]) == 1
    printed = capsys.readouterr()
    assert "paper/noisy_bowl/Adam: differs from step" in printed.err
    assert "4 equal, 2 differs" in printed.out
    assert Replays(results).differing([record]) == ["noisy_bowl/Adam"]
    monkeypatch.undo()
    assert command.main([*arguments, "--only", "noisy_bowl"]) == 0
    assert len(json.loads((results / replays.FILE).read_text(encoding="utf-8"))["passes"]) == 1
    assert command.main([*arguments, "--only", "nothing"]) == 2


def test_a_damaged_record_is_named_and_the_others_are_replayed(results, tmp_path, monkeypatch, capsys):
    for name in ("Adam", "Momentum"):
        path = Path("paper", "noisy_bowl", f"{name}.npz")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(results / path, tmp_path / path)
    (tmp_path / "paper" / "noisy_bowl" / "Adam.npz").write_bytes(b"torn")
    monkeypatch.setattr(command.Replayer, "_runs", lambda *_: Replay("", EQUAL))
    arguments = ["--results-dir", str(tmp_path), "--preset", "paper"]
    assert command.main(arguments) == 2
    said = capsys.readouterr()
    assert "2 records in" in said.out
    assert "1 equal, 1 damaged" in said.out
    assert re.search(r"^paper/noisy_bowl/Adam: .*Adam\.npz is damaged", said.err)
    assert Replays(tmp_path).by_name.keys() == {"paper/noisy_bowl/Momentum"}


def test_a_folder_that_cannot_be_written_to_is_said(results, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(replays, "open_atomically", full)
    monkeypatch.setattr(command.Replayer, "one", lambda *_: Replay("", EQUAL))
    assert command.main(["--results-dir", str(results), "--preset", "paper"]) == 74
    assert re.search(r"replay\.json cannot be written: No space left", capsys.readouterr().err)


@pytest.mark.parametrize("seconds", ["nan", "-1.0", "0.0"])
def test_a_time_in_which_nothing_can_be_replayed_is_refused(tmp_path, capsys, seconds):
    assert command.main(["--results-dir", str(tmp_path), "--seconds", seconds]) == 2
    assert f"--seconds must be from 0.001 to 1,000,000; got {seconds}." in capsys.readouterr().err


def test_results_of_records_that_are_gone_are_dropped_and_damage_is_told(tmp_path):
    by = Pass("a" * 40, "2026-12-02T00:00:00+00:00", {}, "cpu")
    records.save(tmp_path / "paper" / "a" / "b.npz", records.Record("a/b", {}))
    given = {name: Replay("0", EQUAL, by=by) for name in ("paper/a/b", "paper/a/gone")}
    Replays(tmp_path).save(given)
    assert Replays(tmp_path).by_name == {"paper/a/b": given["paper/a/b"]}
    (tmp_path / replays.FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(records.RecordError, match=r"replay\.json is damaged.*make replay"):
        Replays(tmp_path)
