"""Learning dynamics of a full matrix G: recursions, spectra, rates, noise ball, theorem, and where it breaks."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo_experiments.config.theory_presets import DYNAMICS, DynamicsPreset
from lodo_experiments.report import theory_figures
from lodo_experiments.results import records
from lodo_experiments.results.records import RecordError
from lodo_experiments.results.store import Store
from lodo_experiments.studies.runner import PartStudy
from lodo_experiments.studies.theory import dynamics
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy

RESULTS = Path(__file__).resolve().parents[2] / "results" / "laptop" / "learning_dynamics"
SIZE = 3
H = dynamics.hessian(np.array([0.5, 0.7, 1.0]))
S = np.diag([1.0, 0.5, 2.0])
TINY = DynamicsPreset(
    name="smoke", size=2, smallest=0.7, seeds=1, decay_runs=64, runs=8, decay_rate=0.01, decay_steps=40,
    ball_rates=(0.01, 0.03), relaxations=0.5, limit_shares=(0.01, 0.5), limit_steps=40, momenta=(0.0, 0.5),
    momentum_rate=0.01, conditions=(2, 4), condition_rate=0.05, bound_steps=40,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture
def drawn():
    """G, b, m and s at random."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(SIZE, SIZE)), rng.normal(size=SIZE), rng.normal(size=SIZE), rng.normal(size=SIZE)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_meta_step_is_minus_the_gradient_of_the_next_loss(drawn, momentum):
    """Equation `dynamics-recursion` of book/hessian_dynamics.md."""
    G, b, m, s = drawn
    if momentum == 0:
        m = H @ b

    def next_loss(G):
        offset = b - G @ m - s  # x − G m, seen from the centre after its step
        return offset @ H @ offset / 2

    rate = 0.1
    moved, new_b, new_m, _ = dynamics.step(H, G, b, m, s, rate, momentum)
    np.testing.assert_allclose((moved - G) / rate, -jax.grad(next_loss)(jnp.asarray(G)), rtol=1e-12)
    np.testing.assert_allclose(new_b @ H @ new_b / 2, next_loss(G), rtol=1e-12)
    np.testing.assert_allclose(new_m, momentum * m + (1 - momentum) * H @ new_b, rtol=1e-12)


