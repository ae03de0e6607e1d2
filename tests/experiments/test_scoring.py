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


# Summaries


def test_summary_by_hand():
    found = statistics.summarise([4.0, 1.0, 2.0, 100.0])
    assert (found.runs, found.diverged, found.mean, found.median) == (4, 0, 26.75, 3.0)
    squares = sum((x - 26.75) ** 2 for x in (1, 2, 4, 100))
    assert found.std == pytest.approx(math.sqrt(squares / 3), rel=1e-14)
    expected = scipy.stats.t.interval(0.95, 3, loc=26.75, scale=found.std / 2)
    assert found.interval == pytest.approx(expected, rel=1e-12)


def test_order_of_runs_does_not_matter():
    scores = np.random.default_rng(0).lognormal(size=9)
    scores[4] = np.nan
    expected = statistics.summarise(scores)
    for seed in range(5):
        assert statistics.summarise(np.random.default_rng(seed).permutation(scores)) == expected


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_diverged_run_is_counted_and_is_the_worst(bad):
    found = statistics.summarise([1.0, bad, 3.0, 2.0, 4.0])
    assert (found.runs, found.diverged) == (5, 1)
    assert (found.mean, found.median) == (2.5, 3.0)
    assert found.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert found.interval == statistics.summarise([1.0, 2.0, 3.0, 4.0]).interval


def test_every_run_diverged():
    found = statistics.summarise([NAN, NAN, INF])
    assert (found.diverged, found.median) == (3, INF)
    assert np.isnan([found.mean, found.std, *found.interval]).all()


@pytest.mark.parametrize("scores", [[2.0], [2.0, NAN, NAN]])
def test_a_single_run_has_no_interval(scores):
    found = statistics.summarise(scores)
    assert found.mean == 2.0
    assert np.isnan([found.std, *found.interval]).all()


@pytest.mark.parametrize(("scores", "message"), [([], r"scores must be \[runs\]"), ([[1.0, 2.0]], r"shape \(1, 2\)")])
def test_summary_refuses_bad_input(scores, message):
    with pytest.raises(ValueError, match=message):
        statistics.summarise(scores)


# Coverage and level, by simulation


@pytest.mark.parametrize("runs", range(2, 13))
def test_intervals_cover_what_is_claimed(runs):
    generator, trials = np.random.default_rng(runs), 20_000

    def coverage(values, mean):
        low, high = statistics.t_interval(values)
        return np.mean((low <= mean) & (mean <= high))

    assert coverage(generator.normal(5.0, 2.0, (trials, runs)), 5.0) == pytest.approx(0.95, abs=0.02)
    # Of skewed values the docstring claims less.
    claimed = {2: 0.91, **dict.fromkeys(range(3, 8), 0.88), **dict.fromkeys(range(8, 13), 0.90)}[runs]
    assert coverage(generator.exponential(size=(trials, runs)), 1.0) == pytest.approx(claimed, abs=0.02)


def test_the_bootstrap_that_was_here_would_be_caught():
    """Percentile intervals of few runs cover far less than they say: the test above can fail."""
    generator, runs = np.random.default_rng(0), 4
    values = generator.normal(size=(1000, runs))
    draws = np.sort(values[:, generator.integers(runs, size=(400, runs))].mean(axis=2), axis=1)
    assert np.mean((draws[:, 10] <= 0) & (draws[:, 389] >= 0)) < 0.87


@pytest.mark.parametrize("runs", [4, 6, 8, 11])
def test_level_of_the_sign_flip_test(runs):
    generator, trials = np.random.default_rng(runs), 4000
    attained = np.floor(0.05 * 2**runs) / 2**runs  # what whole patterns allow
    draws = {
        "normal": generator.normal(size=(trials, runs)),
        "heavy tails": generator.standard_cauchy((trials, runs)),
        "skewed scores of equal optimizers": np.subtract(*generator.exponential(size=(2, trials, runs))),
    }
    for name, differences in draws.items():
        for p in statistics.sign_flip(differences):
            assert np.mean(p <= 0.05) == pytest.approx(attained, abs=0.02), name
    skewed = generator.exponential(size=(trials, runs)) - 1
    assert np.mean(statistics.sign_flip(skewed)[0] <= 0.05) == pytest.approx(0.13 if runs > 4 else 0, abs=0.025)


