"""What a step's time is spent on: the library's parts, each compiled alone, in turns with the whole step.

Parts that a program fuses cost less together than alone: what is left of the step after them may then be negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.speed.forms import META_RATE
from benchmarks.speed.steps import Amount, Row, summary
from benchmarks.turns import Samples, Timed, take_turns
from lodo import lodo
from lodo.experiments.speed import APPLY, HYPERGRADIENT, META, REST, STEP
from lodo.operators import BlockPermutation

#: Repetitions inside one program, so that a part's intermediate arrays are allocated once for all of them.
REPEATS = {100: 200, 10_000: 10, 94_696: 3, 1_000_000: 1}


def measure(amount: Amount, dtype: Any) -> list[Row]:
    """A row for each part at one n and dtype, and one for the whole step."""
    n, repeats = amount.n, REPEATS.get(amount.n, 1)
    optimizer, operator, adam = lodo(meta_learning_rate=META_RATE), BlockPermutation(), optax.adam(META_RATE)
    state = jax.jit(optimizer.init)(jnp.zeros(n, dtype))
    theta, fixed = state.theta, state.fixed
    g, m = (jax.random.normal(jax.random.key(i), (n,), dtype) for i in (1, 2))

    # Each repetition works on what the one before left, so that none can be left out or moved out of the loop.
    def apply(v: Any) -> Any:
        theta, fixed, v = v
        return theta, fixed, operator.apply(theta, fixed, v)

    def hypergradient(carry: Any) -> Any:
        theta, fixed, m, g, _ = carry
        h = operator.hypergradient(theta, fixed, m, g)
        return theta, fixed, m + jnp.max(jax.tree.leaves(h)[0].reshape(-1)[:1]), g, h

    def meta(carry: Any) -> Any:
        theta, h, adam_state = carry
        change, adam_state = adam.update(h, adam_state, theta)
        return optax.apply_updates(theta, change), h, adam_state

    def step(carry: Any) -> Any:
        x, g, state = carry
        change, state = optimizer.update(x + g, state)
        return x + change, g, state

    copied = jax.tree.map(jnp.copy, theta)
    h = jax.tree.map(lambda leaf: 1e-3 * jax.random.normal(jax.random.key(3), leaf.shape, leaf.dtype), theta)
    parts: dict[str, tuple[Callable[[Any], Any], Any]] = {
        STEP: (step, (jnp.zeros(n, dtype), g, state)),
        APPLY: (apply, (theta, fixed, m)),
        HYPERGRADIENT: (hypergradient, (theta, fixed, m, g, jax.tree.map(jnp.zeros_like, theta))),
        META: (meta, (copied, h, adam.init(copied))),
    }
    timed = {name: Timed(_repeated(part, carry, repeats), repeats) for name, (part, carry) in parts.items()}
    samples = take_turns(timed, amount.turns)
    whole = samples[STEP]
    rest = whole.seconds - sum(samples[name].seconds for name in (APPLY, HYPERGRADIENT, META))
    about = {"n": n, "dtype": jnp.dtype(dtype).name}
    rows = [
        {**about, "part": name, **summary("seconds", found), **summary("share", found.ratio(whole))}
        for name, found in samples.items()
    ]
    left = Samples(rest)
    return [*rows, {**about, "part": REST, **summary("seconds", left), **summary("share", left.ratio(whole))}]


def _repeated(part: Callable[[Any], Any], carry: Any, repeats: int) -> Callable[[], Any]:
    def many(carry: Any) -> Any:
        return jax.lax.scan(lambda c, _: (part(c), None), carry, None, length=repeats)[0]

    # The carry is copied once and then handed from call to call.
    box = [jax.tree.map(jnp.copy, carry)]
    program = jax.jit(many, donate_argnums=0).lower(box[0]).compile()

    def call() -> Any:
        box[0] = program(box[0])
        return box[0]

    return call
