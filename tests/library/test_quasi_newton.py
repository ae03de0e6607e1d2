"""The quasi-Newton transformations as optax citizens, and the input that they refuse."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quasi_newton_cases import FACTORIES, NAMES, noisy_quadratic, run, spd

from lodo import quasi_newton

N = 5


@functools.cache
def problem():
    return noisy_quadratic(spd(N)), 0.1 * jnp.asarray(np.random.default_rng(3).normal(size=(8, N)))


def call(optimizer, grads, state, params, **changed):
    """One update with all extra arguments, for a loss ½‖x‖² over any tree."""
    n = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    extra = {"grad_fn": lambda p: p, "hessian": np.eye(n), **changed}
    return optimizer.update(grads, state, params, **extra)


@pytest.mark.parametrize(
    ("name", "hyperparameter", "others"),
    [
        ("olbfgs", "learning_rate", {"epsilon": 0.1}),
        ("lbfgs_no_line_search", "epsilon", {"learning_rate": 0.3}),
        ("bfgs", "learning_rate", {}),
        ("levenberg_marquardt", "damping", {}),
    ],
)
def test_vmap_over_a_hyperparameter(name, hyperparameter, others):
    loss, batches = problem()
    factory = getattr(quasi_newton, name)
    static = ["buffer_size"] if "buffer_size" in inspect.signature(factory).parameters else []
    injected = optax.inject_hyperparams(factory, static_args=static)
    values = jnp.array([0.05, 0.4])
    together, state = jax.vmap(lambda v: run(injected(**{hyperparameter: v}, **others), loss, jnp.ones(N), batches))(
        values
    )
    assert state.hyperparams[hyperparameter].shape == (2,)
    for value, points in zip(values, together):
        alone, _ = run(factory(**{hyperparameter: float(value)}, **others), loss, jnp.ones(N), batches)
        np.testing.assert_allclose(points, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_is_updated_as_the_vector_of_its_entries(name):
    """Leaf after leaf, so a tree's run is the run of the flattened parameters."""
    loss, batches = problem()
    tree = {"a": jnp.ones((2, 2)), "b": jnp.ones(())}

    def tree_loss(tree, batch):
        return loss(jnp.concatenate([tree["a"].ravel(), tree["b"][None]]), batch)

    optimizer = FACTORIES[name]()
    grad = jax.jit(jax.grad(tree_loss))
    hessian = jax.hessian(loss)(jnp.ones(N), batches[0])
    update = jax.jit(lambda g, s, p, b: optimizer.update(g, s, p, grad_fn=lambda q: grad(q, b), hessian=hessian))
    state = optimizer.init(tree)
    for batch in batches:
        updates, state = update(grad(tree, batch), state, tree, batch)
        tree = optax.apply_updates(tree, updates)
    points, _ = run(optimizer, loss, jnp.ones(N), batches)
    np.testing.assert_allclose(np.append(tree["a"].ravel(), tree["b"]), points[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_updates_have_the_dtypes_of_the_parameters(name):
    for dtypes, working in (
        ((jnp.float32, jnp.bfloat16), jnp.float32),
        ((jnp.float16, jnp.float16), jnp.float32),
        ((jnp.float32, jnp.float64), jnp.float64),
    ):
        params = {"a": jnp.ones(3, dtypes[0]), "b": jnp.ones((2, 1), dtypes[1])}
        optimizer = FACTORIES[name]()
        state = optimizer.init(params)
        update = jax.jit(lambda state, params: call(optimizer, params, state, params))  # noqa: B023
        for _ in range(2):
            updates, state = update(state, params)
            assert jax.tree.map(lambda u: (u.dtype, u.shape), updates) == jax.tree.map(
                lambda p: (p.dtype, p.shape), params
            )
            params = optax.apply_updates(params, updates)
            assert all(bool(jnp.all(jnp.abs(leaf) < 1)) for leaf in jax.tree.leaves(params))
        floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert all(leaf.dtype == working for leaf in floats)


@pytest.mark.parametrize("name", NAMES)
def test_at_a_stationary_point_nothing_moves_and_nothing_is_nan(name):
    x = jnp.zeros(N)
    optimizer = FACTORIES[name]()
    state = optimizer.init(x)
    with jax.debug_nans(True):
        for _ in range(2):
            updates, state = call(optimizer, x, state, x)
            np.testing.assert_array_equal(updates, np.zeros(N))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["olbfgs", "lbfgs_no_line_search", "bfgs", "bfgs_same_batch"])
def test_a_non_finite_gradient_does_not_spoil_what_was_learned(name):
    x, bad = jnp.ones(N), jnp.ones(N).at[2].set(jnp.nan)
    optimizer = FACTORIES[name]()
    update = jax.jit(lambda g, s: call(optimizer, g, s, x, grad_fn=lambda p: g + p - x))
    _, state = update(x, update(x, optimizer.init(x))[1])
    updates, state = update(bad, state)
    assert not jnp.all(jnp.isfinite(updates)), "the step itself says so"
    for _ in range(2):
        updates, state = update(x, state)
    assert jnp.all(jnp.isfinite(updates))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))


def test_a_learning_rate_schedule_counts_updates():
    x, g = jnp.ones(N), jnp.ones(N)
    optimizer = quasi_newton.bfgs(lambda count: 1.0 / (1.0 + count.astype(float)), form="released")
    first, state = call(optimizer, g, optimizer.init(x), x)
    constant = quasi_newton.bfgs(0.5, form="released")
    np.testing.assert_allclose(first, -1.0)
    # The same inverse Hessian, half the step.
    second, _ = call(optimizer, 2 * g, state, x)
    expected, _ = call(constant, 2 * g, state, x)
    np.testing.assert_allclose(second, expected)


