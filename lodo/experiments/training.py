"""One training loop for every task and optimizer: compiled chunks of ``lax.scan``, batched over runs."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo._validation import check_integer
from lodo.experiments.optimizers import Optimizer
from lodo.experiments.progress import Report
from lodo.experiments.tasks.base import Task

DEFAULT_CHUNK = 1000


@dataclass(frozen=True)
class Run:
    """What a training produced; a lane is one run with its own seed and hyperparameters.

    Attributes:
      losses: [lanes, steps] loss at each step's batch, before the step's update; nan or inf after divergence.
      measured: name → [lanes, M], the task's measurements.
      measured_steps: [M] how many updates had been made at each measurement.
      wall_steps: [C] updates made at the end of each chunk.
      wall_seconds: [C] synchronised seconds from the first step's start to then, compilation left out.
      compile_seconds: seconds spent tracing and compiling.
      params: final parameters, each leaf with a leading axis of lanes.
      optimizer_state: final state of the optimizer, likewise.
    """

    losses: np.ndarray
    measured: Mapping[str, np.ndarray]
    measured_steps: np.ndarray
    wall_steps: np.ndarray
    wall_seconds: np.ndarray
    compile_seconds: float
    params: Any
    optimizer_state: Any

    @property
    def diverged_at(self) -> np.ndarray:
        """[lanes] the first step whose loss is not finite, −1 where there is none."""
        bad = ~np.isfinite(self.losses)
        return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)

    @property
    def scores(self) -> np.ndarray:
        """[lanes] mean loss over the last 10 % of steps (at least one); nan for a diverged lane."""
        tail = self.losses[:, -max(1, self.losses.shape[1] // 10) :]
        return np.where(self.diverged_at < 0, np.where(np.isfinite(tail), tail, 0).mean(axis=1), np.nan)

    @property
    def steps_per_second(self) -> float:
        """Updates of every lane a second, compilation left out."""
        return float(self.wall_steps[-1] / self.wall_seconds[-1])


def train(
    task: Task,
    optimizer: Optimizer,
    *,
    steps: int,
    seeds: Sequence[int],
    hyperparameters: Mapping[str, Any] | None = None,
    measure_every: int = 0,
    chunk: int = DEFAULT_CHUNK,
    batched: bool = True,
    progress: Report | None = None,
) -> Run:
    """Train ``task`` with ``optimizer``, once for each seed.

    The numbers depend on neither ``chunk`` nor on ``progress``: every random draw is keyed by seed and step.

    Args:
      task: what to minimize.
      optimizer: how.
      steps: updates of each lane, at least 1.
      seeds: one int for each lane: decides its start, batches and the optimizer's own draws.
      hyperparameters: name → a number, or one for each lane, [lanes]; those left out take the optimizer's defaults.
      measure_every: take the task's measurements each so many steps, and at step 0; 0: never.
      chunk: steps compiled into one program, between two reports of progress.
      batched: run the lanes side by side in one program (``vmap``); otherwise one after the other, which needs less
        memory, and is as fast where one lane keeps the machine busy.
      progress: called after each chunk.

    Returns:
      A :class:`Run`. A lane that diverges goes on as nan, and is part of the result.

    Raises:
      ValueError: steps, chunk or measure_every out of range, no seeds, unknown hyperparameters, or of another length.
    """
    check_integer("steps", steps, 1)
    check_integer("chunk", chunk, 1)
    check_integer("measure_every", measure_every, 0)
    if not len(seeds):
        raise ValueError("seeds must hold at least one int; got none.")
    values = _lane_values(optimizer, hyperparameters or {}, len(seeds))
    if not batched and len(seeds) > 1:
        lanes = []
        for lane, seed in enumerate(seeds):
            own = {name: value[lane : lane + 1] for name, value in values.items()}
            report = _shifted(progress, lane, len(seeds), steps)
            lanes.append(
                train(
                    task, optimizer, steps=steps, seeds=[seed], hyperparameters=own, measure_every=measure_every,
                    chunk=chunk, progress=report,
                )
            )  # fmt: skip
        return _joined(lanes)

    keys = jnp.stack([jax.random.key(check_integer("seeds", seed, 0)) for seed in seeds])
    measured = bool(measure_every) and task.measure is not None and not task.measured_apart
    apart = bool(measure_every) and task.measure is not None and task.measured_apart
    inner = min(measure_every if measured else math.gcd(chunk, measure_every) if apart else chunk, steps)
    blocks, rest = divmod(steps, inner)
    per_chunk = max(1, chunk // inner)
    measure = functools.partial(_measure_apart, task, task.data) if apart else None
    plan = [(min(per_chunk, blocks - done), inner, measured) for done in range(0, blocks, per_chunk)]
    plan += [(1, rest, False)] if rest else []

    start, compile_seconds = _compiled(task, optimizer, steps, (0, 0, measured), (task.data, values, keys))
    carry, first = jax.block_until_ready(start(task.data, values, keys))
    if measure is not None:
        first, seconds = measure(carry[0])
        compile_seconds += seconds
    losses, measurements, wall_steps, wall_seconds = [], [first] if measured or apart else [], [], []
    done, elapsed = 0, 0.0
    for piece in plan:
        arguments = (task.data, values, keys, carry, jnp.asarray(done))
        program, seconds = _compiled(task, optimizer, steps, piece, arguments)
        compile_seconds += seconds
        before = time.perf_counter()
        carry, loss, measurement = jax.block_until_ready(program(*arguments))
        elapsed += time.perf_counter() - before
        done += piece[0] * piece[1]
        losses.append(np.asarray(loss))
        if piece[2]:
            measurements.append(measurement)
        elif measure is not None and done % measure_every == 0:
            measurements.append(measure(carry[0])[0])
        wall_steps.append(done)
        wall_seconds.append(elapsed)
        if progress is not None:
            with np.errstate(all="ignore"):
                progress(done, steps, float(np.mean(losses[-1][:, -max(1, inner // 10) :])))

    params, optimizer_state, _ = carry
    named = {name: np.concatenate([np.asarray(m[name]) for m in measurements], axis=1) for name in (first or {})}
    at = np.arange(steps // measure_every + 1) * measure_every if measured or apart else np.zeros(0, int)
    return Run(
        np.concatenate(losses, axis=1), named, at, np.array(wall_steps), np.array(wall_seconds), compile_seconds,
        params, optimizer_state,
    )  # fmt: skip


def _lane_values(optimizer: Optimizer, given: Mapping[str, Any], lanes: int) -> dict[str, jax.Array]:
    """The optimizer's hyperparameters, each [lanes]."""
    unknown = set(given) - set(optimizer.defaults)
    if unknown:
        raise ValueError(
            f"{optimizer.name} has no hyperparameter {', '.join(sorted(unknown))}; it has "
            f"{', '.join(optimizer.defaults)}."
        )
    values = {}
    for name, default in optimizer.defaults.items():
        value = jnp.asarray(given.get(name, default), jnp.result_type(float))
        if value.shape not in ((), (lanes,)):
            raise ValueError(f"{name} must be one number, or one for each of {lanes} lanes; got shape {value.shape}.")
        values[name] = jnp.broadcast_to(value, (lanes,))
    return values


