"""What optax asks of its own transformations, asked of ours: assertions that hold for every form.

    python tests/library/battery.py [PART OF A NAME]

prints the table form × assertion. test_common_battery.py runs the same as tests.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from battery_cases import FORMS, SCALED, Form

from lodo.operators._native import build

# For what is made below, as in the tests.
jax.config.update("jax_enable_x64", True)


class Pair(NamedTuple):
    first: Any
    second: Any


TREE = {
    "matrix": np.array([[1.0, -2.0], [0.5, 0.25]]),
    "list": [np.array(-0.75), (np.array([1.5]),)],
    "pair": Pair(np.array([0.3]), None),
    "empty": np.zeros((0, 2)),
}
TREE = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TREE)
FIRST_ONLY = {"matrix": True, "list": False, "pair": False, "empty": False}


def gradient_of(params: Any) -> Any:
    """Of Σx², for a tree of any form: inside of ``optax.masked`` it is given the masked one."""
    return jax.tree.map(lambda x: 2 * x, params)


def hessian_of(params: Any) -> jax.Array:
    leaves = jax.tree.leaves(params)
    return 2 * jnp.eye(sum(leaf.size for leaf in leaves), dtype=leaves[0].dtype if leaves else jnp.float32)


# What any of them may be given in update, and what none knows.
EXTRA = {
    "grad_fn": gradient_of,
    "hessian": hessian_of,
    "value": 1.0,
    "grad": None,
    "value_fn": lambda params: 0.0,
    "an_argument_of_nobody": 1,
}


def step_of(optimizer: Any, **options: Any) -> Callable[..., Any]:
    return jax.jit(lambda g, state, params: optimizer.update(g, state, params, **EXTRA), **options)


@functools.lru_cache
def alone(name: str) -> tuple[Any, Callable[..., Any], list[Any], list[Any]]:
    """The form by itself on TREE: its compiled update, two updates, and the states around them."""
    optimizer = FORMS[name].make()
    step = step_of(optimizer)
    states, updates, params = [optimizer.init(TREE)], [], TREE
    for scale in (1.0, 0.5):
        update, state = step(scaled(scale), states[-1], params)
        updates.append(update)
        states.append(state)
        params = optax.apply_updates(params, update)
    return optimizer, step, updates, states


def after_one(name: str) -> Any:
    """Where the form's first update leads."""
    return optax.apply_updates(TREE, alone(name)[2][0])


def scaled(factor: float) -> Any:
    return jax.tree.map(lambda g: factor * g, gradient_of(TREE))


def same(ours: Any, theirs: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype, (a.dtype, b.dtype)
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol)


def tolerance(name: str, rtol: float = 1e-9) -> dict[str, float]:
    """Of a form's updates or states: the released BFGS computes in float32, whatever it is given."""
    return {"rtol": 1e-5, "atol": 1e-7} if name == "bfgs, released" else {"rtol": rtol}


