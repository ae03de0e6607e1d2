"""What a user's program says to the library: read by `mypy --strict` in test_distribution.py, and by pyright."""

from typing import cast

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]  # optax says nothing of its types

import lodo


def minimize(steps: int) -> jax.Array:
    """A quadratic bowl's loss after some steps."""

    def loss(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(jnp.array([1.0, 10.0, 100.0]) * x**2)

    operator = lodo.operators.BlockPermutation(depth=4, permutations="rolled")
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo(initial_learning_rate=0.01, operator=operator))
    x = jnp.ones(3)
    state = optimizer.init(x)
    for _ in range(steps):
        updates, state = optimizer.update(jax.grad(loss)(x), state, x)
        x = cast(jax.Array, optax.apply_updates(x, updates))  # which optax takes for a tree of numbers, too
    return loss(x)


def compact(seed: int) -> lodo.LodoState:
    """A state in fewer bytes, in a chain's place."""
    optimizer = lodo.lodo(optax.linear_schedule(1.0, 0.1, 100), 1e-3, momentum=0.9, seed=seed, storage="compact")
    state = optimizer.init({"w": jnp.ones((2, 3))})
    assert isinstance(state, lodo.LodoState)
    return state


version: str = lodo.__version__
price: str = str(lodo.diagnostics.cost_table({"w": jnp.ones((2, 3))}))


def learned(state: lodo.LodoState, hessian: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the state has learned."""
    return lodo.diagnostics.dense(state), lodo.diagnostics.inverse_hessian_error(state, hessian)
