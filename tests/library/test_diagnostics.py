"""Diagnostics against numpy on learned states, and the cost table against really allocated ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import diagnostics, operators

N = 5
TREE = {"w": jnp.linspace(-1.0, 1.0, 4).reshape(2, 2), "b": jnp.array([2.0])}
OPERATORS = {
    "blocks": operators.BlockPermutation(2, 2),
    "residuals": operators.Residuals(2),
    "diagonal": operators.Diagonal(),
    "scalar": operators.Scalar(),
}
_a = np.random.default_rng(1).normal(size=(N, N))
HESSIAN = _a @ _a.T / N + np.eye(N)


def learned(operator, key=7):
    """A state with θ away from its start."""
    state = lodo.lodo(0.5, operator=operator).init(TREE)
    rng = np.random.default_rng(key)
    return state._replace(theta=jax.tree.map(lambda leaf: leaf + 0.2 + 0.2 * rng.normal(size=leaf.shape), state.theta))


def by_numpy(operator, state):
    """α₀ S(θ) from the operator's products with unit vectors, one at a time."""
    theta, fixed = state.theta, state.fixed
    rows = [0.5 * np.asarray(operator.apply(theta, fixed, jnp.asarray(e))) for e in np.eye(N)]
    return np.stack(rows, axis=1)


@pytest.fixture(scope="module")
def cases():
    return {name: (operator, learned(operator)) for name, operator in OPERATORS.items()}


