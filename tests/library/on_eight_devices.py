"""What has to hold on eight devices: run by test_sharding.py in a process that has them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import diagnostics, operators, sharding
from lodo.operators import _passes, sharded

D = 8
MESH = jax.sharding.Mesh(np.array(jax.devices()), ("blocks",))
# depth, block size, hidden size, n: the paper's block; an odd one; k = 1; no layer; one layer and n = ñ; n = 1 and one
# block a device.
CASES = [(3, 4, 96, 41), (0, 4, 64, 20)]
CASES += [
    pytest.param(*case, marks=pytest.mark.exhaustive)
    for case in [(2, 5, 40, 1), (3, 3, 48, 47), (4, 1, 16, 7), (1, 2, 32, 32)]
]


def test_there_are_eight_devices():
    assert jax.device_count() == D


@pytest.mark.parametrize(("depth", "k", "hidden", "n"), CASES)
def test_operator_equals_the_unsharded_one(depth, k, hidden, n):
    one = operators.BlockPermutation(depth, k, hidden)
    many = operators.ShardedBlockPermutation(MESH, "blocks", depth, k, hidden)
    theta, fixed = one.init(jax.random.key(3), n, jnp.float64)
    spread, routes = many.init(jax.random.key(3), n, jnp.float64)
    np.testing.assert_allclose(spread, theta, rtol=0, atol=1e-14)
    rng = np.random.default_rng(0)
    change = 0.3 * rng.normal(size=theta.shape)
    theta, spread = theta + change, spread + change
    m, g = rng.normal(size=(2, n))

    @functools.partial(jax.jit, static_argnums=0)
    def both(form, theta, fixed):
        stack = jnp.stack([m, g, m - g])
        return form.apply(theta, fixed, m), form.apply(theta, fixed, stack), form.hypergradient(theta, fixed, m, g)

    for ours, theirs in zip(both(many, spread, routes), both(one, theta, fixed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    abstract = jax.eval_shape(lambda: many.init(jax.random.key(3), n, jnp.float64))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), (spread, routes)
    )
    sizes = many.sizes(n)
    assert sizes["theta"] == spread.size
    assert sizes["fixed"] == sum(leaf.size for leaf in routes)


@functools.partial(jax.jit, static_argnums=0)
def step(optimizer, params, state):
    gradient = jax.grad(lambda p: jnp.sum(jnp.cos(p["w"])) + 0.5 * jnp.sum(p["b"] ** 2))(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def trained(optimizer, state, params, steps=6):
    for _ in range(steps):
        params, state = step(optimizer, params, state)
    return params, state


def without_inputs(state):
    """A chain's state as a sharded one is gathered: without what one device keeps of a large momentum."""
    return (*state[:-1], state[-1]._replace(inputs=None)) if isinstance(state[-1], lodo.LodoState) else state


# hidden size of lodo; for rlodo, and for lodo of its operator, without padding, None; and how many parameters: with
# blocks left over on one device or not, and for eight devices or not.
RUNS = [(lodo.rlodo, None, 67)]
RUNS += [
    pytest.param(*run, marks=pytest.mark.exhaustive)
    for run in [
        (lodo.lodo, _passes.LARGE, 67),
        (lodo.lodo, 160, 67),
        (lodo.lodo, None, 67),
        (lodo.rlodo, None, 76),
        (lodo.rlodo, None, 96),
    ]
]


