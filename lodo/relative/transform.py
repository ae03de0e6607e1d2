"""Relative, whitened LODO: Algorithm 1 with meta-steps relative to θ, as an optax gradient transformation."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lodo import _displacement, _tree
from lodo import _formula as formula
from lodo import _validation as validation
from lodo._arguments import as_key, check_dtype, check_or_auto, check_rate, copy_arrays, rate_at, widest_dtype
from lodo._check_state import check_state
from lodo._meta_step import choose, step_or_nan
from lodo._state import Averages, RlodoState
from lodo.compact.storage import Storage, key_at, key_of, read, storage_named, write
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.sharded import ShardedBlockPermutation
from lodo.relative.steps import as_it_is, meta_step, start

DEPTH, BLOCK_SIZE = 32, 4


def rlodo(
    meta_learning_rate: optax.ScalarOrSchedule | Literal["auto"] = "auto",
    whitening: optax.ScalarOrSchedule | Literal["auto"] = "auto",
    momentum: jax.typing.ArrayLike | Literal["auto"] = "auto",
    depth: int | jax.Array = DEPTH,
    block_size: int | jax.Array = BLOCK_SIZE,
    *,
    initial_learning_rate: optax.ScalarOrSchedule | Literal["auto"] = "auto",
    seed: int | jax.Array = 0,
    dtype: jax.typing.DTypeLike | None = None,
    storage: Literal["full", "compact"] | Storage = "full",
    operator: BlockPermutation | ShardedBlockPermutation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Relative LODO: :func:`lodo.lodo`'s learned inverse Hessian, by relative meta-steps and rates of its own choice.

    A step is −α₀ eˢ S(θ) m, with S = ĜᵀĜ and Ĝ square, of the blocks B and permutations of
    ``BlockPermutation(depth, block_size, padding=False)``. With d = S(θ) m the direction of the last step, g the
    gradient where it led, and ν the mean of ‖g‖ ‖d‖ over the steps before, an update computes

    .. math::

        p &= n g / ν - w\, n d / ‖d‖^2 \\
        E &= \frac{∂⟨p, S m⟩}{∂B} B^⊤ + 2 w I, \quad r^2 ← 0.8\, r^2 + 0.2\, \mathrm{mean}(E^2) \\
        B &← (I + F) B, \quad F = α \sqrt{1-β}\, E / r \\
        m &← β m + (1-β) g, \quad d ← S(θ)\, m

    for each block B, with one number r² a block. It ascends ⟨g, S m⟩ n/ν − w (n ‖S m‖² / 2‖d‖² − log det S): the first
    term is what LODO's meta-step ascends, in units of its own size; the second, *whitening*, makes steps as large in
    every direction. The meta-steps are relative, a block's change being proportional to the block.

    What a user would tune is learned from the same gradients, at a rate of 0.1 / √(1 + t/1000) after t steps:

    * the log-scale s grows by the clipped cosine ⟨g, d⟩ / ν, which is positive where steps are too short;
    * β, with ``momentum="auto"``, follows the same product of g with the two directions before, between 0.0067 and 0.9;
    * w, with ``whitening="auto"``, is (1 − β)⁴ e^ω, where ω ≤ 0 falls where whitening and loss want opposite changes.

    Gradients more than 5 times as long as the mean of those before are cut to that. A loss multiplied by a constant
    makes the same steps, as long as ‖g‖² is a normal number of the state's dtype (in float32: ‖g‖ from about 1e-19 to
    1e19; where it is larger the step is refused, where it is smaller nothing is learned). :func:`lodo.guard` adds a way
    back where the loss blows up.

    **Its assumption.** Steps as large in every direction are right where what moves the minimum moves it as much in
    every direction. β tells a moving minimum from training, where w is next to nothing; ω falls where the gradients
    contradict the assumption.

    What :func:`lodo.lodo` says of chains (pass the parameters), of precision, of gradients that are not finite (the
    state stays, the step is NaN) and of injected hyperparameters holds here too; ``static_args=("depth",
    "block_size")``.

    Args:
      meta_learning_rate: "auto", which is α = 2.5 · 10⁻³ / (1 + t/15n); or α ≥ 0, or a schedule of it by step. 0 keeps
        S(θ) = I, which is momentum SGD at a learned scale.
      whitening: "auto", or w ≥ 0, or a schedule of it by step.
      momentum: "auto", or β in [0, 1).
      depth: N ≥ 0, the number of layers.
      block_size: k ≥ 1; n where that is less.
      initial_learning_rate: "auto": α₀ such that the first step has norm 10⁻³ max(‖x₀‖, 0.01 √n); gradients that are 0
        decide nothing. Or α₀ ≥ 0, or a schedule of it by step; s is learned either way.
      seed: an int or a JAX key, which is copied; decides the permutations and θ₀.
      dtype: float32 or float64, of the state; default the widest of float32 and the parameters' dtypes.
      storage: in which form θ waits from one step to the next, see :class:`lodo.compact.Storage`; "compact" rounds it
        to 16 bits. What it says of Adam's moments does not matter here.
      operator: a ``BlockPermutation`` of another form, such as ``BlockPermutation(32, 4, padding=False,
        kernel="native")`` for the C++ kernels, or a ``ShardedBlockPermutation(mesh, depth=32, padding=False)`` for
        several devices, see :mod:`lodo.sharding`; depth and block_size have to be left alone then. Mind
        ``padding=False`` and the depth: an operator with padding, which is those classes' default, at their depth of 16
        is taken as it is, and makes another optimizer. Its Ĝ is not square, and whitening pulls at all ñ coordinates.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`RlodoState`. By default it holds 128 numbers θ a
      parameter, 8 second moments, 5 vectors like the parameters, and 64 int32 indices;
      :func:`lodo.diagnostics.cost_table` counts them with ``optimizer=lodo.rlodo``.

    Raises:
      TypeError: an argument of the wrong type, an integer or complex leaf.
      ValueError: an argument out of range, a dtype narrower than float32, an update tree or a state of another form.

    Example:
      >>> import jax, jax.numpy as jnp, optax, lodo
      >>> curvature = jnp.array([1.0, 0.1])
      >>> loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
      >>> optimizer = lodo.rlodo()
      >>> x = jnp.array([1.0, -2.0])
      >>> state = optimizer.init(x)
      >>> step = jax.jit(optimizer.update)
      >>> for t in range(61):
      ...     value, gradient = jax.value_and_grad(loss)(x)
      ...     if t % 20 == 0:
      ...         print(f"{t:2d} {value:.4f}")
      ...     update, state = step(gradient, state, x)
      ...     x = optax.apply_updates(x, update)
       0 0.7000
      20 0.1957
      40 0.0916
      60 0.0202
    """
    meta_rate, weight, beta, alpha0 = (
        check_or_auto("meta_learning_rate", meta_learning_rate, check_rate),
        check_or_auto("whitening", whitening, check_rate),
        check_or_auto("momentum", momentum, _check_momentum),
        check_or_auto("initial_learning_rate", initial_learning_rate, check_rate),
    )
    form = _check_operator(operator, depth, block_size)
    kept = storage_named(storage)
    width_asked = None if dtype is None else check_dtype(dtype)
    as_key(seed)
    seed, alpha0, weight, meta_rate, beta = (copy_arrays(x) for x in (seed, alpha0, weight, meta_rate, beta))

    def init(params: optax.Params) -> RlodoState:
        size = validation.check_parameter_tree("params", params)
        width = width_asked or widest_dtype(params)
        place = _tree.place_of(params)
        theta, fixed = form.init(as_key(seed), max(size, 1), width)
        meta_state, rounding_key = start(theta), None
        if kept.theta != "full":
            theta, rounding_key = write(theta, kept.theta, None), key_of(as_key(seed))
        zero = jnp.zeros((), width)
        count = jnp.zeros((), jnp.int32)
        rate, first = (
            (zero, formula.first_step(_tree.ravel(_tree.with_numbers(params), width, place)))
            if isinstance(alpha0, str)
            else (rate_at(alpha0, count, width), zero)
        )
        decay = jnp.array(formula.MOMENTUM_RANGE[1] if isinstance(beta, str) else beta, width, copy=True)
        state = RlodoState(
            step_count=count, first_step=first, base_rate=rate, log_scale=zero, decay=decay, cosine=zero,
            whitening=zero, gain=zero, averages=Averages(zero, zero), theta=theta, fixed=fixed, momentum=(),
            direction=(), direction_before=(), snapshot=(), meta_state=meta_state, rounding_key=rounding_key,
        )  # fmt: skip
        # Each scalar an array of its own: who donates a state must not donate one array twice.
        state = _tree.whole(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state), place)
        m, d, before, q = (_tree.zeros_like(params, width, place) for _ in range(4))
        last = _displacement.no_step(params, width, place)._replace(step=())  # which is −α₀ eˢ d
        result: RlodoState = state._replace(momentum=m, direction=d, direction_before=before, snapshot=q, last=last)
        return result

    def update(
        updates: optax.Updates, state: RlodoState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, RlodoState]:
        del extra
        if not isinstance(state, RlodoState):
            raise TypeError(
                f"rlodo's update needs the RlodoState that its init made; got {type(state).__name__}. Inside "
                "optax.chain each transformation's state is one entry of the chain's state."
            )
        size = validation.check_parameter_tree("updates", updates)
        validation.check_same_tree("updates", updates, state.momentum, "the tree given to init")
        if params is not None:
            validation.check_same_tree("params", params, state.momentum, "the tree given to init")
        if size == 0:
            return updates, state._replace(step_count=optax.safe_increment(state.step_count))
        place, last, like = _tree.place_of(updates, state, params), state.last, state.momentum
        vectors = like, state.direction, state.direction_before, state.snapshot
        m, d, before, snapshot = (_tree.ravel(tree, place=place) for tree in vectors)
        state = _tree.whole(
            state._replace(momentum=(), direction=(), direction_before=(), snapshot=(), last=None), place
        )
        width, count = m.dtype, state.step_count
        meta = optax.GradientTransformation(start, meta_step)
        check_state(form, meta, state._replace(momentum=like), size, width_asked, kept, None)

        rounding, key = state.rounding_key is not None, None
        if state.rounding_key is not None:
            key = key_at(state.rounding_key, count)

        def rounded(theta: jax.Array) -> jax.Array:
            numbers: jax.Array = read(write(theta, kept.theta, key), width)
            return numbers

        g = _tree.ravel(updates, width, place)
        length = formula.norm(g)
        factor = formula.clip_factor(length, state.averages.gradient)
        clipped = factor * g
        judge = clipped
        if last is not None:
            # Where the step was not made, g does not judge it. An entry that is not finite is refused all the same.
            asked = -state.initial_learning_rate * d
            excused = _displacement.held_back(asked, last, params, place) & jnp.isfinite(g)
            judge = jnp.where(excused, 0, clipped)

        # What the last step did to the loss, by the size that such products have had.
        seen, averages, decay = state.meta_state.step_count, state.averages, state.decay
        product = formula.norm(clipped) * formula.norm(d)
        live = (product > 0) & (state.base_rate > 0)
        scale = jnp.where(seen > 0, averages.product, product)
        cosine = jnp.sum(judge * d) * formula.inverse(scale)
        w = formula.whitening(decay, state.gain) if isinstance(weight, str) else rate_at(weight, count, width)
        alpha = formula.meta_learning_rate(count, size, width) if isinstance(meta_rate, str) else None
        rho = formula.meta_rate(rate_at(meta_rate, count, width) if alpha is None else alpha, decay)
        speed = formula.scalar_rate(count, width)
        log_scale = jnp.where(live, formula.log_scale(state.log_scale, cosine, speed), state.log_scale)
        gain = formula.whitening_gain(state.gain, formula.agreement(judge, d, snapshot, scale), count)
        gain = jnp.where(live, gain, state.gain)
        taken = jnp.where(live & (count % formula.SNAPSHOT == 0), d, snapshot)
        if isinstance(beta, str):
            difference = jnp.sum(judge * before) * formula.inverse(scale) - cosine
            decay = jnp.where(live & (seen > 0), formula.momentum(decay, difference, speed), decay)
        else:
            decay = jnp.asarray(beta, width)
        averages = Averages(
            formula.mean(averages.gradient, factor * length, formula.CLIP_DECAY, count),
            jnp.where(live, formula.mean(averages.product, product, formula.PRODUCT_DECAY, seen), averages.product),
        )

        m_after = decay * m + (1 - decay) * clipped
        length_m = formula.norm(m)
        pair = m * formula.inverse(length_m), formula.probe(judge, d, scale, w, length_m)
        # A product that overflows would stay in ν for good.
        finite = jnp.all(jnp.isfinite(g)) & jnp.isfinite(product)
        theta, meta_state, direction, made = meta_step(
            form, read(state.theta, width), state.fixed, state.meta_state, pair, m_after, w,
            rho, live & finite, rounded if rounding else as_it_is,
        )  # fmt: skip
        made = made & finite
        if rounding:
            theta = choose(made, write(theta, kept.theta, key), state.theta)

        if isinstance(alpha0, str):
            decided = state.first_step * formula.inverse(formula.norm(direction))
            rate = jnp.where(state.base_rate > 0, state.base_rate, decided)
        else:
            rate = rate_at(alpha0, count, width)
        step = -(rate * jnp.exp(log_scale)) * direction
        new = state._replace(
            step_count=optax.safe_increment(count), base_rate=rate, log_scale=log_scale, decay=decay,
            cosine=cosine, whitening=w, gain=gain, averages=averages,
        )  # fmt: skip
        # θ and the meta-step's state are as they were already where nothing was made.
        rest: dict[str, Any] = {"theta": (), "fixed": (), "meta_state": ()}
        small, same = (one._replace(**rest) for one in (new, state))
        small, *vectors = choose(made, (small, m_after, direction, d, taken), (same, m, d, before, snapshot))
        after = small._replace(theta=theta, fixed=state.fixed, meta_state=meta_state)
        if last is not None:
            last = choose(made, _displacement.record(last, params, (), place), last)
        names = "momentum", "direction", "direction_before", "snapshot"
        after = after._replace(**{name: _tree.unravel(v, like) for name, v in zip(names, vectors)}, last=last)
        return _tree.unravel(step_or_nan(made, step), updates), after

    return validation.naming_leaves(init, update)


def _check_operator(operator: Any, depth: Any, block_size: Any) -> BlockPermutation | ShardedBlockPermutation:
    """The operator given, or the default one of these two numbers."""
    default = BlockPermutation(depth, block_size, padding=False)
    if operator is None:
        return default
    if not isinstance(operator, BlockPermutation | ShardedBlockPermutation):
        raise TypeError(
            "operator must be a lodo.operators.BlockPermutation, such as BlockPermutation(32, 4, padding=False, "
            f'kernel="native"), or a ShardedBlockPermutation(mesh, padding=False); got {operator!r}.'
        )
    for name, usual in (("depth", DEPTH), ("block_size", BLOCK_SIZE)):
        given = getattr(default, name)
        if not validation.is_traced(given) and given != usual:
            raise ValueError(f"{name}={given} is the default operator's; give it to operator={operator!r} instead.")
    return operator


def _check_momentum(name: str, value: Any, hint: str) -> Any:
    del hint  # which allows a schedule
    return validation.check_real(name, value, minimum=0.0, below=1.0, hint='or "auto"')
