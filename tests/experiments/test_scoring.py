"""Scores: a run's number, summaries with divergence, intervals, pairs, and times to a target."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from lodo_experiments.analysis import statistics
from lodo_experiments.report import figures
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.training_run import Run

PAPER = Path(__file__).resolve().parents[2] / "results" / "paper" / "noisy_bowl"
INF, NAN = math.inf, math.nan


def runs_of(losses):
    """A training's result of which nothing but the losses matters."""
    return Run(**{**{field.name: None for field in dataclasses.fields(Run)}, "losses": np.asarray(losses)})


def record(scores, seeds, *, kind="bowl/A", preset="smoke", settings=None, **facts):
    return Record(
        kind,
        {"scores": np.asarray(scores, dtype=float)},
        {"settings": settings or {}},
        {"preset": preset, "seeds": list(seeds), **facts},
    )


# One run's score


def test_a_score_is_the_mean_over_the_last_tenth_of_a_run_that_ended():
    losses = np.arange(1.0, 41.0) + np.zeros((3, 1))
    losses[1, 0], losses[2, -1] = np.nan, np.inf
    np.testing.assert_array_equal(runs_of(losses).scores, [np.mean([37, 38, 39, 40]), np.nan, np.nan])


# The interquartile mean


@pytest.mark.parametrize("count", [4, 8, 12, 100])
def test_iqm_is_the_trimmed_mean_where_four_divides_the_runs(count):
    values = np.random.default_rng(count).normal(size=(3, count))
    expected = scipy.stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(statistics.interquartile_mean(values), expected, rtol=1e-12)


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_the_trimmed_mean_of_every_value_taken_four_times(count):
    # Four copies of each value make a quarter of the weight a whole number of values.
    values = np.random.default_rng(count).normal(size=count)
    expected = scipy.stats.trim_mean(np.repeat(values, 4), 0.25)
    np.testing.assert_allclose(statistics.interquartile_mean(values), expected, rtol=1e-12)


def test_iqm_is_infinite_exactly_when_more_than_a_quarter_is():
    for count in range(1, 14):
        for lost in range(count + 1):
            value = statistics.interquartile_mean([1.0] * (count - lost) + [INF] * lost)
            assert value == (INF if 4 * lost > count else 1.0), (count, lost)


def test_iqm_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        statistics.interquartile_mean([])


# Summaries


def test_summary_by_hand():
    found = statistics.summarise([4.0, 1.0, 2.0, 100.0])
    assert (found.runs, found.diverged, found.mean, found.median, found.iqm) == (4, 0, 26.75, 3.0, 3.0)
    squares = sum((x - 26.75) ** 2 for x in (1, 2, 4, 100))
    assert found.std == pytest.approx(math.sqrt(squares / 3), rel=1e-14)


def test_intervals_of_two_runs_by_hand():
    # Draws of two: both ends have probability 1/4, more than the 2.5 % left out.
    found = statistics.summarise([1.0, 3.0])
    assert found.mean_interval == found.iqm_interval == (1.0, 3.0)
    # With 40 % confidence 30 % are left out at each end, so the middle draw (probability 1/2) is all there is.
    assert statistics.summarise([1.0, 3.0], confidence=0.4).mean_interval == (2.0, 2.0)


def test_mean_interval_is_that_of_every_possible_draw():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    draws = np.stack(np.meshgrid(*[values] * 5)).reshape(5, -1).mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert statistics.summarise(values, resamples=200_000).mean_interval == pytest.approx((low, high), abs=0.2)


def test_order_of_runs_does_not_matter_and_the_answer_is_repeatable():
    scores = np.random.default_rng(0).lognormal(size=9)
    scores[4] = np.nan
    expected = statistics.summarise(scores)
    for seed in range(5):
        assert statistics.summarise(np.random.default_rng(seed).permutation(scores)) == expected
    assert statistics.summarise(scores, seed=1).mean_interval != expected.mean_interval


