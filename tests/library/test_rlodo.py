"""Relative LODO and its guard beyond the common battery: refusals, what must not reach the state, kernels, storage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from jax.flatten_util import ravel_pytree

import lodo
from lodo import diagnostics
from lodo.operators import BlockPermutation
from lodo.operators._native import build
from lodo.operators._routes import capacity

START = {"w": jnp.array([[1.0, -2.0, 0.5], [0.3, 2.0, -1.0]]), "b": jnp.array([0.7, -0.4])}


def gradient(params):
    return jax.tree.map(lambda x: jnp.linspace(0.1, 1.0, x.size).reshape(x.shape) * x, params)


def run(optimizer, steps=10, params=START, state=None, change=lambda u: u):
    state, update = state or optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, change(updates))
    return params, state


def flat(tree):
    return ravel_pytree(tree)[0]


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (
            {"whitening": -0.1},
            ValueError,
            r"whitening must be a number in \[0, ∞\); or \"auto\", or a schedule; got -0.1",
        ),
        ({"whitening": "learned"}, TypeError, "whitening must be a number.*'learned'"),
        ({"momentum": 1.0}, ValueError, r"momentum must be a number in \[0, 1\); or \"auto\"; got 1.0"),
        ({"momentum": "Auto"}, TypeError, "momentum must be a number.*'Auto'"),
        ({"initial_learning_rate": "data"}, TypeError, "initial_learning_rate must be a number.*'data'"),
        ({"meta_learning_rate": -1.0}, ValueError, "meta_learning_rate must be"),
        ({"depth": 2.0}, TypeError, "depth must be an integer"),
        ({"storage": "small"}, ValueError, "storage must be one of"),
        ({"dtype": jnp.bfloat16}, ValueError, "dtype must be float32 or float64"),
        (
            {"operator": lodo.operators.Diagonal()},
            TypeError,
            "operator must be a lodo.operators.BlockPermutation.*ShardedBlockPermutation",
        ),
        ({"operator": BlockPermutation(2), "depth": 2}, ValueError, "depth=2 is the default operator's"),
    ],
)
def test_arguments(arguments, error, said):
    with pytest.raises(error, match=said):
        lodo.rlodo(**arguments)


def test_operators_that_do_not_fit():
    with pytest.raises(ValueError, match="Leave one of the two alone"):
        BlockPermutation(2, hidden_size=8, padding=False)
    rolled = BlockPermutation(2, permutations="rolled", padding=False)
    with pytest.raises(ValueError, match=r"Rolled permutations without padding.*n = 6"):
        rolled.init(jax.random.key(0), 6, jnp.float64)
    params, _ = run(lodo.rlodo(operator=rolled))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


def test_states_of_others():
    optimizer, state = lodo.rlodo(depth=2), lodo.rlodo(depth=3).init(START)
    with pytest.raises(ValueError, match="made by another configuration: its theta"):
        optimizer.update(START, state)
    with pytest.raises(TypeError, match="needs the RlodoState"):
        optimizer.update(START, lodo.lodo(depth=2).init(START))
    with pytest.raises(ValueError, match="updates has another structure"):
        optimizer.update({"w": START["w"]}, optimizer.init(START))
    auto = lodo.lodo("auto", depth=2)
    for one, other in ((auto, lodo.lodo(depth=2)), (lodo.lodo(depth=2), auto)):
        with pytest.raises(ValueError, match="keep the field `scales`"):
            one.update(START, other.init(START))
    plain, traced = lodo.lodo(depth=2), lodo.lodo(depth=2, gradient_trace=0.8)
    for one, other in ((plain, traced), (traced, plain)):
        with pytest.raises(ValueError, match="keeps the field `trace`"):
            one.update(START, other.init(START))
    with pytest.raises(ValueError, match=r"gradient_trace must be a number in \[0, 1\); or None.*got 1.0"):
        lodo.lodo(gradient_trace=1.0)


@pytest.mark.parametrize("storage", ["full", "compact"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_gradient_that_is_not_finite_leaves_the_state_as_it_was(bad, storage):
    optimizer = lodo.rlodo(depth=2, storage=storage)
    params, state = run(optimizer)
    grads = gradient(params)
    grads["b"] = grads["b"].at[0].set(bad)
    updates, after = optimizer.update(grads, state, params)
    if np.isfinite(bad):  # a large one is cut to size
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((updates, after)))
    else:
        assert all(bool(jnp.isnan(leaf).all()) for leaf in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, after, state)


def test_steps_that_are_not_made_teach_nothing():
    """Dropped steps leave θ and the scale; those of one leaf leave only the other's coordinates to learn from."""
    optimizer = lodo.rlodo(depth=2, whitening=0.0, momentum=0.5)
    _, state = run(optimizer, 6, change=lambda u: jax.tree.map(jnp.zeros_like, u))
    np.testing.assert_array_equal(state.theta, optimizer.init(START).theta)
    assert state.log_scale == 0
    _, all_made = run(optimizer, 6)
    _, some = run(optimizer, 6, change=lambda u: {**u, "b": jnp.zeros_like(u["b"])})
    assert all_made.log_scale != some.log_scale != 0


