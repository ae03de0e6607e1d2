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

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _displacement, _tree, compact
from lodo import _validation as validation
from lodo.operators import BlockPermutation, Operator
from lodo.operators._passes import AdamStep
from lodo.operators.base import StepsInPlace

ScalarOrSchedule = Any  # a float, a scalar array, or a callable from the int32 step count to one

DEFAULT_META_LEARNING_RATE = 1e-3


class LodoState(NamedTuple):
    """State of :func:`lodo`: arrays only, so that it can be traced, batched, sharded and saved."""

    step_count: jax.Array  # [] int32: updates so far
    initial_learning_rate: jax.Array  # [] α₀ of the step made last, which the next hypergradient needs
    theta: Any  # θ, a pytree in the operator's form, its leaves as `storage` keeps them
    fixed: Any  # arrays of the operator that are not learned (permutations)
    momentum: Any  # m, with the structure and shapes of the parameters, in θ's dtype
    meta_state: Any  # state of the meta-optimizer
    rounding_key: Any = None  # [2] uint32 where θ is rounded, else None
    # What m was where it entered each layer, kept for the next hypergradient where that is faster; empty arrays where
    # it is not, None where it is kept at no size; see below on changing a state by hand.
    inputs: Any = None
    last: _displacement.LastStep | None = None  # the step returned last; None: taken to have been made as it was


