"""What every transformation has to do on a mesh: run by test_sharding.py in a process that has two devices, or four."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lodo
from lodo import compact, operators, quasi_newton

D = jax.device_count()
MESHES = {kind: jax.make_mesh((D,), ("x",), axis_types=(getattr(AxisType, kind),)) for kind in ("Auto", "Explicit")}
#: A leaf of each kind: dealt out along its last axis, along its first, whole.
DEALT_OUT = {"w": PartitionSpec(None, "x"), "b": PartitionSpec("x"), "c": PartitionSpec()}
WHOLE = dict.fromkeys(DEALT_OUT, PartitionSpec())

with_operator = {
    "blocks": operators.BlockPermutation(2),
    "large": operators.BlockPermutation(2, hidden_size=2048),
    "rolled": operators.BlockPermutation(2, permutations="rolled"),
    "large rolled": operators.BlockPermutation(2, hidden_size=2048, permutations="rolled"),
    "no layer": operators.BlockPermutation(0),
    "native": operators.BlockPermutation(2, kernel="native"),
    "residuals": operators.Residuals(2),
    "diagonal": operators.Diagonal(),
    "scalar": operators.Scalar(),
}
with_storage = {
    "compact": "compact",
    "bfloat16": compact.Storage("bfloat16", "bfloat16", "bfloat16"),
    "int16": compact.Storage("int16", "int16", "int16"),
    "int8 factored": compact.Storage("int8", "int8", "factored"),
}
FORMS = {
    "optax.adam": optax.adam(0.1),
    **{f"lodo {name}": lodo.lodo(0.1, operator=form) for name, form in with_operator.items()},
    **{f"lodo {name}": lodo.lodo(0.1, depth=2, storage=kept) for name, kept in with_storage.items()},
    "lodo large compact": lodo.lodo(0.1, depth=2, hidden_size=2048, storage="compact"),
    "lodo auto": lodo.lodo("auto", depth=2, normalised_hypergradient=True),
    "lodo trace": lodo.lodo(0.1, depth=2, gradient_trace=0.8),
    "rlodo": lodo.rlodo(depth=2),
    "rlodo compact": lodo.rlodo(depth=2, storage="compact"),
    "rlodo large": lodo.rlodo(operator=operators.BlockPermutation(2, hidden_size=2048)),
    "rlodo native": lodo.rlodo(operator=operators.BlockPermutation(2, padding=False, kernel="native")),
    "lodo meta": lodo.lodo(0.1, depth=2, meta_optimizer=optax.sgd(0.1, momentum=0.9)),
    "bfgs": quasi_newton.bfgs(0.1),
    "bfgs same batch": quasi_newton.bfgs(0.1, same_batch=True),
    "bfgs released": quasi_newton.bfgs(0.1, form="released"),
    "olbfgs": quasi_newton.olbfgs(0.1, buffer_size=3),
    "lbfgs": quasi_newton.lbfgs_no_line_search(0.1, buffer_size=3),
    "lbfgs released": quasi_newton.lbfgs_no_line_search(0.1, buffer_size=3, form="released"),
    "levenberg-marquardt": quasi_newton.levenberg_marquardt(),
    "levenberg-marquardt released": quasi_newton.levenberg_marquardt(form="released"),
    "compact adam": compact.scale_by_compact_adam(),
    "compact adam full": compact.scale_by_compact_adam(first_moment="full", second_moment="full"),
    "compact adam factored": compact.scale_by_compact_adam(first_moment="bfloat16", second_moment="factored"),
    "compact adam int16": compact.scale_by_compact_adam(first_moment="none", second_moment="int16"),
}


#: What is run by default; on_eight_devices.py has rlodo. The rest are run with -m "".
USUAL = {"lodo blocks"}


def each(forms):
    """The forms as parameters of a test, those beyond the usual ones marked as exhaustive."""
    return [pytest.param(form, marks=() if form in USUAL else pytest.mark.exhaustive) for form in forms]


#: Which compute in float32, whatever the parameters' dtype.
SINGLE = ("bfgs released",)


@pytest.fixture(autouse=True)
def optax_promotion():
    """For optax's Adam, which promotes dtypes itself."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def start():
    w = jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)
    return {"w": w, "b": jnp.linspace(1.0, 2.0, 4), "c": jnp.ones(3)}


