r"""Optimizers as the released code of Liao et al. (2023) runs them, where that differs from optax's definition.

Use optax's own for new work. These are for replaying the released code's runs and comparing with them, in float32 or
float64:

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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


def as_float32(value: float) -> float:
    """The number that float32 makes of ``value``, as a Python float.

    >>> as_float32(0.1)
    0.10000000149011612
    """
    return float(np.float32(value))


class AdamEpsilonHatState(NamedTuple):
    """State of `adam_epsilon_hat` before its learning rate."""

    step_count: jax.Array  # [] int32: updates made, t
    mu: Any  # shaped like the parameters: mean of the gradients
    nu: Any  # as mu: mean of their squares


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

    References:
      Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, the remark before section 2.1.

    >>> optimizer = adam_epsilon_hat(0.1)
    >>> updates, state = optimizer.update(jnp.array([2.0, -3.0]), optimizer.init(jnp.zeros(2)))
    >>> [round(float(u), 3) for u in updates]
    [-0.1, 0.1]
    """

    def rounded(value: Any) -> Any:
        return jnp.asarray(value, jnp.float32) if float32_hyperparameters else value

    def init(params: optax.Params) -> AdamEpsilonHatState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamEpsilonHatState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(updates: Any, state: AdamEpsilonHatState, params: Any = None) -> tuple[Any, AdamEpsilonHatState]:
        count = optax.safe_increment(state.step_count)

        def mean(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
            return old + (1 - jnp.asarray(rounded(decay), old.dtype)) * (new - old)

        def scaled(m: jax.Array, v: jax.Array) -> jax.Array:
            t, (first, second) = count.astype(m.dtype), (jnp.asarray(rounded(b), m.dtype) for b in (b1, b2))
            corrections = jnp.sqrt(1 - second**t) / (1 - first**t)
            return corrections * m / (jnp.sqrt(v) + jnp.asarray(eps, m.dtype))

        mu = jax.tree.map(lambda m, g: mean(m, g, b1), state.mu, updates)
        nu = jax.tree.map(lambda v, g: mean(v, g**2, b2), state.nu, updates)
        return jax.tree.map(scaled, mu, nu), AdamEpsilonHatState(count, mu, nu)

    rate = (lambda count: rounded(learning_rate(count))) if callable(learning_rate) else rounded(learning_rate)
    return optax.chain(optax.GradientTransformation(init, update), _scale_by_learning_rate(rate))


class YogiState(NamedTuple):
    """State of `yogi` before its learning rate."""

    mu: Any  # shaped like the parameters: mean of the gradients
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

    References:
      Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018, Algorithm 2.

    >>> optimizer = yogi(0.1)
    >>> updates, state = optimizer.update(jnp.array([2.0, -3.0]), optimizer.init(jnp.zeros(2)))
    >>> [round(float(u), 2) for u in updates]
    [-0.31, 0.31]
    """

    def init(params: optax.Params) -> YogiState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return YogiState(zeros, jax.tree.map(jnp.copy, zeros))

    def update(updates: Any, state: YogiState, params: Any = None) -> tuple[Any, YogiState]:
        def first(m: jax.Array, g: jax.Array) -> jax.Array:
            decay = jnp.asarray(b1, m.dtype)
            return decay * m + (1 - decay) * g

        def second(v: jax.Array, g: jax.Array) -> jax.Array:
            return v - (1 - jnp.asarray(b2, v.dtype)) * jnp.sign(v - g**2) * g**2

        mu, nu = jax.tree.map(first, state.mu, updates), jax.tree.map(second, state.nu, updates)
        steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + jnp.asarray(eps, v.dtype)), mu, nu)
        return steps, YogiState(mu, nu)

    return optax.chain(optax.GradientTransformation(init, update), _scale_by_learning_rate(learning_rate))


def lars_decay(learning_rate: Any, total_evaluations: Any) -> optax.Schedule:
    """The schedule of the released LARS: α (1 − k/K)² at evaluation k = 1, 2, …, and 0 from k = K on.

    `optax.polynomial_schedule` counts from 0, one step later. Past K, where the formula would rise again, the
    rate stays 0.

    >>> [float(lars_decay(1.0, 4)(count)) for count in range(5)]
    [0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    def schedule(count: Any) -> jax.Array:
        dtype = jnp.result_type(float)
        left = 1 - (jnp.asarray(count).astype(dtype) + 1) / jnp.asarray(total_evaluations, dtype)
        return jnp.asarray(learning_rate, dtype) * jnp.maximum(left, 0) ** 2

    return schedule


def lars(
    learning_rate: optax.ScalarOrSchedule = 1e-3, weight_decay: Any = 5e-4, momentum: Any = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""LARS with the trust ratio of the original paper, a layer being the leaves of one container (kernel and bias).

    .. math::
        b_t = \mu b_{t-1} + \alpha \frac{\|x\|}{\|g\| + \lambda\|x\|} (g_t + \lambda x_t), \quad x_{t+1} = x_t - b_t

    with norms over each layer. Differences from `optax.lars`: the denominator of the trust ratio is the sum
    ‖g‖ + λ‖x‖ rather than ‖g + λx‖; a layer is (weights, bias) rather than one leaf; a layer whose weights are all
    zero does not move (optax's ratio is 1 there). The released runs use `lars_decay` as learning rate. Its update needs
    ``params``.

    References:
      You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, equation 6 and Algorithm 1.

    >>> params = {"dense": {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])}}
    >>> optimizer = lars(0.1, weight_decay=0.0, momentum=0.0)
    >>> gradient = {"dense": {"kernel": jnp.ones(1), "bias": jnp.zeros(1)}}
    >>> updates, state = optimizer.update(gradient, optimizer.init(params), params)
    >>> round(float(updates["dense"]["kernel"][0]), 3)
    -0.5
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise ValueError("lars needs the parameters for its trust ratio; call tx.update(grads, state, params).")
        paths, xs = zip(*jax.tree_util.tree_leaves_with_path(params))
        gs, layers = jax.tree.leaves(updates), [jax.tree_util.keystr(path[:-1]) for path in paths]

        def norm(arrays: Any, layer: str) -> jax.Array:
            return jnp.sqrt(sum(jnp.sum(a**2) for a, other in zip(arrays, layers) if other == layer))

        def ratio(layer: str) -> jax.Array:
            size = norm(xs, layer)
            divisor = norm(gs, layer) + jnp.asarray(weight_decay, size.dtype) * size
            # Where ‖g‖ + λ‖x‖ = 0 the layer does not move, whatever its ratio.
            return size / jnp.where((size > 0) & (divisor != 0), divisor, 1)

        ratios = {layer: ratio(layer) for layer in dict.fromkeys(layers)}
        steps = [ratios[one] * (g + jnp.asarray(weight_decay, x.dtype) * x) for one, x, g in zip(layers, xs, gs)]
        return jax.tree.unflatten(jax.tree.structure(params), steps), state

    scale = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(scale, _scale_by_learning_rate(learning_rate), optax.trace(decay=momentum))


def _scale_by_learning_rate(value: Any) -> optax.GradientTransformation:
    """`optax.scale_by_learning_rate`, in the dtype of each leaf for an array too, where optax would promote."""
    if callable(value):
        return optax.scale_by_learning_rate(value)

    def scaled(update: Any) -> jax.Array:
        return -jnp.asarray(value, update.dtype) * update

    return optax.stateless(lambda updates, params: jax.tree.map(scaled, updates))