def types(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def two_steps(optimizer: Any, params: Any = TREE, compiled: bool = False) -> tuple[list[Any], Any]:
    step = step_of(optimizer) if compiled else functools.partial(optimizer.update, **EXTRA)
    state, updates = optimizer.init(params), []
    for scale in (1.0, 0.5):
        update, state = step(scaled(scale), state, params)
        updates.append(update)
        params = optax.apply_updates(params, update)
    return updates, state


def finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


# --- the assertions: functions of a form's name


def losses_fall(name: str) -> None:
    """A parabola and Rosenbrock's function, in one compiled run."""

    def loss(x: jax.Array, kind: jax.Array) -> jax.Array:
        parabola = jnp.sum((x - jnp.array([1.0, -1.0, 0.5])) ** 2)
        rosenbrock = 0.1 * (1 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2 + 0.1 * x[2] ** 2
        return jnp.where(kind == 0, parabola, rosenbrock)

    optimizer = FORMS[name].make()
    optimizer = optax.chain(optimizer, optax.scale(-0.02)) if name in SCALED else optimizer

    @jax.jit
    def run(x: jax.Array, kind: jax.Array) -> jax.Array:
        def step(carry: Any, _: Any) -> Any:
            x, state = carry
            gradient = jax.grad(loss)(x, kind)
            extra = {"grad_fn": lambda p: jax.grad(loss)(p, kind), "hessian": lambda p: jax.hessian(loss)(p, kind)}
            updates, state = optimizer.update(gradient, state, x, **extra)
            x = optax.apply_updates(x, updates)
            return (x, state), loss(x, kind)

        return jax.lax.scan(step, (x, optimizer.init(x)), None, 100)[1]

    for kind, start in ((0, [-0.5, 0.8, 0.1]), (1, [-0.4, 0.6, 0.3])):
        x = jnp.array(start)
        losses = run(x, kind)
        assert np.isfinite(losses).all()
        # The slowest is the released Levenberg-Marquardt in Rosenbrock's valley, whose condition number it squares.
        assert losses[-1] < (0.5, 0.9)[kind] * loss(x, kind), (float(loss(x, kind)), float(losses[-1]))


def real_trees(name: str) -> None:
    """Nested containers, None, scalars and leaves without entries come back as they were."""
    _, _, updates, _ = alone(name)
    for update in updates:
        assert types(update) == types(TREE)
        assert finite(update)
        assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(update))


def map_params(name: str) -> None:
    """``optax.tree.map_params`` finds the parameter-like parts, and lets all others be replaced."""
    optimizer, _, _, states = alone(name)
    same(optax.tree.map_params(optimizer, lambda leaf: leaf, states[-1]), states[-1], rtol=0, atol=0)
    zeros = optax.tree.map_params(optimizer, lambda leaf: leaf, states[-1], transform_non_params=jnp.zeros_like)
    assert types(zeros) == types(states[-1])
    if name == "compact adam":  # whose moments have the parameters' tree, and are kept in another form
        return
    given = optax.tree.map_params(optimizer, lambda leaf, p: p + 1, states[-1], TREE)
    assert jax.tree.structure(given) == jax.tree.structure(states[-1])
    expected = jax.tree.map(lambda p: p + 1, TREE)
    parts = {"lodo": "momentum"}
    for part in {parts[key] for key in parts if name.split(",")[0] == key}:
        same(optax.tree.get(given, part), expected)


def tree_get_and_set(name: str) -> None:
    """``optax.tree.get`` and ``set`` reach every field of a state in a chain."""
    optimizer, _, _, states = alone(name)
    chained = optax.chain(optax.identity(), optimizer).init(TREE)
    for node in jax.tree.leaves(states[-1], is_leaf=lambda node: bool(getattr(node, "_fields", ()))):
        for key in getattr(node, "_fields", ()):
            (found, *others) = optax.tree.get_all_with_path(chained, key)
            assert found is not None
            if not others:
                changed = optax.tree.set(chained, **{key: getattr(node, key)})
                same(optax.tree.get(changed, key), getattr(node, key))


def dtypes(name: str) -> None:
    """Updates in the gradients' and parameters' dtype; the state's types stay what they were; nothing is widened."""
    optimizer, _, _, _ = alone(name)
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
        params = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), TREE)
        state = optimizer.init(params)
        update, after = jax.eval_shape(
            lambda g, s, p: optimizer.update(g, s, p, **EXTRA), gradient_of(params), state, params
        )
        assert types(update) == types(params)
        assert types(after) == types(state)
        widths = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert dtype == jnp.float64 or jnp.dtype(jnp.float64) not in widths


def jit_equals_eager(name: str) -> None:
    optimizer, _, updates, states = alone(name)
    update, state = optimizer.update(scaled(1.0), states[0], TREE, **EXTRA)
    same(update, updates[0])
    same(state, states[1], rtol=1e-7)


