"""The runner: what it asks of a study, what it refuses, and how it says that time is over."""

import re

import numpy as np
import pytest

from lodo_experiments.cli import run
from lodo_experiments.results import records
from lodo_experiments.studies import registry
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy

ROSENBROCK = ["rosenbrock", "--only", "Momentum"]


@pytest.fixture
def folder(tmp_path):
    return ["--results-dir", str(tmp_path)]


def test_one_optimizer_is_tuned_and_run_and_its_tuning_can_be_verified(folder, tmp_path, capsys):
    assert run.main([*ROSENBROCK, *folder]) == 0
    assert re.match(r"rosenbrock/Momentum: .* \(4 runs, 0 diverged\); preset smoke", capsys.readouterr().out)
    assert run.main([*ROSENBROCK, *folder, "--verify"]) == 0
    assert "rosenbrock/Momentum/tuning: the same 64 trials, to the last bit" in capsys.readouterr().out
    assert run.main([*ROSENBROCK, *folder, "--tuning"]) == 0
    assert "64 trials: learning_rate" in capsys.readouterr().out
    path = tmp_path / "smoke" / "rosenbrock" / "Momentum-tuning.npz"
    record = records.load(path)
    record.arrays["score"][3] += 1e-9
    records.save(path, record)
    assert run.main([*ROSENBROCK, *folder, "--verify"]) == run.REFUSED
    assert "1 of 64 trials differ in score from the record" in capsys.readouterr().err


def test_time_that_is_over_is_said_and_nothing_is_lost(folder, capsys):
    assert run.main([*ROSENBROCK, *folder, "--minutes", "0.0001"]) == run.GO_ON
    assert "The same command goes on from there" in capsys.readouterr().err
    assert run.main([*ROSENBROCK, *folder]) == 0


def test_an_experiment_without_training_is_computed_part_by_part_and_once(folder, capsys, monkeypatch):
    command = ["learning_dynamics", "--seeds", "1", *folder]
    made = []

    def part(name):
        return Part({"seeds": 1}, [0], lambda: made.append(name) or Computed({"x": np.ones(1)}, {}))

    monkeypatch.setattr(DynamicsStudy, "parts", lambda self: {name: part(name) for name in ("decay", "ball")})
    assert run.main([*command, "--minutes", "0.0000001"]) == run.GO_ON
    assert run.main([*command, "--only", "ball"]) == 0
    assert made == ["ball"]
    assert run.main(command) == run.main(command) == 0
    assert made == ["ball", "decay"]
    assert capsys.readouterr().out.count("learning_dynamics/ball; preset smoke") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rosenbrock", "--only", "Adm"], "There is no optimizer 'Adm'; there are LODO"),
        (["rosenbrock", "--variant", "parts"], "rosenbrock has no variant 'parts'"),
        (["representability", "--only", "Adam"], "representability has no part Adam at smoke; it has ranks, defaults,"),
        (["representability", "--tuning"], "representability is made of parts, of which --only takes some"),
        (["small", "--only", "Adam"], "a plan says them itself"),
        (["noisy_bowl", "--seeds", "-1"], "--seeds must be from 0 to 1,000; got -1"),
        (["learning_dynamics", "--seeds", "-1"], "--seeds must be from 0 to 1,000; got -1"),
        (["noisy_bowl", "--apart", "0", "-1"], "--apart must be from 0 to 999; got -1"),
        (["noisy_bowl", "--apart", "9" * 20], "--apart must be from 0 to 999; got 9{20}"),
        (["small", "--minutes", "-1"], "--minutes must be from 0 to 1,000,000; got -1"),
        (["noisy_bowl", "--minutes", "nan"], "--minutes must be from 0 to 1,000,000; got nan"),
        (["rosenbrock", "--tuning", "--verify"], "--tuning and --verify do not go together"),
        (["rosenbrock", "--apart", "1", "--tuning"], "--apart and --tuning do not go together"),
        (["rosenbrock", "--accelerator"], "sees no accelerator here, only the CPU"),
        (["rosenbrock", "--verify", "--only", "Adam"], r"There is no record .*Adam-tuning\.npz"),
        (
            ["image_generation", "--preset", "paper", "--data-dir", "/nowhere"],
            "mnist 3.0.1 is not prepared in /nowhere",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(folder, capsys, arguments, message):
    assert run.main([*arguments, *folder]) == run.REFUSED
    assert re.search(message, capsys.readouterr().err)


def test_plans_hold_every_experiment_that_trains_and_one_seed_of_each_first():
    networks, small = (run.plan(name, "paper") for name in ("networks", "small"))
    generation = [("image_generation", variant) for variant in ("", "ablations", "others")]
    whole = [*generation, ("image_classification", ""), ("image_classification", "others")]
    assert [(part.experiment, part.variant) for part in networks] == 2 * whole
    assert [part.seeds for part in networks] == [1] * len(whole) + [0] * len(whole)
    trained = [one for one in registry.EXPERIMENTS.values() if one.parts is None and "paper" in one.listed]
    declared = {(one.base.name if one.base else one.name, one.variant) for one in trained if not one.dataset("paper")}
    assert {(part.experiment, part.variant) for part in small} == declared
    assert {("rosenbrock", ""), ("rosenbrock", "defaults"), ("noisy_bowl", ""), ("noisy_bowl", "ablations")} < declared


def test_the_frozen_bowl_keeps_what_another_run_learned(tmp_path):
    with run.jax.enable_x64(True):
        bowl = registry.build("noisy_bowl", "smoke", seeds=1, results_dir=str(tmp_path), show=False)
        bowl = bowl.with_preset(steps=400)
        studies = registry.variant_of(bowl, "frozen")
        frozen = {name: own.run("LODO") for name, own in zip(("frozen", "learning on"), studies, strict=True)}
        (nothing,) = (own.run("LODO") for own in registry.variant_of(bowl, "authors"))
    error = {name: record.arrays["measured.inverse_hessian_error"][0] for name, record in frozen.items()}
    assert np.ptp(error["frozen"]) == 0  # θ does not move
    assert np.ptp(error["learning on"]) > 0
    # Both start where 400 steps of learning lead (with other seeds), not where LODO starts.
    assert error["frozen"][0] == error["learning on"][0] != nothing.arrays["measured.inverse_hessian_error"][0, 0]
    assert error["frozen"][0] == pytest.approx(nothing.arrays["measured.inverse_hessian_error"][0, -1], abs=0.05)


def test_float64_experiments_are_refused_in_float32():
    with run.jax.enable_x64(False), pytest.raises(ValueError, match="noisy_bowl is computed in float64"):
        registry.build("noisy_bowl", "smoke")
    assert registry.build("image_generation", "smoke", show=False).preset.dataset == "digits"