@pytest.mark.parametrize(("optimizer", "hidden", "n"), RUNS)
def test_a_run_its_conversion_and_its_return(optimizer, hidden, n):
    params, depth = {"w": jnp.linspace(-1.0, 1.0, 60).reshape(6, 10), "b": jnp.ones(n - 60)}, 3
    padding = hidden is not None
    form = operators.ShardedBlockPermutation(MESH, "blocks", depth, hidden_size=hidden, padding=padding)
    alone = operators.BlockPermutation(depth, hidden_size=hidden, padding=padding)
    rate = {"initial_learning_rate": 0.3, "momentum": 0.9}
    one, many = (
        optax.chain(optax.clip_by_global_norm(1.0), optimizer(**rate, operator=operator)) for operator in (alone, form)
    )
    start = one.init(params)
    state = sharding.initialize(many, params, MESH)
    if optimizer is lodo.lodo:
        assert any(leaf.ndim for leaf in jax.tree.leaves(start[-1].inputs)) == (hidden == _passes.LARGE)
    for leaf in jax.tree.leaves((state[-1].theta, state[-1].meta_state, state[-1].fixed)):
        assert leaf.addressable_shards[0].data.size == (leaf.size // D if leaf.ndim else 1)
    assert_close(sharding.gather_state(state, form), without_inputs(start), 1e-14)
    assert_close(sharding.shard_state(start, form), state, 1e-14)

    alone, alone_state = trained(one, start, params)
    together, state = trained(many, state, params)
    assert_close(together, alone, 1e-11)
    back = sharding.gather_state(state, form)
    assert_close(back, without_inputs(alone_state), 1e-11)
    # On from either side: what was learned together goes on alone, and the other way round.
    resumed, _ = trained(one, back, alone, 3)
    expected, expected_state = trained(one, sharding.gather_state(state, form), alone, 3)
    assert_close(resumed, expected, 0)
    spread, spread_state = trained(many, sharding.shard_state(back, form), alone, 3)
    assert_close(spread, expected, 1e-11)
    assert_close(sharding.gather_state(spread_state, form), expected_state, 1e-11)
    v = jnp.linspace(0.0, 1.0, n)
    product = diagnostics.apply(back, v)
    np.testing.assert_allclose(diagnostics.apply(state, v, operator=form), product, atol=1e-10)


def assert_close(ours, theirs, tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def large():
    """A state of n = 3,000 in float32 and its compiled step."""
    form = operators.ShardedBlockPermutation(MESH)
    optimizer = lodo.lodo(operator=form)
    params = jnp.zeros(3000, jnp.float32)
    state = sharding.initialize(optimizer, params, MESH)
    step = jax.jit(optimizer.update, donate_argnums=1).lower(params, state).compile()
    return optimizer, params, state, step


def test_each_device_holds_its_part_and_no_more(large):
    _, params, state, _ = large
    table = diagnostics.cost_table(params, devices=D)
    for device in jax.devices():
        held = {"theta": state.theta, "meta-optimizer": state.meta_state, "permutations": state.fixed}
        held |= {"momentum": state.momentum, "counters and rates": (state.step_count, state.initial_learning_rate)}
        for part, tree in held.items():
            parts = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
            assert sum(part.data.nbytes for part in parts if part.device == device) == table.bytes_by_part[part]
    whole = diagnostics.cost_table(params, hidden_size=state.fixed.enter.shape[-1])
    assert table.bytes_by_part["theta"] * D == whole.bytes_by_part["theta"] == state.theta.nbytes
    assert (table.bytes_by_part["meta-optimizer"] - 4) * D == whole.bytes_by_part["meta-optimizer"] - 4


def test_a_small_state_is_counted_to_the_byte():
    params, form = jnp.zeros(99, jnp.float32), operators.ShardedBlockPermutation(MESH, depth=2)
    state = sharding.initialize(lodo.lodo(operator=form), params, MESH)
    shards = [shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
    held = sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0])
    assert held == diagnostics.cost_table(params, devices=D, depth=2).total_bytes


def test_a_step_exchanges_activations_only(large):
    _, params, state, step = large
    found = diagnostics.collectives(step)
    slots = state.fixed.leave.shape[-1] // D
    hidden, depth, n = state.fixed.enter.shape[-1], state.theta.shape[0], params.size
    assert sorted((one.kind, one.elements, one.times) for one in found if one.elements > 1) == sorted(
        [("all-to-all", r * slots, depth) for r in (1, 1, 2, 2)] + [("all-gather", hidden // 2, 1)]
    )
    assert max(one.elements for one in found) < hidden < state.theta.size // 50
    # Of what a device has after an exchange (D − 1)/D came from others, and as much went to them.
    moved = sum(one.nbytes * one.times for one in found if one.elements > 1) * (D - 1) // D
    assert moved == diagnostics.cost_table(jnp.zeros(n, jnp.float32), devices=D).exchanged_bytes


def test_relative_lodo_exchanges_and_holds_as_much_as_is_said():
    form, params = operators.ShardedBlockPermutation(MESH, depth=8, padding=False), jnp.zeros(3001, jnp.float32)
    optimizer = lodo.rlodo(operator=form)
    state = sharding.initialize(optimizer, params, MESH)
    step = jax.jit(optimizer.update, donate_argnums=1).lower(params, state, params).compile()
    table = diagnostics.cost_table(params, devices=D, optimizer=lodo.rlodo, depth=8)
    for part, tree in {"theta": state.theta, "meta-optimizer": state.meta_state, "permutations": state.fixed}.items():
        assert (
            sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)) == table.bytes_by_part[part]
        )
    found = [one for one in diagnostics.collectives(step) if one.elements > 4]  # the largest magnitudes
    slots, hidden = state.fixed.leave.shape[-1] // D, state.fixed.enter.shape[-1]
    assert hidden == 3008
    assert sorted((one.kind, one.elements, one.times) for one in found) == sorted(
        [("all-to-all", r * slots, 8) for r in (1, 1, 2, 2)] + [("all-gather", hidden, 1)]
    )
    assert sum(one.nbytes * one.times for one in found) * (D - 1) // D == table.exchanged_bytes
    for leaf, wanted, given in zip(
        *map(jax.tree.leaves, (state, sharding.shardings(state, MESH), step.output_shardings[1])), strict=True
    ):
        assert wanted.is_equivalent_to(given, leaf.ndim)


def test_theta_stays_where_it_is(large):
    _, _, state, step = large
    where, made = sharding.shardings(state, MESH), step.output_shardings[1]
    for leaf, wanted, given in zip(jax.tree.leaves(state), jax.tree.leaves(where), jax.tree.leaves(made), strict=True):
        assert wanted.is_equivalent_to(given, leaf.ndim)


def test_drawing_the_start_exchanges_nothing_and_holds_no_whole_theta(large):
    optimizer, params, state, _ = large
    program = jax.jit(optimizer.init, out_shardings=sharding.shardings(state, MESH)).lower(params).compile()
    assert max((one.elements for one in diagnostics.collectives(program)), default=0) <= 1
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < state.theta.nbytes


def test_permutations_that_do_not_fit_are_refused():
    form = operators.ShardedBlockPermutation(MESH, hidden_size=4096)
    state = lodo.lodo(hidden_size=4096).init(jnp.zeros(100))
    still = jnp.broadcast_to(jnp.arange(4096, dtype=jnp.int32), state.fixed.forward.shape)
    with pytest.raises(RuntimeError, match="Others have to be spread as evenly"):
        sharding.shard_state(state._replace(fixed=operators.Permutations(still, still)), form)
    assert bool(jnp.isnan(jax.jit(sharded.refused)(jnp.ones(3), jnp.array(True))).all())
    assert not bool(jnp.isnan(jax.jit(sharded.refused)(jnp.ones(3), jnp.array(False))).any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.ShardedBlockPermutation(MESH, hidden_size=204), "4 × 8.*got 204. The next multiple is 224"),
        (
            lambda: operators.ShardedBlockPermutation(MESH, hidden_size=32, padding=False),
            "hidden_size=32 as well. Leave one of the two alone",
        ),
        (
            lambda: lodo.rlodo(operator=operators.ShardedBlockPermutation(MESH, padding=False)).init(jnp.zeros(3)),
            "at least block_size = 4 parameters; got n = 3",
        ),
        (
            lambda: sharding.shard_state(
                lodo.rlodo(depth=2).init(jnp.zeros(99)), operators.ShardedBlockPermutation(MESH, depth=2)
            ),
            "made with padding=False; the sharded one has padding=True",
        ),
        (lambda: operators.ShardedBlockPermutation(MESH, "rows"), r"axes \('blocks',\); got axis='rows'"),
        (lambda: operators.ShardedBlockPermutation(jax.devices()), "must be a jax.sharding.Mesh"),
        (lambda: operators.ShardedBlockPermutation(explicit_mesh()), "must be of the type Auto"),
        (lambda: operators.ShardedBlockPermutation(MESH, depth=-1), "depth must be an integer of at least 0; got -1"),
        (
            lambda: operators.ShardedBlockPermutation(MESH, hidden_size=32).init(jax.random.key(0), 33, jnp.float64),
            "at least the number of parameters n = 33; got 32",
        ),
        (
            lambda: sharding.shard_state(
                lodo.lodo(hidden_size=204).init(jnp.zeros(100)), operators.ShardedBlockPermutation(MESH)
            ),
            "got 204. The next multiple is 224",
        ),
        (
            lambda: sharding.shard_state(
                lodo.lodo(depth=2).init(jnp.zeros(100)), operators.ShardedBlockPermutation(MESH)
            ),
            "depth=2 and block_size=4; the operator has depth=16",
        ),
        (
            lambda: sharding.shard_state(
                lodo.lodo(operator=operators.BlockPermutation(permutations="rolled")).init(jnp.zeros(100)),
                operators.ShardedBlockPermutation(MESH),
            ),
            "permutations are rolled",
        ),
        (
            lambda: diagnostics.cost_table(
                jnp.zeros(9), devices=8, operator=operators.BlockPermutation(permutations="rolled")
            ),
            "rolled permutations cannot be spread over devices",
        ),
        (lambda: sharding.shardings(lodo.lodo().init(jnp.zeros(3)), MESH), "convert it with lodo.sharding.shard_state"),
        (
            lambda: sharding.gather_state(lodo.lodo().init(jnp.zeros(3)), operators.ShardedBlockPermutation(MESH)),
            "not made by lodo.operators.ShardedBlockPermutation",
        ),
        (lambda: diagnostics.cost_table(jnp.zeros(9), devices=8, hidden_size=20), "The next multiple is 32"),
        (lambda: diagnostics.cost_table(jnp.zeros(900), devices=8, storage="compact"), "Use storage='full'"),
        (
            lambda: diagnostics.cost_table(jnp.zeros(9), devices=8, operator=operators.Diagonal()),
            "cannot be spread over devices",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def explicit_mesh():
    return jax.sharding.Mesh(np.array(jax.devices()), ("blocks",), axis_types=(jax.sharding.AxisType.Explicit,))


def test_other_axes_are_replicated():
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "blocks"))
    form, one = operators.ShardedBlockPermutation(mesh, depth=3, hidden_size=64), operators.BlockPermutation(3, 4, 64)
    theta, routes = form.init(jax.random.key(0), 20, jnp.float64)
    assert theta.addressable_shards[0].data.shape[-1] == 4
    v = jnp.linspace(0.0, 1.0, 20)
    same = one.apply(*one.init(jax.random.key(0), 20, jnp.float64), v)
    np.testing.assert_allclose(form.apply(theta, routes, v), same, rtol=1e-12)