@pytest.mark.parametrize("name", OPERATORS)
def test_dense_spectrum_and_apply(cases, name):
    operator, state = cases[name]
    matrix = by_numpy(operator, state)
    assert np.abs(matrix - 0.5 * np.eye(N)).max() > 0.05
    np.testing.assert_allclose(diagnostics.dense(state), matrix, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(diagnostics.dense(state, operator=operator), matrix, rtol=1e-13, atol=1e-14)
    spectrum = diagnostics.spectrum(state)
    np.testing.assert_allclose(spectrum, np.linalg.eigvalsh(matrix), rtol=1e-10, atol=1e-12)
    v = np.random.default_rng(2).normal(size=N)
    np.testing.assert_allclose(diagnostics.apply(state, v), matrix @ v, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", OPERATORS)
def test_extreme_eigenvalues_are_those_of_the_matrix(cases, name):
    """In as many products as there are dimensions; the diagonal and the scalar have spaces that end sooner."""
    operator, state = cases[name]
    by_matrix = np.linalg.eigvalsh(by_numpy(operator, state))[[0, -1]]
    for found in (
        diagnostics.extreme_eigenvalues(state),
        jax.jit(diagnostics.extreme_eigenvalues)(state, key=jax.random.key(3)),
        diagnostics.extreme_eigenvalues(state, operator=operator),
    ):
        np.testing.assert_allclose(jnp.stack(found), by_matrix, rtol=1e-12)
        assert all(value.dtype == jnp.float64 and value.shape == () for value in found)


@pytest.mark.parametrize("make", [lodo.lodo, lodo.rlodo], ids=["lodo", "rlodo"])
def test_extreme_eigenvalues_in_a_few_products(make):
    """200 dimensions, of which 40 products find the ends; what they find lies within the spectrum."""
    curvature, optimizer = jnp.logspace(-1.0, 1.0, 200), make(depth=4)
    x = jnp.ones(200)
    state = optimizer.init(x)
    update = jax.jit(optimizer.update)
    for _ in range(60):
        step, state = update(curvature * x, state, x)
        x = optax.apply_updates(x, step)
    by_matrix = np.linalg.eigvalsh(np.asarray(diagnostics.dense(state)))
    smallest, largest = jax.jit(lambda s: diagnostics.extreme_eigenvalues(s, iterations=40))(state)
    np.testing.assert_allclose([smallest, largest], by_matrix[[0, -1]], rtol=0.02)
    assert by_matrix[0] * (1 - 1e-9) <= smallest < largest <= by_matrix[-1] * (1 + 1e-9)
    assert largest > 1.05 * smallest


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_eigenvalues_where_the_space_ends_at_once(dtype):
    """G = α₀ I at the start: every vector is an eigenvector."""
    state = lodo.lodo(jnp.asarray(0.5, dtype), depth=3, dtype=dtype).init(jnp.ones(60, dtype))
    found = jnp.stack(diagnostics.extreme_eigenvalues(state))
    np.testing.assert_allclose(found, 0.5, rtol=1e-5 if dtype == jnp.float32 else 1e-12)
    new = jnp.stack(diagnostics.extreme_eigenvalues(lodo.rlodo(depth=2).init(jnp.ones(10))))
    np.testing.assert_array_equal(new, 0)  # no gradient has decided its α₀


def test_extreme_eigenvalues_refuse():
    state = lodo.lodo(depth=2).init(TREE)
    with pytest.raises(ValueError, match="iterations must be an integer of at least 1; got 0"):
        diagnostics.extreme_eigenvalues(state, iterations=0)
    with pytest.raises(TypeError, match="iterations must be an integer"):
        diagnostics.extreme_eigenvalues(state, iterations=2.0)
    with pytest.raises(TypeError, match="decides array shapes by 'iterations'"):
        jax.jit(lambda count: diagnostics.extreme_eigenvalues(state, iterations=count))(3)


@pytest.mark.parametrize("size", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("make", [lodo.lodo, lodo.rlodo], ids=["lodo", "rlodo"])
def test_the_monitor_tells_the_agreement_of_step_and_gradient(make, size):
    optimizer = optax.chain(optax.scale(1 / size), make(depth=2))
    state, params = optimizer.init(TREE), TREE
    for scale in (1.0, 0.3):
        gradient = jax.tree.map(lambda leaf, scale=scale: size * (leaf**2 + scale), TREE)
        updates, state = optimizer.update(gradient, state, params)
        s, g = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (updates, gradient))
        seen = jax.jit(diagnostics.monitor)(state, gradient)["agreement"]
        expected = -(s / np.linalg.norm(s)) @ (g / size / np.linalg.norm(g / size))
        np.testing.assert_allclose(seen, expected, rtol=1e-9)
        assert seen > 0.5
    assert "agreement" not in diagnostics.monitor(state)
    nothing = jax.tree.map(jnp.zeros_like, TREE)
    assert diagnostics.monitor(state, nothing)["agreement"] == 0
    with pytest.raises(ValueError, match=r"gradient has another structure.*Give the gradient of the loss by the param"):
        diagnostics.monitor(state, jnp.ones(5))


def test_apply_takes_and_returns_a_tree_in_its_own_dtypes(cases):
    operator, state = cases["blocks"]
    v = {"w": jnp.ones((2, 2), jnp.float32), "b": jnp.array([3.0])}
    product = diagnostics.apply(state, v)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), product) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), v
    )
    whole = by_numpy(operator, state) @ [3.0, 1.0, 1.0, 1.0, 1.0]  # "b" comes before "w"
    np.testing.assert_allclose(product["b"], whole[:1], rtol=1e-12)
    np.testing.assert_allclose(product["w"].ravel(), whole[1:], rtol=1e-6)


def test_the_step_is_minus_apply_of_the_momentum():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo(0.5, operator=operators.Diagonal()))
    state = optimizer.init(TREE)
    for _ in range(2):
        updates, state = optimizer.update(TREE, state)
    product = diagnostics.apply(state, diagnostics.find_state(state).momentum)
    for step, entry in zip(jax.tree.leaves(updates), jax.tree.leaves(product), strict=True):
        np.testing.assert_allclose(step, -entry, rtol=1e-13)