def test_error_follows_the_stated_recursion(drawn):
    """Equation `dynamics-recursion` of book/hessian_dynamics.md."""
    G, b, _, s = drawn
    A, rate = np.eye(SIZE) - G @ H, 0.1
    moved, new_b, new_m, e = dynamics.step(H, G, b, H @ b, s, rate)
    stated = A - rate * H @ np.outer(A @ b - s, b) @ H @ H
    np.testing.assert_allclose(np.eye(SIZE) - moved @ H, stated, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(new_b, A @ b - s, rtol=1e-12)
    np.testing.assert_allclose(e, A @ b, rtol=1e-12)
    np.testing.assert_allclose(new_m, H @ new_b, rtol=1e-12)


def test_spectrum_of_the_mean_step_equals_the_dense_one():
    """Equation `dynamics-map` of book/hessian_dynamics.md."""
    rate = 0.3
    columns = [dynamics.mean_step(E.reshape(SIZE, SIZE), H, S, rate).ravel() for E in np.eye(SIZE**2)]
    dense = np.linalg.eigvals(np.array(columns).T)
    assert np.abs(dense.imag).max() < 1e-12
    stated = 1 - rate * dynamics.decay_rates(H, S).ravel()
    np.testing.assert_allclose(np.sort(dense.real), np.sort(stated), rtol=1e-10)
    kronecker = np.kron(H, (S @ H @ H).T)  # of X ↦ H X (S H²), row by row
    np.testing.assert_allclose(np.array(columns).T, np.eye(SIZE**2) - rate * kronecker, atol=1e-13)


def test_mean_dynamics_lose_stability_at_the_predicted_limit():
    """Equation `dynamics-limit` of book/hessian_dynamics.md."""
    limit = dynamics.stability_limit(H, S)
    assert not dynamics.grows(H, S, 0.99 * limit)
    assert dynamics.grows(H, S, 1.01 * limit)


def test_mean_dynamics_converge_from_the_usual_start_and_to_first_order_by_the_stated_rates():
    """Equation `dynamics-closure` of book/hessian_dynamics.md."""
    path = dynamics.mean_field(H, np.eye(SIZE), 0.5 * np.eye(SIZE), 0.05, 3000)
    assert np.linalg.norm(path[-1]) < 1e-6
    small = dynamics.mean_field(H, S, (np.eye(SIZE) - 1e-5 * np.ones_like(H)) @ np.linalg.inv(H), 0.05, 20)
    linear = small[0]
    for _ in range(20):
        linear = dynamics.mean_step(linear, H, S, 0.05)
    np.testing.assert_allclose(small[-1], linear, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("condition", [4, 8, 16])
def test_learning_time_grows_as_the_third_power_of_the_condition_number(condition):
    # One flat direction with σ = 1, from α₀ = 1 until half of it is learned; components do not disturb each other.
    """Equation `dynamics-time` of book/hessian_dynamics.md."""
    rate, least, target = 0.1, 1 / condition, 0.5
    first = 1 - least
    stated = (np.log(first / target) - (first**2 - target**2) / 2) / (rate * least**3)
    assert dynamics.learning_time(least, 1.0, target, rate) == pytest.approx(stated)
    one = np.eye(1)
    path = dynamics.mean_field(least * one, one, one, rate, round(1.1 * stated) + 10)[:, 0, 0]
    assert np.argmax(path < target) == pytest.approx(stated, rel=0.02)


@pytest.mark.parametrize("condition", [4, 8])
def test_process_takes_the_stated_time_from_the_usual_start(condition):
    """Equation `dynamics-time` of book/hessian_dynamics.md."""
    rate, start, target, windows = 0.02, 0.5, 0.5, 200
    first = 1 - start / condition
    stated = (np.log(first / target) - (first**2 - target**2) / 2) / (rate / condition**3)
    every = round(1.6 * stated / windows)
    hessian, one = np.diag([1 / condition, 1.0]), np.eye(2)
    found, _ = dynamics.simulate(
        hessian, one, start * one, rate=rate, windows=windows, every=every, runs=48, seeds=[0], bounded=True
    )
    flat = found.A[:, :, 0, 0].mean(axis=0)
    assert every * (np.argmax(flat < target) + 1) == pytest.approx(stated, rel=0.03)


def test_mean_dynamics_explain_the_rates_that_are_measured_from_the_laptop_presets_start():
    preset = DYNAMICS["laptop"]
    hessian, rate, steps = dynamics.hessian(np.geomspace(0.5, 1.0, 6)), preset.decay_rate, preset.decay_steps
    assert (preset.size, preset.smallest) == (6, 0.5)
    _, Q = np.linalg.eigh(hessian)

    def ratio(size):
        start = size * np.random.default_rng(1).choice([-1.0, 1.0], (6, 6))
        G = (np.eye(6) - Q @ start @ Q.T) @ np.linalg.inv(hessian)
        last = Q.T @ dynamics.mean_field(hessian, np.eye(6), G, rate, steps)[-1] @ Q
        measured = 1 - (last / start) ** (1 / steps)
        return np.mean(measured / (rate * dynamics.decay_rates(hessian, np.eye(6))))

    assert ratio(0.08) == pytest.approx(1.031, abs=5e-4)
    assert ratio(0.005) == pytest.approx(1, abs=5e-4)


@pytest.fixture(scope="module")
def rates():
    """Runs from a small A with every component, in H's eigenbasis, with σ = 1."""
    rate, steps, start = 0.005, 200, 0.08 * np.array([[1, -1, 1], [-1, 1, 1], [1, 1, -1]])
    _, Q = np.linalg.eigh(H)
    G = (np.eye(SIZE) - Q @ start @ Q.T) @ np.linalg.inv(H)
    found, _ = dynamics.simulate(H, np.eye(SIZE), G, rate=rate, windows=1, every=steps, runs=6000, seeds=[0])
    A = np.einsum("ai,rab,bj->rij", Q, found.A[:, 0], Q)
    return rate, steps, start, A.mean(axis=0), A.std(axis=0) / np.sqrt(len(A))


def test_mean_error_decays_at_the_predicted_rates(rates):
    """Equation `dynamics-rate` of book/hessian_dynamics.md."""
    rate, steps, start, mean, error = rates
    predicted = start * (1 - rate * dynamics.decay_rates(H, np.eye(SIZE))) ** steps
    # What is left of first order in ε and A is a few hundredths of the decay itself.
    slack = 0.05 * np.abs(start - predicted)
    assert (np.abs(mean - predicted) < 5 * error + slack).all()
    # The comparison can tell λᵢ λⱼ² from λᵢ² λⱼ.
    wrong = start * (1 - rate * dynamics.decay_rates(H, np.eye(SIZE)).T) ** steps
    assert (np.abs(mean - wrong) > 5 * error + slack).any()


def test_noise_ball_is_the_predicted_one():
    """Equation `dynamics-noise` of book/hessian_dynamics.md."""
    sizes = []
    for rate in (0.005, 0.02):
        every = round(6 / (rate * 0.5**3 * 0.5))
        found, _ = dynamics.simulate(H, S, np.linalg.inv(H), rate=rate, windows=2, every=every, runs=64, seeds=[0])
        predicted = dynamics.noise_ball(H, S, rate)
        for name in predicted._fields:
            values = getattr(found, name)[:, 1]
            error = values.std() / np.sqrt(len(values))
            # The prediction is of first order in ε.
            assert abs(values.mean() - getattr(predicted, name)) < 5 * error + 6 * rate * getattr(predicted, name), name
        sizes.append(found.squared_A[:, 1].mean())
    assert np.log(sizes[1] / sizes[0]) / np.log(4) == pytest.approx(1, abs=0.1)


def test_one_step_inequality_by_enumerating_the_noise(drawn):
    # Every outcome of s = (±1, ±1, ±1), so that the mean over it is exact; its covariance is I.
    """Equations `dynamics-one-step`, `dynamics-drift` of book/hessian_dynamics.md."""
    G, b, _, _ = drawn
    rate, g = 0.01, H @ b
    D = np.linalg.inv(H) - G
    outcomes = [np.array(signs, float) for signs in itertools.product((-1, 1), repeat=SIZE)]
    after = [np.sum((dynamics.step(H, G, b, g, s, rate)[0] - np.linalg.inv(H)) ** 2) for s in outcomes]
    e = D @ g
    c = np.trace(H @ H)
    exact = np.sum(D**2) - 2 * rate * e @ H @ e + rate**2 * (g @ g) * (e @ H @ H @ e + c)
    assert np.mean(after) == pytest.approx(exact, rel=1e-12)
    delta = rate * np.linalg.eigvalsh(H)[-1] * (g @ g)
    assert np.mean(after) <= np.sum(D**2) - (2 - delta) * rate * e @ H @ e + rate**2 * c * (g @ g) + 1e-12
    assert delta <= 0.5
    assert np.mean(after) <= np.sum(D**2) - 1.5 * rate * e @ H @ e + rate**2 * c * (g @ g) + 1e-12  # Γ being ‖g‖


def test_projected_process_obeys_the_bound_on_the_excess_loss():
    """Equations `dynamics-regret`, `dynamics-ball` of book/hessian_dynamics.md."""
    rho, runs, steps, radius = 0.6, 200, 4000, np.sqrt(SIZE)  # s = (±1, ±1, ±1)
    inverse, L = np.linalg.inv(H), np.linalg.eigvalsh(H)[-1]
    rate = 0.5 * dynamics.largest_rate(H, radius, rho)
    rng = np.random.default_rng(0)
    start = inverse - 0.9 * (rho / L) * np.ones((SIZE, SIZE)) / SIZE
    G, excess = np.broadcast_to(start, (runs, SIZE, SIZE)).copy(), np.zeros(runs)
    b = -rng.choice([-1.0, 1.0], (runs, SIZE))
    for _ in range(steps):
        g = b @ H
        e = b - np.einsum("rij,rj->ri", G, g)
        excess += np.einsum("ri,ij,rj->r", e, H, e) / 2
        b = e - rng.choice([-1.0, 1.0], (runs, SIZE))
        D = inverse - G - rate * (b @ H)[:, :, None] * g[:, None, :]
        D *= np.minimum(1, rho / L / np.linalg.norm(D, axis=(1, 2)))[:, None, None]
        G = inverse - D
    measured, error = excess.mean() / steps, excess.std() / steps / np.sqrt(runs)
    bound = dynamics.average_excess_bound(H, np.eye(SIZE), start, rate, steps, radius=radius, bound=rho)
    assert measured < bound
    # With δ = ½ the bound is twice what is expected to first order.
    assert bound / (measured + 3 * error) < 2.3
    assert bound / (measured - 3 * error) > 1.7
    distance = np.sum((G - inverse) ** 2, axis=(1, 2)).mean()
    kappa, gamma = 0.75 * 0.5**3, L * radius / (1 - rho)
    assert distance < (1 - kappa * rate) ** (steps - 1) * np.sum((start - inverse) ** 2) + 3 * gamma**4 * rate / kappa


def test_bounded_steps_leave_the_stable_set_too(sixty_four_bits):
    """For n = 1: what "What is not proved" says of a process without projection."""
    one = np.eye(1)
    found, _ = dynamics.simulate(one, one, one, rate=0.3, windows=3_000, every=1, runs=50, seeds=[0], bounded=True)
    assert np.all(np.nanmax(np.abs(found.A[:, :, 0, 0]), axis=1) > 0.8)
    # The steps that the argument counts: b and b' in [r/4, r/2] take |s| <= r, and lower A by at least η r²/16.
    r, eta = np.sqrt(3), 0.3
    for a, b, after in itertools.product((-0.99, 0.0, 0.99), (r / 4, r / 2), (r / 4, r / 2)):
        assert abs(a * b - after) <= r
        assert eta * b * after >= eta * r**2 / 16


def test_bounds_say_little_on_the_bowl_from_the_usual_start():
    """Equations `dynamics-transient`, `dynamics-exit` of book/hessian_dynamics.md."""
    eigenvalues, squared_radius = np.geomspace(1e-3, 1.0, 100), 300.0  # uniform steps of covariance I
    bowl, newton = np.diag(eigenvalues), eigenvalues.sum() / 2

    def steps_needed(start):
        rho = np.abs(1 - start * eigenvalues).max()
        rate = dynamics.largest_rate(bowl, np.sqrt(squared_radius), rho)
        at = {"radius": np.sqrt(squared_radius), "bound": rho}
        bound = dynamics.average_excess_bound(bowl, np.eye(100), start * np.eye(100), rate / 2, 1.0, **at)
        # No other rate has a smaller first term, and it is no smaller than the page says.
        for share in (0.3, 0.7):
            other = dynamics.average_excess_bound(bowl, np.eye(100), start * np.eye(100), share * rate, 1.0, **at)
            assert bound < other
        assert bound > (1000 - start) ** 2 / (1e-3 * start) ** 2 * squared_radius
        return rate, bound / newton

    rate, steps = steps_needed(1.0)
    assert rate == pytest.approx(1e-6 / 300)
    assert steps == pytest.approx(3.1e14, rel=0.01)
    assert steps_needed(2 / 1.001)[1] / steps == pytest.approx(1 / 4, rel=0.01)
    assert np.sum((1 - 1 / eigenvalues) ** 2) / 0.999**2 == pytest.approx(7.7e6, rel=0.01)
    # The bound on leaving the set says something for some α₀ only below the condition number 1 + √2.
    starts = np.linspace(0.01, 2, 2000)
    for condition, some in ((2.40, True), (2.43, False)):
        rho = np.maximum(np.abs(1 - starts), np.abs(1 - starts / condition))
        distance = (starts - condition) ** 2 + (starts - 1) ** 2
        assert (distance < np.maximum(rho, 1 - 1e-9) ** 2).any() == some


def test_process_follows_the_averaged_equation_from_the_usual_start():
    """Equation `dynamics-ode` of book/hessian_dynamics.md."""
    hessian, horizon, start = dynamics.hessian(np.array([0.5, 1.0])), 6.0, 0.6
    eigenvalues, Q = np.linalg.eigh(hessian)
    first, expected = 1 - start * eigenvalues, []
    for a, least in zip(first, eigenvalues, strict=True):
        path = np.linspace(1e-4, a, 100_001)
        times = (np.log(a / path) - (a**2 - path**2) / 2) / least**3
        expected.append(np.interp(horizon, times[::-1], path[::-1]))
    assert 0.1 < expected[0] / first[0] < 0.9  # neither at the start nor done
    deviations = []
    for rate in (0.016, 0.004, 0.001):
        every = round(horizon / rate)
        found, _ = dynamics.simulate(
            hessian, np.eye(2), start * np.eye(2), rate=rate, windows=1, every=every, runs=300, seeds=[0], bounded=True
        )
        A = np.einsum("ai,rab,bj->rij", Q, found.A[:, 0], Q)
        deviations.append(np.mean(np.sum((A - np.diag(expected)) ** 2, axis=(1, 2))))
    # The mean square is proportional to ε, as the bound on the probability says.
    slopes = -np.diff(np.log(deviations)) / np.log(4)
    np.testing.assert_allclose(slopes, 1, atol=0.25)


def test_bound_is_refused_where_the_theorem_does_not_hold():
    with pytest.raises(ValueError, match="rate must be below"):
        dynamics.average_excess_bound(H, S, np.eye(SIZE), 1.0, 10, radius=1.0, bound=0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.8])
def test_momentum_rests_at_one_plus_beta_times_the_inverse(momentum):
    inverse, floor, factor = np.linalg.inv(H), np.trace(H @ S) / 2, dynamics.momentum_factor(momentum)

    def ran(share, rate, every):
        start = share * factor * inverse
        return dynamics.simulate(H, S, start, rate=rate, momentum=momentum, windows=1, every=every, runs=64, seeds=[0])[
            0
        ]

    # At so small a rate G stands still; no other multiple of H⁻¹ has a smaller loss.
    losses = {share: ran(share, 1e-9, 4000).loss.mean() / floor for share in (0.8, 1.0, 1.2)}
    assert losses[1.0] == pytest.approx(dynamics.momentum_loss_factor(momentum), rel=0.03)
    assert min(losses, key=losses.get) == 1.0
    # From both sides G moves towards it.
    for share in (0.8, 1.2):
        reached = 1 - np.trace(ran(share, 0.005, 1000).A[:, 0], axis1=1, axis2=2).mean() / SIZE
        way = (reached / factor - share) / (1 - share)
        assert 0.2 < way < 1.2


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_averaged_meta_step_with_momentum_attracts_in_all_directions(momentum):
    """Equation `dynamics-momentum-pull` of book/hessian_dynamics.md."""
    identity, rest = np.eye(SIZE), dynamics.momentum_factor(momentum) * np.linalg.inv(H)

    def averaged(G):
        """E[H b' mᵀ] from the stationary covariance of (H b, m), by solving its linear equation."""
        step = np.block([[identity, -H @ G], [(1 - momentum) * identity, momentum * identity - (1 - momentum) * H @ G]])
        noise = np.vstack([identity, (1 - momentum) * identity])
        noise = noise @ (H @ S @ H) @ noise.T
        covariance = np.linalg.solve(np.eye(4 * SIZE**2) - np.kron(step, step), noise.ravel())
        return (step @ covariance.reshape(2 * SIZE, 2 * SIZE))[:SIZE, SIZE:]

    np.testing.assert_allclose(averaged(rest), 0, atol=1e-12)
    D = 1e-4 * np.random.default_rng(0).normal(size=(SIZE, SIZE))
    slope = (averaged(rest - D) - averaged(rest + D)) / 2
    np.testing.assert_allclose(slope, dynamics.momentum_pull(D, H, S, momentum), atol=1e-5 * np.abs(slope).max())
    columns = [dynamics.momentum_pull(E.reshape(SIZE, SIZE), H, S, momentum).ravel() for E in np.eye(SIZE**2)]
    found = np.linalg.eigvals(np.array(columns).T)
    assert np.abs(found.imag).max() < 1e-12
    assert found.real.min() > 0
    values, Q = np.linalg.eigh(H)
    for least, q in zip(values, Q.T, strict=True):
        pull = dynamics.momentum_pull(np.outer(q, q), H, np.eye(SIZE), momentum)
        np.testing.assert_allclose(pull, least**3 / (1 + momentum) ** 3 * np.outer(q, q), atol=1e-12)


def test_bounded_steps_are_bounded_and_have_the_same_covariance():
    found, _ = dynamics.simulate(
        H, S, np.linalg.inv(H), rate=1e-12, windows=50, every=1, runs=400, seeds=[0], bounded=True
    )
    # At G = H⁻¹ the loss after a step is ½ sᵀ H s.
    assert found.loss.mean() == pytest.approx(np.trace(H @ S) / 2, rel=0.03)
    assert found.loss.max() <= 3 * np.trace(S) * np.linalg.eigvalsh(H)[-1] / 2


def test_largest_norm_is_an_upper_bound_and_close():
    found, _ = dynamics.simulate(H, S, np.eye(SIZE), rate=0.01, windows=5, every=1, runs=4, seeds=[0])
    norms = np.linalg.norm(found.A, 2, axis=(2, 3))
    assert (found.largest >= norms * (1 - 1e-12)).all()
    assert (found.largest <= norms * SIZE ** (1 / 32) * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"rate": 0.0}, "rate"), ({"momentum": 1.0}, "momentum"), ({"windows": 0}, "windows"), ({"seeds": []}, "seeds")],
)
def test_simulation_refuses_what_it_cannot_do(changed, says):
    arguments = {"rate": 0.1, "windows": 1, "every": 1, "runs": 1, "seeds": [0]} | changed
    with pytest.raises(ValueError, match=says):
        dynamics.simulate(H, S, np.eye(SIZE), **arguments)


