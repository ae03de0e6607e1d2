"""The README's numbers are those of the kept records, as text that a record of its own would change."""

import re
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.analysis import evidence, headline, paper_tasks, step_times, suite_comparison
from lodo_experiments.config import presets
from lodo_experiments.results import records
from lodo_experiments.studies import stored_results

ROOT = Path(__file__).resolve().parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
BOWL = ROOT / "results" / "paper" / "noisy_bowl"

#: Row of the table → record.
ROWS = {
    "**rlodo, untuned**": "../noisy_bowl_rlodo/rlodo",
    "**LODO**": "LODO",
    "O-LBFGS, two gradients a step": "O-LBFGS",
    "L-BFGS, no line search, two gradients a step": "L-BFGS",
    "L-BFGS that remembers 100 steps, two gradients a step": "L-BFGS-100",
    "Yogi": "Yogi",
    "RMSprop": "RMSprop",
    "Adam": "Adam",
    "Momentum": "Momentum",
    "BFGS (dense, no line search), gradients of two samples": "BFGS",
    "BFGS with both gradients on the same sample, two gradients a step": "BFGS-same-sample",
    "full-matrix whitening, whose assumption this drift fulfils": "Whitening",
    "Levenberg–Marquardt, given the exact Hessian": "Levenberg-Marquardt",
}


def _said(told, record):
    """Whether a cell of the table says a record's mean and standard deviation."""
    mean, deviation = told.split(" ± ")
    scores = record.arrays["scores"]
    assert float(mean) == pytest.approx(scores.mean(), abs=5.1 * 10.0 ** -(1 + len(mean.partition(".")[2])))
    assert float(deviation) == pytest.approx(scores.std(ddof=1), rel=0.06)
    assert len(scores) == 8


@pytest.mark.parametrize("row", ROWS)
def test_the_bowls_table(row):
    record = records.load(BOWL / f"{ROWS[row]}.npz")
    told = re.search(rf"\| {re.escape(row)} \| ([^|]+) \| ([^|]*) \|", README)
    assert told
    if row == "**rlodo, untuned**":
        assert told[2] == "not tuned"
    else:
        _said(told[2], records.load(BOWL.with_name("noisy_bowl_best_trial") / f"{ROWS[row]}.npz"))
        assert ("two gradients a step" in row) == (record.values["gradients_per_step"] == 2)
    if ROWS[row] == "BFGS":
        assert told[1] == "above 10⁶"
        assert record.arrays["scores"].mean() > 1e6
    else:
        _said(told[1], record)


def test_the_sentences():
    bowl, suite = headline.numbers(), suite_comparison.numbers()
    assert f"the other two ended at {bowl['bowl_search_low']:.2f} and {bowl['bowl_search_high']:.2f}" in README
    missed = evidence.Evidence(ROOT / "results").record("paper", "noisy_bowl", "LODO-No-Momentum")
    assert missed.kind.startswith("noisy_bowl_best_trial")
    assert f"at the best trial of its own search, ends at {missed.arrays['scores'].mean():.3f}." in README
    assert f"it ends {bowl['drift_rlodo']:.2f} above Newton's loss after 20,000 steps" in README
    (runs,) = {len(headline.relative(f"anisotropic_100{one}").arrays["excess"]) for one in ("", "_lodo")}
    drift = f"and LODO, at its authors' values for the even drift, {bowl['drift_lodo']:.2f} ({runs} runs each)."
    assert drift in README
    network = stored_results.load_all(ROOT / "results", "image_generation", "desktop")
    ends = {name: record.arrays["scores"] for name, record in network.runs.items()}
    few = sorted(ends.keys() & {"Yogi", "RMSprop", "LARS"}, key=lambda name: ends[name].mean())
    assert {len(ends[name]) for name in few} == {1}
    lower = [f"Adam ends at {bowl['network_adam']:.2f} nats", *(f"{name} at {ends[name].mean():.2f}" for name in few)]
    lodo = (
        f"where LODO ends at {bowl['network_lodo']:.2f} and momentum SGD at {ends['Momentum'].mean():.2f}, each below"
    )
    told = f"{', '.join(lower[:-1])} and {lower[-1]}, all tuned alike, {lodo} the other on one of two seeds."
    assert told in README
    assert sorted(ends["LODO"] < ends["Momentum"]) == [False, True]
    assert f"`rlodo`, untuned, ends at {bowl['network_rlodo']}. With" in README
    assert bowl["network_seeds"] == "1 or 2"
    classifier = f"its training loss ends at {bowl['classifier_lodo']:.2f}, where momentum SGD has"
    assert classifier in README
    runs = stored_results.load_all(ROOT / "results", "image_classification", "desktop").runs
    assert bowl["classifier_best"] == "RMSprop"
    others = [f"{runs[name].arrays['scores'].mean():.2f}" for name in ("Momentum", "Adam", "LARS", "RMSprop")]
    told = (
        f"where momentum SGD has {others[0]}, Adam {others[1]}, LARS {others[2]} and RMSprop, the lowest, {others[3]};"
    )
    assert told in README
    assert bowl["network_best"] == "Adam"
    assert f"`rlodo`, untuned, has {bowl['classifier_rlodo']}." in README
    assert all(len(record.arrays["scores"]) == 2 for record in runs.values())
    moved = runs["LODO"].arrays["inverse_hessian_displacement"][:, -1]
    assert f"G moved by {moved[0]:.2f} and {moved[1]:.2f}, little more than the {evidence.MOVED} below" in README
    assert moved.min() > evidence.MOVED
    assert "Those are one or two seeds each" in README
    best = [
        np.nanmin(network.tuning[name].arrays["score"][network.tuning[name].arrays["steps"] == 800])
        for name in ("LODO", "Adam", "Momentum")
    ]
    assert "of 800 steps at most, had left LODO, Adam and momentum SGD within 2 % of each other" in README
    assert max(best) < 1.02 * min(best)
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    assert network.runs["Adam"].values["steps"] == 0.01 * presets.IMAGE_GENERATION["paper"].steps
    claimed = "On a noisy quadratic it beats Adam by far but not whitening;"
    assert f"{claimed} on the paper's network Adam leads so far." in front
    assert "runs, 1 % of the steps |" in front
    assert bowl["bowl_whitening"] < bowl["bowl_lodo"] < 0.7 * bowl["bowl_adam"]
    assert bowl["bowl_lodo"] < 0.7 * bowl["bowl_online"]
    assert bowl["network_lodo"] > 1.1 * bowl["network_adam"]
    assert f"LODO on {suite['within']} of {suite['problems']} held-out problems" in README
    assert f"where tuned Adam is on {suite['within_adam']}." in README
    assert suite["diverged"] == 2
    assert f"Two of its {suite['runs']} runs diverged" in README
    assert suite["guarded_diverged"] == 0
    assert suite["guarded_worst"] > 10 * suite["guarded_worst_adam"]
    assert f"its step takes {suite['step_ratio']:.1f} times as long as Adam's, even with the C++ kernels" in README
    assert f"in less time on only {suite['faster']} of {suite['problems']}" in README
    others = ("adam", "momentum", "muon", "schedule_free", "prodigy", "sophia")
    assert all(suite[f"wins_{name}"] > suite[f"losses_{name}"] for name in others)


