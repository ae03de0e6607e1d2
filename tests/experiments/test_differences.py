"""The measured differences between the paper and its code: each number against a computation of another kind."""

import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.studies import paper_and_code
from lodo_experiments.studies.paper_and_code_runs import AMOUNTS, STATED, Amounts, Bench, bowl_values
from lodo_experiments.tasks import noisy_bowl

SIZE = 20


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def double():
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def bench(double, tmp_path_factory) -> Bench:
    values = bowl_values(tmp_path_factory.mktemp("empty"))
    return Bench(Amounts("smoke", runs=2, bowl_steps=400, seeds=4, draws=300), values, size=SIZE)


def by_key(rows: list[paper_and_code.Row]) -> dict[str, paper_and_code.Row]:
    return {row["key"]: row for row in rows}


def test_hidden_size_has_a_block_more_where_k_divides_2n(bench):
    rows = by_key(paper_and_code.hidden_size(bench))
    assert (rows["hidden_size"]["value as paper"], rows["hidden_size"]["value as code"]) == (2 * SIZE, 2 * SIZE + 4)
    assert rows["hidden_numbers"]["difference"] == 16 * 4 * 4  # one block of k × k in each of N layers
    run = rows["hidden_bowl"]
    assert (run["runs"], run["diverged as paper"], run["diverged as code"]) == (4, 0, 0)
    assert run["difference"] != 0  # other permutations: other runs, of a like loss
    assert 0.5 < run["value as code"] / run["value as paper"] < 2


def test_both_starts_of_the_blocks_are_the_identity(bench):
    (row,) = paper_and_code.blocks_at_start(bench)
    for form in ("value as paper", "value as code"):
        assert 0 < row[form] < 1e-13


def rosenbrock_twin(theta: np.ndarray, alpha: float = 1e-3, steps: int = 200) -> float:
    """LODO with G = diag(θ), or θ I for θ of one entry, by the paper's Algorithm 1 in NumPy: the last step's loss."""
    x, m = np.array([-0.5, 2.0]), np.zeros(2)
    first, second, theta = np.zeros_like(theta), np.zeros_like(theta), theta.copy()
    for t in range(1, steps + 1):
        off = x[1] - x[0] ** 2
        loss = 0.01 * (1 - x[0]) ** 2 + off**2
        g = np.array([-0.02 * (1 - x[0]) - 4 * x[0] * off, 2 * off])
        h = -g * m if len(theta) == 2 else -np.array([g @ m])
        first, second = 0.9 * first + 0.1 * h, 0.999 * second + 0.001 * h**2
        theta -= alpha * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        m = 0.9 * m + 0.1 * g
        x = x - theta * m
    return loss


def test_global_and_diagonal_end_where_numpy_does(bench):
    row = by_key(paper_and_code.global_is_diagonal(bench))["global_rosenbrock"]
    assert row["value as paper"] == pytest.approx(rosenbrock_twin(np.ones(1)), rel=1e-9)
    assert row["value as code"] == pytest.approx(rosenbrock_twin(np.ones(2)), rel=1e-9)
    assert row["difference"] == pytest.approx(row["value as code"] - row["value as paper"])
    assert abs(row["difference"]) > 1e-9


def test_closed_form_is_the_hypergradient(bench):
    (row,) = paper_and_code.hypergradient(bench)
    assert 0 <= row["value as code"] < 1e-12


def test_residuals_start_away_from_the_identity(bench):
    rows = by_key(paper_and_code.residuals_start(bench))
    for end in ("smallest", "largest"):
        assert rows[f"residuals_{end}"]["value as paper"] == pytest.approx(1, abs=1e-12)
    assert rows["residuals_smallest"]["value as code"] < 0.7
    # E tr(S₀)/n = (1 + 1/N)^N for independent weights of variance 1/N; the largest eigenvalue is above the mean.
    assert rows["residuals_largest"]["value as code"] > (1 + 1 / 8) ** 8


def test_l_bfgs_takes_two_gradients_a_step():
    assert paper_and_code.gradients_of_a_step() == 2 == OPTIMIZERS["L-BFGS"].gradients_per_step


