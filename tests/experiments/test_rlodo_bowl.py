"""The study of relative LODO on the noisy bowl: its bowls, its floor, and that it is declared."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo.relative import scale_by_relative
from lodo_experiments.analysis import rlodo_bowl
from lodo_experiments.config.rlodo_presets import RLODO_BOWL
from lodo_experiments.optimizers.relative_by_entries import relative_by_entries
from lodo_experiments.report import theory_figures
from lodo_experiments.report.style import line_of
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiments.rlodo_bowl import CASES, GROUPS_OF_CASES, newton_on, parts
from lodo_experiments.tasks.bowls_of_cases import bowl_of_case, directions_of_ratio
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor
from lodo_experiments.training.loop import train

TINY = replace(RLODO_BOWL["smoke"], steps=120, other_steps=120, size=8)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_the_floor_is_newtons():
    """Newton's mean loss is drift² tr(LᵀHL)/2, also under a drift that is not isotropic."""
    task = replace(bowl_of_case(8, ratio=10.0), measure=None)
    run = train(task, newton_on(task), steps=6_000, seeds=[0, 1, 2, 3])
    expected = newton_floor(hessian(8), directions=directions_of_ratio(8, 10.0))
    np.testing.assert_allclose(run.losses[:, 1:].mean(), expected, rtol=0.02)


def test_a_moment_an_entry_is_a_moment_a_block_where_blocks_have_one_entry():
    key, theta = jax.random.key(0), jnp.full((3, 1, 1, 5), 1.2)
    ours, library = relative_by_entries(lambda count: 1e-2), scale_by_relative(1e-2)
    states = ours.init(theta), library.init(theta)
    for step in range(4):
        gradient = jax.random.normal(jax.random.fold_in(key, step), theta.shape)
        one, first = ours.update(gradient, states[0], theta)
        two, second = library.update(gradient, states[1], theta)
        np.testing.assert_allclose(one, two, rtol=1e-12)
        states, theta = (first, second), theta + one


@pytest.mark.exhaustive
def test_parts_added_to_lodo_one_at_a_time():
    """Each case of the table is another optimizer, and G is learned in each."""
    names = "lodo", "lodo_normalised", "lodo_relative_normalised", "lodo_relative_entries"
    tiny = replace(TINY, cases=names)
    ends = {name: part.compute().arrays["excess"].mean() for name, part in parts(tiny).items()}
    assert len(set(ends.values())) == len(ends)
    assert np.isfinite(list(ends.values())).all()


@pytest.mark.exhaustive
def test_changes_of_the_bowl():
    plain, changed = bowl_of_case(6), bowl_of_case(6, clustered=True, condition_number=100.0, loss_factor=30.0)
    np.testing.assert_allclose(plain.data.hessian, hessian(6), atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(changed.data.hessian), [0.3] * 3 + [30.0] * 3)
    rotated = directions_of_ratio(6, 4.0, rotated=True)
    np.testing.assert_allclose(np.linalg.cond(rotated), 4.0)
    covariance = rotated @ rotated.T
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.05
    np.testing.assert_allclose(np.trace(covariance) / 6, 1.0)

    quiet, noisy = bowl_of_case(6, loss_factor=2.0), bowl_of_case(6, loss_factor=2.0, gradient_noise=0.5)
    x, noise = jnp.ones(6), []
    for seed in range(500):
        (one, _), (other, _) = (t.sample(t.data, jnp.zeros(6), jax.random.key(seed)) for t in (quiet, noisy))
        np.testing.assert_array_equal(one.centre, other.centre)  # so the excess is counted on the same drift
        assert quiet.loss(x, one) == noisy.loss(x, other)
        noise.append(jax.grad(noisy.loss)(x, other) - jax.grad(quiet.loss)(x, one))
    np.testing.assert_allclose(np.std(noise), 2.0 * 0.5, rtol=0.05)


def test_excess_and_shares():
    """A loss times 30 changes nothing; the shares are those of the G that the optimizer steps with."""
    made = parts(TINY)
    assert list(made) == list(TINY.cases)
    found, scaled = (made[name].compute().arrays for name in ("rlodo", "loss_30"))
    np.testing.assert_allclose(scaled["excess"], found["excess"], rtol=1e-5)
    np.testing.assert_allclose(scaled["scores"], 30 * found["scores"], rtol=1e-5)
    np.testing.assert_allclose(found["excess"], found["scores"] - found["floor_scores"], rtol=1e-9, atol=1e-9)
    assert found["shares"].shape == (TINY.seeds, len(found["measured_steps"]), 10)
    assert (np.diff(found["shares"][:, -1, :8].mean(axis=0)) > 0).all()  # flat directions come last
    again = made["rlodo"].beginning({})
    np.testing.assert_array_equal(again.arrays["beginning"], found["beginning"])


