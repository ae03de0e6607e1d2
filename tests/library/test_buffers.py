"""Every state owns its arrays: donating one takes nothing from another state, from the optimizer or from the caller."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import compact, operators, quasi_newton, sharding


class KeepsItsArrays(NamedTuple):
    """An operator of a user's, whose init hands out arrays that the object keeps."""

    diagonal: jax.Array
    mask: jax.Array

    def init(self, key, size, dtype):
        return self.diagonal, self.mask

    def apply(self, theta, fixed, v):
        return theta * fixed * v

    def hypergradient(self, theta, fixed, m, g):
        return fixed * m * g

    def sizes(self, size):
        return {"theta": size, "fixed": size, "multiplications": 2 * size}


class Anchor(NamedTuple):
    start: jax.Array
    constant: jax.Array


def keeps_its_parameters(constant):
    """A meta-optimizer whose state holds θ₀ itself and an array made at construction."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: -1e-3 * g, updates), state

    return optax.GradientTransformation(lambda params: Anchor(params, constant), update)


def small(**arguments):
    return lodo.lodo(**{"initial_learning_rate": 0.1, "depth": 2, "block_size": 2, **arguments})


#: A vector length, and an optimizer from three arrays of the caller's: a typed key, a raw key and a rate.
CASES = {
    "lodo": (4, lambda key, raw, rate: small(seed=key)),
    "raw key": (4, lambda key, raw, rate: small(seed=raw, storage="compact")),
    "rates": (4, lambda key, raw, rate: small(initial_learning_rate=rate, meta_learning_rate=rate, momentum=rate)),
    "schedule": (4, lambda key, raw, rate: small(initial_learning_rate=lambda count: rate)),
    "large": (1100, lambda key, raw, rate: small(seed=key, initial_learning_rate=rate)),
    "rolled": (
        1100,
        lambda key, raw, rate: lodo.lodo(operator=operators.BlockPermutation(2, 2, permutations="rolled")),
    ),
    "no layer": (4, lambda key, raw, rate: small(depth=0)),
    "compact": (4, lambda key, raw, rate: small(storage="compact", seed=key)),
    "moments": (4, lambda key, raw, rate: small(storage=compact.Storage("bfloat16", "int8", "factored"), seed=raw)),
    "residuals": (4, lambda key, raw, rate: lodo.lodo(rate, operator=operators.Residuals(2), seed=key)),
    "diagonal": (4, lambda key, raw, rate: lodo.lodo(rate, operator=operators.Diagonal())),
    "scalar": (4, lambda key, raw, rate: lodo.lodo(rate, operator=operators.Scalar(), storage="compact")),
    "own operator": (
        4,
        lambda key, raw, rate: lodo.lodo(rate, operator=KeepsItsArrays(jnp.ones(4), jnp.ones(4))),
    ),
    "own meta-optimizer": (4, lambda key, raw, rate: small(meta_optimizer=keeps_its_parameters(jnp.ones(3)))),
    "compact Adam": (4, lambda key, raw, rate: compact.scale_by_compact_adam(key=raw)),
    "compact Adam, full": (
        4,
        lambda key, raw, rate: compact.scale_by_compact_adam(first_moment="full", second_moment="full", key=raw),
    ),
    "bfgs": (4, lambda key, raw, rate: quasi_newton.bfgs(rate, rate)),
    "bfgs, same batch": (4, lambda key, raw, rate: quasi_newton.bfgs(rate, rate, same_batch=True)),
    "bfgs, released": (4, lambda key, raw, rate: quasi_newton.bfgs(rate, form="released")),
    "olbfgs": (4, lambda key, raw, rate: quasi_newton.olbfgs(rate, buffer_size=2)),
    "lbfgs": (4, lambda key, raw, rate: quasi_newton.lbfgs_no_line_search(rate, buffer_size=1)),
    "levenberg_marquardt": (4, lambda key, raw, rate: quasi_newton.levenberg_marquardt(rate)),
}


def pointers(tree):
    """Where each array of a tree lies; those without an entry lie nowhere."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    return [
        (jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a).unsafe_buffer_pointer()
        for a in arrays
    ]


def assert_apart(*trees):
    every = [pointer for tree in trees for pointer in pointers(tree)]
    assert len(set(every)) == len(every)


def donate(tree):
    jax.block_until_ready(jax.jit(lambda given: jax.tree.map(jnp.copy, given), donate_argnums=0)(tree))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(tree) if leaf.size)


#: Outside of jit each operation is compiled by itself: by default where arrays are made in ways of their own.
EAGER = {"lodo", "large", "compact", "own meta-optimizer", "own operator", "bfgs", "olbfgs"}


@pytest.mark.parametrize(
    ("name", "jit"),
    [
        pytest.param(
            name,
            jit,
            id=f"{name}-{'jit' if jit else 'eager'}",
            marks=() if jit or name in EAGER else pytest.mark.exhaustive,
        )
        for name in CASES
        for jit in (False, True)
    ],
)
def test_states_own_their_arrays(name, jit):
    size, make = CASES[name]
    # One leaf that is a vector: what flattens a tree may hand it through as it is.
    x, gradient = jnp.ones(size, jnp.float32), jnp.full(size, 0.5, jnp.float32)
    given = (jax.random.key(7), jax.random.PRNGKey(7), jnp.asarray(0.1, jnp.float32), x, gradient)
    hessian = jnp.eye(size, dtype=jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # for optax's own, in a chain
        optimizer = make(*given[:3])

        def update(gradient, state, x):
            return optimizer.update(gradient, state, x, grad_fn=lambda p: p - 0.25, hessian=hessian)

        def updated(state):
            return (jax.jit(update) if jit else update)(gradient, state, x)

        init = jax.jit(optimizer.init) if jit else optimizer.init
        one, two = init(x), init(x)
        assert_apart(one, two, given)
        donate(one)
        donate(two)
        assert_apart(init(x), given)
        # What a step returns is not a part of the state that it leaves, nor of what it was given.
        step, state = updated(init(x))
        assert_apart(step, state, given)
        donate(state)
        again, state = updated(init(x))
        np.testing.assert_array_equal(again, step)
        for leaf in given:
            assert not leaf.is_deleted()
        # And the optimizer goes on without the caller's arrays, where a state would have held them.
        if "lodo" in type(state).__name__.lower() or "compact" in name:
            for leaf in given[:2]:
                leaf.delete()
            donate(state)
            np.testing.assert_array_equal(updated(init(x))[0], step)


def test_key_of_gives_a_new_array():
    for key in (jax.random.key(3), jax.random.split(jax.random.key(3), 1)[0]):
        assert_apart(compact.storage.key_of(key), key)


def test_an_injected_rate_is_not_lost():
    rate, x = jnp.asarray(0.1, jnp.float32), jnp.ones(4, jnp.float32)
    optimizer = optax.inject_hyperparams(lodo.lodo, static_args=("depth", "block_size"))(rate, depth=2, block_size=2)
    states = [optimizer.init(x).inner_state for _ in range(2)]
    assert_apart(*states, rate)


def test_a_spread_state_shares_nothing_with_the_one_that_it_was_made_of():
    x = jnp.ones(10, jnp.float32)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("blocks",))
    with jax.numpy_dtype_promotion("standard"):
        one = optax.chain(optax.trace(0.9), small(hidden_size=32, depth=2, block_size=2)).init(x)
        many = sharding.shard_state(one, operators.ShardedBlockPermutation(mesh, "blocks", 2, 2, 32))
        assert_apart(one, many)
        donate(many)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(one))
