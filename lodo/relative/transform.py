"""Relative, whitened LODO: Algorithm 1 with meta-steps that need no tuning, as an optax gradient transformation."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lodo import _displacement, _tree
from lodo import _formula as formula
from lodo import _validation as validation
from lodo._arguments import as_key, check_dtype, check_rate, copy_arrays, rate_at, widest_dtype
from lodo._meta_step import choose
from lodo.compact.storage import Storage, key_at, key_of, read, storage_named, write
from lodo.operators.block_permutation import BlockPermutation
from lodo.relative.state import RlodoState
from lodo.relative.steps import derivative, relative_step, start

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
        _check_or_auto("whitening", whitening, check_rate),
        _check_or_auto("momentum", momentum, _check_momentum),
        _check_or_auto("initial_learning_rate", initial_learning_rate, check_rate),
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
            if alpha0 == "auto"
            else (rate_at(alpha0, count, width), zero)
        )
        decay = jnp.array(formula.MOMENTUM_RANGE[1] if beta == "auto" else beta, width, copy=True)
        state = RlodoState(
            step_count=count, first_step=first, base_rate=rate, log_scale=zero, decay=decay,
            averages=formula.Averages(zero, zero), theta=theta, fixed=fixed, momentum=(), direction=(),
            direction_before=(), meta_state=meta_state, rounding_key=rounding_key,
        )  # fmt: skip
        # Each scalar an array of its own: who donates a state must not donate one array twice.
        state = _tree.whole(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state), place)
        m, d, before = (_tree.zeros_like(params, width, place) for _ in range(3))
        last = _displacement.no_step(params, width, place)
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

        g = _tree.ravel(updates, width, place)
        length = formula.norm(g)
        factor = formula.clip_factor(length, state.averages, count)
        clipped = factor * g
        judge = clipped
        if last is not None:
            # Where the step was not made, g does not judge it. An entry that is not finite is refused all the same.
            excused = _tree.ravel(_displacement.held_back(last, params, place), place=place) & jnp.isfinite(g)
            judge = jnp.where(excused, 0, clipped)

        # What the last step did to the loss, by the size that such products have had.
        product = formula.norm(clipped) * formula.norm(d)
        judged = jnp.maximum(count - 1, 0)  # steps of which the means know; the first gradient judges none
        scale = jnp.where(judged > 0, state.averages.product, product)
        cosine = jnp.sum(judge * d) * formula.inverse(scale)
        averages = formula.Averages(
            formula.mean(state.averages.gradient, length, formula.CLIP_DECAY, count),
            jnp.where(count > 0, formula.mean(state.averages.product, product, formula.PRODUCT_DECAY, judged), 0),
        )
        decay, log_scale = state.decay, formula.log_scale(state.log_scale, cosine)
        if beta == "auto":
            difference = jnp.sum(judge * before) * formula.inverse(scale) - cosine
            learned = formula.momentum(decay, difference)
            decay = jnp.where(judged > 0, learned, decay)
        else:
            decay = jnp.asarray(beta, width)
        w = formula.default_whitening(decay) if weight == "auto" else rate_at(weight, count, width)

        # θ, relatively to itself, up the derivative of ⟨p, S m⟩ + w log det S.
        theta = read(state.theta, width)
        p = formula.probe(judge, d, scale, w)
        of = form.through(theta, state.fixed, jnp.stack([m, p]))
        bound = of.largest_up[0] * of.largest_down[1] + of.largest_up[1] * of.largest_down[0]
        made = jnp.all(jnp.isfinite(g)) & jnp.isfinite(bound * bound)
        passed = form.passes_some(theta, size)
        e = derivative(of, w, passed)
        change, meta_state = relative_step(e, theta, state.meta_state, rate_at(meta_rate, count, width), passed)
        # Before the first step there is nothing to learn from, not even a direction to whiten.
        made_step = count > 0
        theta, meta_state = choose(made & made_step, (theta + change, meta_state), (theta, state.meta_state))
        if state.rounding_key is not None:
            theta = write(theta, kept.theta, key_at(state.rounding_key, count))
        theta = choose(made, theta, state.theta)

        m_after = decay * m + (1 - decay) * clipped
        direction = form.apply(read(theta, width), state.fixed, m_after)
        if alpha0 == "auto":
            decided = state.first_step * formula.inverse(formula.norm(direction))
            rate = jnp.where(state.base_rate > 0, state.base_rate, decided)
        else:
            rate = rate_at(alpha0, count, width)
        step = -(rate * jnp.exp(log_scale)) * direction
        new = state._replace(
            step_count=optax.safe_increment(count), base_rate=rate, log_scale=log_scale, decay=decay,
            averages=averages, theta=theta, meta_state=meta_state,
        )  # fmt: skip
        after, m_after, before, direction = choose(made, (new, m_after, d, direction), (state, m, before, d))
        if last is not None:
            asked = _tree.unravel(step, like)
            last = choose(made, _displacement.record(last, params, asked, place), last)
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


def _check_or_auto(name: str, value: Any, check: Any) -> Any:
    """A value that ``check`` takes, or "auto"."""
    if not isinstance(value, str):
        return check(name, value, hint='or "auto"')
    if value != "auto":
        raise ValueError(f'{name} must be a number or "auto"; got {value!r}.')
    return value


def _check_momentum(name: str, value: Any, hint: str) -> Any:
    return validation.check_real(name, value, minimum=0.0, below=1.0, hint=hint)