def test_simulation_refuses_single_precision():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="double precision"):
        dynamics.simulate(H, S, np.eye(SIZE), rate=0.1, windows=1, every=1, runs=1, seeds=[0])


def test_hessian_has_the_eigenvalues_asked_for_and_refuses_others():
    np.testing.assert_allclose(np.linalg.eigvalsh(H), [0.5, 0.7, 1.0], rtol=1e-12)
    with pytest.raises(ValueError, match="positive"):
        dynamics.hessian(np.array([1.0, 0.0]))


def study_in(folder, preset="smoke", seeds=1):
    chosen = replace(TINY, name=preset, seeds=seeds)
    store = Store(folder, preset, "learning_dynamics")
    return PartStudy(chosen, DynamicsStudy(chosen).parts(), store, "make book", kept=folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_in(tmp_path_factory.mktemp("results"))


def test_study_keeps_records_and_draws_its_figures_from_them(study, monkeypatch):
    found = study.all()
    assert found["decay"].arrays["mean"].shape == (20, 2, 2)
    assert found["decay"].provenance["command"] == "make book"
    monkeypatch.setattr("lodo_experiments.studies.theory.dynamics.simulate", None)
    again = study.all()
    assert {name: record.digest() for name, record in again.items()} == {n: r.digest() for n, r in found.items()}
    assert study.load_stored("smoke").keys() == found.keys()
    assert study.load_stored("paper") == {}
    drawers = (theory_figures.decay, theory_figures.rates)
    pages = [draw(found["decay"]) for draw in drawers]
    pages += [
        getattr(theory_figures, name)(found[name])
        for name in ("usual_start", "ball", "limits", "momentum", "condition", "bound")
    ]
    for page in pages:
        assert len(page.data) > 1
    table = theory_figures.dynamics_table(found)
    assert len(table) == 2 + 3 * 2 + 1 + 2 * 2 + 2
    assert all(float(row["measured / predicted"].split(" ")[0]) > 0 for row in table)


def test_stored_rates_are_the_mean_dynamics_and_not_their_limit():
    decay = records.load(RESULTS / "decay.npz").arrays

    def mean_ratio(name):
        ratio = decay["measured_rate"] / decay[name]
        return ratio.mean(), np.sqrt(np.sum((decay["measured_rate_error"] / decay[name]) ** 2)) / ratio.size

    ratio, error = mean_ratio("predicted_rate")
    assert ratio == pytest.approx(1, abs=3 * error)
    ratio, error = mean_ratio("limit_rate")
    assert ratio > 1 + 5 * error


def test_stored_learning_times_follow_the_third_power():
    record = records.load(RESULTS / "condition.npz")
    time, predicted, error = (record.arrays[name] for name in ("time", "time_predicted", "time_error"))
    assert record.arrays["condition"].tolist() == [2, 4, 8, 16, 32]
    # The formula is of first order in ε.
    assert (np.abs(time - predicted) < 3 * error + 0.05 * predicted).all()
    assert record.values["slope"] == pytest.approx(record.values["slope_predicted"], abs=0.03)


def test_record_of_other_settings_is_refused_except_at_smoke(study, tmp_path):
    study_in(tmp_path, "laptop").record("usual_start")
    with pytest.raises(RecordError, match="made with other settings than asked for now: seeds was 1, now 2"):
        study_in(tmp_path, "laptop", seeds=2).record("usual_start")
    before = study.record("usual_start")
    after = study_in(study.store.folder, seeds=2).record("usual_start")
    assert after.provenance["seeds"] == [0, 1]
    assert before.digest() != after.digest()
    path = study.store.path("usual_start")
    assert records.load(path).digest() == after.digest()


def test_there_is_a_preset_of_each_name():
    assert {name: DYNAMICS[name].name for name in DYNAMICS} == {n: n for n in ("smoke", "laptop", "paper")}