def test_a_curve_of_both_losses_is_half_way_between_them(bench):
    rows = by_key(paper_and_code.two_gradients(bench))
    run = bench.bowl(OPTIMIZERS["L-BFGS"], bench.values["L-BFGS"][1], look_back=True)
    before, after = run.losses[:, -40:].mean(), run.measured["after"][:, -40:].mean()
    assert rows["gradients"]["value as code"] == 2 * rows["gradients"]["value as paper"]
    assert after < before
    assert rows["gradients_curve"]["value as paper"] == pytest.approx(before)
    assert rows["gradients_curve"]["value as code"] == pytest.approx((before + after) / 2)
    assert rows["gradients_budget"]["value as code"] == pytest.approx(run.losses[:, 180:200].mean())


def yogi_twin(corrected: bool, rate: float = 1e-3, steps: int = 200) -> float:
    """Yogi on Rosenbrock's function in NumPy: the last step's loss."""
    x, m, v = np.array([-0.5, 2.0]), np.full(2, 1e-6 * corrected), np.full(2, 1e-6 * corrected)
    for t in range(1, steps + 1):
        off = x[1] - x[0] ** 2
        loss = 0.01 * (1 - x[0]) ** 2 + off**2
        g = np.array([-0.02 * (1 - x[0]) - 4 * x[0] * off, 2 * off])
        m, v = 0.9 * m + 0.1 * g, v - 0.001 * np.sign(v - g**2) * g**2
        first, second = (1 - 0.9**t, 1 - 0.999**t) if corrected else (1, 1)
        x = x - rate * (m / first) / (np.sqrt(v / second) + 1e-3)
    return loss


def test_yogis_forms_end_where_numpy_does(bench):
    row = by_key(paper_and_code.yogi(bench))["yogi_rosenbrock"]
    assert row["value as paper"] == pytest.approx(yogi_twin(True), rel=1e-9)
    assert row["value as code"] == pytest.approx(yogi_twin(False), rel=1e-9)


def test_looking_back_finds_no_loss_after_newtons_step(bench):
    run = bench.bowl(OPTIMIZERS["Levenberg-Marquardt"], {"damping": 0.0}, look_back=True)
    assert run.measured["after"].shape == (4, 401)
    assert np.abs(run.measured["after"][:, 1:]).max() < 1e-20
    assert run.scores.mean() == pytest.approx(noisy_bowl.newton_floor(noisy_bowl.hessian(SIZE)), rel=0.2)


