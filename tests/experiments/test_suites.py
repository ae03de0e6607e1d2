"""The comparison on the problem suites: the search, the peers, the records, and what is read from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodo_experiments.analysis import suite_comparison
from lodo_experiments.analysis.suite_comparison import outcome_of, ratios, steps_to, times_table, wins_table, within
from lodo_experiments.optimizers.peers import PEERS, TRIALS, counted_lbfgs, online_scaled_gradient
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry, replay
from lodo_experiments.studies.suites import trials
from lodo_experiments.studies.suites.parts import part_name, window_ends
from lodo_experiments.tasks.problems.suites import HELD_OUT, problem_named


def test_every_tuned_entry_has_the_same_number_of_trials():
    tuned = [peer for peer in PEERS.values() if peer.grid]
    assert len(tuned) >= 8
    for peer in tuned:
        assert np.prod([len(values) for values in peer.grid.values()]) == TRIALS, peer.optimizer.name
        assert set(peer.optimizer.defaults) == set(peer.grid)
        for name in peer.extended:  # what goes on beyond an edge goes on by the same factor
            steps = np.diff(np.log(peer.grid[name]))
            np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_a_search_goes_on_beyond_an_edge_and_stops():
    asked = []

    def score(points):
        asked.append(list(points))
        return np.array([abs(np.log10(rate) - 3.2) + (b - 0.5) ** 2 for rate, b in points])

    points, scores = trials.search(["rate", "b"], {"rate": [0.1, 1.0, 10.0], "b": [0.0, 0.5]}, ["rate"], score)
    assert [len(group) for group in asked] == [6, 2, 2, 2]  # to 100, 1,000, 10,000, where 1,000 is no edge any more
    best = points[int(np.argmin(scores))]
    assert best == pytest.approx((1e3, 0.5))
    asked.clear()
    points, _ = trials.search(["rate"], {"rate": [0.1, 1.0]}, ["rate"], lambda p: -np.log([x for (x,) in p]))
    assert len(points) == 2 + trials.EXTENSIONS
    points, scores = trials.search(["rate"], {"rate": [0.1, 1.0]}, ["rate"], lambda p: np.full(len(p), np.nan))
    assert len(points) == 2
    assert np.isnan(scores).all()


def test_the_scaled_gradient_method_descends_the_normalised_hypergradient():
    H, x = jnp.array([3.0, 0.2]), jnp.array([1.0, -2.0])
    optimizer = online_scaled_gradient(0.1, 0.3)
    state = optimizer.init(x)
    updates, state = optimizer.update(H * x, state)
    first, x = H * x, x + updates
    updates, state = optimizer.update(H * x, state)

    # The derivative by P of the loss after the step −P g, over ‖g‖²: finite differences.
    def loss(p):
        return 0.5 * jnp.sum(H * (jnp.array([1.0, -2.0]) - p * first) ** 2)

    slope = jax.grad(loss)(jnp.full(2, 0.3)) / jnp.sum(first**2)
    np.testing.assert_allclose(state.scale, 0.3 - 0.1 * slope, rtol=1e-5)
    np.testing.assert_allclose(updates, -state.scale * (H * x), rtol=1e-6)


def test_every_evaluation_of_the_line_search_counts_and_the_budget_ends_it():
    calls = []

    def loss(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    optimizer, x = counted_lbfgs(budget=40), jnp.array([-1.2, 1.0])

    @jax.jit
    def step(state, x):
        value, gradient = jax.value_and_grad(loss)(x)
        return optimizer.update(gradient, state, x, value=value, value_fn=loss)

    state = optimizer.init(x)
    for _ in range(30):
        before = state.evaluations
        updates, state = step(state, x)
        x = optax.apply_updates(x, updates)
        jax.effects_barrier()
        if before < 40:
            counted = len(calls)
        else:
            assert not updates.any()
    assert counted == int(state.evaluations)
    assert 40 <= int(state.evaluations) < 40 + 25


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("Adam", "Schedule-free") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name, peer in PEERS.items()
        if not peer.missing and "LODO" not in name.upper()
    ],
)
def test_each_peer_trains_a_network_in_bfloat16(name):
    problem, peer = problem_named("mlp_bfloat16"), PEERS[name]
    task = trials.task_of(problem, peer.counts_evaluations)
    run = trials.run_on(task, peer, peer.optimizer.defaults, [0, 1], 60)
    assert run.losses.shape == (2, 60)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype(jnp.bfloat16)}
    assert (run.losses[:, -5:].mean(axis=1) < run.losses[:, 0]).any() or name == "Prodigy untuned"


def made_up(final, curve, *, initial=10.0, not_finite=(), steps=100, seeds=2):
    problems, points = len(final), 4
    final = np.broadcast_to(np.asarray(final, float)[:, None], (problems, seeds)).copy()
    places = np.full((problems, seeds), -1)
    for place in not_finite:
        places[place], final[place] = 7, np.nan
    return Record(
        "problem_suites/x",
        {
            "final": final, "not_finite_at": places, "initial": np.full((problems, seeds), initial),
            "curve": np.broadcast_to(np.asarray(curve, float)[:, None], (problems, seeds, points)),
            "evaluations": np.broadcast_to(np.linspace(steps / 4, steps, 4), (problems, seeds, points)),
            "state_bytes": np.full(problems, 8.0), "parameter_bytes": np.full(problems, 4.0),
        },
        {
            "settings": {"problems": [f"p{i}" for i in range(problems)]}, "steps": [steps] * problems,
            "resolutions": [1e-3] * problems,
        },
        {},
    )  # fmt: skip


def test_wins_ties_losses_and_divergence():
    curve = [[9, 5, 2, 1]] * 5
    one = outcome_of("rlodo", made_up([1.0, 1.05, 2.0, 1e-9, 11.0], curve))
    other = outcome_of("Adam", made_up([2.0, 1.0, 1.0, 1e-6, 1.0], curve, not_finite=[(0, 0), (0, 1)]))
    assert one.diverged.tolist() == [[False] * 2] * 4 + [[True] * 2]  # it ended above its start
    assert ratios(one, other).tolist() == [0.0, 1.05, 2.0, 1.0, np.inf]  # both below the resolution are equal
    assert within(one, other.scores).tolist() == [True, True, False, True, False]
    (row,) = wins_table({"rlodo": one, "Adam": other}, "rlodo")
    assert row == {"against": "Adam", "wins": 1, "ties": 2, "losses": 2, "p": 1.0, "ratio": 1.05}
    summary = {row["optimizer"]: row for row in suite_comparison.summary_table({"LODO": other, "rlodo": one})}
    assert summary["rlodo"]["diverged"] == summary["LODO"]["diverged"] == 2
    assert (summary["rlodo"]["within"], summary["rlodo"]["best"], summary["rlodo"]["memory"]) == (None, 3, 2.0)
    # The reference is the better of tuned LODO and its defaults.
    found = {"LODO tuned": one, "LODO": other, "rlodo": other}
    np.testing.assert_allclose(suite_comparison.reference_scores(found), [1, 1, 1, 1e-3, 1])
    summary = {row["optimizer"]: row["within"] for row in suite_comparison.summary_table(found)}
    assert summary == {"LODO tuned": 3, "LODO": 4, "rlodo": 4}


def test_two_that_diverged_are_equal_and_neither_is_within():
    bad = outcome_of("LODO", made_up([1.0], [[9, 5, 2, 1]], not_finite=[(0, 0), (0, 1)]))
    assert ratios(bad, bad).tolist() == [1.0]
    assert within(bad, bad.scores).tolist() == [False]
    half = outcome_of("LODO", made_up([1.0], [[9, 5, 2, 1]], not_finite=[(0, 1)]))
    assert np.isinf(half.scores).all()  # the median of 1 and ∞
    with pytest.raises(ValueError, match="different problems"):
        ratios(bad, outcome_of("Adam", made_up([1.0, 2.0], [[9, 5, 2, 1]] * 2)))


def test_times_to_a_target_are_infinite_where_it_is_missed():
    adam = outcome_of("Adam", made_up([2.0, 1.0, 1.0], [[9, 5, 2, 1]] * 3, not_finite=[(2, 0), (2, 1)]))
    quick = outcome_of("Muon", made_up([1.0, 3.0, 1.0], [[1, 1, 1, 1], [5, 5, 4, 3], [1, 1, 1, 1]]))
    assert steps_to(quick, adam.scores)[:2].tolist() == [25.0, np.inf]
    assert np.isnan(steps_to(quick, adam.scores)[2])  # the target diverged
    rows = {row["optimizer"]: row for row in times_table({"Adam": adam, "Muon": quick})}
    assert rows["Muon"] == {"optimizer": "Muon", "met": 1, "problems": 2, "steps": np.inf}
    assert rows["Adam"]["met"] == 2
    seconds = {"Adam": np.ones(3), "Muon": np.full(3, 4.0)}
    timed = {row["optimizer"]: row for row in times_table({"Adam": adam, "Muon": quick}, seconds)}
    assert timed["Muon"]["faster"] == 0  # 25 · 4 against 75 · 1
    assert {
        row["optimizer"]: row for row in times_table({"Adam": adam, "Muon": quick}, seconds | {"Muon": np.full(3, 2.0)})
    }["Muon"]["faster"] == 1


def test_windows_end_at_whole_steps():
    for steps in (3, 200, 600, 1_999):
        ends = window_ends(steps)
        assert ends[-1] == steps
        assert (np.diff(ends) >= 1).all()
        assert ends[0] >= 1


def test_smoke_is_computed_kept_and_replayed(tmp_path, monkeypatch):
    parts = registry.build_parts("problem_suites", "smoke", results_dir=str(tmp_path))
    assert list(parts.parts) == [part_name("development", name) for name in ("LODO", "rlodo", "Adam")]
    record = parts.record("development-Adam")
    assert record.arrays["final"].shape == (1, 2)
    assert record.arrays["curve"].shape == (1, 2, 120)
    np.testing.assert_allclose(record.arrays["final"], record.arrays["curve"][..., -12:].mean(axis=2), rtol=1e-5)
    assert outcome_of("Adam", record).state_share.tolist() == pytest.approx([2 + 1 / 50])
    (target,) = replay.targets(tmp_path, ["smoke"])
    assert replay.Replayer().one(target).state == replay.EQUAL

    # The same with another rate is found out.
    monkeypatch.setitem(record.values["hyperparameters"][0], "learning_rate", 0.5)
    records.save(tmp_path / target.spec.path, record)
    assert replay.Replayer().one(target).state == replay.DIFFERS


def test_the_book_quotes_the_kept_records_of_the_held_out_suite():
    found = suite_comparison.kept_outcomes()
    assert {"LODO tuned", "LODO", "rlodo"} <= set(found)
    numbers = suite_comparison.numbers()
    scores = {row["problem"]: row for row in suite_comparison.scores()}
    assert list(scores) == list(HELD_OUT)
    assert numbers["within"] == sum(row["ratio"] <= 1.1 for row in scores.values())
    assert numbers["diverged"] == found["rlodo"].diverged.sum()
    assert numbers["runs"] == 4 * len(HELD_OUT)
    # The page says on which problem runs diverged.
    names = [name for name, bad in zip(found["rlodo"].problems, found["rlodo"].diverged, strict=True) if bad.any()]
    assert names == ["poisson_resampled"]
    assert {row["against"] for row in suite_comparison.wins()} == set(found) - {"rlodo"}
