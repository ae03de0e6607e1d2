"""LODO and its ablations against recordings of the released code: every number of 50 steps, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import traces

import lodo
from lodo import operators
from lodo_experiments.optimizers import reference

TOLERANCE = 1e-10
LODO_FAMILY = (
    "lodo_quad_n7_N3_k2",
    "lodo_quad_n7_N3_k4",
    "lodo_quad_n7_N16_k2",
    "lodo_quad_n7_N16_k4",
    "lodo_quad_n100_N3_k4",
    "lodo_quad_n100_N16_k2",
    "lodo_quad_n100_N16_k4",
    "lodo_nomomentum_quad_n7",
    "lodo_rosenbrock_default",
    "lodo_rosenbrock_lr0.1",
    "lodosgd_quad_n7",
    "residuals8_quad_n7",
    "diagonal_quad_n7",
    "diagonal_quad_n100",
    "global_quad_n7",
    "global_quad_n100",
    "global_rosenbrock",
)


def to_array(blocks):
    """The recording's layer weights [blocks, in, out] as ours, [in, out, blocks]."""
    return np.moveaxis(np.stack(blocks), 1, -1)


def ours_from_recorded(trace):
    """Operator, θ and fixed arrays for a recording, and a function that puts recorded θ-like arrays in our form."""
    kind = trace.name.split("_")[0]
    if kind in ("diagonal", "global"):
        operator = operators.Diagonal() if kind == "diagonal" else operators.Scalar()
        return operator, operators.NoFixed(), lambda arrays: arrays[0]
    recorded = trace["permutations"]
    depth = len(recorded) // 2
    if kind == "residuals8":
        forward = recorded[:depth]
        fixed = operators.Permutations(
            jnp.asarray(forward, jnp.int32), jnp.asarray(np.argsort(forward, axis=1), jnp.int32)
        )
        return (
            operators.Residuals(depth),
            fixed,
            lambda arrays: operators.ResidualsTheta(np.stack(arrays[:depth]), arrays[depth]),
        )
    k, hidden = trace.integer("block_size"), trace.integer("hidden_dimension")
    assert hidden == operators.default_hidden_size(len(trace["x0"]), k)
    # The recording counts hidden coordinates block by block, we count them entry by entry: ours p is its place[p].
    place = np.arange(hidden).reshape(hidden // k, k).T.ravel()
    back = np.argsort(place)
    forward = [recorded[0][place]] + [back[row[place]] for row in recorded[1:depth]]
    fixed = operators.Permutations(
        jnp.asarray(np.stack(forward), jnp.int32), jnp.asarray(np.argsort(forward, axis=1), jnp.int32)
    )
    return operators.BlockPermutation(depth, k, hidden), fixed, to_array


@pytest.mark.parametrize("name", LODO_FAMILY)
def test_fifty_steps_equal_the_recording(name):
    """Equation `hidden-size` of book/algorithm.md."""
    trace = traces.load(name)
    operator, fixed, in_our_form = ours_from_recorded(trace)
    rate = reference.as_float32(trace.number("meta_lr"))
    meta_optimizer = (
        optax.sgd(rate)
        if name.startswith("lodosgd")
        else reference.adam_epsilon_hat(rate, float32_hyperparameters=True)
    )
    optimizer = lodo.lodo(
        trace.number("initial_lr"), momentum=trace.number("beta"), operator=operator, meta_optimizer=meta_optimizer
    )
    x = jnp.asarray(trace["x0"])
    theta = jax.tree.map(jnp.asarray, in_our_form(trace.family("weights_init_")))
    state = optimizer.init(x)
    state = state._replace(
        theta=theta, fixed=fixed, meta_state=optax.with_extra_args_support(meta_optimizer).init(theta)
    )
    np.testing.assert_allclose(lodo.diagnostics.dense(state), trace["G_init"], atol=1e-12)

    update = jax.jit(optimizer.update)
    hypergradient = jax.jit(
        lambda state, g: operator.hypergradient(
            state.theta, state.fixed, -state.initial_learning_rate * state.momentum, g
        )
    )
    hyper_at = {int(t): s for s, t in enumerate(trace["hypergrad_steps"])}
    theta_at = {int(t): s for s, t in enumerate(trace["weights_steps"])}
    hypers, thetas = trace.family("hypergrad_"), trace.family("weights_after_")
    xs, losses, steps, momenta = [], [], [jnp.zeros_like(x)], []
    for t in range(trace.integer("T")):
        xs.append(x)
        momenta.append(state.momentum)
        losses.append(trace.loss(x, t))
        g = jnp.asarray(trace.gradient(np.asarray(x), t))
        if t in hyper_at:
            assert_trees_close(hypergradient(state, g), in_our_form([h[hyper_at[t]] for h in hypers]))
        step, state = update(g, state)
        if t in theta_at:
            assert_trees_close(state.theta, in_our_form([w[theta_at[t]] for w in thetas]))
        steps.append(step)
        x = optax.apply_updates(x, step)

    assert traces.relative_error(xs, trace["x"]) < TOLERANCE
    assert traces.relative_error(losses, trace["loss"]) < TOLERANCE
    assert traces.relative_error(steps[:-1], trace["step"]) < TOLERANCE
    assert traces.relative_error(momenta, trace["m"]) < TOLERANCE
    assert traces.relative_error(lodo.diagnostics.dense(state), trace["G_final"]) < TOLERANCE


def assert_trees_close(ours, recorded):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(recorded), strict=True):
        # The first hypergradient is exactly zero, as m₀ = 0.
        assert np.max(np.abs(a - b)) <= TOLERANCE * np.max(np.abs(b))


def test_every_recording_of_the_family_is_compared():
    present = {name for name in traces.available() if traces.is_lodo_family(name)}
    assert present == set(LODO_FAMILY)