def _lane_program(task: Task, optimizer: Optimizer, steps: int, piece: tuple[int, int, bool]) -> Callable[..., Any]:
    """One lane's program: (blocks, steps a block, whether to measure after each); (0, 0, …) is the start."""
    blocks, inner, measured = piece
    measure = task.measure if measured and task.measure is not None else lambda *_: {}

    def keys_of(key: jax.Array) -> jax.Array:
        return jax.random.split(key, 4)  # parameters, data state, optimizer, batches

    def transformation(values: Any, key: jax.Array) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optimizer.build(values, keys_of(key)[2], steps))

    def start(data: Any, values: Any, key: jax.Array) -> Any:
        params = task.init(keys_of(key)[0])
        state = transformation(values, key).init(params)
        first = {name: jnp.reshape(value, (1,)) for name, value in measure(data, params, state).items()}
        return (params, state, task.init_data(data, keys_of(key)[1])), first

    def go_on(data: Any, values: Any, key: jax.Array, carry: Any, done: jax.Array) -> Any:
        update = transformation(values, key).update
        batch_key = keys_of(key)[3]

        def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            params, state, data_state = carry
            batch, data_state = task.sample(data, data_state, jax.random.fold_in(batch_key, t))
            loss, gradient = jax.value_and_grad(task.loss)(params, batch)
            extra: dict[str, Any] = {"value": loss, "grad_fn": lambda p: jax.grad(task.loss)(p, batch)}
            if optimizer.needs_hessian:
                if task.hessian is None:
                    raise ValueError(f"{optimizer.name} needs a Hessian, which the task {task.name} does not offer.")
                extra["hessian"] = task.hessian(params, batch)
            updates, state = update(gradient, state, params, **extra)
            return (optax.apply_updates(params, updates), state, data_state), loss

        def block(carry: Any, t: jax.Array) -> tuple[Any, Any]:
            carry, losses = jax.lax.scan(step, carry, t + jnp.arange(inner))
            return carry, (losses, measure(data, *carry[:2]))

        carry, (losses, measurement) = jax.lax.scan(block, carry, done + inner * jnp.arange(blocks))
        return carry, losses.reshape(-1), measurement

    return start if blocks == 0 else go_on


