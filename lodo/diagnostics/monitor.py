"""What an optimizer of ours is doing, as scalars to log."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo import _tree
from lodo._state import GuardState, RlodoState, find_state, nodes_of
from lodo._validation import check_same_tree
from lodo.compact.moments import CompactAdamState, total_second_moment
from lodo.compact.storage import read


def monitor(state: optax.OptState, gradient: optax.Updates | None = None) -> dict[str, jax.Array]:
    """Scalars that tell how a run of :func:`lodo.lodo` or :func:`lodo.rlodo` is going, from its state.

    Args:
      state: a LodoState or RlodoState, or an optax state that holds exactly one of them.
      gradient: what the update that returned this state was given, with the structure and shapes of the parameters.

    Returns:
      name → scalar []; under ``vmap``'s axis, one for each run. Of both: ``scale``, α₀ or α₀ eˢ, by which S(θ) is
      multiplied; ``momentum norm``, ‖m‖; ``step norm``, of the step returned last; and ``hypergradient``, the root mean
      square of the hypergradient's norm over recent steps, where the meta-optimizer is an Adam or holds one, in full or
      compact (the start is corrected for b2 = 0.999). With a ``gradient``, ``agreement``: −⟨s, g⟩ / (‖s‖ ‖g‖) of the
      step s returned last, 1 where it goes down the gradient, 0 where either is 0. Of relative
      LODO besides: ``cosine``, ⟨g, d⟩ / ν of the last update, positive where the step before it fell short of the
      minimum along it; ``whitening``, w; ``momentum``, β. Inside of :func:`lodo.guard`: ``guard events``.

    Raises:
      ValueError: there is no such state, or more than one; a gradient of another structure.

    Example:
      >>> import jax.numpy as jnp, lodo
      >>> state = lodo.rlodo().init(jnp.ones(10))
      >>> {name: round(float(value), 3) for name, value in monitor(state).items() if name in ("momentum", "scale")}
      {'scale': 0.0, 'momentum': 0.9}
    """
    inner = find_state(state)
    found: dict[str, Any] = {"scale": inner.initial_learning_rate, "momentum norm": _norm(inner.momentum)}
    if isinstance(inner, RlodoState):
        found["step norm"] = inner.initial_learning_rate * _norm(inner.direction)
        found |= {"cosine": inner.cosine, "whitening": inner.whitening, "momentum": inner.decay}
        block = inner.theta
        k = next(leaf.shape[-2] for leaf in jax.tree.leaves(block) if leaf.ndim >= 4)
        found["hypergradient"] = jnp.sqrt(k**2 * jnp.sum(inner.meta_state.second))
    else:
        if inner.last is not None:
            found["step norm"] = _norm(inner.last.step)
        width = inner.initial_learning_rate.dtype
        sums = [(one.count, _sum(one.nu)) for one in nodes_of(inner.meta_state, optax.ScaleByAdamState)]
        for one in nodes_of(inner.meta_state, CompactAdamState):
            theta = jax.eval_shape(lambda kept: read(kept, width), inner.theta)
            sums.append((one.step_count, total_second_moment(one, theta, width)))
        if len(sums) == 1:
            ((count, total),) = sums
            found["hypergradient"] = jnp.sqrt(total / jnp.maximum(1 - 0.999 ** count.astype(width), 1e-3))
    if gradient is not None:
        advice = "Give the gradient of the loss by the parameters that this state updates."
        check_same_tree("gradient", gradient, inner.momentum, "the parameters", advice)
        width = inner.initial_learning_rate.dtype
        g = _tree.ravel(gradient, width)
        if isinstance(inner, RlodoState):  # its step is -scale times the direction
            cosine = _cosine(_tree.ravel(inner.direction, width), g)
            found["agreement"] = jnp.sign(inner.initial_learning_rate) * cosine
        elif inner.last is not None:
            found["agreement"] = -_cosine(_tree.ravel(inner.last.step, width), g)
    guards = nodes_of(state, GuardState)
    return found | ({"guard events": guards[0].events} if guards else {})


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(_sum(jax.tree.map(jnp.square, tree)))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """The cosine of the angle between two vectors, 0 where either is 0; of lengths whose squares may overflow."""
    units = []
    for v in (a, b):
        largest = jnp.max(jnp.abs(v))
        v = v / jnp.where(largest > 0, largest, 1)
        length = jnp.linalg.norm(v)
        units.append(v / jnp.where(length > 0, length, 1))
    return jnp.vdot(*units)


def _sum(tree: Any) -> jax.Array:
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))
