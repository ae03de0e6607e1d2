"""The optimizers beside the paper's list, and the bowls that differ from the paper's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo_experiments.analysis.anisotropic_drift import DRIFTS, excess_table
from lodo_experiments.optimizers.extended import Dense, inverse_root, newton, whitening
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor, noisy_bowl
from lodo_experiments.tasks.other_bowls import anisotropic_directions, bowl_of_own_hessians
from lodo_experiments.training.loop import train

pytestmark = pytest.mark.usefixtures("sixty_four_bits")


def test_whitening_divides_by_the_root_of_the_gradients_second_moment():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3))
    optimizer = whitening(0.5, 0.9)
    state = optimizer.init(jnp.zeros(3))
    step, state = optimizer.update(jnp.asarray(first), state)
    moment = 0.9 * np.eye(3) + 0.1 * np.outer(first, first)
    values, vectors = np.linalg.eigh(moment)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    np.testing.assert_allclose(step, -0.5 * root @ first, rtol=1e-12)
    step, state = optimizer.update(jnp.asarray(second), state)  # the root waits for its turn, the moment does not
    np.testing.assert_allclose(step, -0.5 * root @ second, rtol=1e-12)
    np.testing.assert_allclose(state.covariance, 0.9 * moment + 0.1 * np.outer(second, second), rtol=1e-12)


def test_the_inverse_root_of_h_squared_is_the_inverse_hessian_and_of_another_drifts_is_not():
    H, L = hessian(6), anisotropic_directions(6)
    np.testing.assert_allclose(inverse_root(jnp.asarray(H @ H)), np.linalg.inv(H), rtol=1e-6)
    other = np.asarray(inverse_root(jnp.asarray(H @ L @ L.T @ H)))
    assert np.linalg.norm(np.eye(6) - other @ H) > 1


def test_the_free_matrix_has_the_hypergradient_of_automatic_differentiation():
    key = jax.random.key(0)
    theta = jax.random.normal(key, (5, 5))
    m, g = jax.random.normal(jax.random.key(1), (2, 5))
    _, fixed = Dense().init(key, 5, jnp.float64)
    by_jax = jax.grad(lambda t: g @ Dense().apply(t, fixed, m))(theta)
    np.testing.assert_allclose(Dense().hypergradient(theta, fixed, m, g), by_jax, rtol=1e-12)
    v, w = jax.random.normal(jax.random.key(2), (2, 5))
    np.testing.assert_allclose(v @ Dense().apply(theta, fixed, w), w @ Dense().apply(theta, fixed, v), rtol=1e-12)


def test_newtons_step_ends_at_the_samples_centre():
    H, centre = jnp.asarray(hessian(6)), jnp.arange(6.0)
    step, _ = newton().update(H @ (jnp.zeros(6) - centre), (), hessian=H)
    np.testing.assert_allclose(step, centre, atol=1e-9)


def test_newtons_method_ends_at_the_floor_of_a_drift_with_directions():
    H, L = hessian(6), anisotropic_directions(6, rotated=True)
    task = noisy_bowl(6, drift=2.0, directions=L)
    run = train(task, optimizer_named("Newton"), steps=20_000, seeds=[0], chunk=20_000)
    assert run.losses[0, 1:].mean() == pytest.approx(newton_floor(H, 2.0, L), rel=0.05)
    # Another matrix of the same mean square has another floor.
    assert newton_floor(H, 2.0, L) != pytest.approx(newton_floor(H, 2.0), rel=0.05)


def test_each_run_has_its_own_hessian_and_measures_against_it():
    task = bowl_of_own_hessians(6)
    run = train(task, optimizer_named("LODO-Diagonal"), steps=20, seeds=[0, 1], measure_every=10)
    H = np.asarray(run.data_state.hessian)
    assert np.linalg.norm(H[0] - H[1]) > 0.1
    np.testing.assert_allclose(np.linalg.eigvalsh(H), np.linalg.eigvalsh(hessian(6))[None].repeat(2, 0), rtol=1e-9)
    expected = np.linalg.norm(np.eye(6) - H, axis=(1, 2)) / 6**0.5  # G starts at I
    np.testing.assert_allclose(run.measured["inverse_hessian_error"][:, 0], expected, rtol=1e-9)


def test_variants_ask_for_what_they_say():
    assert registry.build("noisy_bowl_retuned_2", "smoke", show=False).setup.tuning_seed == 2
    slow, fast = (registry.build(f"noisy_bowl_anisotropic{suffix}", "smoke", show=False) for suffix in ("", "_rotated"))
    assert not np.array_equal(slow.task.data.directions, fast.task.data.directions)
    tenfold = registry.named("noisy_bowl_anisotropic_tenfold").preset("paper")
    assert (tenfold.drift, tenfold.schedule) == (10.0, ())


def test_the_excess_is_over_the_floor_of_the_records_own_drift():
    record = Record("x/LODO", {"scores": np.array([10.0, 12.0])}, {}, {})
    rows = excess_table(lambda name: {"LODO": record})
    assert [row["drift"] for row in rows] == [drift.words for drift in DRIFTS.values()]
    assert [row["above the floor"] for row in rows] == [11.0 - drift.floor() for drift in DRIFTS.values()]
