"""What a step's time is spent on: the library's parts, each compiled alone, in turns with the whole step.

Where the library makes a step in place (n of some thousands and more), the parts are the passes that it makes: the
gradient's way up and down, outer products with Adam, the new momentum's way up and down. Below that size the parts are
the operator's methods and Adam, and a step that fuses them takes less than their sum: the rest is then negative.
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
from lodo import LodoState, lodo
from lodo.operators import BlockPermutation, _passes
from lodo.operators.base import padded
from lodo_experiments.analysis.step_times import ADAM, APPLY, GRADIENT, HYPERGRADIENT, META, MOMENTUM, REST, STEP

#: Part → (function of a carry that returns it, the carry to start from).
Parts = dict[str, tuple[Callable[[Any], Any], Any]]

#: Repetitions inside one program, so that a part's intermediate arrays are allocated once for all of them.
REPEATS = {100: 200, 10_000: 10, 94_696: 3, 1_000_000: 1}


def measure(amount: Amount, dtype: Any) -> list[Row]:
    """A row for each part at one n and dtype, and one for the whole step."""
    n, repeats = amount.n, REPEATS.get(amount.n, 1)
    optimizer, operator = lodo(meta_learning_rate=META_RATE), BlockPermutation()
    state = jax.jit(optimizer.init)(jnp.zeros(n, dtype))
    g, m = (jax.random.normal(jax.random.key(i), (n,), dtype) for i in (1, 2))

    def step(carry: Any) -> Any:
        x, g, state = carry
        change, state = optimizer.update(x + g, state)
        return x + change, g, state

    parts = _passes_of(state, m, g) if operator.fuses_adam(state.theta) else _methods_of(operator, state, m, g)
    parts[STEP] = (step, (jnp.zeros(n, dtype), g, state))
    timed = {name: Timed(_repeated(part, carry, repeats), repeats) for name, (part, carry) in parts.items()}
    samples = {name: found.seconds for name, found in take_turns(timed, amount.turns).items()}
    whole = samples.pop(STEP)
    shares = {STEP: whole, **samples, REST: whole - sum(samples.values())}
    about = {"n": n, "dtype": jnp.dtype(dtype).name}
    return [
        {**about, "part": name, **summary("seconds", Samples(found)), **summary("share", Samples(found / whole))}
        for name, found in shares.items()
    ]


# Each repetition works on what the one before left, so that none can be left out or moved out of the loop.


def _passes_of(state: LodoState, m: jax.Array, g: jax.Array) -> Parts:
    """The passes of a step made in place."""
    hidden = state.fixed.forward.shape[-1]
    theta, fixed, (m, g) = state.theta, state.fixed, (padded(m, hidden), padded(g, hidden))
    one = jnp.ones((), theta.dtype)
    numbers = _passes.AdamStep(META_RATE * one, one, one)

    def gradient(carry: Any) -> Any:
        theta, fixed, vectors, _ = carry
        out, inputs = both_ways(theta, fixed, vectors, _passes.inputs_of_zero(theta, 1))
        return theta, fixed, out, inputs

    def momentum(carry: Any) -> Any:
        theta, fixed, vectors, inputs = carry
        return theta, fixed, *both_ways(theta, fixed, vectors, inputs)

    def both_ways(theta: Any, fixed: Any, vectors: Any, into: Any) -> Any:
        return _passes.up_and_down(theta, fixed.forward, fixed.inverse, vectors, into)

    def adam(carry: Any) -> Any:
        theta, moments, m, g = carry
        learn = m.largest_up[0] == m.largest_up[0]
        theta, moments = _passes.adam_in_place(theta, moments, m, g, numbers, learn)
        return theta, moments, m, g

    empty = _passes.inputs_of_zero(theta, 1)
    of_m, of_g = (jax.jit(both_ways)(theta, fixed, (v,), empty)[1] for v in (m, g))
    return {
        GRADIENT: (gradient, (theta, fixed, (g,), of_g)),
        ADAM: (adam, (theta, (jnp.zeros_like(theta), jnp.zeros_like(theta)), of_m, of_g)),
        MOMENTUM: (momentum, (theta, fixed, (m,), of_m)),
    }


def _methods_of(operator: BlockPermutation, state: LodoState, m: jax.Array, g: jax.Array) -> Parts:
    """The operator's methods and Adam."""
    theta, fixed, optimizer = state.theta, state.fixed, optax.adam(META_RATE)

    def apply(carry: Any) -> Any:
        theta, fixed, v = carry
        return theta, fixed, operator.apply(theta, fixed, v)

    def hypergradient(carry: Any) -> Any:
        theta, fixed, m, g, _ = carry
        h = operator.hypergradient(theta, fixed, m, g)
        return theta, fixed, m + 1e-3 * h.reshape(-1)[0], g, h

    def adam(carry: Any) -> Any:
        theta, h, adam_state = carry
        change, adam_state = optimizer.update(h, adam_state, theta)
        return optax.apply_updates(theta, change), h, adam_state

    h = 1e-3 * jax.random.normal(jax.random.key(3), theta.shape, theta.dtype)
    return {
        APPLY: (apply, (theta, fixed, m)),
        HYPERGRADIENT: (hypergradient, (theta, fixed, m, g, h)),
        META: (adam, (theta, h, optimizer.init(theta))),
    }


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