def test_a_rate_of_zero_waits():
    optimizer = lodo.rlodo(depth=2, initial_learning_rate=lambda t: jnp.where(t < 5, 0.0, 0.1))
    params, state = run(optimizer, 5)
    same(params, START)
    np.testing.assert_array_equal(state.theta, optimizer.init(START).theta)
    params, state = run(optimizer, 5, params, state)
    assert np.any(state.theta != optimizer.init(START).theta)


def test_a_state_comes_back_from_a_checkpoint(tmp_path):
    optimizer = lodo.guard(lodo.rlodo(depth=2, storage="compact"))
    state = optimizer.init(START)
    _, state = optimizer.update(gradient(START), state, START, value=1.0)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        again = checkpointer.restore(tmp_path / "state", optimizer.init(START))
    jax.tree.map(np.testing.assert_array_equal, again, state)


#: With blocks left over, without, and of one coordinate; the other sizes with -m "".
KERNEL_SIZES = [
    (13, 4), (64, 8), (2102, 5),
    *(pytest.param(*size, marks=pytest.mark.exhaustive) for size in [(8, 4), (30, 1), (2100, 3), (5003, 4)]),
]  # fmt: skip


@pytest.mark.parametrize(("n", "k"), KERNEL_SIZES)
def test_the_kernels_make_the_same_steps(n, k):
    try:
        build.find_compiler()
    except RuntimeError:
        pytest.skip("there is no C++ compiler")
    start, ends = {"x": jnp.linspace(-1.0, 2.0, n)}, []
    for kernel in ("xla", "native"):
        optimizer = lodo.rlodo(1e-2, operator=BlockPermutation(3, k, padding=False, kernel=kernel))
        ends.append(run(optimizer, 20, start))
    same(*ends, rtol=1e-9, atol=1e-11)
    assert np.abs(ends[1][1].theta - optimizer.init(start).theta).max() > 0.03
    if n % k:
        np.testing.assert_array_equal(ends[1][1].theta[..., -1], optimizer.init(start).theta[..., -1])


def test_the_kernels_refuse_what_overflows_and_nothing_changes():
    try:
        build.find_compiler()
    except RuntimeError:
        pytest.skip("there is no C++ compiler")
    optimizer = lodo.rlodo(operator=BlockPermutation(2, 2, padding=False, kernel="native"))
    params, state = run(optimizer)
    theta = state.theta.at[0].multiply(1e200)
    updates, after = optimizer.update(gradient(params), state._replace(theta=theta), params)
    assert all(bool(jnp.isnan(leaf).all()) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after, state._replace(theta=theta))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "form", ["int8", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("int16", "bfloat16"))]
)
def test_compact_storage_stays_near(form):
    start = {"x": jnp.linspace(-1.0, 2.0, 40)}
    full, _ = run(lodo.rlodo(3e-3, depth=4), 60, start)
    kept, state = run(lodo.rlodo(3e-3, depth=4, storage=lodo.compact.Storage(form)), 60, start)
    assert jax.tree.leaves(state.theta)[0].dtype.itemsize == (1 if form == "int8" else 2)

    def loss(params):
        return float(jnp.sum(jnp.linspace(0.1, 1.0, 40) * params["x"] ** 2))

    assert loss(full) < 0.2 * loss(start)
    assert loss(kept) < 1.3 * loss(full)


