"""What the quasi-Newton transformations share: the dtypes they compute in, and checks of what update is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from lodo import _tree, _validation

Form = Literal["textbook", "released"]
FORMS = get_args(Form)
GradientFunction = Callable[[optax.Params], optax.Updates]


def working_dtype(params: optax.Params | None) -> Any:
    """float64 where a leaf is float64, float32 otherwise."""
    wide = any(jnp.result_type(leaf) == jnp.float64 for leaf in jax.tree.leaves(params))
    return jnp.float64 if wide else jnp.float32


def scalar(value: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A hyperparameter in the dtype of the computation."""
    return jnp.asarray(value, dtype=dtype)


def step_taken(params: Any, step: Any, dtype: Any, place: _tree.Place) -> jax.Array:
    """The step as the parameters take it, rounded to their dtypes: the one along which the gradient changes. [n]

    In half precision most of a step is rounded away where it is added, which is measured there.
    """

    def taken(p: Any, s: jax.Array) -> jax.Array:
        p = jnp.asarray(p)
        return (p + s).astype(dtype) - p.astype(dtype) if p.dtype.itemsize < 4 else s

    return _tree.ravel(jax.tree.map(taken, params, step), dtype, place)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix or inner product at full precision (a GPU's default may be lower)."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def check_state(optimizer: str, state: Any, kind: type) -> None:
    """Refuse the state of another transformation."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{optimizer}: update needs the {kind.__name__} that its init made; got {type(state).__name__}. Inside "
            "optax.chain each transformation's state is one entry of the chain's state."
        )


def check_update(optimizer: str, updates: Any, params: Any, size: int | None = None) -> int:
    """Check the trees given to ``update``; ``size`` is the number of parameters the state was made for."""
    if params is None and not jax.tree.leaves(updates):
        params = updates  # nothing to ask of it
    elif params is None:
        raise ValueError(
            f"{optimizer}: update needs the parameters at which the gradient was taken; "
            "call tx.update(grads, state, params, ...)."
        )
    n = _validation.check_parameter_tree("params", params)
    _validation.check_parameter_tree("updates", updates)
    _validation.check_same_tree("updates", updates, params, "params", "Give the gradient by these parameters.")
    if size is not None and n != size:
        raise ValueError(
            f"{optimizer}: params has {n} entries ({_validation.describe_tree(params)}), but the state was "
            f"initialized for {size}. Initialize the state again with the tree that will be updated."
        )
    return n


def second_gradient(
    optimizer: str, grad_fn: GradientFunction | None, params: Any, step: Any, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """The gradient at params + step on the batch of the first gradient. [n]"""
    if not callable(grad_fn):
        raise TypeError(
            f"{optimizer} takes a second gradient on the same batch, so update needs grad_fn, a function from "
            f"parameters to their gradient; got {type(grad_fn).__name__}. "
            "Call tx.update(grads, state, params, grad_fn=lambda p: jax.grad(loss)(p, batch))."
        )
    moved = jax.tree.map(lambda p, s: jnp.asarray(p) + s, params, step)
    gradient = grad_fn(moved)
    given: Any = jax.tree.structure(gradient)
    if given != jax.tree.structure(params):
        raise ValueError(
            f"{optimizer}: grad_fn must return the gradient alone, a tree like params "
            f"({_validation.describe_tree(params)}); it returned {_validation.describe_tree(gradient)}. "
            "Use jax.grad rather than jax.value_and_grad, and drop auxiliary outputs."
        )
    _validation.check_parameter_tree("grad_fn(params)", gradient)
    _validation.check_same_tree(
        "grad_fn(params)", gradient, params, "params", "Let grad_fn return the gradient by what it is given."
    )
    return _tree.ravel(gradient, dtype)


def divisible(divisor: jax.Array) -> jax.Array:
    """Whether 1 may be divided by it: it is not 0, nor so small that the quotient overflows; NaN passes. []"""
    return ~jnp.isinf(1 / divisor)


def positive_curvature(step: jax.Array, change: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Whether sᵀy > tolerance ‖s‖ ‖y‖; False for zero and for non-finite pairs. []"""
    bound = tolerance * jnp.linalg.norm(step) * jnp.linalg.norm(change)
    curvature = dot(step, change)
    result: jax.Array = (curvature > bound) & jnp.isfinite(curvature)
    return result
