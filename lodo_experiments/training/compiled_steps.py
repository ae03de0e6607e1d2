"""The programs of a training: each lane's start, and compiled steps, batched over lanes and kept once compiled."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import jaxpr_as_fun

from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.tasks.base import Task

# A program's part of a run: (blocks, steps a block, whether to measure after each).
Piece = tuple[int, int, bool]
# (parameters, optimizer state, data state)
Carry = tuple[Any, Any, Any]


def _keys_of(key: jax.Array) -> jax.Array:
    return jax.random.split(key, 4)  # parameters, data state, optimizer, batches


def _transformation(
    optimizer: Optimizer, steps: int, values: Any, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optimizer.build(values, _keys_of(key)[2], steps))


def lane_start(task: Task, optimizer: Optimizer, steps: int) -> Callable[..., Carry]:
    """How one lane starts: (data, hyperparameters, key) → carry."""

    def start(data: Any, values: Any, key: jax.Array) -> Carry:
        params = task.init(_keys_of(key)[0])
        state = _transformation(optimizer, steps, values, key).init(params)
        return params, state, task.init_data(data, _keys_of(key)[1])

    return start


def start_lanes(task: Task, optimizer: Optimizer, steps: int, arguments: tuple[Any, Any, jax.Array]) -> Carry:
    """All lanes as they start, from (data, hyperparameters [lanes], keys [lanes]); every leaf is [lanes, …].

    Lane by lane, and not compiled as a whole: of LODO's programs the drawing of permutations and blocks would be what
    takes the compiler longest, and it runs once. So only its parts are compiled, for all optimizers of a shape once.
    """
    data, values, keys = arguments
    own = [(jax.tree.map(lambda x, lane=lane: x[lane], values), keys[lane]) for lane in range(len(keys))]
    # Traced, so that nobody looks at a hyperparameter's value: a search may ask for any.
    program, shapes = jax.make_jaxpr(lane_start(task, optimizer, steps), return_shape=True)(data, *own[0])
    run, structure = jaxpr_as_fun(program), jax.tree.structure(shapes)
    lanes = [run(*jax.tree.leaves((data, *one))) for one in own]
    # Leaf by leaf, the lanes' own let go at once: of a large network there is no room for two states.
    stacked = [jnp.stack([lane.pop(0) for lane in lanes]) for _ in range(len(lanes[0]))]
    result: Carry = jax.tree.unflatten(structure, stacked)
    return result


def lane_program(task: Task, optimizer: Optimizer, steps: int, piece: Piece) -> Callable[..., Any]:
    """A piece of one lane: (data, hyperparameters, key, carry, steps done) → (carry, losses, measurements).

    Of no block: (data, hyperparameters, key, carry) → measurements.
    """
    blocks, inner, measured = piece
    measure = task.measure if measured and task.measure is not None else lambda *_: {}

    def first(data: Any, values: Any, key: jax.Array, carry: Carry) -> dict[str, jax.Array]:
        del values, key
        return {name: jnp.reshape(value, (1,)) for name, value in measure(data, *carry).items()}

    def go_on(data: Any, values: Any, key: jax.Array, carry: Any, done: jax.Array) -> Any:
        update = _transformation(optimizer, steps, values, key).update
        batch_key = _keys_of(key)[3]

        def evaluate(params: Any, batch: Any, data_state: Any) -> Any:
            if task.stateful_loss is not None:
                return task.stateful_loss(params, batch, data_state)
            return task.loss(params, batch), data_state

        def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            params, state, data_state = carry
            batch, data_state = task.sample(data, data_state, jax.random.fold_in(batch_key, t))
            (loss, data_state), gradient = jax.value_and_grad(evaluate, has_aux=True)(params, batch, data_state)
            extra: dict[str, Any] = {
                "value": loss,
                "value_fn": lambda p: task.loss(p, batch),
                "grad_fn": lambda p: jax.grad(task.loss)(p, batch),
            }
            if optimizer.needs_hessian:
                if task.hessian is None:
                    raise ValueError(f"{optimizer.name} needs a Hessian, which the task {task.name} does not offer.")
                extra["hessian"] = task.hessian(params, batch)
            updates, state = update(gradient, state, params, **extra)
            return (optax.apply_updates(params, updates), state, data_state), loss

        def block(carry: Any, t: jax.Array) -> tuple[Any, Any]:
            carry, losses = jax.lax.scan(step, carry, t + jnp.arange(inner))
            return carry, (losses, measure(data, *carry))

        carry, (losses, measurement) = jax.lax.scan(block, carry, done + inner * jnp.arange(blocks))
        return carry, losses.reshape(-1), measurement

    return first if blocks == 0 else go_on


def compile_piece(
    task: Task, optimizer: Optimizer, steps: int, piece: Piece, arguments: tuple[Any, ...]
) -> tuple[jax.stages.Compiled, float]:
    """The compiled program for arguments of these shapes, and the seconds it took to make (0 when it was there)."""
    leaves, structure = jax.tree.flatten(_shapes(arguments))
    # A program serves runs of every length, unless the optimizer's own definition depends on it.
    steps = steps if optimizer.uses_steps else 0
    return _timed(_compile, task, optimizer, steps, piece, structure, tuple(leaves))


def _timed(compiling: Any, *arguments: Any) -> tuple[jax.stages.Compiled, float]:
    """What a cached function returns, and the seconds it took where it was not in its cache."""
    known, before = compiling.cache_info().misses, time.perf_counter()
    program = compiling(*arguments)
    return program, time.perf_counter() - before if compiling.cache_info().misses > known else 0.0


def measured_separately(task: Task, data: Any, params: Any, data_state: Any) -> tuple[dict[str, Any], float]:
    """The task's measurements of every lane, name → [lanes, 1], and the seconds it took to compile them."""
    leaves, structure = jax.tree.flatten(_shapes((data, params, data_state)))
    program, seconds = _timed(_compile_measure, task, structure, tuple(leaves))
    return jax.block_until_ready(program(data, params, data_state)), seconds


