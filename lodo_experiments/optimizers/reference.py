"""Optimizers as the released code of Liao et al. (2023) runs them, where that differs from optax's definition.

Use optax's own for new work. These are for replaying the released code's runs and comparing with them:

* Adam (Keras): :func:`adam_epsilon_hat`. In optax's, ε is added to the root of the bias-corrected second moment.
* Yogi: :func:`yogi`. optax's corrects the bias, and both its moments start at 1e-6.
* LARS: :func:`lars`. optax's differs in the trust ratio, in what a layer is, and at zero weights.
* RMSprop, momentum 0: ``optax.rmsprop(learning_rate, decay, eps=1e-7, eps_in_sqrt=False)``, the same.
* RMSprop with momentum: ``optax.rmsprop(learning_rate, decay, eps=1e-7, momentum=momentum)``, the same.
* SGD, momentum: ``optax.sgd(learning_rate, momentum)``, the same.

Keras holds the hyperparameters of its Adam, RMSprop and SGD (learning rate, decays, momentum; not ε) in float32,
also where everything else is float64: 0.1 is 0.10000000149011612 there. To replay those runs to rounding error,
give `adam_epsilon_hat` ``float32_hyperparameters=True`` and optax's functions `as_float32` of each number.
The released Yogi and LARS use their numbers as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _tree, _validation

Layers = str | Callable[[Any], Any]


def as_float32(value: float) -> float:
    """The number that float32 makes of ``value``, as a Python float.

    >>> as_float32(0.1)
    0.10000000149011612
    """
    return float(np.float32(value))


class ScaleByAdamEpsilonHatState(NamedTuple):
    """State of `scale_by_adam_epsilon_hat`."""

    step_count: jax.Array  # [] int32: updates made, t
    mu: Any  # shaped like the parameters, float32 or float64: mean of the gradients
    nu: Any  # as mu: mean of their squares


def scale_by_adam_epsilon_hat(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-7, *, float32_hyperparameters: bool = False
) -> optax.GradientTransformationExtraArgs:
    """`adam_epsilon_hat` without its learning rate; for arguments, equations and references see there.

    Example:
      >>> import jax.numpy as jnp
      >>> from lodo_experiments.optimizers.reference import scale_by_adam_epsilon_hat
      >>> transform = scale_by_adam_epsilon_hat()
      >>> updates, state = transform.update(jnp.array([2.0, -3.0]), transform.init(jnp.zeros(2)))
      >>> [round(float(u), 3) for u in updates]
      [1.0, -1.0]
    """
    _validation.check_real("b1", b1, minimum=0.0, below=1.0)
    _validation.check_real("b2", b2, minimum=0.0, below=1.0)
    _validation.check_real("eps", eps, minimum=0.0)

    def constant(value: Any, dtype: Any) -> jax.Array:
        if float32_hyperparameters:
            value = jnp.asarray(value, jnp.float32)
        return jnp.asarray(value, dtype)

    def init(params: optax.Params) -> ScaleByAdamEpsilonHatState:
        _validation.check_parameter_tree("params", params)
        count = _tree.zeros((), jnp.int32, _tree.place_of(params))
        return ScaleByAdamEpsilonHatState(count, _moments(params), _moments(params))

    def update(
        updates: optax.Updates, state: ScaleByAdamEpsilonHatState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, ScaleByAdamEpsilonHatState]:
        del params, extra_args
        _validation.check_same_tree("updates", updates, state.mu, "the initialized tree")
        count = optax.safe_increment(state.step_count)

        def mean(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
            return old + (1 - constant(decay, old.dtype)) * (new - old)

        def scaled(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            t = count.astype(m.dtype)
            corrections = jnp.sqrt(1 - constant(b2, m.dtype) ** t) / (1 - constant(b1, m.dtype) ** t)
            step = corrections * m / (jnp.sqrt(v) + jnp.asarray(eps, m.dtype))
            return step.astype(jnp.result_type(g))

        gradients = jax.tree.map(lambda g, m: jnp.asarray(g).astype(m.dtype), updates, state.mu)
        mu = jax.tree.map(lambda m, g: mean(m, g, b1), state.mu, gradients)
        nu = jax.tree.map(lambda v, g: mean(v, g**2, b2), state.nu, gradients)
        return jax.tree.map(scaled, updates, mu, nu), ScaleByAdamEpsilonHatState(count, mu, nu)

    return _validation.naming_leaves(init, update)


def adam_epsilon_hat(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-7,
    *,
    float32_hyperparameters: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the form that TensorFlow and Keras run, called "epsilon hat".

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad
        x_{t+1} = x_t - \alpha \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \frac{m_t}{\sqrt{v_t} + \hat\epsilon}

    It differs from `optax.adam` in the term added to the denominator: here it is added to the root of the
    *uncorrected* v. That equals optax's ε = ε̂ / √(1 − β₂ᵗ), which is about 32 ε̂ in the first step at β₂ = 0.999
    and falls to ε̂, so no constant ε of optax's gives the same run.

    Args:
      learning_rate: α ≥ 0, or a schedule.
      b1: β₁ in [0, 1).
      b2: β₂ in [0, 1).
      eps: ε̂ ≥ 0; Keras's default is 1e-7.
      float32_hyperparameters: round α, β₁ and β₂ to float32 first, as Keras does.

    Returns:
      A transformation; its moments are float64 for float64 parameters and float32 for all others (in half
      precision 1 − β₂ would be 0), its updates in the gradients' dtypes.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; an update tree that differs from the
        initialized one.

    References:
      Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, the remark before section 2.1 on
      reordering the computation.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lodo_experiments.optimizers.reference import adam_epsilon_hat
      >>> loss = lambda x: jnp.sum(x**2)
      >>> optimizer = adam_epsilon_hat(0.1)
      >>> x = jnp.ones(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(20):
      ...     updates, state = optimizer.update(jax.grad(loss)(x), state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 0.1 * loss(jnp.ones(3)))
      True
    """
    _check_learning_rate(learning_rate)
    scale = scale_by_adam_epsilon_hat(b1, b2, eps, float32_hyperparameters=float32_hyperparameters)
    return _in_float32_at_least(
        optax.chain(scale, _scale_by_learning_rate(learning_rate, round_to_float32=float32_hyperparameters))
    )


