"""Half precision and less: parameters may be narrow, what is computed is not, and NaN is never kept as a number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import compact, diagnostics, operators, quasi_newton

NARROW = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
#: As parameters of tests that compile for each: those that differ most, the others with -m "".
TRIED = ["bfloat16", "float8_e5m2", *(pytest.param(dtype, marks=pytest.mark.exhaustive) for dtype in NARROW[1:3])]
FORMS = [("full", "full"), ("none", "block"), ("int8", "int8"), ("bfloat16", "bfloat16"), ("int16", "factored")]


@pytest.fixture(autouse=True)
def optax_promotion():
    """For optax's own transformations."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def draws(shape, dtype, steps=4):
    """Gradients that a dtype holds exactly."""
    keys = jax.random.split(jax.random.key(5), steps)
    return [jax.random.normal(key, shape, jnp.float32).astype(dtype) for key in keys]


def outputs(optimizer, given, params=None, give_params=True):
    """The updates for gradients that do not depend on the parameters, and the last state."""
    params = given[0] if params is None else params
    state, out, update = optimizer.init(params), [], jax.jit(optimizer.update)
    kinds = jax.tree.map(jax.typeof, state)
    for gradient in given:
        steps, state = update(gradient, state, params if give_params else None)
        out.append(steps)
        assert jax.tree.map(lambda leaf: leaf.dtype, steps) == jax.tree.map(lambda leaf: leaf.dtype, gradient)
        assert jax.tree.map(jax.typeof, state) == kinds
    return out, state


def wide(tree):
    return jax.tree.map(lambda leaf: leaf.astype(max(leaf.dtype, jnp.dtype("float32"), key=lambda d: d.itemsize)), tree)


def assert_rounded(steps, exact):
    """The steps are the exact ones, rounded to their own dtypes once."""
    for step, one in zip(jax.tree.leaves(steps), jax.tree.leaves(exact), strict=True):
        np.testing.assert_array_equal(step.astype(jnp.float64), one.astype(step.dtype).astype(jnp.float64))


@pytest.mark.parametrize("storage", ["full", "compact"])
@pytest.mark.parametrize("dtype", [*NARROW, jnp.float16, np.dtype("float16")])
def test_a_narrow_state_is_refused_with_the_remedy(dtype, storage):
    with pytest.raises(ValueError, match=r"dtype must be float32 or float64; got .*float.*Leave dtype alone.*compact"):
        lodo.lodo(dtype=dtype, storage=storage)
    with pytest.raises(TypeError, match="dtype must be a floating dtype"):
        lodo.lodo(dtype="int4")


@pytest.mark.exhaustive
def test_a_state_that_was_cast_is_refused():
    x = jnp.ones(1100, jnp.float32)
    optimizer = lodo.lodo(depth=2)
    state = optimizer.init(x)

    def cast(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)

    for name in ("momentum", "theta"):
        with pytest.raises(ValueError, match=rf"state's {name} is in bfloat16.*float32 or float64.*Cast it back"):
            optimizer.update(x, state._replace(**{name: cast(getattr(state, name))}))
    short = lodo.lodo(depth=2, storage=compact.Storage(theta="bfloat16"))
    assert np.all(np.isfinite(short.update(x, short.init(x))[0]))


@pytest.mark.parametrize("storage", ["full", "compact"])
@pytest.mark.parametrize("dtype", TRIED)
@pytest.mark.parametrize("n", [4, 1100])
def test_narrow_parameters_take_float32_steps(dtype, n, storage):
    given = draws(n, dtype, steps=3)
    optimizer = lodo.lodo(0.5, depth=2, block_size=2, storage=storage)
    ours, state = outputs(optimizer, given, give_params=False)
    exact, _ = outputs(optimizer, wide(given), give_params=False)
    assert state.momentum.dtype == jnp.float32
    assert_rounded(ours, exact)
    assert all(bool(jnp.any(step != 0)) for step in ours)


def test_what_is_not_finite_in_theta_is_seen_in_the_steps():
    """Kept in integers, NaN used to be 0, and every later step too."""
    x = jnp.ones(4, jnp.float32)
    broken = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), updates))
    for theta in ("full", "bfloat16", "int16", "int8"):
        optimizer = lodo.lodo(operator=operators.Diagonal(), storage=compact.Storage(theta), meta_optimizer=broken)
        step, state = optimizer.update(x, optimizer.init(x))
        assert np.all(np.isnan(step))
        assert np.all(np.isnan(compact.read(state.theta, jnp.float32)))
        assert np.all(np.isnan(optimizer.update(x, state)[0]))


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_moments_that_are_not_finite_stay_so(first, second):
    optimizer = compact.scale_by_compact_adam(first_moment=first, second_moment=second)
    g = jnp.ones((2, 2, 2, 3), jnp.float32)
    state = optimizer.init(g)
    _, state = optimizer.update(g.at[0, 1, 1, 2].set(jnp.nan), state)
    steps, _ = optimizer.update(g, state)
    assert np.isnan(steps[0, 1, 1, 2])
    assert np.all(np.isfinite(steps[1]))
    assert np.all(np.isfinite(steps[0, :, :, :2]))