def bytes_of_lane(task: Task, optimizer: Optimizer, steps: int = 1) -> int:
    """Memory that one lane's training step takes, as its compiled program says: carry, gradients and activations.

    Returns:
      Bytes, without the data that all lanes share.

    Raises:
      RuntimeError: the backend does not say.
    """
    values = {name: jnp.full((1,), value, jnp.result_type(float)) for name, value in optimizer.defaults.items()}
    keys = jax.random.key(0)[None]
    carry = jax.eval_shape(jax.vmap(lane_start(task, optimizer, steps), (None, 0, 0)), task.data, values, keys)
    program, _ = compile_piece(task, optimizer, steps, (1, 1, False), (task.data, values, keys, carry, jnp.asarray(0)))
    memory = program.memory_analysis()
    if memory is None:
        raise RuntimeError(f"JAX does not say how much memory a program takes on {jax.default_backend()}; give lanes.")
    shared = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(task.data))
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes) - shared


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@functools.lru_cache(maxsize=16)
def _compile_measure(task: Task, structure: Any, leaves: tuple[Any, ...]) -> jax.stages.Compiled:
    measure = task.measure
    assert measure is not None

    def lanes(data: Any, params: Any, data_state: Any) -> dict[str, jax.Array]:
        # One lane after the other: a measurement that is made apart fills the machine by itself.
        values = jax.lax.map(lambda own: measure(data, own[0], None, own[1]), (params, data_state))
        return {name: value[:, None] for name, value in values.items()}

    return jax.jit(lanes).lower(*jax.tree.unflatten(structure, leaves)).compile()


@functools.lru_cache(maxsize=64)
def _compile(
    task: Task, optimizer: Optimizer, steps: int, piece: Piece, structure: Any, leaves: tuple[Any, ...]
) -> jax.stages.Compiled:
    arguments = jax.tree.unflatten(structure, leaves)
    lanes = arguments[2].shape[0]
    lane = lane_program(task, optimizer, steps, piece)
    axes = (None, 0, 0, 0) if piece[0] == 0 else (None, 0, 0, 0, None)

    def alone(*given: Any) -> Any:
        """One lane without vmap, whose batched gathers and products cost more."""
        own = [jax.tree.map(lambda x: x[0], part) if axis == 0 else part for part, axis in zip(given, axes)]
        return jax.tree.map(lambda x: x[None], lane(*own))

    program = jax.vmap(lane, in_axes=axes) if lanes > 1 else alone
    return jax.jit(program, donate_argnums=() if piece[0] == 0 else (3,)).lower(*arguments).compile()
