"""The C++ kernels: against the dense float64 twin and XLA's path, and what they need on a machine."""

import functools
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo.operators import BlockPermutation, Permutations, _passes
from lodo.operators._native import build
from lodo.operators.rolls import indices, turns


def no_compiler():
    """Why the kernels cannot be compiled here; empty where they can."""
    try:
        build.find_compiler()
    except RuntimeError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="JAX computes on something else than a CPU"),
    pytest.mark.skipif(bool(no_compiler()), reason=no_compiler()),
]

# depth, block size, hidden size, n
SMALL = {
    "paper": (16, 4, None, 7),
    "odd blocks": (3, 3, None, 5),
    "block size 1": (4, 1, None, 6),
    "blocks of two": (4, 2, None, 6),
    "blocks of eight": (2, 8, None, 11),
    "large blocks": (2, 9, None, 11),
    "hidden size n": (5, 2, 8, 8),
    "one layer": (1, 4, None, 9),
    "no layer": (0, 4, None, 9),
    "one parameter": (3, 4, None, 1),
    "one block": (2, 5, 5, 3),
}
# Several tiles, and several shares for threads; the last ones with less to do.
LARGE = {
    "paper": (16, 4, None, 3001),
    "odd blocks": (3, 3, 5001, 2500),
    "block size 1": (2, 1, 9001, 9001),
    "large blocks": (2, 9, 9 * 1001, 5000),
}
ROLLED = {"rolled": "rolled", "uniform": "uniform"}