def bowl_twin(H: np.ndarray, product: np.ndarray, seed: int, steps: int = 400) -> float:
    """The bowl with the step ``product`` (x − c) in NumPy, on the walk of the seed's run: mean of the last tenth."""
    batches = jax.random.split(jax.random.key(seed), 4)[3]
    keys = jax.vmap(lambda t: jax.random.fold_in(batches, t))(np.arange(steps))
    centres = np.cumsum(jax.vmap(lambda key: jax.random.normal(key, (SIZE,), float))(keys), axis=0)
    x, losses = np.zeros(SIZE), []
    for centre in centres:
        offset = x - centre
        losses.append(offset @ H @ offset / 2)
        x = x - product @ offset
    return float(np.mean(losses[-steps // 10 :]))


@pytest.mark.exhaustive
def test_levenberg_marquardts_forms_end_where_numpy_does(bench):
    row = by_key(paper_and_code.levenberg_marquardt(bench))["damped_bowl"]
    H = noisy_bowl.hessian(SIZE)
    squared = H @ H
    for form, matrix in (("value as paper", H), ("value as code", squared)):
        product = np.linalg.solve(matrix + np.diag(np.diag(matrix)), matrix)
        assert row[form] == pytest.approx(np.mean([bowl_twin(H, product, seed) for seed in range(4)]), rel=1e-9)
    assert row["difference"] > 3 * row["standard error"] > 0


@pytest.mark.exhaustive
def test_estimated_metric_is_within_its_sampling_error(bench):
    mean, spread = paper_and_code.metric(bench)
    exact = mean["value as paper"]
    # The square is unbiased; its root is below by about its variance over 8 exact³, far less than the sampling error.
    assert abs(mean["difference"]) < 4 * mean["standard error"]
    assert mean["value as code"] == pytest.approx(exact, rel=0.05)
    assert 0 < spread["value as code"] < 0.2 * exact
    assert mean["standard error"] == pytest.approx(spread["value as code"] / math.sqrt(300))


@pytest.mark.exhaustive
def test_clipping_bounds_the_loss_and_stops_the_gradient(bench):
    rows = by_key(paper_and_code.softmax(bench))
    assert rows["softmax_largest"]["value as paper"] == pytest.approx(30 + math.log(9), rel=1e-6)
    assert rows["softmax_largest"]["value as code"] == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert rows["softmax_middle"]["value as code"] < 1e-5
    assert rows["softmax_slope"]["value as paper"] == pytest.approx(-1)
    assert rows["softmax_slope"]["value as code"] == 0
    z = np.linspace(-10, 10, 11)
    exact = np.log1p(9 * np.exp(-z))
    for form in (paper_and_code.from_logits, paper_and_code.from_probabilities):
        losses, slopes = paper_and_code.cross_entropies(z, form)
        np.testing.assert_allclose(losses, exact, atol=1e-6)
        np.testing.assert_allclose(slopes, -9 / (9 + np.exp(z)), atol=1e-6)


def test_score_read_literally_is_another_mean(bench):
    (row,) = paper_and_code.score(bench)
    losses = bench.bowl(OPTIMIZERS["LODO"], paper_and_code.presets.AUTHORS_BOWL_VALUES).losses
    assert row["value as paper"] == pytest.approx(losses[:, -40:].mean())
    assert row["value as code"] == pytest.approx(losses[:, -360:].mean())


def test_lars_stays_at_zero_and_optaxs_leaves_it(bench):
    (row,) = paper_and_code.lars_at_zero(bench)
    assert row["value as code"] == 0 < row["value as paper"]


def test_generation_network_has_the_parameters_that_the_page_says():
    (row,) = paper_and_code.parameters(None)
    # 1×1 conv, five stages of four blocks, linear; biases included.
    block = (20 * 40 + 40) + (40 * 3 * 9 + 120) + (120 * 20 + 20)
    assert row["value as code"] == (5 * 20 + 20) + 20 * block + (20 * 256 + 256) == 94_696


def test_diverged_runs_are_counted_and_left_out_of_the_means():
    pair = [np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, np.nan])]
    row = paper_and_code.compared("k", "w", "p", "c", "q", pair)
    assert (row["value as paper"], row["value as code"], row["difference"]) == (2.0, 3.5, 1.0)
    assert (row["runs"], row["diverged as paper"], row["diverged as code"]) == (3, 1, 1)
    nowhere = paper_and_code.compared("k", "w", "p", "c", "q", [np.array([np.nan]), np.array([1.0])])
    assert math.isnan(nowhere["difference"])
    assert nowhere["value as code"] == 1.0


def test_rows_have_one_form_and_each_difference_names_its_line_on_the_page(bench, root):
    rows = [row for difference in (paper_and_code.softmax, paper_and_code.lars_at_zero) for row in difference(bench)]
    assert {tuple(row) for row in rows} == {("key", *paper_and_code.COLUMNS)}
    assert {tuple(row) for row in paper_and_code.table(rows)} == {paper_and_code.COLUMNS}
    page = (root / "notebooks" / "paper_and_code.ipynb").read_text(encoding="utf-8")
    for difference in paper_and_code.DIFFERENCES:
        section = re.match(r'Page, "([^"]+)", .*\*', difference.__doc__)
        assert section, difference.__name__
        assert f"<details><summary>{section[1]}:" in page


def test_values_are_the_tuned_ones_where_there_are_any(root, tmp_path):
    assert {name: origin for name, (origin, _) in bowl_values(tmp_path).items()} == dict.fromkeys(STATED, "stated")
    found = bowl_values(root / "results")
    assert set(found) == set(STATED)
    for name, (origin, values) in found.items():
        assert origin == "tuned", name
        assert set(values) == set(OPTIMIZERS[name].defaults)


def test_there_are_amounts_for_each_preset():
    assert {name: amounts.name for name, amounts in AMOUNTS.items()} == {n: n for n in ("smoke", "laptop", "paper")}