LIMITED = ["olbfgs", "lbfgs_no_line_search"]
WRONG_ARGUMENTS = [
    *[(name, {"learning_rate": -0.1}, ValueError, r"learning_rate .*-0.1") for name in [*LIMITED, "bfgs"]],
    *[(name, {"learning_rate": float("nan")}, ValueError, "learning_rate .*nan") for name in [*LIMITED, "bfgs"]],
    *[(name, {"learning_rate": "fast"}, TypeError, "learning_rate .*'fast'") for name in [*LIMITED, "bfgs"]],
    *[(name, {"learning_rate": jnp.ones(2)}, TypeError, r"learning_rate .*\(2,\)") for name in LIMITED],
    *[(name, {"decay_steps": 0.0}, ValueError, "decay_steps") for name in LIMITED],
    *[(name, {"epsilon": float("inf")}, ValueError, "epsilon .*inf") for name in LIMITED],
    *[(name, {"buffer_size": 0}, ValueError, "buffer_size .*at least 1.*0") for name in LIMITED],
    *[(name, {"buffer_size": 2.5}, TypeError, "buffer_size .*2.5") for name in LIMITED],
    *[(name, {"regularization": -1.0}, ValueError, "regularization") for name in LIMITED],
    *[(name, {"curvature_tolerance": 1.0}, ValueError, "curvature_tolerance") for name in [*LIMITED, "bfgs"]],
    *[(name, {"form": "paper"}, ValueError, "'textbook', 'released'.*'paper'") for name in NAMES],
    ("bfgs", {"initial_scale": -1.0}, ValueError, "initial_scale"),
    ("bfgs", {"same_batch": 1}, TypeError, "same_batch .*1"),
    ("bfgs_same_batch", {"form": "released"}, ValueError, "same_batch=True needs"),
    ("levenberg_marquardt", {"damping": -1.0}, ValueError, "damping .*-1.0"),
    ("levenberg_marquardt", {"damping": float("nan")}, ValueError, "damping .*nan"),
    ("levenberg_marquardt", {"scaling": "trace"}, ValueError, "scaling .*'trace'"),
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), WRONG_ARGUMENTS)
def test_refuses_wrong_hyperparameters(name, arguments, error, message):
    with pytest.raises(error, match=message):
        FACTORIES[name](**arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"w": jnp.ones(2), "i": jnp.ones(2, jnp.int32)}, TypeError, r"\['i'\].*int32"),
        (jnp.ones(2, jnp.complex128), TypeError, "complex128"),
    ],
    ids=["integer", "complex"],
)
def test_refuses_parameters_that_it_cannot_optimize(name, params, error, message):
    with pytest.raises(error, match=message):
        FACTORIES[name]().init(params)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_update_that_does_not_fit(name):
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    optimizer = FACTORIES[name]()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"update\(grads, state, params"):
        call(optimizer, params, state, None)
    with pytest.raises(ValueError, match="another structure"):
        call(optimizer, {"a": jnp.ones(3), "c": jnp.ones(2)}, state, params)
    with pytest.raises(ValueError, match=r"updates\['a'\] has shape \(4,\)"):
        call(optimizer, {"a": jnp.ones(4), "b": jnp.ones(2)}, state, params)
    with pytest.raises(TypeError, match=r"updates\['b'\].*int64"):
        call(optimizer, {"a": jnp.ones(3), "b": jnp.ones(2, int)}, state, params)


@pytest.mark.parametrize("name", ["olbfgs", "lbfgs_no_line_search", "bfgs"])
def test_refuses_a_state_of_other_parameters(name):
    optimizer, x = FACTORIES[name](), jnp.ones(4)
    with pytest.raises(ValueError, match=r"has 4 entries.*initialized for 5"):
        call(optimizer, x, optimizer.init(jnp.ones(5)), x)


@pytest.mark.parametrize("name", ["olbfgs", "lbfgs_no_line_search", "bfgs_same_batch"])
def test_refuses_a_missing_or_wrong_second_gradient(name):
    optimizer, x = FACTORIES[name](), jnp.ones(4)
    state = optimizer.init(x)
    with pytest.raises(TypeError, match=r"grad_fn=lambda p: jax.grad\(loss\)\(p, batch\)"):
        optimizer.update(x, state, x)
    with pytest.raises(ValueError, match="value_and_grad"):
        call(optimizer, x, state, x, grad_fn=lambda p: (jnp.sum(p), p))
    with pytest.raises(ValueError, match=r"grad_fn\(params\) has shape \(3,\)"):
        call(optimizer, x, state, x, grad_fn=lambda p: p[:3])


def test_refuses_a_missing_or_wrong_hessian():
    optimizer, x = quasi_newton.levenberg_marquardt(), jnp.ones(4)
    state = optimizer.init(x)
    with pytest.raises(TypeError, match=r"hessian=lambda p: jax.hessian\(loss\)\(p, batch\)"):
        optimizer.update(x, state, x)
    for wrong in (jnp.eye(3), jnp.ones(4), {"w": jnp.eye(4)}, lambda p: jnp.eye(5), "eye"):
        with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
            optimizer.update(x, state, x, hessian=wrong)
    with pytest.raises(TypeError, match="int64"):
        optimizer.update(x, state, x, hessian=np.eye(4, dtype=int))


def test_a_traced_buffer_size_is_refused_with_the_remedy():
    optimizer = optax.inject_hyperparams(quasi_newton.olbfgs)()
    with pytest.raises(TypeError, match=r"static_args=\('buffer_size',\)"):
        jax.jit(optimizer.init)(jnp.ones(3))