def _compiled(
    task: Task, optimizer: Optimizer, steps: int, piece: tuple[int, int, bool], arguments: tuple[Any, ...]
) -> tuple[Callable[..., Any], float]:
    """The compiled program for arguments of these shapes, and the seconds it took to make (0 when it was there)."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    leaves, structure = jax.tree.flatten(shapes)
    # A program serves runs of every length, unless the optimizer's own definition depends on it.
    steps = steps if optimizer.uses_steps else 0
    known = _compile.cache_info().misses
    before = time.perf_counter()
    program = _compile(task, optimizer, steps, piece, structure, tuple(leaves))
    return program, time.perf_counter() - before if _compile.cache_info().misses > known else 0.0


def _measure_apart(task: Task, data: Any, params: Any) -> tuple[dict[str, Any], float]:
    """The task's measurements of every lane, name → [lanes, 1], and the seconds it took to compile them."""
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (data, params)))
    known = _compile_measure.cache_info().misses
    before = time.perf_counter()
    program = _compile_measure(task, structure, tuple(leaves))
    seconds = time.perf_counter() - before if _compile_measure.cache_info().misses > known else 0.0
    return jax.block_until_ready(program(data, params)), seconds


@functools.lru_cache(maxsize=16)
def _compile_measure(task: Task, structure: Any, leaves: tuple[Any, ...]) -> Callable[..., Any]:
    measure = task.measure
    assert measure is not None

    def lanes(data: Any, params: Any) -> dict[str, jax.Array]:
        # One lane after the other: a measurement that is made apart fills the machine by itself.
        values = jax.lax.map(lambda own: measure(data, own, None), params)
        return {name: value[:, None] for name, value in values.items()}

    return jax.jit(lanes).lower(*jax.tree.unflatten(structure, leaves)).compile()


@functools.lru_cache(maxsize=64)
def _compile(
    task: Task, optimizer: Optimizer, steps: int, piece: tuple[int, int, bool], structure: Any, leaves: tuple[Any, ...]
) -> Callable[..., Any]:
    arguments = jax.tree.unflatten(structure, leaves)
    lanes = arguments[2].shape[0]
    lane = _lane_program(task, optimizer, steps, piece)
    starting = piece[0] == 0
    axes = (None, 0, 0) if starting else (None, 0, 0, 0, None)

    def alone(*given: Any) -> Any:
        """One lane without vmap, whose batched gathers and products cost more."""
        own = [jax.tree.map(lambda x: x[0], part) if axis == 0 else part for part, axis in zip(given, axes)]
        return jax.tree.map(lambda x: x[None], lane(*own))

    program = jax.vmap(lane, in_axes=axes) if lanes > 1 else alone
    return jax.jit(program, donate_argnums=() if starting else (3,)).lower(*arguments).compile()


def _shifted(progress: Report | None, lane: int, lanes: int, steps: int) -> Report | None:
    if progress is None:
        return None
    return lambda done, _, loss: progress(lane * steps + done, lanes * steps, loss)


def _joined(lanes: list[Run]) -> Run:
    """Runs made one after the other as one; its clock is the sum over them, chunk by chunk."""

    def stacked(part: str) -> Any:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(getattr(lane, part) for lane in lanes))

    return Run(
        np.concatenate([lane.losses for lane in lanes]),
        {name: np.concatenate([lane.measured[name] for lane in lanes]) for name in lanes[0].measured},
        lanes[0].measured_steps,
        lanes[0].wall_steps,
        np.sum([lane.wall_seconds for lane in lanes], axis=0),
        sum(lane.compile_seconds for lane in lanes),
        stacked("params"),
        stacked("optimizer_state"),
    )