def test_shift_and_scale_carry_over():
    scores = np.array([1.0, 2.0, 5.0, 7.0, 8.0])
    plain, moved = statistics.summarise(scores), statistics.summarise(4 * scores + 8)
    for name in ("mean", "median", "iqm", "mean_interval", "iqm_interval"):
        expected = 4 * np.asarray(getattr(plain, name)) + 8
        np.testing.assert_allclose(getattr(moved, name), expected, rtol=1e-12, err_msg=name)
    assert moved.std == pytest.approx(4 * plain.std)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_diverged_run_is_counted_and_is_the_worst(bad):
    found = statistics.summarise([1.0, bad, 3.0, 2.0, 4.0])
    assert (found.runs, found.diverged) == (5, 1)
    assert (found.mean, found.median) == (2.5, 3.0)
    assert found.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert found.iqm == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)
    assert found.mean_interval[1] <= 4.0
    assert found.iqm_interval[1] == INF  # two or more of five draws diverge too often for 95 %
    assert math.isfinite(found.iqm_interval[0])


def test_half_of_the_runs_diverged():
    found = statistics.summarise([1.0, NAN, 2.0, NAN])
    assert (found.mean, found.median, found.iqm) == (1.5, INF, INF)


def test_every_run_diverged():
    found = statistics.summarise([NAN, NAN, INF])
    assert (found.diverged, found.median, found.iqm, found.iqm_interval) == (3, INF, INF, (INF, INF))
    assert math.isnan(found.mean)
    assert math.isnan(found.std)
    assert np.isnan(found.mean_interval).all()


def test_a_single_run_has_no_interval():
    found = statistics.summarise([2.0])
    assert (found.mean, found.median, found.iqm) == (2.0, 2.0, 2.0)
    assert np.isnan([found.std, *found.mean_interval, *found.iqm_interval]).all()


def test_one_run_left_has_no_interval_of_the_mean():
    assert np.isnan(statistics.summarise([2.0, NAN, NAN]).mean_interval).all()


@pytest.mark.parametrize("runs", [8, 40])
def test_coverage_on_normal_scores_is_what_the_docstring_says(runs):
    """An interval of ±z·s·√((n−1)/n)/√n covers with a probability that Student's t gives."""
    generator, trials = np.random.default_rng(7), 2000
    hits = np.zeros(2)
    for trial in range(trials):
        found = statistics.summarise(generator.normal(5.0, 2.0, size=runs), resamples=500, seed=trial)
        hits += [low <= 5.0 <= high for low, high in (found.mean_interval, found.iqm_interval)]
    z = scipy.stats.norm.ppf(0.975) * math.sqrt((runs - 1) / runs)
    expected = 2 * scipy.stats.t.cdf(z, runs - 1) - 1
    # Four standard errors of a share of 2,000 trials are 0.028 at most, where the share is 0.89.
    assert hits[0] / trials == pytest.approx(expected, abs=0.028)
    assert 0.88 <= hits[1] / trials <= 0.97


def test_a_larger_confidence_gives_a_wider_interval():
    scores = np.random.default_rng(1).normal(size=10)
    widths = [np.ptp(statistics.summarise(scores, confidence=c).mean_interval) for c in (0.5, 0.9, 0.99)]
    assert widths == sorted(set(widths))


def test_batches_of_draws_make_no_difference(monkeypatch):
    scores = np.random.default_rng(2).normal(size=7)
    whole = statistics.summarise(scores)
    monkeypatch.setattr(statistics, "_DRAWN_AT_ONCE", 50)
    assert statistics.summarise(scores) == whole


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, r"scores must be \[runs\]"),
        ([[1.0, 2.0]], {}, r"shape \(1, 2\)"),
        ([1.0, 2.0], {"confidence": 1.0}, "confidence must be"),
        ([1.0, 2.0], {"confidence": 0}, "confidence must be"),
        ([1.0, 2.0], {"resamples": 39}, "resamples must be an integer of at least 40"),
        ([1.0, 2.0], {"seed": -1}, "seed must be"),
    ],
)
def test_summary_refuses_bad_input(scores, options, message):
    with pytest.raises(ValueError, match=message):
        statistics.summarise(scores, **options)