def test_the_state_is_small():
    """Of n = 94,696: 141 numbers a parameter beside the permutations, of which 128 are θ."""
    params = jax.ShapeDtypeStruct((94_696,), jnp.float32)
    table = diagnostics.cost_table(params, optimizer=lodo.rlodo)
    numbers = (table.total_bytes - table.bytes_by_part["permutations"]) / 4 / 94_696
    assert 141 <= numbers < 141.01
    assert diagnostics.step_traffic(params, optimizer=lodo.rlodo).floor_bytes < 0.6 * (
        diagnostics.step_traffic(params).floor_bytes
    )
    each = diagnostics.cost_table(params, optimizer=lodo.rlodo, devices=2)
    for part in ("theta", "meta-optimizer"):
        assert 2 * each.bytes_by_part[part] == pytest.approx(table.bytes_by_part[part], abs=4)
    # The same exchanges of half as long vectors through twice as many layers; the room that a pair of devices keeps to
    # spare is a larger share of them.
    room = 2 * capacity(94_696, 2, 32) / capacity(189_396, 2, 16)
    both = diagnostics.cost_table(params, devices=2).exchanged_bytes
    assert each.exchanged_bytes == pytest.approx(room * both, rel=1e-3)


# --- the guard


def blown_up(optimizer, losses, steps=None):
    params, state, paths = START, optimizer.init(START), [START]
    for value in losses:
        updates, state = optimizer.update(gradient(params), state, params, value=jnp.asarray(value))
        params = optax.apply_updates(params, updates)
        paths.append(params)
    return paths, state


def test_the_guard_needs_the_loss_and_the_parameters():
    optimizer = lodo.guard(lodo.rlodo(depth=2))
    state = optimizer.init(START)
    with pytest.raises(ValueError, match=r"was not given value. Call update\(gradient, state, params, value=loss\)"):
        optimizer.update(START, state, START)
    with pytest.raises(ValueError, match="was not given params and value"):
        optimizer.update(START, state)


def test_the_guard_goes_back_to_the_best_point():
    paths, state = blown_up(lodo.guard(lodo.rlodo(depth=2)), [3.0, 2.0, 2.5, np.nan])
    same(paths[4], paths[1], rtol=1e-12)
    assert state.events == 1
    assert state.best_value == 2.0
    inner = state.inner_state
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((inner.momentum, inner.direction)))
    _, unguarded = blown_up(optax.with_extra_args_support(lodo.rlodo(depth=2)), [3.0, 2.0, 2.5, np.nan])
    np.testing.assert_allclose(inner.log_scale, unguarded.log_scale - 1)
    np.testing.assert_array_equal(inner.theta, unguarded.theta)
    assert diagnostics.monitor(state)["guard events"] == 1


def test_the_guard_goes_back_only_where_the_last_step_went_too_far():
    """A loss that is large by noise, the gradient still pointing along the step, is no reason."""
    _, state = blown_up(lodo.guard(optax.sgd(0.1)), [3.0, 2.0, 100.0])
    assert state.events == 0
    _, state = blown_up(lodo.guard(optax.sgd(20.0)), [3.0, 2.0, 100.0])
    assert state.events == 1
    assert state.ceiling == 100.0