def vmap(name: str) -> None:
    """Batched over gradients and parameters as one by one."""
    _, step, updates, states = alone(name)
    batch = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), TREE)
    got = jax.vmap(step, (0, None, 0))(gradient_of(batch), states[0], batch)
    same(jax.tree.map(lambda leaf: leaf[0], got), (updates[0], states[1]), rtol=1e-7)
    half = jax.tree.map(lambda p: 0.5 * p, TREE)
    same(jax.tree.map(lambda leaf: leaf[1], got), step(gradient_of(half), states[0], half), rtol=1e-7)


def scan(name: str) -> None:
    _, step, updates, states = alone(name)

    def body(carry: Any, scale: jax.Array) -> Any:
        params, state = carry
        update, state = step(jax.tree.map(lambda g: scale * g, gradient_of(TREE)), state, params)
        return (optax.apply_updates(params, update), state), update

    (_, state), got = jax.lax.scan(body, (TREE, states[0]), jnp.array([1.0, 0.5]))
    same(jax.tree.map(lambda leaf: leaf[1], got), updates[1])
    same(state, states[-1], rtol=1e-7)


def chain(name: str) -> None:
    _, _, updates, states = alone(name)
    got, state = two_steps(optax.chain(optax.clip_by_global_norm(1e9), FORMS[name].make(), optax.identity()))
    same(got, updates, **tolerance(name))
    same(state[1], states[-1], **tolerance(name, 1e-7))


def injected_numbers(name: str) -> None:
    """``optax.inject_hyperparams`` changes neither the steps nor the state's structure."""
    _, _, updates, states = alone(name)
    optimizer = FORMS[name].injected()
    got, state = two_steps(optimizer)
    same(got, updates, **tolerance(name))
    same(state.inner_state, states[-1], **tolerance(name, 1e-7))
    assert types(state) == types(optimizer.init(TREE))


def injected_schedules(name: str) -> None:
    """From 0 up and down to 0 again, each rate: as when each step is made by the rate it has."""
    form = FORMS[name]
    for rate in form.rates:
        start = form.arguments.get(rate, 0.05)
        values = (0.0, start, 0.0, start)
        optimizer = form.injected(**{rate: lambda t, v=values: jnp.asarray(v, jnp.float64)[t]})
        state, plain = optimizer.init(TREE), form.make(**{rate: values[0]}).init(TREE)
        structure, params = types(state), TREE
        for value in values:
            update, state = optimizer.update(gradient_of(TREE), state, params, **EXTRA)
            wanted, plain = form.make(**{rate: value}).update(gradient_of(TREE), plain, params, **EXTRA)
            params = optax.apply_updates(params, update)
            same(update, wanted, rtol=1e-6)
            assert finite((update, state)), rate
            assert types(state) == structure
    # It comes alive after it; BFGS whose estimate starts at 0 has no step to learn from.
    if rate not in ("damping", "initial_scale"):
        assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(update))


def masked(name: str) -> None:
    """All leaves, none, and some."""
    _, _, updates, _ = alone(name)
    optimizer = FORMS[name].make()
    for value in (True, False):
        got, _ = two_steps(optax.masked(optimizer, jax.tree.map(lambda _, value=value: value, TREE)))
        same(got, updates if value else [scaled(1.0), scaled(0.5)], **tolerance(name))
    some, _ = two_steps(optax.masked(optimizer, FIRST_ONLY))
    assert types(some) == [types(TREE)] * 2
    own = {"matrix": TREE["matrix"]}
    update, _ = optimizer.update(gradient_of(own), optimizer.init(own), own, **EXTRA)
    same(some[0]["matrix"], update["matrix"])
    same(some[0]["list"], scaled(1.0)["list"])


