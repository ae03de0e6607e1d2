"""Sentences that pages say of their records: who ends lower than LODO, and whether its G moved."""

from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.report import answers, displacement_figures
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results

RESULTS = Path(__file__).resolve().parents[2] / "results"
SEEDS = np.arange(4)


def record(scores, moved=None, name="LODO"):
    arrays = {"scores": np.array(scores, dtype=float)}
    if moved is not None:
        arrays |= {"displacement_steps": np.arange(0, 101, 10), "inverse_hessian_displacement": np.array(moved)}
    values = {"hyperparameters": {"meta_learning_rate": 6.5e-6}, "settings": {}}
    return Record(f"bowl/{name}", arrays, values, {"preset": "laptop", "seeds": list(range(len(scores)))})


def test_each_optimizer_is_on_one_side():
    spread = np.array([0.0, 0.1, -0.1, 0.05])
    runs = {
        "LODO": record(2 + 0 * spread),
        "low": record(1 + spread),
        "lower": record(0.5 + spread),
        "high": record(3 + spread),
        "near": record(2 + spread),
        "lost": record([0.1, 0.1, 0.1, np.nan]),
    }
    found = answers.sides(runs)
    assert found == {"below": ["lower", "low"], "above": ["high"], "between": ["near"], "few": [], "diverged": ["lost"]}
    text = answers.standing(runs, "loss")
    assert "By loss" in text
    assert "lower and low end below LODO; high ends above it; near cannot be told apart from it" in text
    assert "runs of lost diverged" in text


def test_few_pairs_are_told_apart_by_nothing():
    runs = {"LODO": record([2.0, 2.0]), "low": record([1.0, 1.001])}
    assert answers.sides(runs)["few"] == ["low"]
    few = "low ends below LODO on both shared seeds: too few for an interval."
    assert answers.standing(runs) == f"In training loss {few}"
    runs = {"LODO": record(2 + SEEDS / 10), "many": record(1 + SEEDS / 9), "low": record([1.0, 1.001])}
    assert answers.standing(runs).endswith(f"many ends below LODO; none ends above it. {few}")
    assert answers.standing({"LODO": runs["LODO"]}) is None
    for ends, share in (([3.0, 3.0], "none of the 2"), ([1.0, 3.0], "1 of the 2"), ([1.0, 1.0, 1.0], "all 3")):
        told = answers.standing({"LODO": record([2.0] * len(ends)), "one": record(ends)})
        assert f"one ends below LODO on {share} shared seeds:" in told
    for end, where in ((1.0, "below"), (3.0, "above")):
        alone = answers.standing({"LODO": record([2.0]), "one": record([end])}, "loss")
        assert alone == f"In loss one ends {where} LODO on the one shared seed: too few for an interval."


def test_a_failed_tuning_is_said_to_rank_nothing():
    runs = {"LODO": record(2 + SEEDS / 10), "LODO-No-Momentum": record(1 + SEEDS / 9)}
    assert answers.standing(runs).startswith("This ranks no method, as the tuning failed: by training loss")


def test_what_was_not_measured_is_said_with_the_rate():
    text = answers.movement(record(SEEDS))
    assert "was not measured" in text
    assert "meta-learning rate is 6.5e-06" in text


@pytest.mark.parametrize(("end", "moves"), [(0.05, False), (0.5, True)])
def test_a_matrix_that_hardly_moved_is_momentum(end, moves):
    text = answers.movement(record(SEEDS, np.linspace(0, [end] * 4, 11).T))
    assert f"is {end:.2g} (mean" in text
    assert ("momentum SGD" not in text) is moves


def test_late_growth_is_told_of_the_run_that_has_it():
    calm = np.linspace(0, 1, 11)
    wild = np.where(np.arange(11) > 7, 5.0, 0.25)
    text = answers.late_growth(record([1.0, 1.0], [calm, wild]))
    assert text == "In the run of seed 1 it goes from 0.25 to 5 in the last 30 of 100 steps."
    assert answers.late_growth(record([1.0], [calm])) == ""
    assert answers.late_growth(record([1.0])) == ""
    ends = record([1.0], [[0.0, 1.0]])
    ends.arrays["displacement_steps"] = np.array([0, 100])
    assert answers.late_growth(ends) == ""  # of two measurements nothing is late


