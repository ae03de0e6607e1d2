"""The refusal of a state that another configuration made."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax

from lodo import _validation as validation
from lodo._arguments import is_narrow
from lodo.compact import storage
from lodo.operators.base import Operator, SupportsFusedAdam, holds_inputs


def check_state(
    form: Operator,
    meta: optax.GradientTransformation,
    state: Any,
    size: int,
    asked_dtype: Any,
    kept: storage.Storage,
    fused: SupportsFusedAdam | None,
) -> None:
    """Refuse a LodoState or RlodoState that another configuration made: its θ, fixed arrays or meta-state differ."""
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
    inputs = getattr(state, "inputs", None)
    if fused and fused.fuses_adam(theta):
        expected |= {} if inputs is None else {"inputs": jax.eval_shape(fused.inputs_at_start, theta)}
    elif holds_inputs(inputs):  # which this kernel would neither use nor keep true
        expected["inputs"] = ()
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
                + " Where only the kernel is another, state._replace(inputs=None) goes on."
                * (name == "inputs")
            )


@functools.lru_cache(maxsize=64)
def _expected_form(form: Any, size: int, dtype: Any) -> Any:
    # The key is drawn inside, where eval_shape keeps it abstract.
    made = jax.eval_shape(lambda: form.init(jax.random.key(0), size, dtype))
    # Shapes and dtypes alone, which are the same under every mesh.
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), made)