@pytest.fixture(autouse=True, scope="module")
def kernels(tmp_path_factory):
    """Compiled for these tests, in a folder of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def both(case, permutations="uniform"):
    return [BlockPermutation(*case[:3], permutations=permutations, kernel=kernel) for kernel in ("native", "xla")]


def drawn(operator, n, dtype=jnp.float64):
    """θ away from its start, the permutations, and three vectors [n]."""
    theta, fixed = operator.init(jax.random.key(0), n, dtype)
    rng = np.random.default_rng(n)
    theta = theta + jnp.asarray(0.3 * rng.normal(size=theta.shape), dtype)
    return theta, fixed, [jnp.asarray(v, dtype) for v in rng.normal(size=(3, n))]


def dense(theta, fixed, n):
    """S(θ) as a product of explicit matrices."""
    depth, k, _, blocks = theta.shape
    ways = fixed.forward if isinstance(fixed, Permutations) else indices(turns(fixed, blocks)[0], blocks)
    up = np.eye(k * blocks)
    for i in range(depth):
        matrix = np.zeros((k * blocks, k * blocks))
        for a, o in np.ndindex(k, k):
            matrix[o * blocks + np.arange(blocks), a * blocks + np.arange(blocks)] = theta[i, a, o]
        up = matrix @ np.eye(k * blocks)[np.asarray(ways[i])] @ up
    return (up.T @ up)[:n, :n]


def close(ours, theirs, rtol=1e-11, atol=1e-12):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * max(1.0, np.max(np.abs(b), initial=0)))


@pytest.mark.parametrize("permutations", ROLLED)
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())
def test_the_dense_twin(case, permutations):
    ours, xla = both(case, permutations)
    theta, fixed, vectors = drawn(ours, case[-1])
    twin = dense(np.asarray(theta), fixed, case[-1])
    stack = jnp.stack(vectors)
    close(jax.jit(ours.apply)(theta, fixed, stack), np.asarray(stack) @ twin.T)
    close(ours.apply(theta, fixed, vectors[0]), twin @ np.asarray(vectors[0]))
    m, g, _ = vectors
    h = jax.jit(ours.hypergradient)(theta, fixed, m, g)
    # By XLA's path, differentiated: the definition of the hypergradient.
    close(h, jax.grad(lambda theta: g @ xla.apply(theta, fixed, m))(theta), 1e-10)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("permutations", ROLLED)
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_tiles_and_shares_by_xla(case, permutations, dtype):
    ours, xla = both(case, permutations)
    theta, fixed, (m, g, v) = drawn(ours, case[-1], dtype)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == jnp.float64 else 2e-5}
    stack = jnp.stack([m, g, v])
    close(ours.apply(theta, fixed, stack), xla.apply(theta, fixed, stack), **tolerance)
    close(ours.hypergradient(theta, fixed, m, g), xla.hypergradient(theta, fixed, m, g), **tolerance)


#: Without kept inputs, by default, in the paper's form and in several shares; elsewhere with -m "".
STEPS = [
    pytest.param(
        case, kept, id=f"{name}-inputs {'' if kept else 'not '}kept",
        marks=() if kept or name in ("paper", "several shares") else pytest.mark.exhaustive,
    )
    for name, case in {**SMALL, "several shares": LARGE["odd blocks"]}.items() for kept in (True, False)
]  # fmt: skip


@pytest.mark.parametrize(("case", "kept"), STEPS)
@pytest.mark.parametrize("permutations", ROLLED)
def test_a_step_of_adam(case, permutations, kept):
    ours, xla = both(case, permutations)
    theta, fixed, (m, g, v) = drawn(ours, case[-1])
    assert ours.fuses_adam(theta) == (case[0] > 0)
    if not case[0]:
        return
    rng = np.random.default_rng(1)
    moments = tuple(jnp.asarray(rng.normal(size=theta.shape) ** 2) for _ in range(2))
    count, rate = 4, 0.01
    corrections = [jnp.asarray(1 / (1 - decay ** (count + 1))) for decay in (0.9, 0.999)]
    adam = _passes.AdamStep(jnp.asarray(rate), *corrections)
    inputs = None
    if kept:  # as a step leaves them whose v is this one's m; its rate of 0 keeps θ
        still, start = adam._replace(rate=jnp.asarray(0.0)), ours.inputs_at_start(theta)
        same, _, inputs, _, _ = ours.adam_step(theta, fixed, moments, start, 0 * m, v, m, still)
        np.testing.assert_array_equal(same, theta)
    new, after, inputs, out, done = jax.jit(ours.adam_step)(theta, fixed, moments, inputs, m, g, v, adam)
    assert bool(done)
    assert (inputs is not None) == kept
    state = optax.ScaleByAdamState(jnp.int32(count), *moments)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        change, wanted = optax.scale_by_adam().update(xla.hypergradient(theta, fixed, m, g), state)
    close((new, *after), (theta - rate * change, wanted.mu, wanted.nu))
    close(out, xla.apply(theta - rate * change, fixed, v), 1e-10)


def run(kernel, n, steps, dtype=jnp.float64, state=None):
    """Losses and the last state of LODO on a quadratic, its state donated to one scan."""
    optimizer = lodo.lodo(0.3, 0.01, operator=BlockPermutation(3, kernel=kernel))
    curvature = jnp.asarray(np.geomspace(0.01, 1, n), dtype)
    x = jnp.ones(n, dtype)

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(curvature * x, state)
        x = optax.apply_updates(x, updates)
        return (x, state), 0.5 * jnp.sum(curvature * x**2)

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps), donate_argnums=0)
    state = optimizer.init(x) if state is None else jax.tree.map(jnp.copy, state)
    (_, state), losses = scan((x, state))
    return losses, state


@pytest.mark.parametrize(("n", "steps"), [(5, 60), (3001, 8)])
def test_lodo_makes_the_same_steps(n, steps):
    (losses, state), (wanted, other) = run("native", n, steps), run("xla", n, steps)
    np.testing.assert_allclose(losses, wanted, rtol=1e-8)
    close(state._replace(inputs=None), other._replace(inputs=None), 1e-6, 1e-9)
    changed = state._replace(theta=1.1 * state.theta, inputs=None)
    (losses, after), (wanted, _) = run("native", n, 5, state=changed), run("xla", n, 5, state=changed)
    assert after.inputs is None
    np.testing.assert_allclose(losses, wanted, rtol=1e-8)


def test_single_precision_stays_single():
    losses, state = run("native", 6, 40, jnp.float32)
    assert losses[-1] < 0.2 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.parametrize("n", [6, 3001])
def test_a_gradient_that_cannot_be_learned_from_leaves_the_state_to_the_bit(n):
    optimizer = lodo.lodo(0.3, 0.01, operator=BlockPermutation(3, kernel="native"))
    update = jax.jit(optimizer.update)
    state = optimizer.init(jnp.ones(n))
    for _ in range(2):
        _, state = update(jnp.linspace(0.0, 1.0, n), state)
    for bad in (np.nan, np.inf, 1e200):  # the last is finite, the square of its hypergradient is not
        updates, after = update(jnp.ones(n).at[n - 1].set(bad), state)
        assert np.isnan(updates).all()
        jax.tree.map(np.testing.assert_array_equal, after, state)
    updates, after = update(jnp.ones(n), state)
    assert np.isfinite(updates).all()
    assert not np.array_equal(after.theta, state.theta)


def test_lanes_side_by_side_are_lanes_alone():
    optimizer = lodo.lodo(0.3, 0.01, operator=BlockPermutation(2, kernel="native"))
    states = [optimizer.init(jnp.ones(5)) for _ in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)))
    beside, one = jax.jit(jax.vmap(optimizer.update)), jax.jit(optimizer.update)
    for _ in range(3):
        updates, stacked = beside(gradients, stacked)
        for lane in range(2):
            alone, states[lane] = one(gradients[lane], states[lane])
            np.testing.assert_allclose(updates[lane], alone, rtol=1e-12)


def test_many_at_once_on_few_threads_come_to_an_end():
    """More programs than the pool has threads, each with shares for all of them."""
    ours, xla = both(LARGE["odd blocks"])
    theta, fixed, (m, _, _) = drawn(ours, LARGE["odd blocks"][-1])
    product, wanted = jax.jit(functools.partial(ours.apply, theta, fixed)), xla.apply(theta, fixed, m)
    product(m)
    results = [None] * 8

    def work(index):
        for _ in range(20):
            results[index] = product(m)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    for result in results:
        close(result, wanted)


def test_there_is_no_derivative():
    ours = BlockPermutation(2, kernel="native")
    theta, fixed, (m, _, _) = drawn(ours, 5)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda theta: jnp.sum(ours.apply(theta, fixed, m)))(theta)


def test_another_dtype_is_refused():
    ours = BlockPermutation(2, kernel="native")
    theta, fixed, (m, _, _) = drawn(ours, 5, jnp.bfloat16)
    with pytest.raises(TypeError, match=r'float32 or float64; got θ in bfloat16\. Use kernel="xla"'):
        ours.apply(theta, fixed, m)


def test_another_device_is_refused(monkeypatch):
    ours = BlockPermutation(2, kernel="native")
    theta, fixed, (m, _, _) = drawn(ours, 5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(RuntimeError, match="is for CPUs; JAX's default here is gpu"):
        ours.apply(theta, fixed, m)


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A cache folder in which nothing has been compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lodo"


@pytest.mark.exhaustive
def test_what_is_compiled_is_found_again(monkeypatch, empty):
    first = build.compile_library()
    assert [path.name for path in empty.iterdir()] == [first.name]
    monkeypatch.setattr(build, "_compile", lambda command: pytest.fail("compiled again"))
    assert build.compile_library() == first


@pytest.mark.parametrize("part", ["_options", "_processor"])
def test_another_machine_has_a_file_of_its_own(monkeypatch, empty, part):
    compiled = []
    monkeypatch.setattr(build, "_compile", lambda command: compiled.append(command[-1]))
    first, was = build.compile_library(), getattr(build, part)()
    monkeypatch.setattr(build, part, lambda: was + type(was)("x"))
    second = build.compile_library()
    assert first != second
    assert len(compiled) == 2


def test_a_machine_without_a_compiler(monkeypatch, empty):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"none of c\+\+, g\+\+ and clang\+\+ is on the path. Install one"):
        build.compile_library()


def test_a_compiler_that_is_not_there(monkeypatch, empty):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(RuntimeError, match=r"CXX names, 'no-such-compiler', which is not found\. Set CXX to another"):
        build.compile_library()


def test_a_compiler_that_fails_leaves_nothing(monkeypatch, empty, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho this line is wrong >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(RuntimeError, match="ended with status 3:\nthis line is wrong\nSet CXX to another"):
        build.compile_library()
    assert list(empty.iterdir()) == []


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match=r"kernels' folder cannot be written.*Set XDG_CACHE_HOME"):
        build.compile_library()


@pytest.mark.exhaustive
def test_a_damaged_file_is_named(monkeypatch, empty):
    path = build.compile_library()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RuntimeError, match=f"cannot be loaded: .* Delete {path} to compile anew"):
        build._library.__wrapped__()
