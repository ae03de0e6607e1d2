"""What every transformation has to do on a mesh: run by test_meshes.py in a process that has four devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lodo
from lodo import compact, operators, quasi_newton, released

D = 4
MESHES = {kind: jax.make_mesh((D,), ("x",), axis_types=(getattr(AxisType, kind),)) for kind in ("Auto", "Explicit")}
LAYOUTS = {
    "replicated": {"w": PartitionSpec(), "b": PartitionSpec()},
    "sharded": {"w": PartitionSpec("x"), "b": PartitionSpec("x")},
    "mixed": {"w": PartitionSpec(None, "x"), "b": PartitionSpec()},
}

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
    "lodo meta": lodo.lodo(0.1, depth=2, meta_optimizer=optax.sgd(0.1, momentum=0.9)),
    "bfgs": quasi_newton.bfgs(0.1),
    "bfgs same batch": quasi_newton.bfgs(0.1, same_batch=True),
    "bfgs released": quasi_newton.bfgs(0.1, form="released"),
    "olbfgs": quasi_newton.olbfgs(0.1, buffer_size=3),
    "lbfgs": quasi_newton.lbfgs_no_line_search(0.1, buffer_size=3),
    "lbfgs released": quasi_newton.lbfgs_no_line_search(0.1, buffer_size=3, form="released"),
    "levenberg-marquardt": quasi_newton.levenberg_marquardt(),
    "levenberg-marquardt released": quasi_newton.levenberg_marquardt(form="released"),
    "adam_epsilon_hat": released.adam_epsilon_hat(0.1),
    "yogi": released.yogi(0.1),
    "lars": released.lars(0.1),
    "compact adam": compact.scale_by_compact_adam(),
    "compact adam full": compact.scale_by_compact_adam(first_moment="full", second_moment="full"),
    "compact adam factored": compact.scale_by_compact_adam(first_moment="bfloat16", second_moment="factored"),
    "compact adam int16": compact.scale_by_compact_adam(first_moment="none", second_moment="int16"),
}


#: Forms with a state of optax's own beside ours.
JOIN_LATER = ("optax.adam",)


def start():
    return {"w": jnp.linspace(-1.0, 1.0, 32).reshape(4, 8), "b": jnp.linspace(1.0, 2.0, 4)}


def gradient(params):
    return jax.tree.map(lambda x: x + jnp.sin(3 * x), params)


def on_mesh(tree, kind, layout):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(MESHES[kind], spec)), tree, LAYOUTS[layout])


def step_of(optimizer, params, state):
    optimizer = optax.with_extra_args_support(optimizer)
    extra = {"grad_fn": gradient, "hessian": 2.0 * jnp.eye(36)}
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


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-12)


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def shardings(tree):
    return [leaf.sharding for leaf in jax.tree.leaves(tree)]


def test_there_are_four_devices():
    assert jax.device_count() == D


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_explicit_axes(form, layout):
    """Steps of one device, each where its gradient is; a state whose types stay, so that nothing is compiled again."""
    optimizer = FORMS[form]
    params = on_mesh(start(), "Explicit", layout)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(step_of, optimizer), donate_argnums=1)
    for turn in range(3):
        before = types(state)
        params, updates, grads, state = step(params, state)
        assert types(updates) == types(grads)
        # optax's counts are made without a look at the parameters, and join the mesh with the first update.
        assert types(state) == before or (turn == 0 and form in JOIN_LATER)
    assert_close(params, alone(form))
    assert step._cache_size() == (2 if form in JOIN_LATER else 1)


@pytest.mark.parametrize("form", FORMS)
def test_explicit_axes_of_the_context(form):
    """Optax's own: the state's types are the same from init, from init under jit, and from update, under jit or not."""
    optimizer = FORMS[form]
    with jax.set_mesh(MESHES["Explicit"]):
        params = on_mesh(start(), "Explicit", "mixed")
        state = optimizer.init(params)
        assert types(state) == types(jax.jit(optimizer.init)(params))
        step = jax.jit(functools.partial(step_of, optimizer))
        _, updates, grads, after = step_of(optimizer, params, state)
        assert types(after) == types(state)
        assert types(updates) == types(grads)
        for _ in range(3):
            params, updates, _, state = step(params, state)
            assert types(state) == types(after)
            assert types(updates) == types(grads)
        assert step._cache_size() == 1
        assert jax.tree.map(jnp.shape, optimizer.init(jax.eval_shape(start))) == jax.tree.map(jnp.shape, state)
    assert_close(params, alone(form))


@pytest.mark.parametrize("layout", ["replicated", "mixed"])
@pytest.mark.parametrize("form", FORMS)
def test_auto_axes(form, layout):
    optimizer = FORMS[form]
    params = on_mesh(start(), "Auto", layout)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(step_of, optimizer))
    before = None
    for _ in range(3):
        params, updates, grads, state = step(params, state)
        before, last = shardings(state), before
    assert before == last
    assert shardings(updates) == shardings(grads)
    assert_close(params, alone(form))
