"""One training loop for every task and optimizer: compiled chunks of ``lax.scan``, batched over runs."""

from __future__ import annotations

import functools
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo._validation import check_integer
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results.records import StorageError
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.compiled_steps import Piece, compile_piece, measured_separately, start_lanes
from lodo_experiments.utils.progress import Report
from lodo_experiments.utils.time_limit import OutOfTime

DEFAULT_CHUNK = 1000
#: Times in a run, beside its start, at which it is measured how far LODO's G has moved.
DISPLACEMENTS = 10


def train(
    task: Task,
    optimizer: Optimizer,
    *,
    steps: int,
    seeds: Sequence[int],
    hyperparameters: Mapping[str, Any] | None = None,
    measure_every: int = 0,
    chunk: int = DEFAULT_CHUNK,
    lanes: int = 0,
    progress: Report | None = None,
    checkpoint: Checkpoint | None = None,
    prepare: Callable[[Any], Any] | None = None,
    stop_after: int = 0,
    displacement: Callable[[Any], np.ndarray] | None = None,
    displacements: int = DISPLACEMENTS,
) -> Run:
    """Train ``task`` with ``optimizer``, once for each seed.

    The numbers depend on neither ``chunk`` nor on ``progress``, and not on whether a run was stopped and went on from
    its checkpoint: every random draw is keyed by seed and step. One thing depends on ``chunk``: at which steps the
    ``displacement`` is measured, as that is done between two compiled programs.

    Args:
      task: what to minimize.
      optimizer: how.
      steps: updates of each lane, at least 1.
      seeds: one int for each lane: decides its start, batches and the optimizer's own draws.
      hyperparameters: name → a number, or one for each lane, [lanes]; those left out take the optimizer's defaults.
      measure_every: take the task's measurements each so many steps, and at step 0; 0: never.
      chunk: steps compiled into one program, between two reports of progress.
      lanes: how many runs side by side in one program (``vmap``), the rest after them; 0: all. One at a time needs the
        least memory, and is as fast where one lane keeps the machine busy.
      progress: called after each chunk.
      checkpoint: where the state is kept while it runs, and how long it may run; for lanes that all run side by side.
        What is there stays when the run is done: its caller removes it once the result is kept. A state that cannot be
        written on the way is told by a warning, and the run goes on.
      prepare: optimizer states of all lanes, as they start → those to start from instead.
      stop_after: the beginning of the run alone: end it after the first chunk that reaches so many steps. What is
        made is bit by bit what the whole run begins with, by the same compiled programs; 0: run to its end.
      displacement: optimizer states → how far LODO's G has moved in each lane, [lanes], or [0] for other optimizers
        (:func:`~lodo_experiments.training.displacement.inverse_hessian_displacement`); None: that is not measured.
      displacements: how often, beside the start: at the end of the first chunk after each of so many equal parts of
        the run.

    Returns:
      A :class:`~lodo_experiments.results.training_run.Run`. A lane that diverges goes on as nan, and is part of the
      result.

    Raises:
      ValueError: steps, chunk, lanes, measure_every or stop_after out of range, no seeds, unknown hyperparameters, or
        of another length, or a checkpoint for lanes that run one after the other.
      OutOfTime: the checkpoint's time is over; the state is saved.
      StorageError: the time is over and the state cannot be written.
    """
    check_integer("steps", steps, 1)
    check_integer("chunk", chunk, 1)
    check_integer("lanes", lanes, 0)
    check_integer("measure_every", measure_every, 0)
    check_integer("stop_after", stop_after, 0)
    check_integer("displacements", displacements, 1)
    if not len(seeds):
        raise ValueError("seeds must hold at least one int; got none.")
    values = _lane_values(optimizer, hyperparameters or {}, len(seeds))
    if 0 < lanes < len(seeds):
        if checkpoint is not None or prepare is not None:
            raise ValueError("checkpoint and prepare take lanes that all run side by side; give lanes=0.")
        groups = [slice(first, first + lanes) for first in range(0, len(seeds), lanes)]
        parts = [
            train(
                task, optimizer, steps=steps, seeds=seeds[group],
                hyperparameters={name: value[group] for name, value in values.items()},
                measure_every=measure_every, chunk=chunk, progress=_shift(progress, index, len(groups), steps),
                stop_after=stop_after, displacement=displacement, displacements=displacements,
            )
            for index, group in enumerate(groups)
        ]  # fmt: skip
        return _join(parts)

    keys = jnp.stack([jax.random.key(check_integer("seeds", seed, 0)) for seed in seeds])
    plan, measured, apart = _plan(task, steps, chunk, measure_every)
    measure = functools.partial(measured_separately, task, task.data) if apart else None

    before = time.perf_counter()
    carry = jax.block_until_ready(start_lanes(task, optimizer, steps, (task.data, values, keys)))
    compile_seconds = time.perf_counter() - before  # which is most of it
    if prepare is not None:
        carry = (carry[0], prepare(carry[1]), carry[2])
    first: dict[str, Any] = {}
    if measured:
        started = (task.data, values, keys, carry)
        look, seconds = compile_piece(task, optimizer, steps, (0, 0, True), started)
        compile_seconds += seconds
        first = look(*started)
    identity = {} if checkpoint is None else {
        "task": task.name, "optimizer": optimizer.name, "steps": steps, "seeds": list(seeds), "chunk": chunk,
        "hyperparameters": {name: np.asarray(value).tolist() for name, value in values.items()},
        "measure_every": measure_every, "displacements": displacements if displacement else 0,
        "data": _digest(task.data), "prepared": _digest(carry) if prepare else "",
    }  # fmt: skip
    kept = checkpoint.load(identity, carry) if checkpoint is not None else None
    history: dict[str, list[np.ndarray]] = {}  # name → pieces along the last axis
    done, elapsed = 0, 0.0

    def note(**values: Any) -> None:
        for name, value in values.items():
            history.setdefault(name, []).append(np.asarray(value))

    def note_measured(found: Mapping[str, Any]) -> None:
        note(**{f"measured.{name}": value for name, value in found.items()})

    def joined() -> dict[str, np.ndarray]:
        return {name: np.concatenate(pieces, axis=-1) for name, pieces in history.items()}

    def measure_displacement() -> None:
        distances = displacement(carry[1]) if displacement is not None else np.zeros(0)
        if distances.size:
            note(displacement=distances.astype(float)[:, None], displacement_steps=[done])

    if kept is not None:
        carry, so_far = kept
        done, elapsed = int(so_far.pop("step")), float(so_far["wall_seconds"][-1])
        compile_seconds += float(so_far.pop("compile_seconds"))
        note(**so_far)
    else:
        if measure is not None:
            first, seconds = measure(carry[0], carry[2])
            compile_seconds += seconds
        if measured or apart:
            note_measured(first)
        measure_displacement()

    def keep() -> None:
        if checkpoint is not None:
            now = {"step": np.array(done), "compile_seconds": np.array(compile_seconds)}
            checkpoint.save(identity, done, carry, {**joined(), **now})

    due = time.monotonic() + (0.0 if checkpoint is None else checkpoint.every)
    at = 0
    for piece in plan:
        at += piece[0] * piece[1]
        if at <= done:
            continue
        if checkpoint is not None and checkpoint.out_of_time():
            if history.get("losses"):
                keep()
            raise OutOfTime(f"{optimizer.name} on {task.name} stopped after {done:,} of {steps:,} steps, all saved.")
        arguments = (task.data, values, keys, carry, jnp.asarray(done))
        program, seconds = compile_piece(task, optimizer, steps, piece, arguments)
        compile_seconds += seconds
        before = time.perf_counter()
        carry, loss, measurement = jax.block_until_ready(program(*arguments))
        elapsed += time.perf_counter() - before
        done += piece[0] * piece[1]
        note(losses=loss, wall_steps=[done], wall_seconds=[elapsed])
        if piece[2]:
            note_measured(measurement)
        elif measure is not None and done % measure_every == 0:
            note_measured(measure(carry[0], carry[2])[0])
        if done * displacements // steps > (done - piece[0] * piece[1]) * displacements // steps:
            measure_displacement()
        if progress is not None:
            with np.errstate(all="ignore"):
                tail = history["losses"][-1][:, -max(1, loss.shape[1] // 10) :]
                progress(done, steps, float(np.mean(tail)))
        if checkpoint is not None and time.monotonic() >= due and done < steps:
            before = time.monotonic()
            try:
                keep()
            except StorageError as error:  # the run is worth more than what is kept of it on the way
                warnings.warn(f"{error} The run goes on, with what was kept before.", stacklevel=2)
            due = time.monotonic() + checkpoint.pause(time.monotonic() - before)
        if 0 < stop_after <= done:
            break

    measured_steps = np.arange(done // measure_every + 1) * measure_every if measured or apart else np.zeros(0, int)
    found = joined()
    return Run(
        found["losses"],
        {name.removeprefix("measured."): array for name, array in found.items() if name.startswith("measured.")},
        measured_steps, found["wall_steps"], found["wall_seconds"], compile_seconds,
        carry[0], carry[1], carry[2],
        found.get("displacement", np.zeros((len(seeds), 0))), found.get("displacement_steps", np.zeros(0, int)),
    )  # fmt: skip


def _plan(task: Task, steps: int, chunk: int, measure_every: int) -> tuple[list[Piece], bool, bool]:
    """The pieces of a run, whether they measure, and whether something else does between them."""
    measured = bool(measure_every) and task.measure is not None and not task.measured_separately
    apart = bool(measure_every) and task.measure is not None and task.measured_separately
    inner = min(measure_every if measured else math.gcd(chunk, measure_every) if apart else chunk, steps)
    blocks, rest = divmod(steps, inner)
    per_chunk = max(1, chunk // inner)
    plan = [(min(per_chunk, blocks - done), inner, measured) for done in range(0, blocks, per_chunk)]
    return plan + ([(1, rest, False)] if rest else []), measured, apart


def _digest(tree: Any) -> str:
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


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


def _shift(progress: Report | None, lane: int, lanes: int, steps: int) -> Report | None:
    if progress is None:
        return None
    return lambda done, _, loss: progress(lane * steps + done, lanes * steps, loss)


def _join(lanes: list[Run]) -> Run:
    """Runs made one after the other as one; its clock is the sum over them, chunk by chunk."""

    def stacked(part: str) -> Any:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(getattr(lane, part) for lane in lanes))

    return replace(
        lanes[0],
        losses=np.concatenate([lane.losses for lane in lanes]),
        measured={name: np.concatenate([lane.measured[name] for lane in lanes]) for name in lanes[0].measured},
        wall_seconds=np.sum([lane.wall_seconds for lane in lanes], axis=0),
        compile_seconds=sum(lane.compile_seconds for lane in lanes),
        displacement=np.concatenate([lane.displacement for lane in lanes]),
        **{part: stacked(part) for part in ("params", "optimizer_state", "data_state")},
    )