@pytest.mark.parametrize("name", OPERATORS)
def test_inverse_hessian_error_is_the_frobenius_norm(cases, name):
    """Equation `error` of book/algorithm.md."""
    operator, state = cases[name]
    expected = np.linalg.norm(np.eye(N) - by_numpy(operator, state) @ HESSIAN) / np.sqrt(N)
    np.testing.assert_allclose(diagnostics.inverse_hessian_error(state, HESSIAN), expected, rtol=1e-12)


def test_inverse_hessian_error_at_its_marks(cases):
    operator, state = cases["diagonal"]
    np.testing.assert_allclose(
        diagnostics.inverse_hessian_error(state, np.linalg.inv(by_numpy(operator, state))), 0.0, atol=1e-13
    )
    np.testing.assert_allclose(diagnostics.inverse_hessian_error(state, np.zeros((N, N))), 1.0, rtol=1e-14)


def test_probes_converge_to_the_exact_error(cases):
    """Equation `error` of book/algorithm.md."""
    _, state = cases["blocks"]
    exact = float(diagnostics.inverse_hessian_error(state, HESSIAN))
    keys = jax.random.split(jax.random.key(0), 40)
    one = jax.vmap(lambda key: diagnostics.inverse_hessian_error(state, HESSIAN, probes=1, key=key))
    squares = np.asarray(jax.jit(one)(keys)) ** 2
    # One probe's square has the exact error's square as its mean; how far the means may be apart is known from the
    # probes' own spread.
    spread = squares.std(ddof=1)
    assert spread > 0.05 * exact**2
    assert abs(squares.mean() - exact**2) < 4 * spread / np.sqrt(len(squares))
    many = diagnostics.inverse_hessian_error(state, HESSIAN, probes=20_000, key=jax.random.key(1))
    assert abs(float(many) ** 2 - exact**2) < 4 * spread / np.sqrt(20_000)
    # The same probes from a matrix and from products with it.
    product = lambda v: jnp.asarray(HESSIAN) @ v  # noqa: E731
    by_product = diagnostics.inverse_hessian_error(state, product, probes=20_000, key=jax.random.key(1))
    np.testing.assert_allclose(by_product, many, rtol=1e-12)


def test_many_runs_are_mapped_over():
    optimizer = lodo.lodo(0.5, operator=operators.Diagonal())
    states = jax.vmap(lambda scale: optimizer.init(TREE)._replace(theta=scale * jnp.ones(N)))(jnp.array([1.0, 2.0]))
    matrices = jax.jit(jax.vmap(diagnostics.dense))(states)
    np.testing.assert_allclose(matrices[1], np.eye(N), rtol=1e-14)
    errors = jax.vmap(lambda state: diagnostics.inverse_hessian_error(state, jnp.eye(N)))(states)
    np.testing.assert_allclose(errors, [0.5, 0.0], atol=1e-14)
    ends = jax.vmap(diagnostics.extreme_eigenvalues)(states)
    np.testing.assert_allclose(jnp.stack(ends), [[0.5, 1.0]] * 2, rtol=1e-12)
    for look in (
        diagnostics.dense,
        diagnostics.spectrum,
        diagnostics.extreme_eigenvalues,
        lambda s: diagnostics.apply(s, TREE),
    ):
        with pytest.raises(ValueError, match=r"holds several runs.*shape \(2,\).*jax\.vmap"):
            look(states)


class Doubling:
    """An operator of a user's own, 2 I, whose θ is a dict."""

    def init(self, key, size, dtype):
        return {"unused": jnp.ones((), dtype)}, ()

    def apply(self, theta, fixed, v):
        return 2 * v

    def hypergradient(self, theta, fixed, m, g):
        return {"unused": 0 * m[0]}

    def sizes(self, size):
        return {"theta": 1, "fixed": 0, "multiplications": size}