def test_the_bowl_can_be_changed_and_a_case_keeps_its_own():
    changed = replace(TINY, condition_number=10.0, drift_ratio=4.0, cases=("rlodo", "condition_1e+02"))
    bowls = {name: part.settings["bowl"] for name, part in parts(changed).items()}
    assert bowls["rlodo"] == {"size": 8, "condition_number": 10.0, "ratio": 4.0}
    assert bowls["condition_1e+02"] == {"size": 8, "condition_number": 1e2, "ratio": 4.0}
    assert parts(TINY)["rlodo"].settings["bowl"] == {"size": 8}, "as the records have it"


def test_what_the_page_shows(tmp_path):
    changes = {"steps": 200, "other_steps": 100, "size": 8, "cases": ("rlodo", "gradient_noise")}
    found = registry.build_parts("noisy_bowl_rlodo", "smoke", results_dir=str(tmp_path), changes=changes).all()
    rows = rlodo_bowl.cases_table(found)
    assert [(row["case"], row["runs"], row["steps"]) for row in rows] == [
        (CASES["rlodo"].about, 2, 200), (CASES["gradient_noise"].about, 2, 100),
    ]  # fmt: skip
    arrays = found["rlodo"].arrays
    np.testing.assert_allclose(rlodo_bowl.excess_by(found["rlodo"], 200), arrays["excess"].mean())
    assert rows[0]["share, steepest"] == arrays["shares"][:, -1, -1].mean()
    with pytest.raises(ValueError, match="The runs have 200 steps; asked for the first 300"):
        rlodo_bowl.excess_by(found["rlodo"], 300)
    drawn = theory_figures.shares({"rlodo": found["rlodo"], "other": found["gradient_noise"]})
    assert len(drawn.data) == 2 * len(theory_figures.TENTHS)
    np.testing.assert_array_equal(drawn.data[0].y, arrays["shares"].mean(axis=0)[:, 0])
    # Each curve is in its optimizer's colour and dash (the first was in LODO's), and a symbol tells the group.
    assert {(trace.line.color, trace.line.dash) for trace in drawn.data[:4]} == {tuple(line_of("rlodo").values())}
    assert len({trace.marker.symbol for trace in drawn.data[:4]}) == 4


def test_it_is_declared_and_every_case_can_be_built():
    found = {spec.name for spec in registry.records("paper", Path("/nowhere")) if spec.experiment == "noisy_bowl_rlodo"}
    assert found == set(CASES)
    for case in CASES.values():
        assert bowl_of_case(**{"size": 8, **case.bowl}).data.hessian.shape[0] >= 8


def test_each_case_has_a_table_and_each_drift_a_line():
    assert {case.group for case in CASES.values()} == set(GROUPS_OF_CASES)
    found = registry.build_parts("noisy_bowl_rlodo", "smoke").load_stored("paper")
    lines = rlodo_bowl.by_drift(found)
    assert list(lines) == ["rlodo", "rlodo, w = 1", "rlodo, w decaying", "LODO"]
    assert all(list(values) == [1, 10, np.exp(4), 100] for values in lines.values())
    learned, fixed = (np.mean(lines[name][100]) for name in ("rlodo", "rlodo, w = 1"))
    assert learned < 0.5 < 1 < fixed, "whitening that is learned gives way where its assumption fails"
    assert len(theory_figures.drifts(lines).data) == len(lines)


def test_what_the_page_says_of_the_parts():
    """That no part alone helps LODO, that whitening does, and that the cheap second moment costs nothing to be seen."""
    found = registry.build_parts("noisy_bowl_rlodo", "smoke").load_stored("paper")
    excess = {name: record.arrays["excess"] for name, record in found.items()}
    mean = {name: values.mean() for name, values in excess.items()}
    added = ("lodo_normalised", "trace_lodo", "lodo_relative", "lodo_relative_normalised", "lodo_relative_entries")
    assert all(mean[name] > mean["lodo"] for name in added)
    assert mean["no_whitening"] > 10 * rlodo_bowl.excess_by(found["rlodo"], 20_000)
    cheap, dear = excess["lodo_relative_normalised"], excess["lodo_relative_entries"]
    assert abs(cheap.mean() - dear.mean()) < min(cheap.std(ddof=1), dear.std(ddof=1))