# Pairs


def test_pairs_are_matched_by_seed_whatever_the_order():
    a = record([1.0, 2.0, 3.0, 99.0], [4, 2, 7, 9])
    b = record([10.0, 3.5, 2.5], [7, 4, 2], kind="bowl/B")
    found = statistics.paired_difference(a, b)
    assert found.seeds == (2, 4, 7)
    assert found.differences == (2.0 - 2.5, 1.0 - 3.5, 3.0 - 10.0)
    assert (found.a_lower, found.b_lower, found.ties, found.ended) == (3, 0, 0, 3)
    assert found.mean == pytest.approx(-10 / 3)
    assert found.median == -2.5


def test_swapping_the_records_mirrors_everything():
    a = record([1.0, 5.0, NAN, 3.0, NAN, 2.0], range(6))
    b = record([2.0, 4.0, 1.0, NAN, NAN, 7.0], range(6), kind="bowl/B")
    one, other = statistics.paired_difference(a, b), statistics.paired_difference(b, a)
    assert (one.a_lower, one.b_lower, one.ties) == (other.b_lower, other.a_lower, other.ties) == (3, 2, 1)
    assert (one.a_diverged, one.b_diverged, one.ended) == (2, 2, 3)
    assert one.differences == tuple(-d for d in other.differences) == (-1.0, 1.0, INF, -INF, 0.0, -5.0)
    assert one.mean == -other.mean == pytest.approx(-5 / 3)
    assert one.interval == pytest.approx([-end for end in other.interval[::-1]], abs=0.4)
    assert one.median == -other.median == -0.5


def test_the_mean_difference_is_over_the_pairs_that_ended():
    a = record([1.0, 2.0, NAN, NAN], range(4))
    b = record([3.0, 6.0, 1.0, INF], range(4))
    found = statistics.paired_difference(a, b)
    assert found.mean == -3.0
    assert found.interval == (-4.0, -2.0)
    assert found.std == pytest.approx(math.sqrt(2))
    assert (found.a_lower, found.b_lower, found.ties) == (2, 1, 1)
    assert statistics.text(found) == "-3.0 ± 1.4 [-4.0, -2.0], lower in 2 of 4 pairs, 2 pairs with divergence"


def test_no_pair_ended():
    found = statistics.paired_difference(record([NAN, 1.0], [0, 1]), record([1.0, NAN], [0, 1]))
    assert found.ended == 0
    assert np.isnan([found.mean, found.std, *found.interval, found.median]).all()  # between −inf and +inf
    assert statistics.text(found) == "no pair ended, lower in 1 of 2 pairs, 2 pairs with divergence"
    both = statistics.paired_difference(record([NAN], [0]), record([INF], [0]))
    assert (both.ties, both.a_lower, both.b_lower, both.median) == (1, 0, 0, 0.0)


def test_pairing_is_sharper_than_two_intervals():
    seeds = np.random.default_rng(0).normal(scale=10.0, size=20)
    a, b = record(seeds, range(20)), record(seeds + 1.0, range(20))
    found = statistics.paired_difference(a, b)
    assert found.interval == pytest.approx((-1.0, -1.0))
    first, second = (statistics.summarise(r.arrays["scores"]).mean_interval for r in (a, b))
    assert second[0] < first[1]  # the two intervals overlap


def test_a_single_pair_has_no_interval():
    found = statistics.paired_difference(record([1.0], [0]), record([2.0], [0]))
    assert found.mean == -1.0
    assert np.isnan([found.std, *found.interval]).all()


def test_another_quantity():
    a, b = (
        Record("bowl/A", {"scores": np.zeros(2), "test_loss": np.array(x)}, {}, {"preset": "smoke", "seeds": [0, 1]})
        for x in ([1.0, 2.0], [3.0, 5.0])
    )
    assert statistics.paired_difference(a, b, "test_loss").mean == -2.5