def lodo(
    initial_learning_rate: ScalarOrSchedule = 1.0,
    meta_learning_rate: ScalarOrSchedule = DEFAULT_META_LEARNING_RATE,
    momentum: Any = 0.9,
    depth: Any = 16,
    block_size: Any = 4,
    *,
    hidden_size: Any = None,
    seed: Any = 0,
    meta_optimizer: optax.GradientTransformation | None = None,
    operator: Operator | None = None,
    dtype: Any = None,
    storage: Any = "full",
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
    in C++, which the machine's C++ compiler compiles on first use; the book's page on speed measures both.

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
        nothing, and its hypergradient is 0: θ waits.
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
    alpha0 = _check_rate("initial_learning_rate", initial_learning_rate)
    meta_rate = _check_rate(
        "meta_learning_rate", meta_learning_rate, hint="0 keeps G as it starts, which is momentum SGD"
    )
    beta = validation.check_real("momentum", momentum, minimum=0.0, below=1.0)
    form = _check_operator(operator, depth, block_size, hidden_size)
    kept = compact.storage_named(storage)
    meta, scaled_here = _check_meta_optimizer(meta_optimizer, meta_rate, kept, seed)
    usual = meta_optimizer is None and kept.theta == kept.first_moment == kept.second_moment == "full"
    stepper = form if usual and isinstance(form, StepsInPlace) else None
    if dtype is not None:
        dtype = _check_dtype(dtype)
    _as_key(seed)
    # Copies: the caller may go on to donate these, and nothing of theirs may be in a state that is donated.
    seed, alpha0 = _copied(seed), _copied(alpha0)

    def init(params: optax.Params) -> LodoState:
        size = validation.check_parameter_tree("params", params)
        width = dtype or _state_dtype(params)
        # optax inits a tree without numbers to find what in a state is like the parameters, and for a group
        # with nothing in it. The operator is then one of a single parameter, so that the state has its usual structure.
        theta, fixed = form.init(_as_key(seed), max(size, 1), width)
        if not type(form).__module__.startswith("lodo.operators"):
            theta, fixed = _copied((theta, fixed))  # an operator of the caller's may hand out arrays that it keeps
        place = _tree.place_of(params)
        count = jnp.zeros((), jnp.int32)
        meta_state, key = meta.init(theta), None
        if meta_optimizer is not None:
            meta_state = _copied(meta_state)  # it may hold θ itself, or arrays that the meta-optimizer keeps
        if kept.theta != "full":
            theta, key = compact.write(theta, kept.theta, None), compact.key_of(_as_key(seed))
        inputs = _inputs_at_start(stepper, theta) if stepper else None
        state = LodoState(count, _value_at(alpha0, count, width), theta, fixed, (), meta_state, key, inputs)
        return _tree.whole(state, place)._replace(
            momentum=_tree.zeros_like(params, width, place), last=_displacement.no_step(params, width, place)
        )

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
        place = _tree.place_of(updates, state, params)
        last = state.last
        state = _tree.whole(state._replace(momentum=(), last=None), place)._replace(momentum=state.momentum, last=last)
        unheld = None if _are_held(state.inputs) else state.inputs
        state = state if unheld is None else state._replace(inputs=None)
        m = _tree.ravel(state.momentum, place=place)
        width = m.dtype
        _check_state(form, meta, state, m.size, dtype, kept, stepper)
        theta = compact.read(state.theta, width)

        g = _tree.ravel(updates, width, place)
        # ∇_θ ℓ = −α₀ ∂⟨g, S m⟩/∂θ; bilinear, so that the scale costs n multiplications on a vector and not 128 n on θ.
        before, scale, judge = m, -state.initial_learning_rate, g
        if last is not None:
            # Where the step was not made, g does not judge it. An entry that is not finite is refused all the same.
            excused = _tree.ravel(_displacement.held_back(last, params, place), place=place) & jnp.isfinite(g)
            judge = jnp.where(excused, 0, g)
        decay = jnp.asarray(beta, width)
        m = decay * m + (1 - decay) * g
        inputs = None
        if stepper and stepper.steps_in_place(state.theta):
            # θ, Adam's moments and the step in one go; a refused gradient leaves them as they are there already. The
            # scale is g's, as m's way through the layers was kept from the step before, without it.
            theta, meta_state, inputs, step, finite = _adam_step(
                stepper, state, before, scale * judge, m, _value_at(meta_rate, state.step_count, width)
            )
        else:
            hypergradient = form.hypergradient(theta, state.fixed, scale * before, judge)
            # A gradient that is not finite must not reach the state: it would stay in θ, m and Adam's moments for good.
            # Nor must one whose hypergradient cannot be squared: Adam's second moment would be infinite for good.
            finite = jnp.all(jnp.isfinite(g)) & _can_be_squared(hypergradient)
            change, meta_state = meta.update(hypergradient, state.meta_state, theta, **extra)
            if scaled_here:
                rate = _value_at(meta_rate, state.step_count, width)
                change = jax.tree.map(lambda c: -rate * c, change)
            theta = optax.apply_updates(theta, change)
            if kept.theta != "full":
                theta = compact.write(theta, kept.theta, compact.key_at(state.rounding_key, state.step_count))
            theta, meta_state = _where(finite, (theta, meta_state), (state.theta, state.meta_state))
            step = form.apply(compact.read(theta, width), state.fixed, m)

        rate = _value_at(alpha0, state.step_count, width)
        small = (optax.safe_increment(state.step_count), rate, m)
        count, kept_rate, m = _where(finite, small, (state.step_count, state.initial_learning_rate, before))
        momentum, step = _tree.unravel(m, state.momentum), -rate * step
        if last is not None:
            last = _where(finite, _displacement.record(last, params, _tree.unravel(step, state.momentum), place), last)
        inputs = unheld if inputs is None else inputs
        after = LodoState(count, kept_rate, theta, state.fixed, momentum, meta_state, state.rounding_key, inputs, last)
        return _tree.unravel(jnp.where(finite, step, jnp.full_like(step, jnp.nan)), updates), after

    return validation.naming_leaves(init, update)


def _inputs_at_start(stepper: StepsInPlace, theta: Any) -> Any:
    """What the first step is given; empty arrays where none is made in place, so that no size changes the structure."""
    if stepper.steps_in_place(theta):
        return stepper.inputs_at_start(theta)
    return jax.tree.map(lambda leaf: jnp.zeros(0, leaf.dtype), jax.eval_shape(stepper.inputs_at_start, theta))


def _are_held(inputs: Any) -> bool:
    return any(np.size(leaf) for leaf in jax.tree.leaves(inputs))


def _adam_step(
    form: StepsInPlace, state: LodoState, m: jax.Array, g: jax.Array, v: jax.Array, rate: jax.Array
) -> tuple[Any, Any, Any, jax.Array, jax.Array]:
    """The meta-step, made by an operator that offers one: as its ``adam_step``, with Adam's whole state."""
    count = optax.safe_increment(state.meta_state.count)
    decay1, decay2 = AdamStep._field_defaults["decay1"], AdamStep._field_defaults["decay2"]
    one, t = jnp.ones((), m.dtype), count.astype(m.dtype)
    adam = AdamStep(rate, one / (1 - decay1**t), one / (1 - decay2**t))
    moments = (state.meta_state.mu, state.meta_state.nu)
    theta, (first, second), inputs, step, done = form.adam_step(
        state.theta, state.fixed, moments, state.inputs, m, g, v, adam
    )
    adam_state = state.meta_state._replace(count=_where(done, count, state.meta_state.count), mu=first, nu=second)
    return theta, adam_state, inputs, step, done


def _copied(tree: Any) -> Any:
    """The tree with each JAX array in it copied, so that donating one does not take the other away."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf, tree)


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _check_rate(name: str, value: ScalarOrSchedule, hint: str = "") -> Any:
    if callable(value):
        return value
    hint = hint or "or a schedule, a function of the step count"
    return validation.check_real(name, value, minimum=0.0, hint=hint)


def _value_at(value: ScalarOrSchedule, count: jax.Array, dtype: Any) -> jax.Array:
    """The rate at a step: schedules are called, numbers are themselves; as a new scalar of ``dtype``.

    A copy, because it goes into the state: whoever donates the state must not lose the array that was passed as a rate.
    """
    rate = jnp.array(value(count) if callable(value) else value, dtype, copy=True)
    if rate.shape != ():
        raise ValueError(
            f"A schedule of a rate must return a scalar; {value!r} returned an array of shape {rate.shape}."
        )
    return rate


def _check_operator(operator: Any, depth: Any, block_size: Any, hidden_size: Any) -> Operator:
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


def _check_meta_optimizer(
    meta_optimizer: Any, meta_rate: Any, kept: compact.Storage, seed: Any
) -> tuple[optax.GradientTransformationExtraArgs, bool]:
    """The meta-optimizer, and whether its output still has to be multiplied by −α."""
    if meta_optimizer is None:
        if kept.first_moment == kept.second_moment == "full":
            return _adam_under_strict_promotion(), True
        moments = {"first_moment": kept.first_moment, "second_moment": kept.second_moment}
        return compact.scale_by_compact_adam(**moments, key=compact.key_of(_as_key(seed))), True
    if not (callable(getattr(meta_optimizer, "init", None)) and callable(getattr(meta_optimizer, "update", None))):
        raise TypeError(
            "meta_optimizer must be an optax gradient transformation such as optax.adam(1e-3); "
            f"got {meta_optimizer!r} ({type(meta_optimizer).__name__})."
        )
    if not validation.is_traced(meta_rate) and (
        callable(meta_rate) or not np.isclose(float(meta_rate), DEFAULT_META_LEARNING_RATE)
    ):
        given = "a schedule" if callable(meta_rate) else f"{float(meta_rate):g}"
        raise ValueError(
            f"meta_learning_rate={given} is the rate of the default meta-optimizer, but a meta_optimizer was given as "
            "well. Give the rate to the meta-optimizer and leave meta_learning_rate alone."
        )
    return optax.with_extra_args_support(meta_optimizer), False


def _can_be_squared(tree: Any) -> jax.Array:
    """Whether no entry of the tree has a square that is NaN or infinite."""
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)])
    return jnp.all(jnp.isfinite(largest * largest))


def _adam_under_strict_promotion() -> optax.GradientTransformationExtraArgs:
    """``optax.scale_by_adam``, also where JAX is told not to promote dtypes: its β**t is a float to an int's power."""
    adam = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del extra
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(adam.init, update)


def _check_dtype(dtype: Any) -> Any:
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
    if _is_narrow(given):
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


def _is_narrow(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4)


def _state_dtype(params: Any) -> Any:
    """The widest of float32 and the leaves' dtypes."""
    widths = {
        jnp.dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype) for leaf in jax.tree.leaves(params)
    }
    return jax.dtypes.canonicalize_dtype(max(widths | {jnp.dtype(jnp.float32)}, key=lambda width: width.itemsize))


