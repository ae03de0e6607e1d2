"""What an optimizer of ours is doing, as scalars to log."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo._state import GuardState, RlodoState, find_state, nodes_of
from lodo.compact.storage import read


def monitor(state: optax.OptState) -> dict[str, jax.Array]:
    """Scalars that tell how a run of :func:`lodo.lodo` or :func:`lodo.rlodo` is going, from its state alone.

    Args:
      state: a LodoState or RlodoState, or an optax state that holds exactly one of them.

    Returns:
      name → scalar []; under ``vmap``'s axis, one for each run. Of both: ``scale``, α₀ or α₀ eˢ, by which S(θ) is
      multiplied; ``momentum norm``, ‖m‖; ``step norm``, of the step returned last; and ``hypergradient``, the root mean
      square of the hypergradient's norm over recent steps, where the meta-optimizer keeps second moments. Of relative
      LODO besides: ``cosine``, ⟨g, d⟩ / ν of the last update, positive where the step before it fell short of the
      minimum along it; ``whitening``, w; ``momentum``, β. Inside of :func:`lodo.guard`: ``guard events``.

    Raises:
      ValueError: there is no such state, or more than one.

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
        nu = getattr(inner.meta_state, "nu", None)
        count = getattr(inner.meta_state, "count", None)
        if nu is not None and count is not None:
            total = _norm(jax.tree.map(jnp.sqrt, read(nu, inner.initial_learning_rate.dtype)))
            found["hypergradient"] = total / jnp.sqrt(jnp.maximum(1 - 0.999 ** count.astype(total.dtype), 1e-3))
    guards = nodes_of(state, GuardState)
    return found | ({"guard events": guards[0].events} if guards else {})


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(())))
