"""Relative, whitened LODO: Algorithm 1 with meta-steps that need no tuning, as an optax gradient transformation."""

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
from lodo._meta_step import choose
from lodo._state import Averages, RlodoState
from lodo.compact.storage import Storage, key_at, key_of, read, storage_named, write
from lodo.operators.block_permutation import BlockPermutation
from lodo.relative.steps import as_it_is, meta_step, start

DEPTH, BLOCK_SIZE = 32, 4


def rlodo(
    meta_learning_rate: optax.ScalarOrSchedule = formula.default_meta_learning_rate,
    whitening: optax.ScalarOrSchedule | Literal["auto"] = "auto",
    momentum: jax.typing.ArrayLike | Literal["auto"] = "auto",
    depth: int | jax.Array = DEPTH,
    block_size: int | jax.Array = BLOCK_SIZE,
    *,
    initial_learning_rate: optax.ScalarOrSchedule | Literal["auto"] = "auto",
    seed: int | jax.Array = 0,
    dtype: jax.typing.DTypeLike | None = None,
    storage: Literal["full", "compact"] | Storage = "full",
    operator: BlockPermutation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Relative LODO: the learned inverse Hessian of :func:`lodo.lodo`, by steps that need no tuning."""
    meta_rate = check_rate("meta_learning_rate", meta_learning_rate, hint="0 keeps S(θ) = I, which is momentum SGD")
    weight, beta, alpha0 = (
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
            (zero, formula.first_step(_tree.ravel(params, width, place)))
            if isinstance(alpha0, str)
            else (rate_at(alpha0, count, width), zero)
        )
        decay = jnp.array(formula.MOMENTUM_RANGE[1] if isinstance(beta, str) else beta, width, copy=True)
        state = RlodoState(
            step_count=count, first_step=first, base_rate=rate, log_scale=zero, decay=decay,
            cosine=zero, whitening=zero,
            averages=Averages(zero, zero), theta=theta, fixed=fixed, momentum=(), direction=(),
            direction_before=(), meta_state=meta_state, rounding_key=rounding_key,
        )  # fmt: skip
        # Each scalar an array of its own: who donates a state must not donate one array twice.
        state = _tree.whole(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state), place)
        m, d, before = (_tree.zeros_like(params, width, place) for _ in range(3))
        last = _displacement.no_step(params, width, place)._replace(step=())  # which is −α₀ eˢ d
        result: RlodoState = state._replace(momentum=m, direction=d, direction_before=before, last=last)
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
        m, d, before = (_tree.ravel(t, place=place) for t in (like, state.direction, state.direction_before))
        state = _tree.whole(state._replace(momentum=(), direction=(), direction_before=(), last=None), place)
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
            asked = last._replace(step=_tree.unravel(-state.initial_learning_rate * d, like))
            excused = _tree.ravel(_displacement.held_back(asked, params, place), place=place) & jnp.isfinite(g)
            judge = jnp.where(excused, 0, clipped)

        # What the last step did to the loss, by the size that such products have had.
        seen, averages, decay = state.meta_state.step_count, state.averages, state.decay
        product = formula.norm(clipped) * formula.norm(d)
        live = product > 0
        scale = jnp.where(seen > 0, averages.product, product)
        cosine = jnp.sum(judge * d) * formula.inverse(scale)
        w = formula.default_whitening(decay) if isinstance(weight, str) else rate_at(weight, count, width)
        if isinstance(beta, str):
            difference = jnp.sum(judge * before) * formula.inverse(scale) - cosine
            decay = jnp.where(live & (seen > 0), formula.momentum(decay, difference), decay)
        else:
            decay = jnp.asarray(beta, width)
        log_scale = jnp.where(live, formula.log_scale(state.log_scale, cosine), state.log_scale)
        averages = Averages(
            formula.mean(averages.gradient, factor * length, formula.CLIP_DECAY, count),
            jnp.where(live, formula.mean(averages.product, product, formula.PRODUCT_DECAY, seen), averages.product),
        )

        m_after = decay * m + (1 - decay) * clipped
        length_m = formula.norm(m)
        pair = m * formula.inverse(length_m), formula.probe(judge, d, scale, w, length_m)
        finite = jnp.all(jnp.isfinite(g))
        theta, meta_state, direction, made = meta_step(
            form, read(state.theta, width), state.fixed, state.meta_state, pair, m_after, w,
            rate_at(meta_rate, count, width), live & finite, rounded if rounding else as_it_is,
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
            cosine=cosine, whitening=w, averages=averages,
        )  # fmt: skip
        # θ and the meta-step's state are as they were already where nothing was made.
        rest: dict[str, Any] = {"theta": (), "fixed": (), "meta_state": ()}
        small, same = (one._replace(**rest) for one in (new, state))
        small, m_after, before, direction = choose(made, (small, m_after, d, direction), (same, m, before, d))
        after = small._replace(theta=theta, fixed=state.fixed, meta_state=meta_state)
        if last is not None:
            last = choose(made, _displacement.record(last, params, (), place), last)
        vectors = (_tree.unravel(v, like) for v in (m_after, direction, before))
        after = after._replace(**dict(zip(("momentum", "direction", "direction_before"), vectors)), last=last)
        return _tree.unravel(jnp.where(made, step, jnp.full_like(step, jnp.nan)), updates), after

    return validation.naming_leaves(init, update)


def _check_operator(operator: Any, depth: Any, block_size: Any) -> BlockPermutation:
    """The operator given, or the default one of these two numbers."""
    default = BlockPermutation(depth, block_size, padding=False)
    if operator is None:
        return default
    if not isinstance(operator, BlockPermutation):
        raise TypeError(
            "operator must be a lodo.operators.BlockPermutation, such as BlockPermutation(32, 4, padding=False, "
            f'kernel="native"); got {operator!r}.'
        )
    for name, usual in (("depth", DEPTH), ("block_size", BLOCK_SIZE)):
        given = getattr(default, name)
        if not validation.is_traced(given) and given != usual:
            raise ValueError(f"{name}={given} is the default operator's; give it to operator={operator!r} instead.")
    return operator


def _check_momentum(name: str, value: Any, hint: str) -> Any:
    return validation.check_real(name, value, minimum=0.0, below=1.0, hint=hint)