@pytest.mark.parametrize("first", [np.nan, np.inf])
def test_the_guard_is_not_switched_off_by_a_first_loss_that_is_not_finite(first):
    _, state = blown_up(lodo.guard(optax.sgd(20.0)), [first, 3.0, 2.0, 100.0])
    assert state.events == 2
    assert state.ceiling == 100.0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_guard_goes_the_whole_way_back_where_rounding_cuts_it_short(dtype):
    """From far away x + (x* − x) is 0."""
    start, optimizer = jnp.array([1.0, 0.3, 0.37], dtype), lodo.guard(optax.sgd(1e12))
    state, params, path = optimizer.init(start), start, []
    for _ in range(3):
        value, gradients = jax.value_and_grad(lambda x: jnp.sum((x - jnp.asarray(0.7, dtype)) ** 2))(params)
        updates, state = optimizer.update(gradients, state, params, value=value)
        params = optax.apply_updates(params, updates)
        path.append((params, int(state.events), bool(state.returning)))
    (far, *_), (short, events, returning), (back, events_after, done) = path
    assert float(jnp.abs(far).max()) > 1e11
    np.testing.assert_array_equal(short, jnp.zeros(3, dtype))
    np.testing.assert_array_equal(back, start)
    assert (events, returning, events_after, done) == (1, True, 1, False)


def test_the_guard_restarts_lodo_and_leaves_what_it_wraps_alone():
    alone, _ = run(lodo.lodo(0.1, depth=2), 3)
    optimizer = lodo.guard(lodo.lodo(0.1, depth=2))
    paths, _ = blown_up(optimizer, [3.0, 2.0, 1.0])
    same(paths[3], alone)
    _, state = blown_up(lodo.guard(lodo.lodo("auto", depth=2, hidden_size=2048)), [3.0, 2.0, np.inf])
    inner = state.inner_state
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((inner.momentum, inner.inputs, inner.last)))
    _, before = run(lodo.lodo("auto", depth=2, hidden_size=2048), 1)
    np.testing.assert_allclose(inner.initial_learning_rate, before.initial_learning_rate / np.e)


def test_a_guarded_run_compiles_once_and_batches():
    optimizer = lodo.guard(optax.chain(optax.clip_by_global_norm(1e3), lodo.rlodo(depth=2)))
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(jax.vmap(lambda g, s, p, v: optimizer.update(g, s, p, value=v)))
        params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), START)
        state = jax.vmap(optimizer.init)(params)
        for values in ([1.0, 1.0], [0.5, np.inf], [0.4, 0.9]):
            updates, state = step(gradient(params), state, params, jnp.asarray(values))
            params = optax.apply_updates(params, updates)
        assert step._cache_size() == 1
        assert state.events.tolist() == [0, 1]


# --- options of lodo.lodo


def test_lodo_with_a_scale_from_the_data():
    for scale in (1.0, 1e3):
        optimizer = lodo.lodo("auto", depth=2)
        grads = jax.tree.map(lambda g, scale=scale: scale * g, gradient(START))
        zero, state = optimizer.update(jax.tree.map(jnp.zeros_like, grads), optimizer.init(START), START)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))
        updates, state = optimizer.update(grads, state, START)
        np.testing.assert_allclose(optax.tree.norm(updates), 1e-3 * optax.tree.norm(START), rtol=1e-9)
        rate = state.initial_learning_rate
        _, state = optimizer.update(grads, state, START)
        assert state.initial_learning_rate == rate


def test_lodo_with_a_normalised_hypergradient():
    """By plain gradient steps: −∂⟨g, S m⟩/∂θ / ν of what autodiff finds; and no steps change with the loss's units."""
    optimizer = lodo.lodo(0.1, depth=2, meta_optimizer=optax.sgd(1e-2), normalised_hypergradient=True)
    params, before = run(optimizer, 4)
    grads = gradient(params)
    _, after = optimizer.update(grads, before, params)
    form = BlockPermutation(2)

    def inner(theta):
        return flat(grads) @ form.apply(theta, before.fixed, flat(before.momentum))

    expected = before.theta + 1e-2 * jax.grad(inner)(before.theta) / before.scales.product
    np.testing.assert_allclose(after.theta, expected, rtol=1e-10, atol=1e-14)
    product = jnp.linalg.norm(flat(grads)) * before.scales.length
    np.testing.assert_allclose(after.scales.product, before.scales.product * 1.0 + (
        (product - before.scales.product) * 0.05 / (1 - 0.95 ** (float(before.scales.seen) + 1))
    ), rtol=1e-10)  # fmt: skip