class ScaleByYogiState(NamedTuple):
    """State of `yogi` before its learning rate."""

    mu: Any  # shaped like the parameters, float32 or float64: mean of the gradients
    nu: Any  # as mu: additive estimate of their squares


def yogi(
    learning_rate: optax.ScalarOrSchedule = 1e-3, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-3
) -> optax.GradientTransformationExtraArgs:
    r"""Yogi without bias correction, from moments of zero.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
        v_t = v_{t-1} - (1-\beta_2)\, \mathrm{sign}(v_{t-1} - g_t^2)\, g_t^2, \quad
        x_{t+1} = x_t - \alpha \frac{m_t}{\sqrt{v_t} + \epsilon}

    `optax.yogi` corrects the bias of both moments and starts both at 1e-6. Without the correction early steps are
    longer: the first one by (1−β₁)/√(1−β₂), which is 3.2 at the defaults, for gradients well above ε.

    Args:
      learning_rate: α ≥ 0, or a schedule.
      b1: β₁ in [0, 1).
      b2: β₂ in [0, 1).
      eps: ε > 0.

    Returns:
      A transformation; its moments are float64 for float64 parameters and float32 for all others (in half
      precision 1 − β₂ would be 0), its updates in the gradients' dtypes.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; an update tree that differs from the
        initialized one.

    References:
      Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018, Algorithm 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from lodo_experiments.optimizers.reference import yogi
      >>> optimizer = yogi(0.1)
      >>> updates, state = optimizer.update(jnp.array([2.0, -3.0]), optimizer.init(jnp.zeros(2)))
      >>> [round(float(u), 2) for u in updates]
      [-0.31, 0.31]
    """
    _check_learning_rate(learning_rate)
    _validation.check_real("b1", b1, minimum=0.0, below=1.0)
    _validation.check_real("b2", b2, minimum=0.0, below=1.0)
    _validation.check_real("eps", eps, minimum=0.0, exclusive_minimum=True)

    def init(params: optax.Params) -> ScaleByYogiState:
        _validation.check_parameter_tree("params", params)
        return ScaleByYogiState(_moments(params), _moments(params))

    def update(
        updates: optax.Updates, state: ScaleByYogiState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, ScaleByYogiState]:
        del params, extra_args
        _validation.check_same_tree("updates", updates, state.mu, "the initialized tree")

        def first(m: jax.Array, g: jax.Array) -> jax.Array:
            decay = jnp.asarray(b1, m.dtype)
            return decay * m + (1 - decay) * g

        def second(v: jax.Array, g: jax.Array) -> jax.Array:
            return v - (1 - jnp.asarray(b2, v.dtype)) * jnp.sign(v - g**2) * g**2

        def scaled(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return (m / (jnp.sqrt(v) + jnp.asarray(eps, v.dtype))).astype(jnp.result_type(g))

        gradients = jax.tree.map(lambda g, m: jnp.asarray(g).astype(m.dtype), updates, state.mu)
        mu = jax.tree.map(first, state.mu, gradients)
        nu = jax.tree.map(second, state.nu, gradients)
        return jax.tree.map(scaled, updates, mu, nu), ScaleByYogiState(mu, nu)

    scale = _validation.naming_leaves(init, update)
    return _in_float32_at_least(optax.chain(scale, _scale_by_learning_rate(learning_rate)))


def lars_decay(learning_rate: Any, total_evaluations: Any) -> optax.Schedule:
    """The schedule of the released LARS: α (1 − k/K)² at evaluation k = 1, 2, …, and 0 from k = K on.

    `optax.polynomial_schedule` counts from 0, one step later. Past K, where the formula would rise again, the
    rate stays 0.

    Args:
      learning_rate: α ≥ 0.
      total_evaluations: K > 0, the number of gradient evaluations in the run.

    Example:
      >>> from lodo_experiments.optimizers.reference import lars_decay
      >>> [float(lars_decay(1.0, 4)(count)) for count in range(5)]
      [0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    _validation.check_real("learning_rate", learning_rate, minimum=0.0)
    _validation.check_real("total_evaluations", total_evaluations, minimum=0.0, exclusive_minimum=True)

    def schedule(count: Any) -> jax.Array:
        dtype = jnp.result_type(float)
        evaluation = jnp.asarray(count).astype(dtype) + 1
        left = 1 - evaluation / jnp.asarray(total_evaluations, dtype)
        return jnp.asarray(learning_rate, dtype) * jnp.maximum(left, 0) ** 2

    return schedule


def lars(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    weight_decay: Any = 5e-4,
    momentum: Any = 0.9,
    *,
    layers: Layers = "siblings",
) -> optax.GradientTransformationExtraArgs:
    r"""LARS with the trust ratio of the original paper, a layer being a group of leaves.

    .. math::
        b_t = \mu b_{t-1} + \alpha \frac{\|x\|}{\|g\| + \lambda\|x\|} (g_t + \lambda x_t), \quad x_{t+1} = x_t - b_t

    with norms over each layer. Differences from `optax.lars`: the denominator of the trust ratio is the sum
    ‖g‖ + λ‖x‖ rather than ‖g + λx‖; a layer is (weights, bias) rather than one leaf; a layer whose weights are all
    zero does not move (optax's ratio is 1 there). The released runs use `lars_decay` as learning rate.

    Args:
      learning_rate: α ≥ 0, or a schedule.
      weight_decay: λ ≥ 0.
      momentum: μ in [0, 1).
      layers: which leaves make a layer: "siblings" (those in one container, such as kernel and bias of a flax
        module; the released way), "leaves" (each by itself), or a function from the parameters to a tree of the same
        structure whose leaves are labels, equal within a layer.

    Returns:
      A transformation whose update needs ``params``. It computes, and holds b, in float32 where a parameter's dtype is
      narrower; its updates are in the parameters' dtypes.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; ``params`` missing; trees that differ.

    References:
      You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, equation 6 and Algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lodo_experiments.optimizers.reference import lars
      >>> params = {"dense": {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])}}
      >>> optimizer = lars(0.1, weight_decay=0.0, momentum=0.0)
      >>> updates, state = optimizer.update({"dense": {"kernel": jnp.ones(1), "bias": jnp.zeros(1)}},
      ...                                   optimizer.init(params), params)
      >>> round(float(updates["dense"]["kernel"][0]), 3)
      -0.5
    """
    _check_learning_rate(learning_rate)
    _validation.check_real("weight_decay", weight_decay, minimum=0.0)
    _validation.check_real("momentum", momentum, minimum=0.0, below=1.0)
    if not callable(layers) and layers not in ("siblings", "leaves"):
        raise ValueError(
            f'layers must be "siblings", "leaves" or a function from parameters to labels; got {layers!r}.'
        )

    def init(params: optax.Params) -> optax.EmptyState:
        _validation.check_parameter_tree("params", params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        if params is None and not jax.tree.leaves(updates):
            params = updates  # nothing to ask of it
        elif params is None:
            raise ValueError("lars needs the parameters for its trust ratio; call tx.update(grads, state, params).")
        _validation.check_same_tree("updates", updates, params, "params")
        labels = _layer_labels(layers, params)
        structure = jax.tree.structure(params)
        xs = [jnp.asarray(x) for x in jax.tree.leaves(params)]
        gs = [jnp.asarray(g).astype(x.dtype) for g, x in zip(jax.tree.leaves(updates), xs)]
        ratios = {label: _trust_ratio(label, labels, xs, gs, weight_decay) for label in dict.fromkeys(labels)}
        scaled = [
            ratios[label].astype(x.dtype) * (g + jnp.asarray(weight_decay, x.dtype) * x)
            for label, x, g in zip(labels, xs, gs)
        ]
        return jax.tree.unflatten(structure, scaled), state

    scale = _validation.naming_leaves(init, update)
    return _in_float32_at_least(
        optax.chain(scale, _scale_by_learning_rate(learning_rate), optax.trace(decay=momentum)),
        like_params=True,
    )


def _layer_labels(layers: Layers, params: Any) -> list[Any]:
    """One label a leaf, equal within a layer."""
    if callable(layers):
        labels = layers(params)
        given: Any = jax.tree.structure(labels)
        if given != jax.tree.structure(params):
            raise ValueError(
                "layers(params) must return a tree of labels of the same structure as params "
                f"({jax.tree.structure(params)}); got {given}."
            )
        return jax.tree.leaves(labels)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path if layers == "leaves" else path[:-1]) for path in paths]


def _trust_ratio(label: Any, labels: list[Any], xs: list[Any], gs: list[Any], weight_decay: Any) -> jax.Array:
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in xs) else jnp.float32

    def norm(arrays: list[Any]) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(a.astype(dtype) ** 2) for a, other in zip(arrays, labels) if other == label))

    size = norm(xs)
    divisor = norm(gs) + jnp.asarray(weight_decay, dtype) * size
    # Where ‖g‖ + λ‖x‖ = 0 the layer does not move, whatever its ratio.
    return size / jnp.where((size > 0) & (divisor != 0), divisor, 1)


def _moments(params: Any) -> Any:
    """Zeros shaped and laid out like the parameters, in float64 where they are, in float32 elsewhere."""

    return jax.tree.map(
        lambda leaf: _tree.zeros_like(leaf, jnp.float64 if jnp.result_type(leaf) == jnp.float64 else jnp.float32),
        params,
    )


def _in_float32_at_least(
    transform: optax.GradientTransformation, like_params: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The transformation on leaves of float32 where they are narrower, learning rate and all.

    Its updates are new arrays, none of the state's, and back in the dtypes of the gradients (or of the parameters).
    """
    inner = optax.with_extra_args_support(transform)

    def wide(leaf: Any) -> Any:
        return jnp.asarray(leaf).astype(jnp.float32) if _is_narrow(leaf) else leaf

    def back(step: jax.Array, like: Any) -> jax.Array:
        return jnp.array(step, jnp.result_type(like) if _is_narrow(like) else step.dtype, copy=True)

    def init(params: optax.Params) -> Any:
        return inner.init(jax.tree.map(wide, params))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        steps, state = inner.update(jax.tree.map(wide, updates), state, jax.tree.map(wide, params), **extra_args)
        return jax.tree.map(back, steps, updates if params is None or not like_params else params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_narrow(leaf: Any) -> bool:
    dtype = jnp.result_type(leaf)
    return bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.itemsize < 4 and _validation.has_nan_and_signs(dtype)


def _check_learning_rate(value: Any) -> None:
    if not callable(value):
        _validation.check_real("learning_rate", value, minimum=0.0)


def _scale_by_learning_rate(value: Any, *, round_to_float32: bool = False) -> optax.GradientTransformation:
    """`optax.scale_by_learning_rate`, in the dtype of each leaf for an array too, where optax would promote."""

    def rounded(rate: Any) -> Any:
        return jnp.asarray(rate, jnp.float32) if round_to_float32 else rate

    if callable(value):
        return optax.scale_by_learning_rate(lambda count: rounded(value(count)))

    # A number and an array in the same structure of state: `optax.inject_hyperparams` makes one of the other.
    def scaled(update: Any) -> jax.Array:
        return -jnp.asarray(rounded(value), update.dtype) * update

    return optax.stateless(lambda updates, params: jax.tree.map(scaled, updates))