TASK = {"steps": 100, "size": 4, "measure_every": 10, "seeds": 2, "hyperparameters": {"rate": 1.0}}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (record([1.0], [0]), record([1.0], [1], kind="bowl/B"), r"bowl/A and bowl/B share no seed: \[0\] and \[1\]"),
        (record([1.0], [0]), record([1.0], [0], preset="paper"), "preset 'smoke' and 'paper'"),
        (
            record([1.0], [0], settings=TASK),
            record([1.0], [0], settings={**TASK, "steps": 200}),
            "steps 100 and 200",
        ),
        (record([1.0], [0], settings=TASK), record([1.0], [0], settings={"steps": 100}), "size 4 and None"),
        (
            record([1.0], [0], dataset_sha256="aa"),
            record([1.0], [0], dataset_sha256="bb"),
            "dataset_sha256 'aa' and 'bb'",
        ),
        (record([1.0, 2.0], [0]), record([1.0], [0]), "one number for each seed"),
        (record([1.0, 2.0], [3, 3]), record([1.0], [3]), "a seed twice"),
        (Record("bowl/A", {"scores": np.ones(1)}, {}, {"preset": "smoke"}), record([1.0], [0]), "seeds None"),
        (Record("bowl/A", {}, {}, {"preset": "smoke", "seeds": [0]}), record([1.0], [0]), "no array 'scores'"),
    ],
)
def test_runs_that_are_no_pairs_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        statistics.paired_difference(a, b)
    if "no array" not in message:
        with pytest.raises(ValueError, match=r"share no seed|are no pairs|for each seed|a seed twice"):
            statistics.paired_difference(b, a)


def test_tuned_values_and_amounts_of_measuring_may_differ():
    other = {**TASK, "hyperparameters": {"damping": 2.0}, "seeds": 8, "measure_every": 5}
    found = statistics.paired_difference(record([1.0], [0], settings=TASK), record([2.0], [0], settings=other))
    assert found.a_lower == 1


# Axes and targets

CURVES = Record(
    "bowl/A",
    {
        "curve": np.array([[9.0, 4.0, 3.0, 5.0], [9.0, 8.0, 7.0, 6.0], [2.0, NAN, NAN, NAN], [9.0, INF, 1.0, NAN]]),
        "curve_steps": np.array([10, 20, 30, 40]),
        "wall_steps": np.array([15, 40]),
        "wall_seconds": np.array([3.0, 13.0]),
    },
    {"gradients_per_step": 2},
)


def test_axes_by_hand():
    np.testing.assert_array_equal(statistics.axis(CURVES), [10, 20, 30, 40])
    np.testing.assert_array_equal(statistics.axis(CURVES, "gradient"), [20, 40, 60, 80])
    # 3 s for the first 15 steps, then 0.4 s a step.
    np.testing.assert_allclose(statistics.axis(CURVES, "second"), [2.0, 5.0, 9.0, 13.0])


@pytest.mark.parametrize("against", statistics.AGAINST)
def test_figures_draw_on_the_same_axis(against):
    for name in ("LODO", "L-BFGS"):
        stored = records.load(PAPER / f"{name}.npz")
        drawn = figures.loss_curves({name: stored}, against=against).data[1].x
        np.testing.assert_array_equal(statistics.axis(stored, against), drawn)


def test_unknown_axis_and_record_without_curves_are_refused():
    with pytest.raises(ValueError, match="against must be one of step, gradient, second; got 'epoch'"):
        statistics.axis(CURVES, "epoch")
    with pytest.raises(ValueError, match="has no array 'curve_steps'"):
        statistics.axis(record([1.0], [0]))