@pytest.mark.parametrize("hidden", [None, 2048])
def test_lodo_with_a_trace_of_gradients(hidden):
    """The hypergradient is that of ⟨g, G q⟩ with q the mean of the gradients before g."""
    plain = {"depth": 2, "hidden_size": hidden, "gradient_trace": 0.8}
    optimizer = lodo.lodo(0.1, **plain, meta_optimizer=optax.sgd(1e-2))
    params, before = run(optimizer, 4)
    grads = gradient(params)
    _, after = optimizer.update(grads, before, params)
    q, form = flat(before.trace), BlockPermutation(2, hidden_size=hidden)
    assert np.abs(q).min() > 0
    np.testing.assert_allclose(flat(after.trace), 0.8 * q + 0.2 * flat(grads), rtol=1e-12)
    slope = jax.grad(lambda theta: flat(grads) @ form.apply(theta, before.fixed, q))(before.theta)
    np.testing.assert_allclose(after.theta, before.theta + 1e-2 * 0.1 * slope, rtol=1e-10, atol=1e-14)

    whole, state = run(lodo.lodo(0.1, **plain))
    grads["b"] = grads["b"].at[0].set(jnp.nan)
    _, after = lodo.lodo(0.1, **plain).update(grads, state, whole)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_trace_that_forgets_at_once_is_no_momentum():
    """With ρ = 0 and β = 0 both q and m are the last gradient."""
    ours, usual = (run(lodo.lodo(0.1, depth=2, momentum=0.0, **more)) for more in ({"gradient_trace": 0.0}, {}))
    same(ours[0], usual[0], rtol=1e-12)


def test_the_monitor_reads_both():
    _, state = run(lodo.lodo(0.1, depth=2), 5)
    seen = diagnostics.monitor(optax.chain(optax.identity(), lodo.lodo(depth=2)).init(START)) | diagnostics.monitor(
        state
    )
    np.testing.assert_allclose(seen["scale"], 0.1)
    np.testing.assert_allclose(seen["step norm"], optax.tree.norm(state.last.step))
    assert seen["hypergradient"] > 0
    params, state = run(lodo.rlodo(depth=2), 5)
    updates, after = lodo.rlodo(depth=2).update(gradient(params), state, params)
    seen = diagnostics.monitor(after)
    np.testing.assert_allclose(seen["step norm"], optax.tree.norm(updates))
    assert set(seen) == {
        *("scale", "momentum norm", "step norm", "cosine", "whitening", "momentum", "hypergradient"),
    }
    assert all(np.isfinite(value) and value != 0 for value in seen.values())
    matrix = diagnostics.dense(after)
    direction = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(after.direction)])
    momentum = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(after.momentum)])
    np.testing.assert_allclose(matrix @ momentum, after.initial_learning_rate * direction, rtol=1e-9, atol=1e-15)
    assert diagnostics.spectrum(after).min() > 0


def test_relative_steps_alone():
    """As a meta-optimizer of lodo.lodo, and their refusals."""
    meta = lodo.relative.scale_by_relative(1e-2)
    _, state = run(lodo.lodo(0.1, depth=2, meta_optimizer=meta))
    assert np.abs(state.theta - lodo.lodo(depth=2).init(START).theta).max() > 1e-3
    with pytest.raises(ValueError, match=r"Relative steps are for stacks of square blocks.*float64"):
        meta.init({"w": jnp.ones((2, 3))})
    blocks = jnp.ones((1, 2, 2, 3))
    with pytest.raises(ValueError, match="depend on the parameters"):
        meta.update(blocks, meta.init(blocks))
