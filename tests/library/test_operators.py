"""Operators against dense float64 twins, autodiff and finite differences; and their properties by hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodo import operators
from lodo.operators.base import gather, random_permutations
from lodo.operators.block_permutation import random_orthogonal

CASES = {
    "paper": (operators.BlockPermutation(), 7),
    "odd blocks": (operators.BlockPermutation(3, 3), 5),
    "block size 1": (operators.BlockPermutation(4, 1), 6),
    "hidden size n": (operators.BlockPermutation(5, 2, 8), 8),
    "one layer": (operators.BlockPermutation(1, 4), 9),
    "no layer": (operators.BlockPermutation(0, 4), 3),
    "one parameter": (operators.BlockPermutation(3, 4), 1),
    "rolled": (operators.BlockPermutation(permutations="rolled"), 7),
    "rolled, odd blocks": (operators.BlockPermutation(3, 3, 9, permutations="rolled"), 8),
    "rolled, block size 1": (operators.BlockPermutation(4, 1, permutations="rolled"), 6),
    "residuals": (operators.Residuals(5), 6),
    "residuals without layers": (operators.Residuals(0), 6),
    "diagonal": (operators.Diagonal(), 4),
    "scalar": (operators.Scalar(), 4),
}
every_case = pytest.mark.parametrize(("operator", "n"), CASES.values(), ids=CASES.keys())


apply = jax.jit(lambda operator, theta, fixed, v: operator.apply(theta, fixed, v), static_argnums=0)
hypergradient = jax.jit(lambda operator, *arrays: operator.hypergradient(*arrays), static_argnums=0)
init = jax.jit(lambda operator, key, n: operator.init(key, n, jnp.float64), static_argnums=(0, 2))


def drawn(operator, n, seed=0):
    """An operator's arrays away from their start, so that no test holds by symmetry of the start alone."""
    theta, fixed = init(operator, jax.random.key(seed), n)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), theta), fixed


def vectors(n, seed=0):
    return [jnp.asarray(v) for v in np.random.default_rng(seed + 100).normal(size=(2, n))]


def dense_twin(operator, theta, fixed, n):
    """S(θ) as a product of explicit numpy matrices."""
    if isinstance(operator, operators.Scalar):
        return float(theta) * np.eye(n)
    if isinstance(operator, operators.Diagonal):
        return np.diag(np.asarray(theta))
    if isinstance(fixed, operators.Rolls):
        rows = np.arange(theta.shape[1] * theta.shape[3]).reshape(theta.shape[1], -1)
        shifts = np.asarray(fixed.shifts)
        forward = np.stack([np.concatenate([np.roll(row, -s) for row, s in zip(rows, of)]) for of in shifts])
    else:
        forward = np.asarray(fixed.forward)
    hidden = forward.shape[1]
    up = np.eye(hidden)
    if isinstance(operator, operators.Residuals):
        for weights, permutation in zip(np.asarray(theta.layers), forward, strict=True):
            up = (np.eye(hidden) + np.diag(weights) @ np.eye(hidden)[permutation]) @ up
        return (up.T @ np.diag(np.asarray(theta.diagonal)) @ up)[:n, :n]
    for weights, permutation in zip(np.asarray(theta), forward, strict=True):
        k, _, blocks = weights.shape
        matrix = np.zeros((hidden, hidden))
        for b in range(blocks):
            for a in range(k):
                for o in range(k):
                    matrix[o * blocks + b, a * blocks + b] = weights[a, o, b]
        up = matrix @ np.eye(hidden)[permutation] @ up
    return (up.T @ up)[:n, :n]


@every_case
def test_apply_equals_the_dense_twin(operator, n):
    """Equation `operator` of book/algorithm.md."""
    theta, fixed = drawn(operator, n)
    twin = dense_twin(operator, theta, fixed, n)
    ours = jax.jit(jax.vmap(lambda e: operator.apply(theta, fixed, e)))(jnp.eye(n)).T
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-13 * max(1, np.abs(twin).max()))