def gradient(params):
    return jax.tree.map(lambda x: x + jnp.sin(3 * x), params)


def on_mesh(tree, mesh, specs):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def step_of(optimizer, params, state):
    optimizer = optax.with_extra_args_support(optimizer)
    extra = {"grad_fn": gradient, "hessian": 2.0 * jnp.eye(39)}
    grads = gradient(params)
    updates, state = optimizer.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), updates, grads, state


@functools.cache
def alone(form):
    """Parameters after three steps on one device."""
    optimizer = FORMS[form]
    params = start()
    state = optimizer.init(params)
    step = jax.jit(functools.partial(step_of, optimizer))
    for _ in range(3):
        params, _, _, state = step(params, state)
    return params


def assert_close(ours, theirs, form=""):
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if form in SINGLE else {"rtol": 1e-10, "atol": 1e-12}
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance)


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def shardings(tree):
    return [leaf.sharding for leaf in jax.tree.leaves(tree)]


def test_there_are_several_devices():
    assert D in (2, 4)


@pytest.mark.parametrize("form", each(FORMS))
def test_replicated_over_explicit_axes(form):
    """The steps of one device, from a state made outside of jit and donated; nothing is traced again."""
    optimizer, traces = FORMS[form], []
    params = on_mesh(start(), MESHES["Explicit"], WHOLE)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params, state):
        traces.append(1)
        return step_of(optimizer, params, state)

    for _ in range(3):
        params, updates, grads, state = step(params, state)
        assert types(updates) == types(grads)
    # optax's own count is made without a look at the parameters and joins the mesh with the first update.
    assert len(traces) == (2 if form == "optax.adam" else 1)
    assert_close(params, alone(form), form)


@pytest.mark.parametrize("form", each(FORMS))
def test_dealt_out_over_explicit_axes(form):
    """Optax's own: the state's types are the same from init, from init under jit, and from update, under jit or not."""
    optimizer = FORMS[form]
    with jax.set_mesh(MESHES["Explicit"]):
        params = on_mesh(start(), MESHES["Explicit"], DEALT_OUT)
        state = optimizer.init(params)
        made = types(state)
        assert made == types(jax.jit(optimizer.init)(params))
        step = jax.jit(functools.partial(step_of, optimizer))
        _, updates, grads, after = step_of(optimizer, params, state)
        assert types(after) == made
        assert types(updates) == types(grads)
        for _ in range(3):
            params, updates, _, state = step(params, state)
            assert types(state) == made
            assert types(updates) == types(grads)
        assert jax.tree.map(jnp.shape, optimizer.init(jax.eval_shape(start))) == jax.tree.map(jnp.shape, state)
    assert_close(params, alone(form), form)


@pytest.mark.parametrize("form", each(FORMS))
def test_dealt_out_over_auto_axes(form):
    optimizer = FORMS[form]
    params = on_mesh(start(), MESHES["Auto"], DEALT_OUT)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(step_of, optimizer))
    before = last = None
    for _ in range(3):
        params, updates, grads, state = step(params, state)
        before, last = shardings(state), before
    assert before == last
    assert shardings(updates) == shardings(grads)
    assert_close(params, alone(form), form)


@pytest.mark.parametrize("form", each(form for form in FORMS if "levenberg" not in form))
def test_one_run_on_each_device(form):
    """shard_map with its check of what may differ between devices: what a loop carries starts as it ends."""
    optimizer = FORMS[form]

    def run(shift):
        params = jax.tree.map(lambda x: x + shift[0], start())

        def body(carry, _):
            params, _, _, state = step_of(optimizer, *carry)
            return (params, state), None

        (params, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=3)
        return jax.tree.map(lambda x: x[None], params)

    spec = PartitionSpec("x")
    mapped = jax.jit(jax.shard_map(run, mesh=MESHES["Auto"], in_specs=spec, out_specs=spec))
    many = mapped(0.1 * jnp.arange(D))
    assert_close(jax.tree.map(lambda x: x[0], many), alone(form), form)
    assert not jnp.allclose(many["w"][0], many["w"][1])


