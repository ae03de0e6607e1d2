"""Checks of arguments: what was given, what is allowed, what to do.

A value that is traced (under ``jit``, ``vmap`` or ``optax.inject_hyperparams``) has no number yet, so the
checks of numbers pass it through; checks of types and shapes still apply to it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Not their subclasses: JAX's errors say what they have to say.
_REFUSALS = (TypeError, ValueError, RuntimeError)


def is_traced(value: Any) -> bool:
    """Whether ``value`` is abstract, so that its number cannot be looked at.

    >>> is_traced(1.0)
    False
    """
    return isinstance(value, jax.core.Tracer)


def check_integer(name: str, value: Any, minimum: int, hint: str = "") -> Any:
    """Return ``value`` as an int of at least ``minimum``, or untouched where it is traced.

    Raises:
      TypeError: not an integer (a bool and a float are none).
      ValueError: below ``minimum``.

    >>> check_integer("depth", 16, 0)
    16
    >>> check_integer("depth", 2.5, 0)
    Traceback (most recent call last):
        ...
    TypeError: depth must be an integer of at least 0; got 2.5 (float).
    """
    allowed = f"{name} must be an integer of at least {minimum}{'; ' + hint if hint else ''}"
    if is_traced(value):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{allowed}; got a traced array of shape {value.shape} and dtype {value.dtype}.")
        return value
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{allowed}; got {value!r} (bool).")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{allowed}; got {value!r} ({type(value).__name__}).") from None
    if number < minimum:
        raise ValueError(f"{allowed}; got {number}.")
    return number


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """The value, refused where it is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return str(value)


def check_flag(name: str, value: Any) -> bool:
    """The value, refused where it is not True or False: words and arrays are true or false by accident."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r} ({type(value).__name__}).")
    return bool(value)


def require_concrete_integers(what: str, **values: Any) -> None:
    """Refuse traced values where a shape depends on them."""
    traced = sorted(name for name, value in values.items() if is_traced(value))
    if traced:
        names = ", ".join(repr(name) for name in traced)
        raise TypeError(
            f"{what} decides array shapes by {names}, and got traced values. Under "
            f"optax.inject_hyperparams either call init outside jit, or pass static_args=({names},)."
        )


def check_real(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    below: float = math.inf,
    exclusive_minimum: bool = False,
    hint: str = "",
) -> Any:
    """Return ``value`` unchanged where it is a real number in the interval, or traced.

    Args:
      name: the argument's name, for the message.
      value: a Python number, a NumPy or JAX scalar, or a traced scalar.
      minimum: smallest allowed value (excluded where ``exclusive_minimum``).
      below: the value has to be strictly smaller than this.
      exclusive_minimum: whether ``minimum`` itself is refused.
      hint: one more clause for the message.

    Raises:
      TypeError: not a real scalar.
      ValueError: NaN, infinite, or outside the interval.

    >>> check_real("momentum", 0.9, minimum=0.0, below=1.0)
    0.9
    >>> check_real("momentum", 1.0, minimum=0.0, below=1.0)
    Traceback (most recent call last):
        ...
    ValueError: momentum must be a number in [0, 1); got 1.0.
    """
    left = "(" if exclusive_minimum or minimum == -math.inf else "["
    upper = "∞" if below == math.inf else f"{below:g}"
    lower = "−∞" if minimum == -math.inf else f"{minimum:g}"
    allowed = f"{name} must be a number in {left}{lower}, {upper}){'; ' + hint if hint else ''}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        raise TypeError(f"{allowed}; got {value!r} ({type(value).__name__}).")
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if value.shape != () or not (
            jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        ):
            raise TypeError(f"{allowed}; got an array of shape {value.shape} and dtype {value.dtype}.")
        if is_traced(value):
            return value
    try:
        number = float(value)
    except OverflowError:  # an int that no float holds
        number = math.inf if isinstance(value, int) and value > 0 else -math.inf
    too_small = number <= minimum if exclusive_minimum else number < minimum
    if not math.isfinite(number) or too_small or number >= below:
        raise ValueError(f"{allowed}; got {number!r}.")
    return value


def describe_tree(tree: Any) -> str:
    """A short account of a pytree's leaves for a message: the first three, with shape and dtype.

    >>> describe_tree({"w": np.zeros((2, 3), np.float32)})
    "1 leaf: ['w'] float32[2,3]"
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shown = [f"{jax.tree_util.keystr(path) or 'the tree'} {describe_leaf(leaf)}" for path, leaf in leaves[:3]]
    more = f", and {len(leaves) - 3} more" if len(leaves) > 3 else ""
    return f"{len(leaves)} {'leaf' if len(leaves) == 1 else 'leaves'}: {', '.join(shown) or 'none'}{more}"


