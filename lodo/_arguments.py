"""What :func:`lodo.lodo` accepts as its arguments: rates, dtypes, seeds and meta-optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _validation as validation

DEFAULT_META_LEARNING_RATE = 1e-3


def check_rate(name: str, value: Any, hint: str = "") -> Any:
    """A schedule, or a number of at least 0.

    >>> check_rate("meta_learning_rate", 0.0)
    0.0
    """
    if callable(value):
        return value
    hint = hint or "or a schedule, a function of the step count"
    return validation.check_real(name, value, minimum=0.0, hint=hint)


def check_or_auto(name: str, value: Any, check: Callable[..., Any]) -> Any:
    """A value that ``check(name, value, hint=…)`` takes, such as a rate or a schedule, or "auto".

    >>> check_or_auto("initial_learning_rate", "auto", check_rate)
    'auto'
    """
    return value if isinstance(value, str) and value == "auto" else check(name, value, hint='or "auto", or a schedule')


def rate_at(value: optax.ScalarOrSchedule, count: jax.Array, dtype: Any) -> jax.Array:
    """The rate at a step: schedules are called, numbers are themselves; as a new scalar of ``dtype``.

    A copy, because it goes into the state: whoever donates the state must not lose the array that was passed as a rate.
    """
    rate = jnp.array(value(count) if callable(value) else value, dtype, copy=True)
    if rate.shape != ():
        raise ValueError(
            f"A schedule of a rate must return a scalar; {value!r} returned an array of shape {rate.shape}."
        )
    return rate


def copy_arrays(tree: Any) -> Any:
    """The tree with each JAX array in it copied, so that donating one does not take the other away."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf, tree)


def check_meta_optimizer(meta_optimizer: Any, meta_learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    """An optax transformation, beside which the default one's rate was left alone."""
    if not (callable(getattr(meta_optimizer, "init", None)) and callable(getattr(meta_optimizer, "update", None))):
        raise TypeError(
            "meta_optimizer must be an optax gradient transformation such as optax.adam(1e-3); "
            f"got {meta_optimizer!r} ({type(meta_optimizer).__name__})."
        )
    if not validation.is_traced(meta_learning_rate) and (
        callable(meta_learning_rate) or not np.isclose(float(meta_learning_rate), DEFAULT_META_LEARNING_RATE)
    ):
        given = "a schedule" if callable(meta_learning_rate) else f"{float(meta_learning_rate):g}"
        raise ValueError(
            f"meta_learning_rate={given} is the rate of the default meta-optimizer, but a meta_optimizer was given as "
            "well. Give the rate to the meta-optimizer and leave meta_learning_rate alone."
        )
    return optax.with_extra_args_support(meta_optimizer)


def check_dtype(dtype: Any) -> Any:
    """The dtype of a state: float32 or float64."""
    if isinstance(dtype, jax.Array | np.ndarray):
        raise TypeError(
            f"dtype must be a floating dtype such as jnp.float32; got an array ({validation.describe_leaf(dtype)}). "
            "optax.inject_hyperparams calls a dtype class as a schedule: give the dtype as a string, or name it in "
            'static_args=("dtype",).'
        )
    try:
        given = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be a floating dtype such as jnp.float32; got {dtype!r}.") from None
    if not jnp.issubdtype(given, jnp.floating):
        raise TypeError(f"dtype must be a floating dtype such as jnp.float32; got {given}.")
    if is_narrow(given):
        raise ValueError(
            f"dtype must be float32 or float64; got {given}, in which the meta-optimizer's steps round away. Leave "
            f"dtype alone (parameters in {given} are taken as they are), and use storage='compact' for a state of "
            "fewer bytes."
        )
    if given == jnp.float64 and jax.dtypes.canonicalize_dtype(jnp.float64) != jnp.float64:
        raise ValueError(
            "dtype=float64 needs JAX's 64-bit mode; call jax.config.update('jax_enable_x64', True) at start-up."
        )
    return given


def is_narrow(dtype: Any) -> bool:
    """Whether a floating dtype has fewer than 32 bits."""
    return bool(jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4)


def widest_dtype(params: Any) -> Any:
    """The widest of float32 and the leaves' dtypes."""
    widths = {
        jnp.dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype) for leaf in jax.tree.leaves(params)
    }
    return jax.dtypes.canonicalize_dtype(max(widths | {jnp.dtype(jnp.float32)}, key=lambda width: width.itemsize))


#: JAX's generators by the shape of their raw keys.
_GENERATORS = {(2,): ("threefry2x32",), (4,): ("rbg", "unsafe_rbg")}


def as_key(seed: Any) -> jax.Array:
    """A typed JAX key from an int, a typed key or a raw key, uint32[2] or [4]."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        if seed.shape != ():
            raise ValueError(f"seed must be an int or one JAX key; got an array of keys of shape {seed.shape}.")
        return seed
    if isinstance(seed, jax.Array | np.ndarray) and seed.dtype == jnp.uint32 and seed.shape in _GENERATORS:
        # The default generator where its keys have this shape, which alone tells nothing of "rbg" from "unsafe_rbg".
        config: Any = jax.config
        default = config.jax_default_prng_impl
        generators = _GENERATORS[seed.shape]
        impl = default if default in generators else generators[0]
        result: jax.Array = jax.random.wrap_key_data(jnp.asarray(seed), impl=impl)
        return result
    seed = validation.check_integer("seed", seed, 0, hint="or a JAX key")
    # Without x64 JAX keeps the lower 32 bits alone: 2³² would be the seed 0.
    wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    if isinstance(seed, int) and seed >= 2 ** (63 if wide else 32):
        allowed = "2⁶³ − 1" if wide else "2³² − 1 while jax_enable_x64 is off"
        raise ValueError(f"seed must be an int from 0 to {allowed}, or a JAX key; got {seed}.")
    return jax.random.key(seed)


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is not lodo.lodo or lodo.rlodo, the functions."""
    try:
        known = "operator" in inspect.signature(optimizer).parameters
    except (TypeError, ValueError):  # which is no function
        known = False
    if not known:
        raise TypeError(
            f"optimizer must be lodo.lodo or lodo.rlodo, not called, with its arguments beside it; got {optimizer!r}."
        )
