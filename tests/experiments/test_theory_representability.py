"""Which matrices G can be: exact ranks against bounds and numerical ranks, pairs that meet, and fits."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo.operators import BlockPermutation, Diagonal, Permutations, Residuals, Scalar, default_hidden_size
from lodo_experiments.config.theory_presets import REPRESENTABILITY, RepresentabilityPreset
from lodo_experiments.report import theory_figures
from lodo_experiments.results.store import Store
from lodo_experiments.studies import registry
from lodo_experiments.studies.runner import PartStudy
from lodo_experiments.studies.theory import operator_fits, representability
from lodo_experiments.studies.theory.representability_study import RepresentabilityStudy, within_budget

ROOT = Path(__file__).resolve().parents[2]

TINY = RepresentabilityPreset(
    name="smoke", seeds=2, rank_sizes=(4,), block_sizes=(2,), default_sizes=(4,), fit_sizes=(2, 2),
    fit_depths={"2": (2,)}, residual_depths=(1,), budget=10, targets=1, draws=2, restarts=1, iterations=20,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


def permutations(depth, hidden, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(hidden) for _ in range(depth)])


def dense(operator, theta, fixed, size):
    return jax.vmap(lambda e: operator.apply(theta, fixed, e))(jnp.eye(size))


def numerical(operator, size, seed=0):
    """Rank at θ₀ with a little noise, and the gap to what is left out."""
    theta, fixed = operator.init(jax.random.key(seed), size, jnp.float64)
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 100), len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    J = representability.jacobian(operator, jax.tree.unflatten(tree, leaves), fixed, size)
    return representability.numerical_rank(np.linalg.svd(J, compute_uv=False)), fixed


@pytest.mark.parametrize(
    "operator", [Diagonal(), Scalar(), BlockPermutation(2, 2), Residuals(2)], ids=lambda o: type(o).__name__
)
def test_jacobian_equals_autodiff_of_the_dense_matrix(operator):
    size = 4
    theta, fixed = operator.init(jax.random.key(1), size, jnp.float64)
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    expected = jax.jacfwd(lambda flat: dense(operator, unravel(flat), fixed, size)[representability.pairs(size)])(flat)
    found = representability.jacobian(operator, theta, fixed, size)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-12)


def test_ranks_that_are_known():
    size = 5
    assert numerical(Diagonal(), size)[0][0] == size
    assert numerical(Scalar(), size)[0][0] == 1
    # Blocks of one number: G is diagonal, however deep.
    assert numerical(BlockPermutation(3, 1, size), size)[0][0] == size
    assert representability.exact_rank(permutations(3, size), size, 1) == size
    # One block of all coordinates: G = BᵀB is any positive semi-definite matrix.
    assert numerical(BlockPermutation(1, size, size), size)[0][0] == size * (size + 1) // 2
    assert representability.exact_rank(permutations(1, size), size, size) == size * (size + 1) // 2
    # No layer: G is the identity.
    assert representability.exact_rank(permutations(0, size).reshape(0, size), size, 1) == 0


@pytest.mark.parametrize(("size", "k", "hidden", "depth"), [(6, 2, 6, 2), (6, 2, 14, 3), (6, 3, 15, 2), (8, 4, 8, 2)])
def test_exact_rank_equals_the_numerical_rank(size, k, hidden, depth):
    for seed in range(3):
        (rank, gap), fixed = numerical(BlockPermutation(depth, k, hidden), size, seed)
        assert gap > 1e6
        assert representability.exact_rank(np.asarray(fixed.forward), size, k, seed=seed) == rank


@pytest.mark.parametrize(("size", "k", "hidden"), [(6, 2, 6), (6, 2, 14), (6, 3, 15), (8, 4, 8), (5, 1, 5)])
def test_exact_rank_is_within_the_bound(size, k, hidden):
    met = 0
    for seed in range(4):
        for depth in range(1, 5):
            forward = permutations(depth, hidden, seed)
            rank = representability.exact_rank(forward, size, k)
            bound = representability.rank_bound(forward, size, k)
            assert rank <= bound <= min(size * (size + 1) // 2, depth * hidden * k)
            met += rank == bound
    assert met > 6  # the bound is not idle


def test_the_default_depth_is_too_small_from_183_parameters_on():
    def room(size, seed=0):
        hidden = default_hidden_size(size, 4)
        bound = representability.rank_bound(permutations(16, hidden, seed), size, 4)
        assert bound <= 4 * size + 3 * (16 - 1.5) * hidden
        return bound - size * (size + 1) // 2

    assert [room(182, seed) for seed in range(3)] == [0, 0, 0]
    # 4n + 43.5 ñ is below n (n + 1)/2 for every draw; N ñ k is not, up to n = 256.
    assert [room(size) < 0 for size in (183, 184, 256)] == [True] * 3
    assert representability.counting_depth(256, 4, default_hidden_size(256, 4)) == 16


@pytest.mark.parametrize("signs", [(1,), (-1, 1)])
def test_rank_at_identity_blocks_and_signs_is_n_plus_the_pairs_that_meet(signs):
    size, k, hidden = 7, 3, 15
    for seed, depth in ((0, 1), (1, 3), (2, 6)):
        forward = permutations(depth, hidden, seed)
        drawn = np.random.default_rng(seed).choice(signs, (depth, k, 1, hidden // k))
        blocks = np.eye(k, dtype=int)[None, :, :, None] * drawn
        rank = representability.exact_rank(forward, size, k, theta=blocks)
        assert rank == size + representability.pairs_met(forward, size, k)


@pytest.mark.parametrize("seed", range(3))
def test_rank_is_full_at_the_optimizers_own_start_if_all_pairs_meet(seed):
    size, operator = 6, BlockPermutation(20, 4)
    theta, fixed = operator.init(jax.random.key(seed), size, jnp.float64)
    assert representability.pairs_met(np.asarray(fixed.forward), size, 4) == size * (size - 1) // 2
    values = np.linalg.svd(representability.jacobian(operator, theta, fixed, size), compute_uv=False)
    assert representability.numerical_rank(values, 1e-3)[0] == size * (size + 1) // 2


def constructed(theta, forward, k, size, rate=1.0):
    """G(θ) by the operator itself."""
    fixed = Permutations(jnp.asarray(forward, jnp.int32), jnp.asarray(np.argsort(forward, axis=1), jnp.int32))
    operator = BlockPermutation(len(forward), k, forward.shape[1])
    return rate * dense(operator, jnp.asarray(theta), fixed, size)


@pytest.mark.parametrize(("size", "k"), [(1, 2), (6, 2), (7, 3), (12, 4), (24, 4)])
def test_every_positive_semi_definite_matrix_is_constructed(size, k):
    """Equation `representability-partition` of book/representability.md."""
    hidden, entries = default_hidden_size(size, k), size * (size + 1) // 2
    depth = representability.sufficient_depth(size, k, hidden, 1e-3, entries)
    forward, rng = permutations(depth, hidden, seed=size), np.random.default_rng(size)
    for rank in {size, size // 2, 1, 0}:
        # One draw of the permutations for all, of condition numbers up to a million.
        factor = rng.normal(size=(rank, size)) * 10 ** rng.uniform(-3, 0, (rank, 1))
        T = factor.T @ factor
        theta = representability.construct(T, forward, k, 0.3)
        assert theta.shape == (depth, k, k, hidden // k)
        error = np.abs(constructed(theta, forward, k, size, 0.3) - T).max()
        assert error <= 1e-12 * np.abs(T).max()
    # Not only positive semi-definite by form: a diagonal and the identity.
    for T in (np.diag(np.arange(size) ** 2.0), np.eye(size)):
        theta = representability.construct(T, forward, k)
        np.testing.assert_allclose(constructed(theta, forward, k, size), T, rtol=0, atol=1e-12 * size**2)


def test_a_factor_and_a_diagonal_need_no_more_than_their_pairs():
    size, k, hidden, depth = 8, 4, 20, 3
    forward = permutations(depth, hidden, seed=5)
    full = np.random.default_rng(0).normal(size=(hidden - size, size))
    factor, refused = np.zeros_like(full), 0
    for i, l in np.ndindex(full.shape):
        alone = np.zeros_like(full)
        alone[i, l] = full[i, l]
        try:
            representability.from_factor(alone, forward, k)
        except ValueError:
            refused += 1
        else:
            factor[i, l] = full[i, l]
    # Some pairs meet and some do not, about as many as predicted.
    share = (1 - 3 / 19) ** depth
    assert refused / full.size == pytest.approx(share, abs=0.15)
    diagonal = np.linspace(-1, 2, size)
    theta = representability.from_factor(factor, forward, k, diagonal)
    expected = np.diag(diagonal**2) + factor.T @ factor
    np.testing.assert_allclose(constructed(theta, forward, k, size), expected, rtol=0, atol=1e-12)
    # One layer is enough for a diagonal.
    theta = representability.from_factor(np.zeros((0, size)), forward[:1], k, diagonal)
    np.testing.assert_allclose(constructed(theta, forward[:1], k, size), np.diag(diagonal**2), rtol=0, atol=1e-14)


def test_construction_succeeds_at_least_as_often_as_stated():
    """Equation `representability-exact-probability` of book/representability.md."""
    size, k, hidden, draws = 4, 3, 9, 400
    T = np.cov(np.random.default_rng(0).normal(size=(size, 9)))
    entries, shares = size * (size + 1) // 2, []

    def succeeds(forward):
        try:
            representability.construct(T, forward, k)
        except ValueError:
            return False
        return True

    for depth in (8, 12, 16):
        share = np.mean([succeeds(permutations(depth, hidden, seed)) for seed in range(draws)])
        bound = representability.meeting_probability(size, k, hidden, depth, entries)
        assert bound <= share + 3 * np.sqrt(max(share * (1 - share), 1 / draws) / draws)
        shares.append((bound, share))
    # The bound says something, and is no certainty, at one depth at least.
    assert any(bound > 0.3 and share < 0.99 for bound, share in shares)
    deep = representability.sufficient_depth(size, k, hidden, 0.1, entries)
    assert representability.meeting_probability(size, k, hidden, deep, entries) >= 0.9
    assert representability.meeting_probability(size, k, hidden, deep - 1, entries) < 0.9


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"matrix": np.array([[1.0, 2.0], [0.0, 1.0]])}, "symmetric"),
        ({"matrix": np.diag([1.0, -0.5])}, "eigenvalue -0.5"),
        ({"matrix": np.diag([1.0, np.nan])}, "finite"),
        ({"matrix": np.ones((2, 3))}, r"shape \(2, 3\)"),
        ({"initial_learning_rate": 0.0}, "initial_learning_rate must be positive; got 0.0"),
        ({"forward": permutations(0, 6).reshape(0, 6)}, "at least one layer"),
        ({"forward": permutations(3, 2)}, r"at least n \+ r = 2 \+ 2; got 2"),
        ({"block_size": 4}, "multiple of 4"),
        ({"block_size": 1}, "Input 0 and hidden coordinate 2 must share a block .* these 9 layers .*3 of 3"),
    ],
)
def test_construction_refuses_what_it_cannot_do(changed, says):
    arguments = {"matrix": np.array([[2.0, 1.0], [1.0, 2.0]]), "forward": permutations(9, 6), "block_size": 3}
    assert representability.construct(**arguments).shape == (9, 3, 3, 2)
    with pytest.raises(ValueError, match=says):
        representability.construct(**(arguments | changed))


def test_pairs_meet_as_often_as_predicted():
    """Equation `representability-probability` of book/representability.md."""
    size, k, hidden, depth, draws = 5, 4, 12, 9, 2000
    met = np.array([representability.pairs_met(permutations(depth, hidden, s), size, k) for s in range(draws)])
    pairs = size * (size - 1) / 2
    expected = 1 - (1 - (k - 1) / (hidden - 1)) ** depth
    assert met.mean() / pairs == pytest.approx(expected, abs=5 * met.std() / pairs / np.sqrt(draws))
    share = np.mean(met == pairs)
    bound = representability.meeting_probability(size, k, hidden, depth)
    assert 0.3 < bound <= share + 3 * np.sqrt(share * (1 - share) / draws)
    deep = representability.sufficient_depth(size, k, hidden, failure=0.1)
    assert representability.meeting_probability(size, k, hidden, deep) >= 0.9
    assert representability.meeting_probability(size, k, hidden, deep - 1) < 0.9


@pytest.mark.exhaustive
def test_a_matrix_near_the_start_is_represented():
    size, k, hidden = 4, 2, 4
    operator = BlockPermutation(12, k, hidden)
    _, fixed = operator.init(jax.random.key(0), size, jnp.float64)
    assert representability.pairs_met(np.asarray(fixed.forward), size, k) == 6
    noise = np.random.default_rng(0).normal(size=(size, size))
    near = np.eye(size) + 0.05 * (noise + noise.T)
    assert operator_fits.fit(operator, near[None], draws=1, restarts=1, iterations=60).max() < 1e-12


def test_depths_and_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        representability.exact_rank(permutations(1, 5), 4, 2)
    with pytest.raises(ValueError, match="at least 6"):
        representability.exact_rank(permutations(1, 4), 6, 2)
    with pytest.raises(ValueError, match="block_size must be at least 2"):
        representability.sufficient_depth(4, 1, 8)
    with pytest.raises(ValueError, match="no family"):
        operator_fits.target("circulant", (2, 2), 0)
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="double precision"):
        operator_fits.fit(Diagonal(), np.eye(2)[None], draws=1, restarts=1, iterations=1)


def test_targets_are_what_they_are_called():
    sizes, size = (3, 2), 6
    for family in operator_fits.FAMILIES:
        T = operator_fits.target(family, sizes, 3)
        assert np.linalg.eigvalsh(T).min() > 0
        np.testing.assert_allclose([np.sum(T**2), np.abs(T - T.T).max()], [size, 0], atol=1e-12)
        assert not np.allclose(T, operator_fits.target(family, sizes, 4))
    T = operator_fits.target("Toeplitz", sizes, 3)
    np.testing.assert_allclose(T[1:, 1:], T[:-1, :-1], atol=1e-12)
    low = operator_fits.target("low rank + diagonal", sizes, 3)
    # Without its diagonal, some 3 × 3 minors off the diagonal vanish: the rest has rank 2.
    assert abs(np.linalg.det(low[:3, 3:])) < 1e-12
    assert operator_fits.relative_error(operator_fits.best_diagonal(low), low) > 0.1


def test_fits_recover_members_of_their_own_family():
    sizes, size = (2, 3), 6
    diagonal, kronecker = operator_fits.target("diagonal", sizes, 0), operator_fits.target("Kronecker", sizes, 0)
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(size, 2))
    low = 0.7 * np.eye(size) + factor @ np.diag([1.0, -0.3]) @ factor.T
    assert operator_fits.relative_error(operator_fits.best_diagonal(diagonal), diagonal) < 1e-12
    assert operator_fits.relative_error(operator_fits.best_kronecker(kronecker, sizes, 1), kronecker) < 1e-12
    assert operator_fits.relative_error(operator_fits.best_low_rank(low, 2), low) < 1e-12
    assert operator_fits.relative_error(operator_fits.best_low_rank(low, 1), low) > 1e-3
    assert operator_fits.fit(Diagonal(), diagonal[None], draws=1, restarts=1, iterations=30).max() < 1e-8
    for operator in (BlockPermutation(2, 2, size), Residuals(2, size)):
        theta, fixed = operator.init(jax.random.key(0), size, jnp.float64)
        moved = jax.tree.map(lambda leaf: leaf + 0.2 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), theta)
        member = np.asarray(dense(operator, moved, fixed, size))
        # The same permutations as the first draw of the fit.
        assert operator_fits.fit(operator, member[None], draws=1, restarts=4, iterations=200).max() < 1e-8


@pytest.mark.exhaustive
def test_closed_forms_are_not_beaten_by_descent():
    sizes, size, rank = (2, 3), 6, 2
    T = operator_fits.target("random SPD", sizes, 1)
    rng = np.random.default_rng(0)

    def lowest(build, start):
        loss = jax.jit(lambda p: jnp.linalg.norm(build(p) - T) / np.sqrt(size))
        gradient = jax.jit(jax.grad(lambda p: loss(p) ** 2))
        for _ in range(3000):
            start = start - 0.02 * gradient(start)
        return float(loss(start))

    def low_rank(p):
        U, d = p[: size * rank].reshape(size, rank), p[size * rank : -1]
        return p[-1] * jnp.eye(size) + (U * d) @ U.T

    def kronecker(p):
        return jnp.kron(p[:4].reshape(2, 2), p[4:].reshape(3, 3))

    found = min(lowest(low_rank, jnp.asarray(rng.normal(size=size * rank + rank + 1))) for _ in range(3))
    best = operator_fits.relative_error(operator_fits.best_low_rank(T, rank), T)
    assert best <= found + 1e-9
    assert found < best + 0.02
    found = min(lowest(kronecker, jnp.asarray(rng.normal(size=13))) for _ in range(3))
    best = operator_fits.relative_error(operator_fits.best_kronecker(T, sizes, 1), T)
    assert best <= found + 1e-9
    assert found < best + 0.02


def test_study_keeps_records_and_draws_its_figures_from_them(tmp_path, monkeypatch):
    chosen, store = replace(TINY, seeds=2), Store(tmp_path, "smoke", "representability")
    study = PartStudy(chosen, RepresentabilityStudy(chosen).parts(), store, "make book", kept=tmp_path)
    found = study.all()
    arrays = found["ranks"].arrays
    assert (arrays["rank"] <= arrays["bound"]).all()
    assert set(arrays["hidden_size"]) == {4, 10}
    assert found["defaults"].arrays["rank"].tolist() == [10]
    fitted = found["fits"]
    assert fitted.arrays["error"].shape == (len(fitted.arrays["form"]), len(operator_fits.FAMILIES), 1, 2)
    chosen = within_budget(fitted, 10)
    # Two terms have more than ten numbers.
    assert {form: int(fitted.arrays["parameters"][place]) for form, place in chosen.items()} == {
        "Diagonal": 4, "low rank + c I": 9, "Kronecker": 6, "Residuals": 8,
    }  # fmt: skip
    assert set(within_budget(fitted, 16)) == {*chosen, "LODO, k = 2"}
    monkeypatch.setattr("lodo_experiments.studies.theory.operator_fits.fit", None)
    monkeypatch.setattr("lodo_experiments.studies.theory.representability.exact_rank", None)
    assert {n: r.digest() for n, r in study.all().items()} == {n: r.digest() for n, r in found.items()}
    for page in (
        theory_figures.ranks(found["ranks"], 4),
        theory_figures.errors(fitted, chosen),
        theory_figures.error_curves(fitted),
    ):
        assert len(page.data) >= 1
    assert len(theory_figures.depth_table(found["ranks"])) == 2
    assert theory_figures.default_table(found["defaults"])[0]["rank"] == "10"


def test_there_is_a_preset_of_each_name_and_its_budget_has_every_form():
    for name in ("smoke", "laptop", "paper"):
        preset = REPRESENTABILITY[name]
        a, b = preset.fit_sizes
        assert preset.name == name
        assert all(a * b % int(k) == 0 for k in preset.fit_depths)
        for k, depths in preset.fit_depths.items():
            assert a * b * int(k) * min(depths) <= preset.budget
        assert a * b * (min(preset.residual_depths) + 1) <= preset.budget < a * b * (a * b + 1) // 2


def test_no_form_could_have_another_layer_within_the_budget():
    """Each form is compared at as many numbers as it can have, not at as many as happened to be fitted."""
    for name, preset in REPRESENTABILITY.items():
        size, most = preset.fit_sizes[0] * preset.fit_sizes[1], {}
        for form, operator in RepresentabilityStudy(preset)._operators(size):
            if operator.sizes(size)["theta"] <= preset.budget:
                most[form] = max(most.get(form, operator), operator, key=lambda one: one.depth)
        assert most.keys() == {*(f"LODO, k = {k}" for k in preset.fit_depths), "Residuals"}
        for form, operator in most.items():
            deeper = replace(operator, depth=operator.depth + 1)
            assert deeper.sizes(size)["theta"] > preset.budget, f"{form} at {name}"


def stored():
    """The fits that are kept with the project, and the place of each form's within the budget."""
    fits = registry.build_parts("representability", "laptop", results_dir=str(ROOT / "results")).record("fits")
    return fits, within_budget(fits, REPRESENTABILITY["laptop"].budget)


