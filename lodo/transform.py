"""Algorithm 1 of the paper as an optax gradient transformation.

Symbols (the paper's letters) and shapes:

    n        number of optimized parameters, all leaves together
    x        [n]  parameters
    m        [n]  momentum, m₀ = 0
    g        [n]  gradient at the point the last step led to
    θ             meta-parameters of the operator
    α₀       []   initial learning rate, the scale of G(θ) = α₀ S(θ)
    β        []   momentum decay
    α        []   meta-learning rate

One call of ``update`` goes once round the loop: it takes g_{t+1}, which judges the step that G(θ_t) m_t made, tunes θ
by it, updates the momentum, and returns the next step.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lodo import _displacement, _tree
from lodo import _formula as formula
from lodo import _validation as validation
from lodo._arguments import (
    DEFAULT_META_LEARNING_RATE,
    as_key,
    check_dtype,
    check_meta_optimizer,
    check_or_auto,
    check_rate,
    copy_arrays,
    rate_at,
    widest_dtype,
)
from lodo._check_state import check_state
from lodo._meta_step import FusedAdam, OptaxMetaStep, choose, step_or_nan
from lodo._state import LodoState, Scales
from lodo._trace import check_trace, next_trace, raveled_trace
from lodo.compact.moments import scale_by_compact_adam
from lodo.compact.storage import Storage, key_of, storage_named, write
from lodo.operators.base import Operator, SupportsFusedAdam
from lodo.operators.block_permutation import BlockPermutation

__all__ = ["LodoState", "lodo"]


def lodo(
    initial_learning_rate: optax.ScalarOrSchedule | Literal["auto"] = 1.0,
    meta_learning_rate: optax.ScalarOrSchedule = DEFAULT_META_LEARNING_RATE,
    momentum: jax.typing.ArrayLike = 0.9,
    depth: int | jax.Array = 16,
    block_size: int | jax.Array = 4,
    *,
    hidden_size: int | jax.Array | None = None,
    seed: int | jax.Array = 0,
    meta_optimizer: optax.GradientTransformation | None = None,
    operator: Operator | None = None,
    dtype: jax.typing.DTypeLike | None = None,
    storage: Literal["full", "compact"] | Storage = "full",
    normalised_hypergradient: bool = False,
    gradient_trace: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""LODO: quasi-Newton steps with an inverse Hessian G(θ) that is learned while they are made.

    With g the gradient at x_{t+1}, an update computes

    .. math::

        θ_{t+1} &= θ_t + \mathrm{Adam}(∇_θ ℓ_{t+1}), \quad
        ∇_θ ℓ_{t+1} = -∂⟨g, G(θ_t)\, m_t⟩/∂θ \\
        m_{t+1} &= β m_t + (1-β) g \\
        x_{t+2} - x_{t+1} &= -G(θ_{t+1})\, m_{t+1}

    and returns the last line: the step itself, to be added to the parameters. No learning rate has to follow.

    **What may follow in a chain.** LODO learns from what its step did to the loss, so it looks at what became of the
    step. Pass the parameters, ``update(gradient, state, params)``, as optax's wrappers do: a coordinate that went less
    than a hundredth of what was asked for is left out of the hypergradient. Hence

    * a step that is dropped, masked or projected away (``scale(0.)``, ``masked(set_to_zero(), …)``,
      ``keep_params_nonnegative``, ``optax.projections``) teaches nothing where it was not made;
    * clipping (``clip``, ``clip_by_global_norm``) is safe: G may ask for at most a hundred times what is let through;
    * adding what does not depend on θ, such as decoupled weight decay, leaves the hypergradient exact;
    * a factor c (``scale``, a schedule, ``reduce_on_plateau``) multiplies the true hypergradient by c. Adam does not
      notice, so G grows by 1/c to make up for it; below c = 1/100 nothing is learned. To lower the steps for good, give
      a schedule as ``initial_learning_rate``;
    * a second momentum (``trace``, ``ema``) delays the step, which the hypergradient does not know. It diverged in
      trials: use the ``momentum`` here.

    Without ``params`` every step is taken to have been made, and LODO only stops learning while its steps are larger
    than the fourth root of the dtype's largest number.

    Transformations placed *before* (``optax.clip_by_global_norm``) change g, so that LODO minimizes what the changed
    gradients describe. ``optax.freeze`` or a mask there does not freeze anything: G mixes coordinates, and moves those
    whose gradient is zero. ``optax.partition({"train": lodo.lodo(), "freeze": optax.set_to_zero()}, labels)`` does.

    **Precision.** θ, m, G m and the meta-optimizer are computed in ``dtype``: by default the widest of float32 and the
    parameters' own dtypes (bfloat16 leaves are thus accumulated in float32). Gradients are cast to it on entry;
    each leaf of the step is cast to the dtype of its gradient on exit. Narrower dtypes are refused for it: in bfloat16
    a meta-step of 1e-3 is less than half a unit in the last place of a θ near 1, which then never moves; in float16 and
    float8 Adam's ε = 1e-8 is 0. ``storage="compact"`` takes fewer bytes, by stochastic rounding.

    **Non-finite gradients.** If any entry of g is NaN or infinite, or g so large that the hypergradient's squares
    overflow, the state stays exactly as it was and the returned step is NaN in every entry: what happened is seen in
    the parameters, and is not carried on by the state. To skip such gradients instead, make their steps zero:
    ``optax.chain(lodo.lodo(...), optax.zero_nans())``; or, with a limit to how many in a row and a count of them,
    ``optax.apply_if_finite(lodo.lodo(...), 5)``, which looks at the gradients alone.

    **Faster on a CPU.** ``operator=lodo.operators.BlockPermutation(kernel="native")`` makes the same steps by kernels
    in C++, which the machine's C++ compiler compiles on first use; the book's page on what a step costs measures both.

    **Changing a state by hand.** On large models (2,048 hidden coordinates and more, at any size with the C++ kernels;
    Adam as the meta-optimizer, state in full) ``LodoState.inputs`` holds what the momentum was where it entered each
    layer, for the next hypergradient. It belongs to this θ and this m. Who replaces either in a state sets it to None
    as well, ``state._replace(theta=..., inputs=None)``; otherwise the next hypergradient is made from the old ones.
    From a state without it the optimizer goes on as exactly, a little slower, and does not keep it again. Likewise
    ``last=None``: every step is then taken to have been made.

    **Differentiating through a run.** The derivative of Adam's √v at its start is infinite. Where a gradient has to
    pass through updates, give ``meta_optimizer=optax.adam(1e-3, eps_root=1e-16)``.

    **Scheduled and injected hyperparameters.** With ``optax.inject_hyperparams(lodo.lodo)(...)`` the three rates can be
    changed and batched. The integers that decide shapes may be left in, provided ``init`` runs outside ``jit``;
    where it does not, name them: ``static_args=("depth", "block_size", "hidden_size")``. A ``dtype`` given as a class
    such as ``jnp.float32`` belongs there as well, because optax would call it as a schedule.

    Args:
      initial_learning_rate: α₀ ≥ 0, or a schedule of it by step. The paper's default is 1. A step at α₀ = 0 moves
        nothing, and its hypergradient is 0: θ waits. "auto": such that the first step has norm
        10⁻³ max(‖x₀‖, 0.01 √n); gradients that are 0 decide nothing.
      meta_learning_rate: α ≥ 0 of the meta-optimizer Adam, or a schedule of it by step; 0 keeps G = α₀ S(θ₀), which
        is momentum SGD at rate α₀ for operators that start at the identity.
      momentum: β in [0, 1), without bias correction: m = β m + (1−β) g.
      depth: N ≥ 0, the number of layers of Ĝ; 0 also gives momentum SGD.
      block_size: k ≥ 1.
      hidden_size: ñ ≥ n, a multiple of k; default 2n + k − (2n mod k), the released code's.
      seed: an int or a JAX key, which is copied; decides the permutations and θ₀.
      meta_optimizer: any optax transformation to update θ by its hypergradient, learning rate included; default Adam
        at ``meta_learning_rate``, which has to be left alone when a meta-optimizer is given.
      operator: the form of G(θ), see :mod:`lodo.operators`; default
        ``BlockPermutation(depth, block_size, hidden_size)``. When it is given these three have to be left alone.
      dtype: float32 or float64, of θ, m and the meta-optimizer; see above.
      storage: "full", "compact", or any :class:`lodo.compact.Storage`: the form in which θ and Adam's moments wait from
        one step to the next. With a meta-optimizer of your own it says how θ is kept, and nothing else.
      normalised_hypergradient: whether θ descends −∂⟨g, S m⟩/∂θ / ν in place of −α₀ ∂⟨g, S m⟩/∂θ, ν being the mean of
        ‖g‖ ‖S m‖ over past steps, weighted by powers of 0.95. The hypergradient then does not shrink as gradients do,
        nor with α₀; Adam's slow second moment otherwise stalls learning.
      gradient_trace: ρ in [0, 1): the hypergradient is that of ⟨g, G q⟩ in place of ⟨g, G m⟩, q = ρ q + (1−ρ) g being
        the mean of the gradients before. It leaves what G comes to rest at where momentum is 0. On the noisy bowl it
        helped a little there, and not beside a momentum. Adam is then not fused. None: m, as in the paper.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`LodoState`. Unknown extra arguments are handed to
      the meta-optimizer. A tree without numbers (n = 0) is taken as Adam takes it, its updates being itself. The state
      holds N·ñ·k numbers θ (about 128 n by default), twice that for Adam, and 2·N·ñ int32 indices:
      :func:`lodo.diagnostics.cost_table` tells before anything is allocated.

    Raises:
      TypeError: an argument of the wrong type, an integer or complex leaf.
      ValueError: an argument out of range, a dtype narrower than float32, an update tree or a state of another form.

    References:
      Liao, Dangovski, Foerster, Soljačić, "Learning to Optimize Quasi-Newton Methods", TMLR 2023: Algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp, optax, lodo
      >>> curvature = jnp.array([1.0, 0.1])
      >>> loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
      >>> optimizer = lodo.lodo(initial_learning_rate=0.5)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = optimizer.init(x)
      >>> step = jax.jit(optimizer.update)
      >>> for t in range(61):
      ...     value, gradient = jax.value_and_grad(loss)(x)
      ...     if t % 20 == 0:
      ...         print(f"{t:2d} {value:.4f}")
      ...     update, state = step(gradient, state)
      ...     x = optax.apply_updates(x, update)
       0 0.7000
      20 0.0965
      40 0.0154
      60 0.0012
    """
    alpha0 = check_or_auto("initial_learning_rate", initial_learning_rate, check_rate)
    normalised = validation.check_flag("normalised_hypergradient", normalised_hypergradient)
    by_data = isinstance(alpha0, str) or normalised
    meta_rate = check_rate(
        "meta_learning_rate", meta_learning_rate, hint="0 keeps G as it starts, which is momentum SGD"
    )
    beta = validation.check_real("momentum", momentum, minimum=0.0, below=1.0)
    trace_decay = check_trace(gradient_trace)
    form = _check_operator(operator, depth, block_size, hidden_size)
    kept = storage_named(storage)
    width_asked = None if dtype is None else check_dtype(dtype)
    key = as_key(seed)
    if meta_optimizer is None:
        by_optax = OptaxMetaStep(form, _default_adam(kept, key), meta_rate, kept)
    else:
        by_optax = OptaxMetaStep(form, check_meta_optimizer(meta_optimizer, meta_rate), None, kept)
    # What is kept of the momentum in the layers is of no use to a trace.
    in_full = trace_decay is None and kept.theta == kept.first_moment == kept.second_moment == "full"
    fused = (
        FusedAdam(form, meta_rate) if not meta_optimizer and in_full and isinstance(form, SupportsFusedAdam) else None
    )
    # Copies: the caller may go on to donate these, and nothing of theirs may be in a state that is donated.
    seed, alpha0 = copy_arrays(seed), copy_arrays(alpha0)

    def init(params: optax.Params) -> LodoState:
        size = validation.check_parameter_tree("params", params)
        width = width_asked or widest_dtype(params)
        # optax inits a tree without numbers to find what in a state is like the parameters, and for a group
        # with nothing in it. The operator is then one of a single parameter, so that the state has its usual structure.
        theta, fixed = form.init(as_key(seed), max(size, 1), width)
        if not type(form).__module__.startswith("lodo.operators"):
            theta, fixed = copy_arrays((theta, fixed))  # an operator of the caller's may hand out arrays that it keeps
        place = _tree.place_of(params)
        count = jnp.zeros((), jnp.int32)
        meta_state, rounding_key = by_optax.transformation.init(theta), None
        if meta_optimizer is not None:
            meta_state = copy_arrays(meta_state)  # it may hold θ itself, or arrays that the meta-optimizer keeps
        inputs = _inputs_at_start(fused.operator, theta) if fused else None
        if kept.theta != "full":
            theta, rounding_key = write(theta, kept.theta, None), key_of(as_key(seed))
        rate, scales = rate_at(0.0 if isinstance(alpha0, str) else alpha0, count, width), None
        if by_data:
            first = (
                formula.first_step(_tree.ravel(_tree.with_numbers(params), width, place))
                if isinstance(alpha0, str)
                else 0.0
            )
            zeros = (jnp.zeros((), kind) for kind in (jnp.int32, width, width))
            scales = Scales(jnp.asarray(first, width), *zeros)
        state = LodoState(count, rate, theta, fixed, (), meta_state, rounding_key, inputs, scales=scales)
        return _tree.whole(state, place)._replace(
            momentum=_tree.zeros_like(params, width, place), last=_displacement.no_step(params, width, place),
            trace=None if trace_decay is None else _tree.zeros_like(params, width, place),
        )  # fmt: skip

    def update(
        updates: optax.Updates, state: LodoState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LodoState]:
        if not isinstance(state, LodoState):
            raise TypeError(
                f"lodo's update needs the LodoState that its init made; got {type(state).__name__}. Inside "
                "optax.chain each transformation's state is one entry of the chain's state."
            )
        size = validation.check_parameter_tree("updates", updates)
        validation.check_same_tree("updates", updates, state.momentum, "the tree given to init")
        if params is not None:
            validation.check_same_tree("params", params, state.momentum, "the tree given to init")
        if size == 0:
            return updates, state._replace(step_count=optax.safe_increment(state.step_count))
        place, last, trace = _tree.place_of(updates, state, params), state.last, state.trace
        state = _tree.whole(state._replace(momentum=(), last=None, trace=None), place)._replace(momentum=state.momentum)
        before = _tree.ravel(state.momentum, place=place)
        width = before.dtype
        check_state(form, by_optax.transformation, state, size, width_asked, kept, fused.operator if fused else None)

        g = _tree.ravel(updates, width, place)
        decay = jnp.asarray(beta, width)
        m = decay * before + (1 - decay) * g
        q, judge = raveled_trace(trace_decay, trace, place), g
        if last is not None:
            # Where the step was not made, g does not judge it. An entry that is not finite is refused all the same.
            asked = _tree.ravel(last.step, width, place)
            excused = _displacement.held_back(asked, last, params, place) & jnp.isfinite(g)
            judge = jnp.where(excused, 0, g)
        # ∇_θ ℓ = −α₀ ∂⟨g, S m⟩/∂θ; bilinear, so that the scale costs n multiplications on a vector and not 128 n on θ.
        scale, scales = -state.initial_learning_rate, state.scales
        if by_data == (scales is None):
            raise ValueError(
                "This state was made by another configuration: initial_learning_rate='auto' and "
                "normalised_hypergradient=True keep the field `scales`, others do not. Use the configuration that made "
                "the state, or initialize a new state."
            )
        if scales is not None:
            scales, mean_product = _judged(scales, formula.norm(g))
            scale = -formula.inverse(mean_product) if normalised else scale
        meta_step = fused if fused and fused.operator.fuses_adam(state.theta) else by_optax
        theta, meta_state, inputs, product, made = meta_step(state, scale, before if q is None else q, judge, m, extra)

        if scales is not None and isinstance(alpha0, str):
            decided = scales.first_step * formula.inverse(formula.norm(product))
            rate = jnp.where(state.initial_learning_rate > 0, state.initial_learning_rate, decided)
        else:
            rate = rate_at(alpha0, state.step_count, width)
        step = -rate * product
        count, rate, m, scales = choose(
            made,
            (optax.safe_increment(state.step_count), rate, m, scales and scales._replace(length=formula.norm(product))),
            (state.step_count, state.initial_learning_rate, before, state.scales),
        )
        if last is not None:
            returned = _tree.unravel(step, state.momentum)
            last = choose(made, _displacement.record(last, params, returned, place), last)
        if q is not None:
            trace = choose(made, _tree.unravel(next_trace(trace_decay, q, g), state.momentum), trace)
        after = LodoState(
            step_count=count,
            initial_learning_rate=rate,
            theta=theta,
            fixed=state.fixed,
            momentum=_tree.unravel(m, state.momentum),
            meta_state=meta_state,
            rounding_key=state.rounding_key,
            inputs=inputs,
            last=last,
            scales=scales,
            trace=trace,
        )
        return _tree.unravel(step_or_nan(made, step), updates), after

    return validation.naming_leaves(init, update)