def test_time_to_target():
    np.testing.assert_array_equal(statistics.time_to_target(CURVES, 4.0), [20, INF, 10, 30])
    np.testing.assert_array_equal(statistics.time_to_target(CURVES, 3.9, "gradient"), [60, INF, 20, 60])
    np.testing.assert_allclose(statistics.time_to_target(CURVES, 6.0, "second"), [5.0, 13.0, 2.0, 9.0])
    np.testing.assert_array_equal(statistics.time_to_target(CURVES, 0.5), [INF] * 4)


def test_a_loss_of_minus_infinity_reaches_nothing():
    fallen = Record("bowl/A", {"curve": np.array([[-INF, 1.0], [-INF, NAN]]), "curve_steps": np.array([1, 2])})
    np.testing.assert_array_equal(statistics.time_to_target(fallen, 3.0), [2, INF])


def test_a_harder_target_never_comes_sooner():
    stored = records.load(PAPER / "Yogi.npz")
    times = np.stack([statistics.time_to_target(stored, target) for target in np.linspace(30, 10, 41)])
    assert (times[1:] >= times[:-1]).all()
    assert len(np.unique(times)) > 2


@pytest.mark.parametrize("target", [NAN, INF, -INF])
def test_targets_that_are_no_losses_are_refused(target):
    with pytest.raises(ValueError, match="target must be"):
        statistics.time_to_target(CURVES, target)


# Texts


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([8.82, 8.9], "8.860 ± 0.057 [8.820, 8.900]"),
        ([100.0, 300.0], "200 ± 141 [100, 300]"),
        ([2.0, 2.0], "2 ± 0 [2, 2]"),
        ([1e8, 3e8], "2e+08 ± 1.41e+08 [1e+08, 3e+08]"),
        ([1e-9, 3e-9], "2e-09 ± 1.41e-09 [1e-09, 3e-09]"),
        ([2.0, 2.14], "2.070 ± 0.099 [2.000, 2.140]"),
        ([0.0, 0.1411], "0.07 ± 0.10 [0.00, 0.14]"),  # 0.0998 has two digits as 0.10
        ([1.5, NAN], "1.5, 1 of 2 runs diverged"),
        ([NAN], "the only run diverged"),
    ],
)
def test_text(scores, expected):
    assert statistics.text(statistics.summarise(scores)) == expected


# What is in the repository


def test_the_stored_runs_of_lodo():
    scores = records.load(PAPER / "LODO.npz").arrays["scores"]
    found = statistics.summarise(scores)
    mean = sum(scores.tolist()) / len(scores)
    spread = math.sqrt(sum((x - mean) ** 2 for x in scores.tolist()) / (len(scores) - 1))
    middle = sorted(scores.tolist())[2:-2]
    assert (found.runs, found.diverged) == (8, 0)
    assert found.mean == pytest.approx(mean, rel=1e-14)
    assert found.std == pytest.approx(spread, rel=1e-12)
    assert found.iqm == pytest.approx(sum(middle) / 4, rel=1e-14)
    assert found.median == pytest.approx((middle[1] + middle[2]) / 2, rel=1e-14)
    assert statistics.text(found).startswith(f"{mean:.3f} ± {spread:.3f} [")
    independent = scipy.stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    tolerance = 0.05 * spread  # both are random draws
    assert found.mean_interval == pytest.approx(tuple(independent.confidence_interval), abs=tolerance)


def test_stored_runs_in_pairs():
    lodo, adam = (records.load(PAPER / f"{name}.npz") for name in ("LODO", "Adam"))
    found = statistics.paired_difference(lodo, adam)
    differences = lodo.arrays["scores"] - adam.arrays["scores"]
    np.testing.assert_array_equal(found.differences, differences)
    assert found.mean == pytest.approx(differences.mean())
    assert found.a_lower == (differences < 0).sum()
    assert found.interval[0] < found.mean < found.interval[1]
    valley = records.load(PAPER.parent / "rosenbrock" / "Adam.npz")
    with pytest.raises(ValueError, match="different settings"):
        statistics.paired_difference(adam, valley)