@every_case
def test_hypergradient_equals_autodiff(operator, n):
    """Equations `bilinear`, `split`, `differential`, `outer` of book/algorithm.md."""
    theta, fixed = drawn(operator, n)
    m, g = vectors(n)
    ours = hypergradient(operator, theta, fixed, m, g)
    autodiff = jax.jit(jax.grad(lambda t: jnp.vdot(g, operator.apply(t, fixed, m))))(theta)
    assert jax.tree.structure(ours) == jax.tree.structure(autodiff)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(autodiff), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(b).max(initial=0)))


def test_hypergradient_equals_finite_differences():
    """Equations `bilinear`, `split`, `differential`, `outer` of book/algorithm.md."""
    operator, n = operators.BlockPermutation(3, 2), 5
    theta, fixed = drawn(operator, n)
    m, g = vectors(n)
    ours = np.asarray(operator.hypergradient(theta, fixed, m, g)).ravel()
    value = jax.jit(lambda t: jnp.vdot(g, operator.apply(t, fixed, m)))
    flat, h = np.asarray(theta).ravel(), 1e-6
    for index in range(0, flat.size, 7):
        e = np.zeros_like(flat)
        e[index] = h
        up, down = (value(jnp.asarray(flat + s * e).reshape(theta.shape)) for s in (1, -1))
        np.testing.assert_allclose(ours[index], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_hypergradient_at_the_papers_size_equals_autodiff():
    operator, n = operators.BlockPermutation(), 37
    theta, fixed = drawn(operator, n)
    m, g = vectors(n)
    autodiff = jax.jit(jax.grad(lambda t: jnp.vdot(g, operator.apply(t, fixed, m))))(theta)
    np.testing.assert_allclose(operator.hypergradient(theta, fixed, m, g), autodiff, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", [operators.BlockPermutation(), operators.Diagonal(), operators.Scalar()])
def test_starts_at_the_identity(operator):
    """Equation `operator` of book/algorithm.md."""
    theta, fixed = operator.init(jax.random.key(3), 10, jnp.float64)
    start = jax.vmap(lambda e: operator.apply(theta, fixed, e))(jnp.eye(10))
    np.testing.assert_allclose(start, np.eye(10), atol=1e-14)


def test_residuals_start_with_the_stated_spread():
    theta, _ = operators.Residuals(64).init(jax.random.key(0), 200, jnp.float64)
    np.testing.assert_allclose(np.std(theta.layers), 1 / np.sqrt(64), rtol=0.02)


def test_block_size_one_with_identity_permutations_is_diagonal():
    operator, n = operators.BlockPermutation(1, 1, 6), 6
    theta, fixed = drawn(operator, n)
    still = jnp.arange(6, dtype=jnp.int32)[None]
    fixed = operators.Permutations(still, still)
    (m, g), weights = vectors(n), theta[0, 0, 0]
    diagonal = operators.Diagonal()
    np.testing.assert_allclose(
        operator.apply(theta, fixed, m), diagonal.apply(weights**2, operators.NoFixed(), m), rtol=1e-15
    )
    # S = diag(θ²), so that the chain rule relates the two hypergradients.
    np.testing.assert_allclose(
        operator.hypergradient(theta, fixed, m, g)[0, 0, 0],
        2 * weights * diagonal.hypergradient(weights**2, operators.NoFixed(), m, g),
        rtol=1e-14,
    )


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_random_orthogonal_is_orthogonal_and_haar_like(k):
    Q = np.moveaxis(np.asarray(random_orthogonal(jax.random.key(0), k, 4000, jnp.float64)), -1, 0)
    np.testing.assert_allclose(Q @ np.swapaxes(Q, 1, 2), np.broadcast_to(np.eye(k), Q.shape), atol=1e-14)
    # Under the Haar measure entries have mean 0 and variance 1/k, and both signs of the determinant are as likely.
    assert np.abs(Q.mean(axis=0)).max() < 5 / np.sqrt(4000 * k)
    np.testing.assert_allclose(np.mean(Q**2, axis=0), 1 / k, atol=0.05)
    assert abs(np.mean(np.sign(np.linalg.det(Q)))) < 0.1


# Few shapes, so that programs are compiled once; hypothesis varies what is in the arrays.
shapes = st.sampled_from([(3, 2, 5), (2, 4, 7), (1, 3, 1), (4, 1, 6)])
seeds = st.integers(0, 2**31)


@given(shapes, seeds, st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_block_permutation_is_symmetric_psd_and_linear(shape, seed, factor):
    """Equation `operator` of book/algorithm.md."""
    depth, block_size, n = shape
    operator = operators.BlockPermutation(depth, block_size)
    theta, fixed = drawn(operator, n, seed)
    u, v = vectors(n, seed)
    Su, Sv = apply(operator, theta, fixed, u), apply(operator, theta, fixed, v)
    scale = 1 + float(jnp.abs(Su).max() + jnp.abs(Sv).max())
    np.testing.assert_allclose(u @ Sv, Su @ v, atol=1e-12 * scale * n)
    assert u @ Su >= -1e-13
    np.testing.assert_allclose(apply(operator, theta, fixed, factor * u - v), factor * Su - Sv, atol=1e-12 * scale)


@given(shapes, seeds)
@settings(max_examples=20, deadline=None)
def test_hypergradient_is_symmetric_in_its_vectors_and_obeys_euler(shape, seed):
    depth, block_size, n = shape
    operator = operators.BlockPermutation(depth, block_size)
    theta, fixed = drawn(operator, n, seed)
    m, g = vectors(n, seed)
    first, second = hypergradient(operator, theta, fixed, m, g), hypergradient(operator, theta, fixed, g, m)
    np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)
    # ⟨g, S m⟩ is homogeneous of degree 2 in each layer, so that Euler's identity holds layer by layer.
    value = jnp.vdot(g, apply(operator, theta, fixed, m))
    for layer in range(depth):
        np.testing.assert_allclose(jnp.vdot(theta[layer], first[layer]), 2 * value, rtol=1e-10, atol=1e-10)


@given(st.sampled_from([(0, 3), (1, 1), (3, 8), (5, 12)]), seeds)
@settings(max_examples=20, deadline=None)
def test_permutations_round_trip(shape, seed):
    count, size = shape
    forward, inverse = random_permutations(jax.random.key(seed), count, size)
    v = jnp.linspace(0.0, 1.0, size)
    for P, Q in zip(forward, inverse, strict=True):
        assert sorted(P.tolist()) == list(range(size))
        np.testing.assert_array_equal(gather(gather(v, P), Q), v)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.BlockPermutation(depth=-1), "depth must be an integer of at least 0; got -1"),
        (lambda: operators.BlockPermutation(depth=True), "bool"),
        (lambda: operators.BlockPermutation(block_size=0), "block_size must be an integer of at least 1; got 0"),
        (lambda: operators.BlockPermutation(block_size=2.5), r"block_size must be an integer.*got 2\.5 \(float\)"),
        (lambda: operators.BlockPermutation(4, 4, 10), "hidden_size must be a multiple of block_size.*got 10"),
        (lambda: operators.BlockPermutation(permutations="random"), "must be 'uniform' or 'rolled'; got 'random'"),
        (lambda: operators.BlockPermutation(kernel="cuda"), "kernel must be one of 'xla', 'native'; got 'cuda'"),
        (lambda: operators.Residuals(depth="3"), r"depth must be an integer.*'3' \(str\)"),
        (lambda: operators.BlockPermutation(4, 4, 8).init(jax.random.key(0), 9, jnp.float64), "at least.*n = 9; got 8"),
        (lambda: operators.Residuals(4, 8).init(jax.random.key(0), 9, jnp.float64), "at least.*n = 9; got 8"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
