"""The state of :func:`lodo.lodo`, and the refusal of a state that another configuration made."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lodo import _validation as validation
from lodo._arguments import is_narrow
from lodo._displacement import LastStep
from lodo.compact import storage
from lodo.operators.base import Operator, SupportsFusedAdam


class LodoState(NamedTuple):
    """State of :func:`lodo`: arrays only, so that it can be traced, batched, sharded and saved."""

    step_count: jax.Array  # [] int32: updates so far
    initial_learning_rate: jax.Array  # [] α₀ of the step made last, which the next hypergradient needs
    theta: Any  # θ, a pytree in the operator's form, its leaves as `storage` keeps them
    fixed: Any  # arrays of the operator that are not learned (permutations)
    momentum: optax.Params  # m, with the structure and shapes of the parameters, in θ's dtype
    meta_state: optax.OptState  # state of the meta-optimizer
    rounding_key: jax.Array | None = None  # [2] uint32 where θ is rounded, else None
    # What m was where it entered each layer, kept for the next hypergradient where that is faster; scalars where
    # it is not, None where it is kept at no size; see below on changing a state by hand.
    inputs: Any = None
    last: LastStep | None = None  # the step returned last; None: taken to have been made as it was


def check_state(
    form: Operator,
    meta: optax.GradientTransformation,
    state: LodoState,
    size: int,
    asked_dtype: Any,
    kept: storage.Storage,
    fused: SupportsFusedAdam | None,
) -> None:
    """Refuse a state that another configuration made (its θ, fixed arrays or meta-state have another form)."""
    dtype = jax.tree.leaves(state.momentum)[0].dtype
    if asked_dtype is not None and dtype != asked_dtype:
        raise ValueError(
            f"This state was made by another configuration: it is in {dtype}, and dtype={asked_dtype} was asked for. "
            "Use the configuration that made the state, or initialize a new state."
        )
    for name, leaf in (("momentum", state.momentum), ("theta", state.theta if kept.theta == "full" else ())):
        narrow = {str(one.dtype) for one in jax.tree.leaves(leaf) if is_narrow(one.dtype)}
        if narrow:
            raise ValueError(
                f"The state's {name} is in {', '.join(sorted(narrow))}; a state has to be in float32 or float64, as "
                "init makes it. Cast it back, or use storage='compact' for a state of fewer bytes."
            )
    hashable: Any = form
    try:
        theta, fixed = _expected_form(hashable, size, dtype)
    except TypeError:  # the description holds traced integers (inject_hyperparams): nothing to compare with
        return
    expected = {"theta": theta, "fixed": fixed, "meta_state": jax.eval_shape(meta.init, theta)}
    if kept.theta != "full":
        expected["theta"] = jax.eval_shape(lambda arrays: storage.write(arrays, kept.theta, None), theta)
    if fused and fused.fuses_adam(theta) and state.inputs is not None:
        expected["inputs"] = jax.eval_shape(fused.inputs_at_start, theta)
    for name, wanted in expected.items():
        given = getattr(state, name)
        same = validation.same_structure(given, wanted) and all(
            np.shape(a) == b.shape for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted))
        )
        if not same:
            raise ValueError(
                f"This state was made by another configuration: its {name} has {validation.describe_tree(given)}; "
                f"{form} with n = {size} has {validation.describe_tree(wanted)}. Use the configuration that made "
                "the state, or initialize a new state."
            )


@functools.lru_cache(maxsize=64)
def _expected_form(form: Any, size: int, dtype: Any) -> Any:
    # The key is drawn inside, where eval_shape keeps it abstract.
    made = jax.eval_shape(lambda: form.init(jax.random.key(0), size, dtype))
    # Shapes and dtypes alone, which are the same under every mesh.
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), made)