def partition(name: str) -> None:
    """Two groups, a frozen one, and a label that no leaf has; and what maps over the state of all."""
    labels = {"matrix": "ours", "list": "frozen", "pair": "others", "empty": "others"}
    groups = {"ours": FORMS[name].make(), "others": optax.adam(0.1), "frozen": optax.set_to_zero()}
    optimizer = optax.partition({**groups, "unused": FORMS[name].make()}, labels)
    got, state = two_steps(optimizer)
    own = {"matrix": TREE["matrix"]}
    update, _ = groups["ours"].update(gradient_of(own), groups["ours"].init(own), own, **EXTRA)
    same(got[0]["matrix"], update["matrix"])
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(got[0]["list"]))
    mapped = optax.tree.map_params(optimizer, lambda leaf: leaf, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


def multi_steps(name: str) -> None:
    """The mean gradient of two, at the second; gradients that are not finite are skipped."""
    form = FORMS[name]
    optimizer = optax.MultiSteps(form.make(), 2, should_skip_update_fn=optax.skip_not_finite)
    step, state, got = step_of(optimizer), optimizer.init(TREE), []
    for scale in (1.5, np.nan, 0.5):
        update, state = step(scaled(scale), state, TREE)
        got.append(update)
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(got[:2]))
    same(got[2], alone(name)[2][0], rtol=1e-7)


def apply_if_finite(name: str) -> None:
    optimizer = optax.apply_if_finite(FORMS[name].make(), 5)
    step, state, got, params = step_of(optimizer), optimizer.init(TREE), [], TREE
    for scale in (1.0, np.nan, 0.5):
        update, state = step(scaled(scale), state, params)
        got.append(update)
        params = optax.apply_updates(params, update)
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(got[1]))
    same([got[0], got[2]], alone(name)[2], rtol=1e-7)
    same(state.inner_state, alone(name)[3][-1], rtol=1e-7)


def flatten(name: str) -> None:
    """As one vector; LARS and moments by blocks see other layers then."""
    got, _ = two_steps(optax.flatten(FORMS[name].make()))
    assert types(got) == [types(TREE)] * 2
    if name != "compact adam":
        same(got, alone(name)[2], rtol=1e-7)


def lookahead(name: str) -> None:
    """Fast and slow parameters, of which the transformation sees the fast ones."""
    if FORMS[name].needs_params:  # which lookahead does not hand on
        return
    optimizer = optax.lookahead(FORMS[name].make(), 2, 0.5)
    params = optax.LookaheadParams.init_synced(TREE)
    update, _ = optimizer.update(scaled(1.0), optimizer.init(params), params)
    same(update.fast, alone(name)[2][0])


def init_traced(name: str) -> None:
    """Under jit and in the abstract, what init makes."""
    optimizer, _, _, states = alone(name)
    assert types(jax.eval_shape(optimizer.init, TREE)) == types(states[0])
    state = jax.jit(optimizer.init)(TREE)
    assert types(state) == types(states[0])
    same(state, states[0], rtol=1e-7)


def one_compilation(name: str) -> None:
    """The second call finds the first one's program: not even the weakness of a type changes."""
    optimizer, _, _, states = alone(name)
    step = step_of(optimizer)
    state, params = states[0], TREE
    for _ in range(3):
        update, state = step(scaled(1.0), state, params)
        params = optax.apply_updates(params, update)
    # The sharded operator's first step brings everything onto its mesh, of which JAX's types tell.
    sharded = name == "lodo, sharded"
    assert step._cache_size() == (2 if sharded else 1)
    kinds = types if sharded else functools.partial(jax.tree.map, jax.typeof)
    assert kinds(state) == kinds(states[0])


