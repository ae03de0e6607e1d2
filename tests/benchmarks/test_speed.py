"""The benchmark: that it measures what it says, in a small form, and that its restatement of LODO is LODO."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lodo
from benchmarks.speed import autodiff, image_gradient
from benchmarks.speed.forms import FORMS, near_square
from benchmarks.turns import Samples, Timed, take_turns
from lodo import diagnostics
from lodo_experiments.analysis import step_times
from lodo_experiments.models import depthwise
from lodo_experiments.report import figures, step_cost_figures
from lodo_experiments.results.records import Record

ROOT = Path(__file__).resolve().parents[2]


def has_native():
    return not next(form for form in FORMS if form.name == step_times.NATIVE).missing()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The records that `make bench`'s quick form stores, and what it prints."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--results-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return step_times.load_all(folder), done.stdout


def test_steps_have_every_form_beside_the_memory(quick):
    rows = quick[0]["steps"].values["rows"]
    for way in (step_times.CALL, step_times.SCAN):
        (ours,) = step_times.rows_of(rows, form=step_times.OURS, way=way)
        assert ours["by_ours"] == 1
        assert 0 < ours["seconds_low"] <= ours["seconds"] <= ours["seconds_high"]
        traffic = diagnostics.step_traffic(jax.ShapeDtypeStruct((100,), jnp.float32))
        assert ours["floor_bytes"] == traffic.floor_bytes
        assert ours["state_bytes"] > traffic.passes["θ written"]
    kernels = [row for row in rows if "kernel" in row]
    (best,) = step_times.rows_of(kernels, best=True)
    assert best["bytes_per_second"] == max(row["bytes_per_second"] for row in kernels)
    assert step_times.rows_of(rows, form=step_times.ARRANGED)
    if has_native():
        for way in (step_times.CALL, step_times.SCAN):
            (native,) = step_times.rows_of(rows, form=step_times.NATIVE, way=way)
            assert native["by_native"] == 1
            assert native["by_floor"] > 0
        (built,) = [row for row in rows if "compiler" in row]
        assert built["build_seconds"] > 0


def test_every_part_is_recorded_with_where_it_was_measured(quick):
    found, printed = quick
    assert set(found) == set(step_times.PARTS)
    for part, record in found.items():
        assert record.provenance["command"] == "python -m benchmarks.speed --quick"
        assert record.provenance["usable_cores"] >= 1
        for title, rows in step_times.tables_of(part, record.values["rows"]).items():
            assert title in printed
            assert len({tuple(row) for row in rows}) == 1, title
    assert "usable" in step_times.circumstances(found)
    assert all(f"- {part}: seeds" in figures.provenance_note(found) for part in found)


def test_small_form_answers_no_target_of_another_size(quick):
    answered = {row["target"] for row in step_times.verdicts(quick[0]) if row["verdict"] != "not measured"}
    keys = ["small", "compile", *["native_small"] * has_native()]
    assert answered == {target.what for target in step_times.TARGETS if target.key in keys}


def test_split_adds_up_to_the_step(quick):
    rows = quick[0]["split"].values["rows"]
    parts = [row["part"] for row in rows]
    assert parts == [step_times.STEP, step_times.APPLY, step_times.HYPERGRADIENT, step_times.META, step_times.REST]
    assert rows[0]["share"] == 1


def test_memory_of_a_process_is_its_own(quick):
    rows = quick[0]["memory"].values["rows"]
    assert [row["form"] for row in rows] == [step_times.OURS, *[step_times.NATIVE] * has_native()]
    for row in rows:
        assert row["peak_bytes"] >= row["before_bytes"] > 2**20
        assert row["xla_peak_bytes"] > 2 * 4 * 16 * 204 * 4


def test_image_gradient_is_measured_on_one_core(quick):
    forms = {row["form"]: row for row in quick[0]["image_gradient"].values["rows"]}
    assert forms["ours"]["by_ours"] == 1
    if hasattr(os, "sched_setaffinity"):
        assert {row["cores"] for row in forms.values()} == {1}


def test_figures_are_drawn_from_the_records(quick):
    found = quick[0]
    steps, tasks = step_cost_figures.step_times(found["steps"]), step_cost_figures.tasks(found["tasks"])
    (ours,) = step_times.rows_of(found["steps"].values["rows"], form=step_times.OURS, way=step_times.SCAN)
    drawn = {trace.name: trace for trace in steps.data}
    assert drawn[step_times.OURS].y == (1e3 * ours["seconds"],)
    assert {trace.name for trace in tasks.data} == {"LODO", "Adam", "Momentum"}


def test_one_size_is_shown_with_every_form_that_was_timed(quick):
    rows = quick[0]["steps"].values["rows"]
    (ours,) = step_times.rows_of(rows, form=step_times.OURS, way=step_times.SCAN)
    shown = step_times.at_size(rows, n=ours["n"], dtype=ours["dtype"], way=step_times.SCAN)
    (row,) = step_times.rows_of(shown, form=step_times.OURS)
    assert (row["ms a step"], row["× LODO"]) == (1e3 * ours["seconds"], 1)
    assert len(shown) == sum("seconds" in row for row in step_times.rows_of(rows, way=step_times.SCAN, n=ours["n"]))


def test_targets_tell_met_from_not_met():
    def record(**more):
        ours = {
            "form": step_times.OURS,
            "dtype": "float32",
            "way": step_times.SCAN,
            "trace_seconds": 1.0,
            "compile_seconds": 1.0,
        }
        rows = [{**ours, "n": 94_696, "by_floor": 5.0}, {**ours, "n": 100, "seconds": 1e-4, **more}]
        rows.append({**ours, "n": 94_696, "form": step_times.NATIVE, "by_floor": 3.0})
        rows.append({**ours, "n": 94_696, "form": step_times.AUTODIFF, "by_ours": 30.0, "by_native": 19.0})
        return {"steps": Record("benchmarks/speed/steps", {}, {"rows": rows})}

    met = {target.key: target.what for target in step_times.TARGETS}
    verdicts = {row["target"]: row["verdict"] for row in step_times.verdicts(record())}
    assert verdicts[met["floor"]] == "not met"
    assert verdicts[met["autodiff"]] == "met"
    assert verdicts[met["native_floor"]] == "met"
    assert verdicts[met["native_autodiff"]] == "not met"
    assert verdicts[met["small"]] == "met"
    assert verdicts[met["compile"]] == "met"
    assert verdicts[met["large"]] == "not measured"
    slower = {row["target"]: row["verdict"] for row in step_times.verdicts(record(compile_seconds=4.0))}
    assert slower[met["compile"]] == "not met"


@pytest.mark.parametrize(("load", "busy"), [(2.1, False), (9.0, True), (None, False)])
def test_page_says_that_the_machine_was_busy(quick, load, busy):
    stated = {**quick[0]["split"].provenance, "usable_cores": 2, "load_before": load, "load_after": load}
    text = step_times.circumstances({"split": Record("benchmarks/speed/split", {}, {"rows": []}, stated)})
    assert ("was busy" in text) == busy


def test_project_keeps_records_of_its_own_steps():
    found = step_times.load_bundled()
    assert step_times.rows_of(
        found["steps"].values["rows"], form=step_times.OURS, n=94_696, dtype="float32", way=step_times.SCAN
    )
    for part, record in found.items():
        assert step_times.tables_of(part, record.values["rows"])
        assert record.provenance["library"]


@pytest.mark.parametrize("product", [autodiff.product, autodiff.arranged_product])
def test_plain_restatement_is_algorithm_1_in_dense_matrices(product):
    with jax.enable_x64(True):
        n, rate, beta = 5, 1e-3, 0.9
        optimizer = autodiff.lodo_by_autodiff(0.5, rate, beta, depth=3, k=2, product=product)
        state = optimizer.init(jnp.zeros(n, jnp.float64))
        hidden = state.forward.shape[1]
        assert hidden == 12

        def dense(theta):
            """G from θ and the permutations, as matrices."""
            G = jnp.eye(hidden)
            for blocks, order in zip(theta, state.forward):
                B = jax.scipy.linalg.block_diag(*blocks)
                G = B @ jnp.eye(hidden)[order] @ G
            return 0.5 * (G.T @ G)[:n, :n]

        np.testing.assert_allclose(dense(state.theta), 0.5 * np.eye(n), atol=1e-12)
        gradients = np.random.default_rng(0).normal(size=(3, n))
        theta, m, mu, nu = state.theta, np.zeros(n), 0.0, 0.0
        for t, g in enumerate(gradients, 1):
            step, state = optimizer.update(jnp.asarray(g), state)
            h = jax.grad(lambda theta, g=g, m=m: -g @ dense(theta) @ m)(theta)
            mu, nu = 0.9 * mu + 0.1 * h, 0.999 * nu + 0.001 * h**2
            theta = theta - rate * mu / (1 - 0.9**t) / (jnp.sqrt(nu / (1 - 0.999**t)) + 1e-8)
            m = beta * m + (1 - beta) * g
            np.testing.assert_allclose(step, -dense(theta) @ m, rtol=1e-9)
        np.testing.assert_allclose(state.theta, theta, rtol=1e-9)
        assert float(jnp.abs(theta - 0).max()) > 0


@pytest.mark.exhaustive
def test_plain_restatement_and_library_agree_as_long_as_theta_is_orthogonal():
    # With α = 0 both are momentum descent, whatever their permutations.
    g = jnp.arange(1.0, 8.0)
    steps = []
    for optimizer in (autodiff.lodo_by_autodiff(alpha=0.0), lodo.lodo(meta_learning_rate=0.0)):
        state = optimizer.init(jnp.zeros(7))
        for _ in range(3):
            step, state = optimizer.update(g, state)
        steps.append(step)
    np.testing.assert_allclose(*steps, rtol=1e-5)


def test_turns_leave_out_those_that_do_not_take_part():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    timed = {"a": Timed(lambda: count("a"), steps=2), "b": Timed(lambda: count("b"), turns=2)}
    samples = take_turns(timed, turns=5)
    assert calls == {"a": 6, "b": 3}
    assert np.isfinite(samples["a"].seconds).sum() == 5
    np.testing.assert_array_equal(np.isfinite(samples["b"].seconds), [True, False, False, False, True])


def test_ratio_is_taken_within_a_turn():
    busy = np.array([1.0, 10.0, 1.0])
    assert Samples(3 * busy).ratio(Samples(busy)).quartiles() == (3.0, 3.0)
    assert Samples(np.array([1.0, np.nan, 3.0])).median == 2.0


def test_earlier_form_of_the_depthwise_layer_is_the_same_sum():
    random = np.random.default_rng(0)
    x, kernel = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((2, 5, 4, 3), (3, 3, 3, 2)))
    earlier = image_gradient.nine_shifted_products(x, kernel)
    np.testing.assert_allclose(earlier, depthwise(x, kernel, "grouped"), rtol=1e-5, atol=1e-5)


def test_matrix_of_a_size_has_that_many_entries():
    assert [near_square(n) for n in (100, 94_696, 7)] == [(10, 10), (266, 356), (1, 7)]