def test_the_residual_form_fits_better_than_lodos_with_as_many_numbers():
    """Random positive definite matrices, at the presets smoke, computed here, and laptop, from its record."""
    preset = REPRESENTABILITY["smoke"]
    targets = np.array([operator_fits.target("random SPD", preset.fit_sizes, seed) for seed in range(preset.targets)])
    errors = []
    for operator in (Residuals(3, 8), BlockPermutation(1, 4, 8)):
        assert operator.sizes(8)["theta"] == preset.budget
        found = operator_fits.fit(
            operator, targets, draws=preset.draws, restarts=preset.restarts, iterations=preset.iterations
        )
        errors.append(np.median(found))
    assert errors[0] < 0.8 * errors[1]
    fits, place = stored()
    forms = ("Residuals", "LODO, k = 4", "LODO, k = 2")
    assert len({int(fits.arrays["parameters"][place[form]]) for form in forms}) == 1
    index = fits.values["families"].index("random SPD")
    residuals, *layers = (np.median(fits.arrays["error"][place[form]][index]) for form in forms)
    assert residuals < 0.8 * min(layers)


def test_errors_are_zero_where_the_form_contains_the_family():
    """The notebook's sentence on the zeros of the picture, by the record of the preset laptop."""
    fits, place = stored()
    exact = {
        "diagonal": {"Diagonal", "Kronecker", "LODO, k = 2", "LODO, k = 4", "Residuals"},
        "Toeplitz": {"low rank + c I"}, "low rank + diagonal": set(), "Kronecker": {"Kronecker"}, "random SPD": set(),
    }  # fmt: skip
    for index, family in enumerate(fits.values["families"]):
        found = {form for form, at in place.items() if np.median(fits.arrays["error"][at][index]) < 1e-6}
        assert found == exact[family], family
    ranks = np.flatnonzero(fits.arrays["form"] == "low rank + c I")  # from one up
    toeplitz = np.median(fits.arrays["error"][ranks][:, fits.values["families"].index("Toeplitz")], axis=(1, 2))
    assert np.flatnonzero(toeplitz < 1e-6)[0] + 1 == 6