def test_sign_flip_by_hand():
    # Of the 8 patterns of 1, 2, 4 three have sums of at most −3: −7, −5, −3.
    below, above = statistics.sign_flip([1.0, -4.0, 0.0, -0.0])
    assert below == pytest.approx(2 / 4)
    below, above = statistics.sign_flip([1.0, 2.0, -4.0])
    assert (below, above) == (4 / 8, 5 / 8)
    below, above = statistics.sign_flip([-1.0, -2.0, -4.0])
    assert (below, above) == (1 / 8, 1.0)


def test_sign_flip_is_scipys_wilcoxon_where_runs_diverged():
    differences = np.array([-3.0, 1.0, -2.0, -5.0, 4.0, -INF, -6.0, -7.0])
    ranks = np.where(np.isinf(differences), -8.0, differences)
    for p, side in zip(statistics.sign_flip(differences), ("less", "greater"), strict=True):
        assert p == pytest.approx(scipy.stats.wilcoxon(ranks, alternative=side, method="exact").pvalue)


def test_one_lost_run_settles_nothing_by_itself():
    # It used to: the only pair in which one side diverged decided, whatever the others said.
    mixed = [0.5, -0.4, 0.3, -0.6, 0.2, -INF]
    below, above = statistics.sign_flip(mixed)
    assert min(below, above) > 0.1
    below, _ = statistics.sign_flip([-INF] * 6)
    assert below == 1 / 64


def test_many_seeds_are_drawn_and_agree_with_a_t_test():
    differences = np.random.default_rng(3).normal(0.4, 1.0, 30)
    below, above = statistics.sign_flip(differences)
    assert above == pytest.approx(scipy.stats.ttest_1samp(differences, 0, alternative="greater").pvalue, abs=0.01)
    assert below == pytest.approx(1 - above, abs=0.01)
    with pytest.raises(ValueError, match="difference is nan"):
        statistics.sign_flip([1.0, NAN])


def test_holm_by_hand_and_against_bonferroni():
    assert statistics.holm([0.04, 0.001, 0.013, 0.024], 0.05) == [True, True, True, True]
    assert statistics.holm([0.04, 0.001, 0.02, 0.03], 0.05) == [False, True, False, False]
    generator = np.random.default_rng(0)
    false = np.mean([any(statistics.holm(generator.uniform(size=7).tolist(), 0.05)) for _ in range(4000)])
    assert false == pytest.approx(1 - (1 - 0.05 / 7) ** 7, abs=0.012)


# Pairs


def test_pairs_are_matched_by_seed_whatever_the_order():
    a = record([1.0, 2.0, 3.0, 99.0], [4, 2, 7, 9])
    b = record([10.0, 3.5, 2.5], [7, 4, 2], kind="bowl/B")
    found = statistics.paired_difference(a, b)
    assert found.seeds == (2, 4, 7)
    assert found.differences == (2.0 - 2.5, 1.0 - 3.5, 3.0 - 10.0)
    assert (found.a_lower, found.b_lower, found.ties, found.ended) == (3, 0, 0, 3)
    assert found.mean == pytest.approx(-10 / 3)
    assert (found.p_below, found.p_above) == (1 / 8, 1.0)


def test_swapping_the_records_mirrors_everything():
    a = record([1.0, 5.0, NAN, 3.0, NAN, 2.0], range(6))
    b = record([2.0, 4.0, 1.0, NAN, NAN, 7.0], range(6), kind="bowl/B")
    one, other = statistics.paired_difference(a, b), statistics.paired_difference(b, a)
    assert (one.a_lower, one.b_lower, one.ties) == (other.b_lower, other.a_lower, other.ties) == (3, 2, 1)
    assert (one.a_diverged, one.b_diverged, one.ended) == (2, 2, 3)
    assert one.differences == tuple(-d for d in other.differences) == (-1.0, 1.0, INF, -INF, 0.0, -5.0)
    assert one.mean == -other.mean == pytest.approx(-5 / 3)
    assert one.interval == pytest.approx([-end for end in other.interval[::-1]])
    assert (one.p_below, one.p_above) == (other.p_above, other.p_below)


