"""The statements of book/rlodo_theory.md, each against the library, automatic differentiation or a simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lodo
from lodo import _formula
from lodo._state import RelativeState
from lodo.operators.block_permutation import BlockPermutation
from lodo.relative.steps import derivative, relative_step, start

N, K, SIZE = 3, 2, 8
FORM = BlockPermutation(N, K, padding=False)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def layers_of(seed=0):
    """θ far from orthogonal, the permutations, and g, m [n]."""
    theta, fixed = FORM.init(jax.random.key(seed), SIZE, jnp.float64)
    theta = theta + 0.3 * jax.random.normal(jax.random.key(seed + 1), theta.shape)
    g, m = jax.random.normal(jax.random.key(seed + 2), (2, SIZE))
    return theta, fixed, g, m


def relative_gradient(theta, fixed, g, m, nu, w):
    d = FORM.apply(theta, fixed, m)
    p = _formula.probe(g, d, jnp.asarray(nu), jnp.asarray(w), jnp.asarray(1.0))
    return derivative(FORM.through(theta, fixed, jnp.stack([m, p])), jnp.asarray(w), False)


def test_relative_gradient_is_that_of_the_objective():
    """Equation `rlodo-objective` of book/rlodo_theory.md."""
    theta, fixed, g, m = layers_of()
    nu, w = 2.5, 0.7
    length = jnp.linalg.norm(FORM.apply(theta, fixed, m))

    def J(X):  # at (I + X) θ, X [N, k, k, B] with X[i, o, p, b]
        moved = theta + jnp.einsum("iopb,iapb->iaob", X, theta)
        S = jax.vmap(lambda e: FORM.apply(moved, fixed, e))(jnp.eye(SIZE)).T
        whitening = SIZE / (2 * length**2) * jnp.sum((S @ m) ** 2) - jnp.linalg.slogdet(S)[1]
        return SIZE / nu * g @ S @ m - w * whitening

    expected = jax.grad(J)(jnp.zeros_like(theta))
    np.testing.assert_allclose(relative_gradient(theta, fixed, g, m, nu, w), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.exhaustive
def test_relative_gradient_is_equivariant():
    """E of the first layer stays when its inputs become M u and θ₁ becomes θ₁ M⁻¹, M block diagonal."""
    theta, fixed, g, m = layers_of()
    M = jnp.eye(K)[..., None] + 0.3 * jax.random.normal(jax.random.key(9), (K, K, SIZE // K))  # M[o, a, b]
    inverse = jnp.moveaxis(jnp.linalg.inv(jnp.moveaxis(M, -1, 0)), 0, -1)
    changed = theta.at[0].set(jnp.einsum("aob,acb->cob", theta[0], inverse))  # entry [a, o] of blocks θ₁ M⁻¹

    def to_first_layer(v, matrix):
        """The u whose permuted entries are M P₁ v."""
        order = np.asarray(layer_order(fixed))
        moved = jnp.einsum("oab,ab->ob", matrix, v[order].reshape(K, -1)).reshape(-1)
        return jnp.zeros(SIZE).at[order].set(moved)

    kept = FORM.through(theta, fixed, jnp.stack([m, g]))
    now = FORM.through(changed, fixed, jnp.stack([to_first_layer(m, M), to_first_layer(g, M)]))
    w = jnp.asarray(0.4)
    np.testing.assert_allclose(derivative(now, w, False), derivative(kept, w, False), rtol=1e-9, atol=1e-9)


def layer_order(fixed):
    """P₁ as indices: of which entry of its input each of layer 1's is."""
    identity = jnp.eye(SIZE)
    theta = jnp.zeros((N, K, K, SIZE // K)).at[:, jnp.arange(K), jnp.arange(K)].set(1.0)
    columns = jax.vmap(lambda e: FORM.through(theta, fixed, e[None]).up[0, 0].reshape(-1))(identity)
    return jnp.argmax(columns, axis=0)


def test_the_rule_starts_as_the_page_says():
    """What is left out in the first steps, and when the means and q begin."""
    optimizer, rng = lodo.rlodo(depth=2), np.random.default_rng(5)
    x = jnp.linspace(-1.0, 2.0, SIZE)
    states, gradients, update = [optimizer.init(x)], [], jax.jit(optimizer.update)
    for t in range(21):
        g = rng.normal(size=SIZE)
        if t < 2:  # a long first one, and the second along it: line 5 would lower β there
            g = (np.arange(SIZE) + 1.0) * (100.0 if t == 0 else 1.0)
        elif t > 16:  # across q and against d, so that h < 0
            q, d = (np.asarray(v) for v in (states[-1].snapshot, states[-1].direction))
            g = q * (q @ d) / (q @ q) - d
        step, state = update(jnp.asarray(g), states[-1], x)
        x, states, gradients = x + step, [*states, state], [*gradients, g]
    before, first, second = states[:3]
    # t = 0: lines 8 and 9 only, with a g that is not cut.
    np.testing.assert_array_equal(first.theta, before.theta)
    assert (first.log_scale, first.gain, first.decay, first.meta_state.step_count) == (0, 0, before.decay, 0)
    np.testing.assert_allclose(first.momentum, (1 - before.decay) * gradients[0], rtol=1e-12)
    np.testing.assert_allclose(first.averages.gradient, np.linalg.norm(gradients[0]), rtol=1e-12)
    assert first.averages.product == 0
    # t = 1: ν is ‖g‖ ‖d‖ itself, and β stays.
    size = np.linalg.norm(gradients[1]) * np.linalg.norm(first.direction)
    np.testing.assert_allclose(second.averages.product, size, rtol=1e-12)
    np.testing.assert_allclose(second.cosine, gradients[1] @ first.direction / size, rtol=1e-12)
    assert (second.decay, second.meta_state.step_count) == (first.decay, 1)
    assert np.abs(second.theta - first.theta).max() > 0
    assert second.cosine > 0
    assert min(float(state.decay) for state in states[3:]) < second.decay
    # q is d at t = 16, and of use from t = 20 on.
    assert not any(np.any(state.snapshot) for state in states[:17])
    np.testing.assert_array_equal(states[17].snapshot, states[16].direction)
    assert [float(state.gain) != 0 for state in states] == [False] * 21 + [True]


@pytest.mark.parametrize("kind", ["normal", "spikes", "growing"])
def test_a_relative_step_is_bounded(kind):
    """‖F‖_F ≤ ρ k / √(1 − τ), whatever came before; and the constants of the rule make it less than 0.0224."""
    k, rate, rng = 4, 2.5e-3, np.random.default_rng(0)
    bound = rate * k / np.sqrt(1 - _formula.SECOND_DECAY)
    assert _formula.META_RATE * 4 / np.sqrt(1 - _formula.SECOND_DECAY) < 0.0224
    theta = jnp.broadcast_to(jnp.eye(k)[None, :, :, None], (2, k, k, 3))  # so that F θ is F
    state, largest = start(theta), 0.0
    for t in range(60):
        e = rng.normal(size=(2, k, k, 3))
        e *= {"normal": 1.0, "spikes": 1e6 if t % 17 == 16 else 1e-3, "growing": 10.0 ** (t / 2)}[kind]
        change, state = relative_step(jnp.asarray(e), theta, state, jnp.asarray(rate))
        sizes = np.sqrt(np.sum(np.square(change), axis=(1, 2)))
        assert (sizes <= bound * (1 + 1e-12)).all()
        largest = max(largest, float(sizes.max()))
        one = np.asarray(change)[0, :, :, 0]  # F θ of a block with θ = I; its layout does not matter here
        block = rng.normal(size=(k, k))
        ratio = np.linalg.svd((np.eye(k) + one) @ block, compute_uv=False) / np.linalg.svd(block, compute_uv=False)
        assert (np.abs(ratio - 1) <= bound * (1 + 1e-9)).all()
    assert isinstance(state, RelativeState)
    if kind == "spikes":
        assert largest > 0.99 * bound  # it is attained, in the limit


def simulate(a, variance, *, steps=4_000, runs=400, seed=0):
    """b, d and the next g of a mode for each entry of a, [steps, runs, n], for λ = 1, from the stationary law."""
    a, rng = np.asarray(a, float), np.random.default_rng(seed)
    deviation = np.sqrt(np.broadcast_to(variance, a.shape))
    b = rng.normal(size=(runs, len(a))) * deviation / np.sqrt(a * (2 - a))
    found = []
    for _ in range(steps):
        after = (1 - a) * b - deviation * rng.normal(size=b.shape)
        found.append((b, a * b, after))
        b = after
    return [np.stack(x) for x in zip(*found, strict=True)]


def test_moments_of_a_mode():
    """Equation `rlodo-moments` of book/rlodo_theory.md."""
    a, variance = np.array([0.05, 0.3, 1.0, 1.6]), np.array([1.0, 0.2, 3.0, 1.0])
    b, d, g = simulate(a, variance)
    np.testing.assert_allclose((b**2).mean((0, 1)), variance / (a * (2 - a)), rtol=0.02)
    np.testing.assert_allclose((d**2).mean((0, 1)), a * variance / (2 - a), rtol=0.02)
    np.testing.assert_allclose((g * d).mean((0, 1)), variance * (1 - a) / (2 - a), rtol=0.02, atol=0.004)


def test_share_of_a_change_that_a_layer_makes():
    n, k, rng = 12, 3, np.random.default_rng(1)
    E = rng.normal(size=(n, n))
    E = E + E.T - 2 * np.trace(E) / n * np.eye(n)
    kept = np.kron(np.eye(n // k), np.ones((k, k)))
    found, draws = np.zeros((n, n)), 20_000
    for _ in range(draws):
        Q, R = np.linalg.qr(rng.normal(size=(n, n)))
        A = Q * np.sign(np.diag(R))
        found += A @ (kept * (A.T @ E @ A)) @ A.T / draws
    c = (n * (k + 1) / 2 - 1) / (n * (n + 1) / 2 - 1)
    np.testing.assert_allclose(np.sum(found * E) / np.sum(E * E), c, rtol=0.01)
    assert np.linalg.norm(found - c * E) < 0.05 * np.linalg.norm(c * E)  # and not only along E


def test_newton_is_a_fixed_point_under_isotropic_drift():
    """The means of both relative gradients of Ĝ vanish at H⁻¹; under another drift that of whitening does not."""
    n, draws, rng = 5, 200_000, np.random.default_rng(2)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    H = (Q * np.geomspace(0.1, 1, n)) @ Q.T
    factor = np.linalg.cholesky(np.linalg.inv(H)).T  # Ĝ, with ĜᵀĜ = H⁻¹

    def means(deviations):
        before, now = rng.normal(size=(2, draws, n)) * deviations
        d, g = -before, -now @ H  # the step's direction G g, and the next gradient
        loss = factor @ (g.T @ d / draws) @ np.linalg.inv(factor)
        unit = d / np.linalg.norm(d, axis=1, keepdims=True)
        spread = factor @ (n * unit.T @ unit / draws) @ np.linalg.inv(factor)
        return np.linalg.norm(loss), np.linalg.norm(2 * np.eye(n) - spread - spread.T)

    loss, whitening = means(np.ones(n))
    assert loss < 0.02
    assert whitening < 0.04
    loss, whitening = means(np.geomspace(0.5, 2, n))
    assert loss < 0.04
    assert whitening > 1.0


def test_divided_by_its_size_a_step_has_a_mean_at_newton():
    """A mode of Newton's method under isotropic drift: E has mean 0 for each w, E / r̂ for w = 0 only."""
    n, runs, rng = 4, 100_000, np.random.default_rng(6)

    def means(w):
        before, second = rng.normal(size=(runs, n)), None
        for seen in range(20):
            d, now = -before, rng.normal(size=(runs, n))
            e = -2 * now[:, 0] * d[:, 0] + 2 * w * (1 - n * d[:, 0] ** 2 / np.sum(d * d, axis=1))
            share = float(_formula.share(_formula.SECOND_DECAY, jnp.asarray(seen), jnp.float64))
            second = e**2 if second is None else second + share * (e**2 - second)
            before = now
        f = e / np.sqrt(second)
        return [x.mean() / (x.std() / np.sqrt(runs)) for x in (e, f)]  # in standard errors

    assert max(np.abs(means(0.0))) < 4
    of_e, of_f = means(1.0)
    assert abs(of_e) < 4
    assert of_f > 20


CURVATURES, VARIANCES = np.geomspace(0.01, 1, 6), np.array([0.3, 2.0, 1.0, 0.5, 1.7, 0.8])


def excess(a):
    """Of the diagonal model, from the second moment of b."""
    return 0.5 * np.sum(CURVATURES * VARIANCES * (1 / (a * (2 - a)) - 1))


def test_price_of_whitening_under_anisotropic_drift():
    """Equation `rlodo-price-equation` of book/rlodo_theory.md."""
    kappa = np.sum(CURVATURES * VARIANCES) / np.sum(CURVATURES)
    a = 2 * kappa / (kappa + VARIANCES)
    np.testing.assert_allclose(a * VARIANCES / (2 - a), kappa)  # white directions
    np.testing.assert_allclose(np.sum(CURVATURES * VARIANCES * (1 - a) / (2 - a)), 0, atol=1e-12)  # the scale rests
    price = np.sum(CURVATURES * (VARIANCES - kappa) ** 2) / (8 * kappa)
    np.testing.assert_allclose(excess(a), price)
    floor = 0.5 * kappa * np.sum(CURVATURES)
    weights = CURVATURES / np.sum(CURVATURES)
    np.testing.assert_allclose(price / floor, np.sum(weights * (VARIANCES - kappa) ** 2) / kappa**2 / 4)


def resting_point(w, nu, squared):
    """a in (0, 2) where the mean of ½ E vanishes in every mode, ν and ‖d‖² given, by bisection."""
    n = len(CURVATURES)

    def mean(a):
        loss = n / nu * CURVATURES * VARIANCES * (1 - a) / (2 - a)
        return loss + w * (1 - n / squared * a * VARIANCES / (2 - a))

    low, high = np.full(n, 1e-9), np.full(n, 2 - 1e-9)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = np.where(mean(middle) > 0, middle, low), np.where(mean(middle) > 0, high, middle)
    return low


@pytest.mark.parametrize("w", [0.01, 0.5, 2.0])
def test_a_resting_point_lies_between_those_of_either_term(w):
    """Between 1 and 2 κ'/(κ' + σ²) with κ' = ‖d‖²/n, whatever ‖d‖² is; not of the κ at which whitening alone rests."""
    n, nu = len(CURVATURES), 3.0

    def between(kappa, a):
        alone = 2 * kappa / (kappa + VARIANCES)
        return (np.minimum(1, alone) - 1e-9 <= a) & (a <= np.maximum(1, alone) + 1e-9)

    for squared in (0.5, np.sum(VARIANCES), 20.0):
        assert between(squared / n, resting_point(w, nu, squared)).all()
    squared = np.sum(VARIANCES)
    for _ in range(50):  # ‖d‖² is what it is at the resting point
        a = resting_point(w, nu, squared)
        squared = np.sum(a * VARIANCES / (2 - a))
    assert between(squared / n, a).all()
    if w > 0.1:
        assert not between(np.sum(CURVATURES * VARIANCES) / np.sum(CURVATURES), a).all()


def test_bias_is_proportional_to_the_whitening():
    """Equation `rlodo-mean` of book/rlodo_theory.md."""
    n, nu, squared = len(CURVATURES), 3.0, np.sum(VARIANCES)
    predicted = nu / (n * CURVATURES * VARIANCES) * (1 - n * VARIANCES / squared)
    for w in (1e-6, 1e-5):
        np.testing.assert_allclose((resting_point(w, nu, squared) - 1) / w, predicted, rtol=0.02)
    ratio = excess(resting_point(2e-5, nu, squared)) / excess(resting_point(1e-5, nu, squared))
    np.testing.assert_allclose(ratio, 4, rtol=0.02)


def test_what_h_says():
    """At the resting point of a w the mean of h is −w/n ‖E E^W‖²; where all modes lag behind whitening, positive."""
    n, nu, w = len(CURVATURES), 3.0, 0.5
    a = resting_point(w, nu, np.sum(VARIANCES))
    for _ in range(500):  # ‖d‖² is what it is at the resting point
        a = resting_point(w, nu, np.sum(a * VARIANCES / (2 - a)))
    squared = np.sum(a * VARIANCES / (2 - a))
    of_whitening = 1 - n / squared * a * VARIANCES / (2 - a)
    predicted = -w / n * np.sum(of_whitening**2)

    # q from other, independent runs, and ‖q‖² replaced by its mean, as the model has it
    _, d, g = simulate(a, VARIANCES, seed=3)
    _, q, _ = simulate(a, VARIANCES, seed=4)
    g = g * CURVATURES
    inner = np.sum(g * d, -1) - n * np.sum(g * q, -1) * np.sum(d * q, -1) / np.mean(np.sum(q * q, axis=-1))
    h = inner.mean(axis=0) / nu  # of each run
    error = h.std(ddof=1) / np.sqrt(len(h))
    assert error < -0.1 * predicted
    assert abs(h.mean() - predicted) < 4 * error
    isotropic_lag = 0.5 * CURVATURES  # G = I/2: flat modes lag, and their directions are short
    _, d, _ = simulate(isotropic_lag, VARIANCES, steps=200)
    short = 1 - n * (d**2).mean((0, 1)) / np.mean(np.sum(d * d, -1))
    behind = CURVATURES * VARIANCES * (1 - isotropic_lag) / (2 - isotropic_lag)
    assert (short[:2] > 0).all()
    assert (behind > 0).all()