def test_the_desktop_record_says_both_of_its_runs():
    found = stored_results.load_all(RESULTS, "image_generation", "desktop").runs["LODO"]
    assert "is 0.34 and 2.4 in its 2 runs" in answers.movement(found)
    assert answers.late_growth(found).startswith("In the run of seed 1 it goes from 0.24 to 2.4 in the last 900 of")


def test_displacement_has_a_line_for_each_run_that_measured_it():
    calm = np.linspace(0, 1, 11)
    runs = {"LODO": record([1.0, 1.0], [calm, 2 * calm]), "Adam": record([1.0, 1.0], name="Adam")}
    drawn = displacement_figures.displacement_curves(runs)
    assert [trace.name for trace in drawn.data] == ["LODO, seed 0", "LODO, seed 1"]
    assert len({trace.line.dash for trace in drawn.data}) == 2
    assert drawn.data[1].y[-1] == 2
    many = displacement_figures.displacement_curves({"LODO": record(np.ones(8), [calm] * 8)})
    assert [trace.showlegend for trace in many.data] == [True] + [False] * 7
    with pytest.raises(ValueError, match="None of the records of Adam"):
        displacement_figures.displacement_curves({"Adam": runs["Adam"]})


def test_the_way_there_is_told_in_two_places():
    def one(*validation):
        return Record(
            "bowl/x", {"measured_steps": np.array([0, 50, 100]), "measured.validation_loss": np.array(validation)}, {}
        )

    runs = {
        "Adam": one([3.0, 2, 1], [3.0, 2.5, 1]),
        "LODO": one([3.0, 2, 1.5], [3.0, np.nan, np.nan]),
        "none": record([1.0]),
    }
    expected = (
        "LODO 2.000 at step 50 and 1.500 at the end (1 run); Adam 2.250 at step 50 and 1.000 at the end (2 runs)."
    )
    assert answers.on_the_way(runs) == f"In validation loss: {expected}"
    assert answers.on_the_way({"none": record([1.0]), "lost": one([3.0, np.nan, np.nan])}) == ""


def test_short_trials_may_tell_less_apart_than_the_runs():
    def trials(*scores):
        arrays = {"generation": np.array([0, 0, 1, 1]), "steps": np.array([5, 5, 800, 800]), "score": np.array(scores)}
        return Record("bowl/x/tuning", arrays, {})

    def trained(scores, *curve):
        one = record(scores)
        curve = {"curve_steps": np.array([700, 760, 800, 900]), "curve": np.array([curve] * len(scores))}
        return Record(one.kind, {**one.arrays, **curve}, one.values, one.provenance)

    runs = {
        "Adam": trained([0.8, 0.9], 9, 1.3, 1.1, 0),
        "LODO": trained([1.1, 1.2], 9, 2, 4, 0),
        "alone": record([1.0]),
    }
    tuning = {"LODO": trials(0.1, 0.2, 1.02, np.nan), "Adam": trials(0.1, 0.1, 1.5, 1.0)}
    said = answers.of_search(runs, tuning)
    assert "of 800 steps, the best losses were LODO 1.020 and Adam 1.000: the greatest is" in said
    assert "is 2.0% above the least there, and 35.3% in the runs. Over as many steps the tuned values have" in said
    assert said.endswith("have LODO 3.000 and Adam 1.200.")  # over the last tenth of those
    assert answers.of_search(runs, {"LODO": tuning["LODO"]}) == ""
    lost = runs | {"Adam": record([np.nan, 0.9])}
    assert answers.of_search(lost, tuning) == ""


def test_what_learning_changes_is_told_at_the_same_values():
    def run(scores, rate=0.1):
        found = record(scores)
        found.values["hyperparameters"].update(initial_learning_rate=rate, momentum=0.9)
        return found

    lodo = run([1.0, 1.2])
    assert answers.of_learning(lodo, run([1.1, 1.3])).endswith("ends 0.100 above LODO's on the 2 shared seeds.")
    assert answers.of_learning(lodo, run([0.5])).endswith("ends 0.500 below LODO's on the one shared seed.")
    for nothing in (None, run([1.0], rate=0.2), run([np.nan])):
        assert answers.of_learning(lodo, nothing) == ""