def describe_leaf(leaf: Any) -> str:
    """``dtype[shape]`` of an array, or the type's name of anything else."""
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype}[{','.join(str(size) for size in leaf.shape)}]"
    return type(leaf).__name__


def check_parameter_tree(name: str, tree: Any) -> int:
    """Return the number of entries n of a pytree of real floating arrays.

    A tree without leaves, or with empty ones only, has none: optax gives such trees to ``init`` and ``update``.

    Raises:
      TypeError: a leaf that is no array, or not of a real floating dtype, or of one without zero, signs or NaN.

    >>> check_parameter_tree("params", {"w": np.zeros((2, 3), np.float32)})
    6
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        where = f"{name}{jax.tree_util.keystr(path)}"
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{where} has dtype {array.dtype}; LODO optimizes real floating parameters only. Hold integer, "
                "boolean and complex leaves out with optax.masked or optax.partition (a complex parameter can be "
                "given as its real and imaginary parts)."
            )
        if not has_nan_and_signs(jnp.dtype(array.dtype)):
            raise TypeError(
                f"{where} has dtype {array.dtype}, which lacks zero, signs or NaN, so that a step in it cannot be told "
                "from a failure. Keep the parameter in a wider dtype, such as bfloat16 or float8_e5m2."
            )
    return sum(int(np.prod(np.shape(leaf))) for _, leaf in leaves)


def naming_leaves(init: Callable[..., Any], update: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """A transformation whose refusals say which leaves it was given, where they do not yet.

    Under ``optax.partition`` and ``optax.masked`` a transformation has no name, but its leaves tell it from the others.
    """

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError, RuntimeError) as error:
                tree = args[0] if args else kwargs.get("params" if function is init else "updates")
                paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
                message = str(error)
                if type(error) in _REFUSALS and any(paths) and not any(path in message for path in paths):
                    error.args = (f"{message} (It was given {describe_tree(tree)}.)",)
                raise

        return checked

    return optax.GradientTransformationExtraArgs(wrapped(init), wrapped(update))


@functools.cache
def has_nan_and_signs(dtype: Any) -> bool:
    """Whether a floating dtype has zero, negative numbers and NaN; float4_e2m1fn and float8_e8m0fnu lack some.

    >>> has_nan_and_signs(np.dtype(jnp.bfloat16)), has_nan_and_signs(np.dtype(jnp.float4_e2m1fn))
    (True, False)
    """
    zero, negative, nan = np.array([0.0, -1.0, np.nan]).astype(dtype).astype(np.float64)
    return bool(zero == 0 and negative == -1 and np.isnan(nan))


def same_structure(given: Any, expected: Any) -> bool:
    """Whether two pytrees have the same structure, leaves aside."""
    structures: list[Any] = [jax.tree.structure(given), jax.tree.structure(expected)]
    return bool(structures[0] == structures[1])


def check_same_tree(
    name: str,
    given: Any,
    expected: Any,
    expected_name: str,
    advice: str = "Initialize the state again with the tree that will be updated.",
) -> None:
    """Refuse a tree whose structure or leaf shapes differ from the expected one's (dtypes may differ).

    Args:
      name: of the given tree.
      given: a pytree.
      expected: a pytree.
      expected_name: its name.
      advice: what to do.

    Raises:
      ValueError: with both trees described.
    """
    if not same_structure(given, expected):
        raise ValueError(
            f"{name} has another structure than {expected_name}: given {describe_tree(given)} "
            f"({jax.tree.structure(given)}); expected {describe_tree(expected)} ({jax.tree.structure(expected)}). "
            f"{advice}"
        )
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(given), jax.tree.leaves(expected)):
        if np.shape(leaf) != np.shape(other):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {np.shape(leaf)}; {expected_name} has "
                f"{np.shape(other)} there. {advice}"
            )