def _judged(scales: Scales, size: jax.Array) -> tuple[Scales, jax.Array]:
    """The means once a gradient of norm ``size`` has judged the last step, and ν of the steps before it."""
    product = size * scales.length
    live = product > 0
    mean = formula.mean(scales.product, product, formula.PRODUCT_DECAY, scales.seen)
    before = jnp.where(scales.seen > 0, scales.product, product)
    seen = scales.seen + live.astype(jnp.int32)
    return scales._replace(seen=seen, product=jnp.where(live, mean, scales.product)), before


def _inputs_at_start(operator: SupportsFusedAdam, theta: Any) -> Any:
    """What the first step is given; scalars where Adam is not fused, so that no size changes the state's structure.

    Empty arrays would say it better, but Orbax saves none.
    """
    if operator.fuses_adam(theta):
        return operator.inputs_at_start(theta)
    return jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), jax.eval_shape(operator.inputs_at_start, theta))


def _check_operator(operator: Any, depth: Any, block_size: Any, hidden_size: Any) -> Operator:
    """The operator given, or the default one of these three numbers."""
    block_permutation = BlockPermutation(depth, block_size, hidden_size)
    if operator is None:
        return block_permutation
    if isinstance(operator, type) or not isinstance(operator, Operator):
        given = f"the class {operator.__name__}, not an instance" if isinstance(operator, type) else repr(operator)
        raise TypeError(
            "operator must be an instance of a form of G(θ), such as lodo.operators.Diagonal(), or another object "
            f"with the methods init, apply, hypergradient and sizes; got {given}."
        )
    default = BlockPermutation()
    for name in ("depth", "block_size", "hidden_size"):
        given, usual = getattr(block_permutation, name), getattr(default, name)
        if not validation.is_traced(given) and given != usual:
            raise ValueError(
                f"{name}={given} describes the default operator, but operator={operator!r} was given as well. "
                f"Give {name} to the operator, if it has one."
            )
    return operator


def _default_adam(kept: Storage, key: jax.Array) -> optax.GradientTransformationExtraArgs:
    """Adam without its rate, its moments stored as told."""
    if kept.first_moment == kept.second_moment == "full":
        return _adam_under_strict_promotion()
    return scale_by_compact_adam(first_moment=kept.first_moment, second_moment=kept.second_moment, key=key_of(key))


def _adam_under_strict_promotion() -> optax.GradientTransformationExtraArgs:
    """``optax.scale_by_adam``, also where JAX is told not to promote dtypes: its β**t is a float to an int's power."""
    adam = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del extra
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(adam.init, update)
