"""Short runs of a reader's own optimizers and tasks, from a cell of a notebook: nothing of them is stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import optax

from lodo._validation import check_integer
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results.records import Record
from lodo_experiments.studies.run_records import arrays_of
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.loop import train
from lodo_experiments.utils.progress import Progress

#: An optax transformation, or what makes one from a run's key, so that each run has random numbers of its own.
Transformation: TypeAlias = optax.GradientTransformation | Callable[[jax.Array], optax.GradientTransformation]


def train_each(
    task: Task, optimizers: Mapping[str, Transformation], *, steps: int, seeds: int = 4, measure_every: int = 0
) -> dict[str, Record]:
    """Train a task with each of some optimizers, on the same seeds.

    Args:
      task: what to minimize.
      optimizers: name → an optax transformation, or a function from a run's key to one; their rates are as given, and
        nothing is tuned.
      steps: updates of each run.
      seeds: how many runs, with seeds 0, 1, ….
      measure_every: steps between two of the task's measurements; 0: none.

    Returns:
      Name → what figures and tables take, as they take stored records; empty where LODO_REDRAW says to compute nothing.

    Raises:
      TypeError: an optimizer that is neither.

    >>> from lodo_experiments.tasks.rosenbrock import rosenbrock
    >>> tried = train_each(rosenbrock(dtype="float32"), {"descent": optax.sgd(0.05)}, steps=100, seeds=1)
    >>> [f"{loss:.3f}" for loss in tried["descent"].arrays["final_loss"]]
    ['0.048']
    """
    check_integer("seeds", seeds, 1)
    if os.environ.get("LODO_REDRAW"):
        return {}
    return {name: _one(task, name, given, steps, seeds, measure_every) for name, given in optimizers.items()}


def _one(task: Task, name: str, given: Transformation, steps: int, seeds: int, measure_every: int) -> Record:
    if not callable(given) and not hasattr(given, "update"):
        raise TypeError(
            f"The optimizer {name!r} must be an optax transformation, such as optax.adam(1e-3), or a function from a "
            f"JAX key to one; got {type(given).__name__}."
        )
    build = given if callable(given) else lambda key: given
    optimizer = Optimizer(name, lambda values, key, steps: build(key), {}, "given")
    chunk = -(-steps // 20)  # between two reports
    run = train(
        task, optimizer, steps=steps, seeds=range(seeds), measure_every=measure_every, chunk=chunk,
        progress=Progress(f"{task.name}: {name}"),
    )  # fmt: skip
    values = {"settings": {}, "hyperparameters": {}, "steps": steps, "gradients_per_step": 1}
    values["steps_per_second"] = run.steps_per_second * seeds
    provenance = {"seeds": list(range(seeds)), "wall_seconds": float(run.wall_seconds[-1])}
    return Record(f"tried/{name}", arrays_of(run), values, provenance)