@pytest.mark.parametrize("form", each(["lodo blocks", "lodo compact", "bfgs", "compact adam"]))
def test_one_optimizer_on_two_meshes(form):
    """Nothing that a transformation keeps for itself belongs to the mesh on which it was first used."""
    all_devices = MESHES["Explicit"]
    half = jax.make_mesh((D // 2,), ("y",), axis_types=(AxisType.Explicit,), devices=jax.devices()[: D // 2])
    with jax.set_mesh(all_devices):
        optimizer = lodo.lodo(0.1, depth=2, storage="compact") if form == "lodo compact" else FORMS[form]
    for mesh in (all_devices, half):
        with jax.set_mesh(mesh):
            _, updates, _, _ = step_of(optimizer, start(), optimizer.init(start()))
            assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates))


def test_two_meshes_at_once_are_refused():
    other = jax.make_mesh((D,), ("y",), axis_types=(AxisType.Explicit,))
    params = start()
    params["w"] = jax.device_put(params["w"], NamedSharding(other, PartitionSpec()))
    params["b"] = jax.device_put(params["b"], NamedSharding(MESHES["Explicit"], PartitionSpec()))
    with pytest.raises(ValueError, match=r"lodo computes with all parameters at once.*one mesh"):
        lodo.lodo().init(params)


def test_the_sharded_operator_refuses_explicit_axes_at_once():
    form = operators.ShardedBlockPermutation(MESHES["Auto"], "x", depth=2)
    optimizer = lodo.lodo(operator=form)
    params = on_mesh(start(), MESHES["Explicit"], DEALT_OUT)
    with pytest.raises(ValueError, match=r"lodo.operators.ShardedBlockPermutation.*Auto"):
        optimizer.update(params, optimizer.init(start()), params)
    with jax.set_mesh(MESHES["Explicit"]), pytest.raises(ValueError, match=r"ShardedBlockPermutation.*Auto"):
        optimizer.init(start())


SPREAD = [
    compact.Storage(first_moment="none", second_moment="block"),
    compact.Storage(first_moment="bfloat16", second_moment="factored"),
    compact.Storage(theta="bfloat16", first_moment="bfloat16", second_moment="bfloat16"),
]


@pytest.mark.parametrize("kept", [pytest.param(kept, marks=pytest.mark.exhaustive) for kept in SPREAD], ids=str)
def test_compact_moments_are_spread(kept):
    """θ and its moments by blocks, keys replicated; the steps are those of one device."""
    mesh = MESHES["Auto"]
    form = operators.ShardedBlockPermutation(mesh, "x", depth=2, hidden_size=96)
    many = lodo.lodo(0.1, operator=form, storage=kept)
    one = lodo.lodo(0.1, depth=2, hidden_size=96, storage=kept)
    params = start()
    state, alone_state = lodo.sharding.initialize(many, params, mesh, "x"), one.init(params)
    for leaf in jax.tree.leaves((state.theta, state.meta_state)):
        assert leaf.addressable_shards[0].data.size == (leaf.size // D if leaf.size > 2 else leaf.size)
    expected = params
    for _ in range(3):
        updates, state = many.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        updates, alone_state = one.update(gradient(expected), alone_state, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(params, expected)
    assert_close(lodo.sharding.gather_state(state, form), alone_state)
    lodo.diagnostics.cost_table(params, devices=D, storage=kept)


@pytest.mark.parametrize("kept", ["compact", compact.Storage(second_moment="int8")], ids=str)
def test_shared_exponents_are_refused(kept):
    form = operators.ShardedBlockPermutation(MESHES["Auto"], "x", depth=2)
    with pytest.raises(ValueError, match="'int8' and 'int16', in which neighbours share an exponent"):
        lodo.sharding.initialize(lodo.lodo(operator=form, storage=kept), start(), MESHES["Auto"], "x")
