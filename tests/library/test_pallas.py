"""The GPU kernels by Pallas' interpreter: against XLA's path, the dense float64 twin, and optax's Adam."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import operators
from lodo.operators import _pallas
from lodo.operators._pallas import layers

# depth, block size, hidden size, n: several tiles and a rest; an odd block; k = 1; no layer; one layer and n = hidden
# size; one parameter.
CASES = {
    "several tiles": (3, 2, 38, 21),
    "odd blocks": (2, 3, 15, 13),
    "block size 1": (3, 1, 7, 6),
    "no layer": (0, 4, 8, 3),
    "one layer, n the hidden size": (1, 4, 12, 12),
    "one parameter": (2, 2, 4, 1),
}
# Not in the default runs, as the kernels have not met a GPU: pytest -m "" tests/library/test_pallas.py
pytestmark = pytest.mark.exhaustive
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small cases have several programs, the last one with lanes to spare."""
    monkeypatch.setattr(layers, "TILE", 8)


def drawn(case, dtype=jnp.float64):
    depth, k, hidden, n = case
    operator = operators.BlockPermutation(depth, k, hidden)
    theta, fixed = operator.init(jax.random.key(1), n, dtype)
    rng = np.random.default_rng(0)
    theta = theta + jnp.asarray(0.3 * rng.normal(size=theta.shape), dtype)
    m, g = jnp.asarray(rng.normal(size=(2, n)), dtype)
    return (
        operator,
        operators.BlockPermutation(depth, k, hidden, kernel="experimental-pallas-interpret"),
        theta,
        fixed,
        m,
        g,
    )


def dense(theta, fixed, n):
    """S(θ) as a product of explicit matrices."""
    hidden = fixed.forward.shape[1]
    up = np.eye(hidden)
    for weights, permutation in zip(np.asarray(theta), np.asarray(fixed.forward), strict=True):
        k, _, blocks = weights.shape
        matrix = np.zeros((hidden, hidden))
        for a in range(k):
            for o in range(k):
                matrix[o * blocks + np.arange(blocks), a * blocks + np.arange(blocks)] = weights[a, o]
        up = matrix @ np.eye(hidden)[permutation] @ up
    return (up.T @ up)[:n, :n]


@every_case
def test_apply_and_hypergradient(case):
    xla, kernels, theta, fixed, m, g = drawn(case)
    ours = jax.jit(lambda: (kernels.apply(theta, fixed, m), kernels.hypergradient(theta, fixed, m, g)))()
    twin = dense(theta, fixed, case[-1]) @ np.asarray(m)
    np.testing.assert_allclose(ours[0], twin, rtol=0, atol=1e-13 * max(1, np.abs(twin).max()))
    theirs = jax.jit(lambda: (xla.apply(theta, fixed, m), xla.hypergradient(theta, fixed, m, g)))()
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def a_gpu_to_lower_for():
    """From 0.12 on JAX wants to know which; it need not be there."""
    if jax.__version_info__ < (0, 12):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, platform="cuda")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def test_the_kernels_are_lowered_for_a_gpu():
    """Triton's own checks of what a GPU would be given; to run it takes one."""
    _, _, theta, fixed, m, g = drawn((2, 4, 2800, 1000), jnp.float32)
    numbers = layers.Adam(1e-2, 0.9, 0.999, 1e-8, 0.1, 0.001)

    def everything(theta, fixed, m, g):
        return (
            _pallas.apply(theta, fixed, m, False),
            _pallas.hypergradient(theta, fixed, m, g, False),
            _pallas.adam_step(theta, theta, theta, fixed, m, g, numbers, False),
        )

    with warnings.catch_warnings(), a_gpu_to_lower_for():
        # JAX says so from 0.12 on, and lodo.operators.BlockPermutation of kernel="experimental-pallas".
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        lowered = jax.jit(everything).trace(theta, fixed, m, g).lower(lowering_platforms=("cuda",))
    # Up, down from the top, and down: for each of the three.
    assert lowered.as_text().count("__gpu$xla.gpu.triton") == 9


def test_stacks_and_single_precision():
    xla, kernels, theta, fixed, m, g = drawn(CASES["odd blocks"], jnp.float32)
    stack = jnp.stack([m, g, m])
    product = kernels.apply(theta, fixed, stack)
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(product, xla.apply(theta, fixed, stack), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["several tiles", "no layer", "one layer, n the hidden size"])
def test_adam_on_top(case):
    xla, _, theta, fixed, m, g = drawn(CASES[case])
    adam = optax.adam(1e-2)
    state = adam.init(theta)
    # A step before, so that the moments are not zero.
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        before, state = adam.update(jnp.sin(theta), state)
        theta = theta + before
        change, after = adam.update(xla.hypergradient(theta, fixed, m, g), state)
    numbers = layers.Adam(1e-2, 0.9, 0.999, 1e-8, 1 - 0.9**2, 1 - 0.999**2)
    step = jax.jit(lambda *arrays: _pallas.adam_step(*arrays, fixed, m, g, numbers, True))
    new, first, second = step(theta, state[0].mu, state[0].nu)
    np.testing.assert_allclose(new, theta + change, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(first, after[0].mu, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(second, after[0].nu, rtol=1e-12, atol=1e-14)


def test_lodo_makes_the_same_steps():
    params = jnp.linspace(-1.0, 1.0, 6)
    one = lodo.lodo(0.5, operator=operators.BlockPermutation(2, 2, 12))
    other = lodo.lodo(0.5, operator=operators.BlockPermutation(2, 2, 12, kernel="experimental-pallas-interpret"))
    state, kernels_state = one.init(params), other.init(params)
    steps, kernel_steps = jax.jit(one.update), jax.jit(other.update)
    for _ in range(3):
        expected, state = steps(jnp.cos(params), state)
        step, kernels_state = kernel_steps(jnp.cos(params), kernels_state)
        np.testing.assert_allclose(step, expected, rtol=1e-11, atol=1e-13)
        params = params + expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: operators.BlockPermutation(kernel="cuda"),
            "'native', 'experimental-pallas', 'experimental-pallas-interpret'; got 'cuda'",
        ),
        (
            lambda: operators.BlockPermutation(block_size=17, kernel="experimental-pallas"),
            "block_size up to 16; got 17",
        ),
    ],
)
def test_what_the_kernels_cannot_do_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_the_kernels_are_refused():
    operator = operators.BlockPermutation(2, 2, 4, kernel="experimental-pallas")
    with pytest.raises(RuntimeError, match="need a GPU; JAX's default here is cpu"):
        operator.apply(
            jnp.zeros((2, 2, 2, 2)), operators.Permutations(*[jnp.zeros((2, 4), jnp.int32)] * 2), jnp.ones(3)
        )