def test_the_mean_difference_is_over_the_pairs_that_ended():
    a = record([1.0, 2.0, NAN, NAN], range(4))
    b = record([3.0, 6.0, 1.0, INF], range(4))
    found = statistics.paired_difference(a, b)
    assert found.mean == -3.0
    assert found.interval == pytest.approx(scipy.stats.t.interval(0.95, 1, loc=-3, scale=1))
    assert found.std == pytest.approx(math.sqrt(2))
    assert (found.a_lower, found.b_lower, found.ties) == (2, 1, 1)
    assert statistics.text(found) == "-3.0 ± 1.4 [-15.7, 9.7], lower in 2 of 4 pairs, 2 pairs with divergence"


def test_no_pair_ended():
    found = statistics.paired_difference(record([NAN, 1.0], [0, 1]), record([1.0, NAN], [0, 1]))
    assert found.ended == 0
    assert np.isnan([found.mean, found.std, *found.interval]).all()
    assert found.p_below == found.p_above == 0.75
    assert statistics.text(found) == "no pair ended, lower in 1 of 2 pairs, 2 pairs with divergence"
    both = statistics.paired_difference(record([NAN], [0]), record([INF], [0]))
    assert (both.ties, both.a_lower, both.b_lower, both.p_below) == (1, 0, 0, 1.0)


def test_pairing_is_sharper_than_two_intervals():
    seeds = np.random.default_rng(0).normal(scale=10.0, size=20)
    a, b = record(seeds, range(20)), record(seeds + 1.0, range(20))
    found = statistics.paired_difference(a, b)
    assert found.interval == pytest.approx((-1.0, -1.0))
    first, second = (statistics.summarise(r.arrays["scores"]).interval for r in (a, b))
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
        # The figure draws means of neighbouring points.
        whole = statistics.axis(stored, against)
        assert whole[0] <= drawn[0] < drawn[-1] <= whole[-1]
        assert drawn[-1] == pytest.approx(whole[-1], rel=0.02)


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
        ([8.82, 8.9], "8.860 ± 0.057 [8.352, 9.368]"),
        ([100.0, 300.0], "200 ± 141 [-1071, 1471]"),
        ([2.0, 2.0], "2 ± 0 [2, 2]"),
        ([1e8, 3e8], "2e+08 ± 1.41e+08 [-1.07e+09, 1.47e+09]"),
        ([1e-9, 3e-9], "2e-09 ± 1.41e-09 [-1.07e-08, 1.47e-08]"),
        ([2.0, 2.14], "2.070 ± 0.099 [1.181, 2.959]"),
        ([0.0, 0.1411], "0.07 ± 0.10 [-0.83, 0.97]"),  # 0.0998 has two digits as 0.10
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
    assert (found.runs, found.diverged) == (8, 0)
    assert found.mean == pytest.approx(mean, rel=1e-14)
    assert found.std == pytest.approx(spread, rel=1e-12)
    assert statistics.text(found).startswith(f"{mean:.3f} ± {spread:.3f} [")
    assert found.interval == pytest.approx(scipy.stats.ttest_1samp(scores, 0).confidence_interval(), rel=1e-12)


def test_stored_runs_in_pairs():
    lodo, adam = (records.load(PAPER / f"{name}.npz") for name in ("LODO", "Adam"))
    found = statistics.paired_difference(lodo, adam)
    differences = lodo.arrays["scores"] - adam.arrays["scores"]
    np.testing.assert_array_equal(found.differences, differences)
    assert found.mean == pytest.approx(differences.mean())
    assert found.a_lower == (differences < 0).sum()
    assert found.interval == pytest.approx(scipy.stats.ttest_1samp(differences, 0).confidence_interval(), rel=1e-12)
    assert found.p_below == 1 / 256
    valley = records.load(PAPER.parent / "rosenbrock" / "Adam.npz")
    with pytest.raises(ValueError, match="different settings"):
        statistics.paired_difference(adam, valley)