def test_an_operator_of_the_users_own_is_passed():
    optimizer = lodo.lodo(0.5, operator=Doubling())
    state = optimizer.init(TREE)
    updates, state = optimizer.update(TREE, state)
    np.testing.assert_allclose(updates["w"], -0.5 * 2 * 0.1 * TREE["w"], rtol=1e-14)
    np.testing.assert_allclose(diagnostics.dense(state, operator=Doubling()), np.eye(N))
    with pytest.raises(ValueError, match=r"operator of your own.*operator="):
        diagnostics.dense(state)
    assert diagnostics.cost_table(TREE, operator=Doubling()).multiplications == 3 * N + 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: diagnostics.apply(s, jnp.arange(N)), TypeError, r"v must be floating.*int64\[5\]"),
        (lambda s: diagnostics.apply(s, jnp.ones(N + 1)), ValueError, r"v has another structure.*a vector \[n\]\.$"),
        (
            lambda s: diagnostics.apply(s, {"w": jnp.ones(4), "b": jnp.ones(1)}),
            ValueError,
            r"v\['w'\] has shape \(4,\).*Give a tree like them",
        ),
        (lambda s: diagnostics.inverse_hessian_error(s, np.eye(N + 1)), ValueError, r"shape \(5, 5\); got \(6, 6\)"),
        (lambda s: diagnostics.inverse_hessian_error(s, lambda v: v), ValueError, "how many probes"),
        (lambda s: diagnostics.inverse_hessian_error(s, np.eye(N), probes=3), ValueError, "key=jax.random.key"),
        (
            lambda s: diagnostics.inverse_hessian_error(s, np.eye(N), probes=0, key=jax.random.key(0)),
            ValueError,
            "probes must be an integer of at least 1; got 0",
        ),
        (
            lambda s: diagnostics.inverse_hessian_error(s, np.eye(N), probes=1.5, key=jax.random.key(0)),
            TypeError,
            r"probes must be an integer.*1\.5",
        ),
        (lambda s: diagnostics.dense({"x": 1}), ValueError, "LodoState.*holds 0"),
        (lambda s: diagnostics.dense((s, s)), ValueError, "exactly one; tuple holds 2"),
    ],
)
def test_refusals(cases, call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call(cases["diagonal"][1])


def test_no_dense_matrix_of_a_large_network():
    state = jax.eval_shape(lodo.lodo(operator=operators.Diagonal()).init, jnp.zeros(5001))
    with pytest.raises(ValueError, match=r"5001² entries.*up to 5000.*lodo\.diagnostics\.apply"):
        diagnostics.dense(state)


# The cost table.

COSTS = {
    "default": ({}, TREE),
    "float32": ({"depth": 3, "block_size": 3}, {"w": jnp.ones((7, 3), jnp.float32), "b": jnp.ones(2, jnp.bfloat16)}),
    "float64 θ": ({"depth": 2, "dtype": jnp.float64, "hidden_size": 8}, jnp.zeros(3, jnp.bfloat16)),
    "residuals": ({"operator": operators.Residuals(3)}, TREE),
    "diagonal, SGD": ({"operator": operators.Diagonal(), "meta_optimizer": optax.sgd(0.1, momentum=0.9)}, TREE),
    "scalar": ({"operator": operators.Scalar()}, TREE),
}


def bytes_of(tree):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", COSTS)
def test_cost_table_counts_the_bytes_that_are_allocated(name):
    arguments, params = COSTS[name]
    table = diagnostics.cost_table(params, **arguments)
    state = lodo.lodo(**arguments).init(params)
    assert table.bytes_by_part == {
        "theta": bytes_of(state.theta),
        "meta-optimizer": bytes_of(state.meta_state),
        "permutations": bytes_of(state.fixed),
        "momentum": bytes_of(state.momentum),
        "last step and its parameters": bytes_of(state.last),
        "counters and rates": bytes_of((state.step_count, state.initial_learning_rate, state.inputs)),
    }
    assert table.total_bytes == bytes_of(state)
    assert table.parameter_bytes == bytes_of(params)
    assert table.size == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert diagnostics.cost_table(jax.eval_shape(lambda: params), **arguments) == table


def test_cost_table_counts_what_is_kept_of_the_momentum_where_it_is():
    params = jnp.ones(1100)
    table, state = diagnostics.cost_table(params), lodo.lodo().init(params)
    assert table.bytes_by_part["momentum in the layers"] == bytes_of(state.inputs)
    assert table.total_bytes == bytes_of(state)
    assert "momentum in the layers" not in diagnostics.cost_table(params, storage="compact").bytes_by_part
    assert "momentum in the layers" not in diagnostics.cost_table(params, devices=8).bytes_by_part


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_sizes_are_those_of_the_arrays(operator):
    theta, fixed = jax.eval_shape(lambda: operator.init(jax.random.key(0), N, jnp.float32))
    sizes = operator.sizes(N)
    assert sizes["theta"] == sum(leaf.size for leaf in jax.tree.leaves(theta))
    assert sizes["fixed"] == sum(leaf.size for leaf in jax.tree.leaves(fixed))


def test_a_thousand_million_parameters_cost_no_memory_to_ask_about():
    live = len(jax.live_arrays())
    params = {"w": jax.ShapeDtypeStruct((1000, 10**6), jnp.float32)}
    table = diagnostics.cost_table(params)
    assert len(jax.live_arrays()) <= live + 1  # the seed's key at most
    hidden = 2 * 10**9 + 4
    assert table.size == 10**9
    assert table.bytes_by_part["theta"] == 4 * 16 * hidden * 4
    assert table.bytes_by_part["meta-optimizer"] == 2 * 4 * 16 * hidden * 4 + 4
    assert table.bytes_by_part["permutations"] == 2 * 16 * hidden * 4
    # Two vectors through Ĝ and back, as the way of the third is kept, each layer k products an entry; two products an
    # entry of θ.
    assert table.multiplications == (2 * 2 + 2) * 16 * hidden * 4
    # u and d of m in each layer, and their two largest magnitudes.
    assert table.bytes_by_part["momentum in the layers"] == 2 * 16 * hidden * 4 + 8
    text = str(table)
    assert "n = 1,000,000,000 parameters (3.7 GiB)" in text
    assert "476.8 GiB" in text
    assert "1.9 TiB" in text


def test_cost_table_refuses_what_lodo_refuses():
    with pytest.raises(ValueError, match="depth must be an integer of at least 0; got -1"):
        diagnostics.cost_table(TREE, depth=-1)
    with pytest.raises(ValueError, match="hidden_size must be at least"):
        diagnostics.cost_table(TREE, hidden_size=4)


def test_step_traffic_counts_nine_passes_over_theta_and_what_lies_beside():
    params = jax.ShapeDtypeStruct((1000,), jnp.float32)
    traffic, table = diagnostics.step_traffic(params), diagnostics.cost_table(params)
    theta = table.bytes_by_part["theta"]
    vectors = (4 + 5) * 1000 * 4
    count = 4  # bytes of Adam's counter, read and written
    assert traffic.floor_bytes == 9 * theta + vectors + 2 * count
    assert traffic.floor_bytes - vectors == table.traffic_bytes
    # Each of two stored directions is read twice; u of g and of m, a number where θ has k = 4, are written and read.
    assert traffic.indices == 2 * table.bytes_by_part["permutations"]
    assert traffic.activations == 2 * 2 * theta // 4
    # From 2,048 hidden coordinates on, those of m are kept from the step before, d with them.
    params = jax.ShapeDtypeStruct((1100,), jnp.float32)
    theta = diagnostics.cost_table(params).bytes_by_part["theta"]
    assert diagnostics.step_traffic(params).activations == 2 * 3 * theta // 4
    assert traffic.seconds(traffic.floor_bytes) == 1
    assert "floor" in str(traffic)


def test_step_traffic_refuses_a_form_that_it_does_not_count():
    with pytest.raises(ValueError, match="BlockPermutation"):
        diagnostics.step_traffic(jnp.zeros(3), operator=operators.Diagonal())