#: JAX's generators by the shape of their raw keys.
_GENERATORS = {(2,): ("threefry2x32",), (4,): ("rbg", "unsafe_rbg")}


def _as_key(seed: Any) -> jax.Array:
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
        return jax.random.wrap_key_data(jnp.asarray(seed), impl=impl)
    try:
        return jax.random.key(validation.check_integer("seed", seed, 0, hint="or a JAX key"))
    except OverflowError:
        raise ValueError(f"seed must fit in 64 bits; got {seed}.") from None


def _check_state(
    form: Operator,
    meta: optax.GradientTransformation,
    state: LodoState,
    size: int,
    asked_dtype: Any,
    kept: compact.Storage,
    stepper: StepsInPlace | None,
) -> None:
    """Refuse a state that another configuration made (its θ, fixed arrays or meta-state have another form)."""
    dtype = jax.tree.leaves(state.momentum)[0].dtype
    if asked_dtype is not None and dtype != asked_dtype:
        raise ValueError(
            f"This state was made by another configuration: it is in {dtype}, and dtype={asked_dtype} was asked for. "
            "Use the configuration that made the state, or initialize a new state."
        )
    for name, leaf in (("momentum", state.momentum), ("theta", state.theta if kept.theta == "full" else ())):
        narrow = {str(one.dtype) for one in jax.tree.leaves(leaf) if _is_narrow(one.dtype)}
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
        expected["theta"] = jax.eval_shape(lambda arrays: compact.write(arrays, kept.theta, None), theta)
    if stepper and stepper.steps_in_place(theta) and state.inputs is not None:
        expected["inputs"] = jax.eval_shape(stepper.inputs_at_start, theta)
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
