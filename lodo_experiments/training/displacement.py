"""How far LODO's G has moved from where it started: whether a run has tested what LODO learns at all.

    ‖G − α₀ I‖_F / (α₀ √n)

is 0 for the operators that start at the identity as long as nothing is learned: LODO is momentum SGD then. It is
computed by a program of its own, between the chunks of a training, whose programs and numbers stay as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo._state import LodoState, nodes_of
from lodo.diagnostics.inverse_hessian import apply

#: Random sign vectors z that the norm is estimated with, as ‖(G − α₀ I) z‖² has the mean ‖G − α₀ I‖_F²; up to so many
#: parameters it is computed exactly. A random matrix's norm comes out within some per cent.
PROBES = 128


def inverse_hessian_displacement(states: Any) -> np.ndarray:
    """‖G − α₀ I‖_F / (α₀ √n) of every lane.

    Args:
      states: optimizer states, each leaf with a leading axis of lanes.

    Returns:
      [lanes]; [0] for an optimizer that is not LODO. nan where the state is, or where α₀ is 0.

    >>> from lodo_experiments.optimizers.names import optimizer_named
    >>> one = optimizer_named("LODO")
    >>> state = one.build(one.defaults, jax.random.key(0), 1).init(jnp.zeros(3))
    >>> moved = state._replace(theta=1.5**(1 / 32) * state.theta)
    >>> both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, moved)
    >>> inverse_hessian_displacement(both).round(4).tolist()
    [0.0, 0.5]
    """
    found = nodes_of(states, LodoState)
    return np.asarray(_of_lanes(found[0])) if found else np.zeros(0)


@jax.jit
def _of_lanes(states: LodoState) -> jax.Array:
    # One lane and one vector at a time: a large G leaves no room for more.
    return jax.lax.map(_of_one, states)


def _of_one(state: LodoState) -> jax.Array:
    rate = state.initial_learning_rate
    size = sum(leaf.size for leaf in jax.tree.leaves(state.momentum))
    if size <= PROBES:
        vectors = size**0.5 * jnp.eye(size, dtype=rate.dtype)
    else:
        vectors = jax.random.rademacher(jax.random.key(0), (PROBES, size), rate.dtype)
    operator = getattr(state.fixed, "operator", None)  # of a form that is not the library's own

    def square(z: jax.Array) -> jax.Array:
        moved = apply(state, z, operator=operator) / rate - z
        return jnp.vdot(moved, moved)

    return jnp.sqrt(jnp.mean(jax.lax.map(square, vectors)) / size)