@pytest.mark.parametrize(("first", "second"), FORMS)
@pytest.mark.parametrize("dtype", TRIED)
def test_compact_adam_computes_narrow_leaves_in_float32(dtype, first, second):
    optimizer = compact.scale_by_compact_adam(first_moment=first, second_moment=second)
    given = draws((2, 2, 2, 3), dtype)
    ours, state = outputs(optimizer, given)
    exact, twin = outputs(optimizer, wide(given))
    assert_rounded(ours, exact)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, twin)
    ones, _ = outputs(compact.scale_by_compact_adam(first_moment="full", second_moment="full"), [given[0] * 0 + 1])
    np.testing.assert_array_equal(ones[0].astype(jnp.float32), np.ones((2, 2, 2, 3)))


@pytest.mark.parametrize("order", [["float32", "bfloat16", "float16", "float64"], ["float64", "float16", "float32"]])
def test_compact_adam_computes_each_leaf_in_its_own_dtype(order):
    optimizer = compact.scale_by_compact_adam(first_moment="full", second_moment="factored")
    every = {name: draws((2, 3), name) for name in order}
    # The first letter decides the order of a dictionary's leaves.
    trees = [{f"{i}{name}": every[name][t] for i, name in enumerate(order)} for t in range(4)]
    ours, state = outputs(optimizer, trees)
    for i, name in enumerate(order):
        alone, _ = outputs(optimizer, every[name])
        np.testing.assert_array_equal([step[f"{i}{name}"] for step in ours], alone)
        adam, _ = outputs(optax.scale_by_adam(), wide(every[name]))
        # In float32 1 − β₂ᵗ has the rounding error of β₂ᵗ over 2e-3.
        rtol = 1e-12 if name == "float64" else max(2 * float(jnp.finfo(name).eps), 1e-4)
        np.testing.assert_allclose(np.float64(alone), np.float64(adam), rtol=rtol)
        assert state.nu[f"{i}{name}"].dtype == ("float64" if name == "float64" else "float32")


def test_compact_adam_keeps_a_state_wider_than_its_gradients():
    optimizer = compact.scale_by_compact_adam(first_moment="int8", second_moment="full")
    given = draws((2, 3), "bfloat16")
    ours, state = outputs(optimizer, given, params=jnp.ones((2, 3), jnp.float64))
    assert state.nu.dtype == jnp.float64
    np.testing.assert_allclose(np.float64(ours[0]), np.sign(np.float64(given[0])), rtol=2**-8)


def pairs_of(name, params, loss, steps):
    """The newest step in the state after each update, beside the displacement that was made."""
    make = {
        "bfgs": lambda: quasi_newton.bfgs(0.05, 1.0),
        "bfgs, same batch": lambda: quasi_newton.bfgs(0.05, 1.0, same_batch=True),
        "olbfgs": lambda: quasi_newton.olbfgs(0.05, epsilon=1.0, buffer_size=1),
        "lbfgs": lambda: quasi_newton.lbfgs_no_line_search(0.05, epsilon=1.0, buffer_size=1),
    }
    optimizer = make[name]()
    state, gradient = optimizer.init(params), jax.grad(loss)
    for _ in range(steps):
        updates, state = optimizer.update(gradient(params), state, params, grad_fn=gradient)
        moved = optax.apply_updates(params, updates)
        flat = [
            jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(p)]) for p in (params, moved)
        ]
        yield (state.step if hasattr(state, "step") else state.steps[0]), flat[1] - flat[0], updates
        params = moved


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bfgs", "bfgs, same batch", "olbfgs", "lbfgs"])
def test_quasi_newton_pairs_hold_the_step_that_narrow_parameters_took(name, dtype):
    """x + s rounds by up to half of a small step: the change of the gradient belongs to what was made."""
    params = {"a": jnp.linspace(1, 3, 4, dtype=dtype), "b": jnp.ones((2, 2), jnp.float32)}
    step, displacement, updates = next(iter(pairs_of(name, params, lambda p: jnp.sum(p["a"] ** 2) / 8, 1)))
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    assert step.dtype == jnp.float32
    assert np.any(displacement != 0)
    np.testing.assert_array_equal(step, displacement)


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "float8_e8m0fnu"])
def test_a_dtype_that_cannot_hold_a_failure_is_refused(dtype):
    params = {"w": np.ones(2).astype(jnp.dtype(dtype))}
    optimizers = [lodo.lodo(), quasi_newton.bfgs(), quasi_newton.olbfgs()]
    for optimizer in optimizers:
        with pytest.raises(TypeError, match=rf"params\['w'\] has dtype {dtype}, which lacks zero, signs or NaN.*wider"):
            optimizer.init(params)


@pytest.mark.parametrize("n", [3, 1100])
def test_products_with_a_hessian_in_half_precision(n):
    state = lodo.lodo(0.5, depth=2).init(jnp.zeros(n, jnp.float32))
    short = diagnostics.inverse_hessian_error(state, lambda v: v.astype(jnp.bfloat16), probes=5, key=jax.random.key(0))
    assert short.dtype == jnp.float32
    assert abs(float(short) - 0.5) < 2e-3