def test_learning_g_did_not_help_on_the_papers_network():
    learned = records.load(ROOT / "results" / "desktop" / "image_generation" / "LODO.npz")
    still = records.load(ROOT / "results" / "desktop" / "image_generation_ablations" / "LODO-depth-0.npz")
    assert still.values["hyperparameters"] == learned.values["hyperparameters"]
    assert still.provenance["seeds"] == learned.provenance["seeds"][:1]
    ends, own = float(still.arrays["scores"][0]), float(learned.arrays["scores"][0])
    assert f"it ends at {ends:.2f} on the one seed that was run, where LODO has {own:.2f}: there learning G" in README
    assert ends < own


@pytest.mark.parametrize("task", paper_tasks.TASKS)
def test_tuning_rlodo_made_it_no_better(task):
    rows = {row["optimizer"]: row[task] for row in paper_tasks.scores()}
    assert rows["rlodo"] >= rows["rlodo-untuned"]
    assert "where we tuned `rlodo` on losses that are drawn anew at each step, it ended no lower" in README
    guide = (ROOT / "book" / "when_to_use.md").read_text(encoding="utf-8")
    assert "where we tuned `rlodo` on such losses it ended no lower" in guide
    assert "Tuned, `rlodo` ends no lower than untuned in any column." in guide
    start = (ROOT / "book" / "use" / "quick_start.md").read_text(encoding="utf-8")
    assert "where we tuned it on such losses it ended no lower" in start


def test_the_front_page_names_the_papers_best():
    """Muon, which the paper did not run, ends lower than the best of the paper's that take one gradient a step."""
    bowl = headline.numbers()
    muon = records.load(BOWL / "Muon.npz")
    assert muon.values["gradients_per_step"] == 1
    assert muon.arrays["scores"].mean() == pytest.approx(bowl["bowl_muon"])
    assert bowl["bowl_muon"] < records.load(BOWL / "Yogi.npz").arrays["scores"].mean()
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    assert "| rlodo, untuned | the paper's; others |" in front
    assert "Muon, which the paper did not run, ends the bowl at {computed}" in front
    case = records.load(ROOT / "results" / "paper" / "noisy_bowl_rlodo" / "anisotropic_100_lodo.npz")
    assert case.values["settings"]["optimizer"] == "lodo", "which has the authors' values, unless it says otherwise"
    assert not case.values["settings"]["arguments"]
    assert "and LODO, at its authors' values for the even drift, " in front


def test_the_times_of_a_step():
    rows = step_times.load_bundled()["steps"].values["rows"]
    case = {"n": 94_696, "dtype": "float32", "way": step_times.SCAN}

    def milliseconds(form):
        return f"{1e3 * step_times.rows_of(rows, form=form, **case)[0]['seconds']:.0f}"

    assert (
        f"takes {milliseconds(step_times.NATIVE)} ms with these kernels and {milliseconds(step_times.OURS)} ms"
        in README
    )