def arrays_only(name: str) -> None:
    """A state is arrays, which come back from a file, and from flax's dictionaries, and go on."""
    optimizer, step, updates, states = alone(name)
    leaves, structure = jax.tree.flatten(states[1])
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    same(jax.tree.map(lambda leaf: leaf, states[1]), states[1], rtol=0)
    file = io.BytesIO()
    # NumPy's files know nothing of bfloat16 but its bytes.
    np.savez(file, *[np.asarray(leaf).view(np.uint16) if leaf.dtype == jnp.bfloat16 else leaf for leaf in leaves])
    file.seek(0)
    read = np.load(file).values()
    read = [r.view(leaf.dtype) if leaf.dtype == jnp.bfloat16 else r for r, leaf in zip(read, leaves, strict=True)]
    from_dictionary = flax.serialization.from_state_dict(
        optimizer.init(TREE), flax.serialization.to_state_dict(states[1])
    )
    for restored in (jax.tree.unflatten(structure, read), from_dictionary):
        update, state = step(scaled(0.5), restored, after_one(name))
        same(update, updates[1], rtol=0, atol=0)
        same(state, states[2], rtol=0, atol=0)


def without_params(name: str) -> None:
    """``params`` may be left out, or the refusal says what is missing."""
    optimizer, _, updates, states = alone(name)
    if not FORMS[name].needs_params:
        same(optimizer.update(scaled(1.0), states[0])[0], updates[0])
        return
    with pytest.raises(ValueError, match=r"parameters(?s:.*)\['empty'\]"):
        optimizer.update(scaled(1.0), states[0], **EXTRA)


def donated_state(name: str) -> None:
    """Giving a state's memory away takes nothing else along: not the next init's."""
    optimizer, _, updates, _ = alone(name)
    step = step_of(optimizer, donate_argnums=1)
    for _ in range(2):
        state = optimizer.init(TREE)
        update, _ = step(scaled(1.0), state, TREE)
        same(update, updates[0], rtol=1e-7)


def trees_without_numbers(name: str) -> None:
    """No leaf, or none with an entry."""
    optimizer = FORMS[name].make()
    for params in ({}, None, [None], {"a": jnp.zeros((0,))}, (jnp.zeros((0, 3)), {"b": jnp.zeros((2, 0))})):
        state = optimizer.init(params)
        # A loss of such a tree may not exist.
        extra = {**EXTRA, "grad_fn": None, "hessian": None}
        for _ in range(2):
            update, after = optimizer.update(params, state, params, **extra)
            assert types(update) == types(params)
            assert types(after) == types(state)
            state = after


ASSERTIONS = {
    assertion.__name__.replace("_", " "): assertion
    for assertion in (
        losses_fall, real_trees, map_params, tree_get_and_set, dtypes, jit_equals_eager, vmap, scan, chain,
        injected_numbers, injected_schedules, masked, partition, multi_steps, apply_if_finite, flatten, lookahead,
        init_traced, one_compilation, arrays_only, without_params, donated_state, trees_without_numbers,
    )
}  # fmt: skip


@contextlib.contextmanager
def optax_modes() -> Any:
    """optax's wrappers promote dtypes and ranks themselves."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        # Buffers that are too small or of another type to be used again.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        yield


def forms() -> dict[str, Form]:
    """Those that this machine can run: the C++ kernels need a compiler."""
    try:
        build.find_compiler()
    except RuntimeError:
        return {name: form for name, form in FORMS.items() if name != "lodo, native"}
    return FORMS


def main(part: str = "") -> int:
    """Print the table; the number of failures is the exit status, up to 1."""
    failed, start = [], time.perf_counter()
    print("\n".join(f"{number:2d} {name}" for number, name in enumerate(ASSERTIONS, 1)), end="\n\n")
    print(" " * 22 + " ".join(f"{number:2d}" for number in range(1, len(ASSERTIONS) + 1)))
    for name in forms():
        if part not in name:
            continue
        print(f"{name:<22}", end="", flush=True)
        for title, assertion in ASSERTIONS.items():
            try:
                with optax_modes():
                    assertion(name)
            except Exception as error:
                failed.append(f"{name}, {title}: {type(error).__name__}: {str(error).strip()[:600]}")
                print(" ✗ ", end="", flush=True)
            else:
                print(" ✓ ", end="", flush=True)
        print(flush=True)
    print("", *failed, f"{len(failed)} failed; {time.perf_counter() - start:.0f} s", sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
