"""The paper's evolution strategy for hyperparameters, the same for every optimizer.

Hyperparameters are searched in normalised coordinates: the logarithm of rates, and log(1 − h) of momenta and decays.
Each generation draws a population from a normal distribution around the mean, trains each member, and makes the
mean of the better half the next mean. A member that diverges counts as the worst. All members of a generation train
with one seed, each generation with another: members meet the same batches, and differ by their hyperparameters alone
(the paper does not say how its trials were seeded).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodo._validation import check_integer, check_real
from lodo.experiments.optimizers import Optimizer
from lodo.experiments.progress import Report
from lodo.experiments.tasks.base import Task
from lodo.experiments.training import train

#: Hyperparameters h that live in [0, 1) and are searched as log(1 − h); the others are positive, searched as log h.
DECAYS = frozenset({"momentum", "b1", "b2", "decay"})

#: Tuning seeds start here and report seeds at 0, so that no run that tunes is reported.
FIRST_TUNING_SEED = 1_000_000


@dataclass(frozen=True)
class Generation:
    """One generation of a schedule.

    Attributes:
      deviation: σ of the population in every normalised coordinate.
      steps: length of each member's training.
      population: how many members.
    """

    deviation: float
    steps: int
    population: int

    def __post_init__(self) -> None:
        check_real("deviation", self.deviation, minimum=0.0)
        check_integer("steps", self.steps, 1)
        check_integer("population", self.population, 2)


@dataclass(frozen=True)
class Tuning:
    """What tuning found, with every trial.

    Attributes:
      hyperparameters: name → tuned value: the mean of the last generation's better half.
      trials: name → [trials], with "generation", "seed", "steps" and "score" beside the hyperparameters.
      wall_seconds: synchronised training time of all trials.
      compile_seconds: time spent compiling.
    """

    hyperparameters: dict[str, float]
    trials: dict[str, np.ndarray]
    wall_seconds: float
    compile_seconds: float


def normalise(name: str, value: float) -> float:
    """A hyperparameter's coordinate.

    >>> round(normalise("momentum", 0.9), 4), normalise("learning_rate", 1.0)
    (-2.3026, 0.0)
    """
    return float(np.log1p(-value) if name in DECAYS else np.log(value))


def denormalise(name: str, coordinate: np.ndarray) -> np.ndarray:
    """The hyperparameter at a coordinate; decays are clipped at 0.

    >>> denormalise("momentum", np.array([0.5, np.log(0.1)])).round(3).tolist()
    [0.0, 0.9]
    """
    return np.maximum(-np.expm1(coordinate), 0.0) if name in DECAYS else np.exp(coordinate)


def better_half(coordinates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean of the better half of a population.

    Args:
      coordinates: [population, hyperparameters].
      scores: [population], the smaller the better; nan is worst.

    Returns:
      [hyperparameters]. The population's own mean where every score is nan, as there is nothing to choose by.

    >>> better_half(np.array([[1.0], [2.0], [30.0], [40.0]]), np.array([0.2, 0.1, np.nan, 0.3]))
    array([1.5])
    """
    if np.isnan(scores).all():
        return coordinates.mean(axis=0)
    # Stable, so that ties are settled by order and a tuning is the same every time.
    order = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return coordinates[order[: len(scores) // 2]].mean(axis=0)


def tune(
    task: Task,
    optimizer: Optimizer,
    schedule: Sequence[Generation],
    *,
    seed: int = 0,
    start: Mapping[str, float] | None = None,
    chunk: int = 100,
    batched: bool = True,
    progress: Callable[[int], Report | None] | None = None,
) -> Tuning:
    """Tune an optimizer's hyperparameters on a task.

    Args:
      task: what to minimize.
      optimizer: what to tune; the search starts at its defaults.
      schedule: the generations, in order.
      seed: of the population's draws and of the trials' seeds, all of which are at least ``FIRST_TUNING_SEED``.
      start: other values to start the search from.
      chunk: as in :func:`~lodo.experiments.training.train`; lengths that it divides share one compiled program.
      batched: train a generation's members side by side in one program.
      progress: generation → what to report its training to.

    Returns:
      A :class:`Tuning`; the same for the same arguments.

    References:
      Liao et al. 2023, §5 and appendix; the schedules are in :mod:`lodo.experiments.presets`.
    """
    check_integer("seed", seed, 0)
    if not schedule:
        raise ValueError("schedule must hold at least one generation; got none.")
    names = list(optimizer.defaults)
    mean = np.array([normalise(name, {**optimizer.defaults, **(start or {})}[name]) for name in names])
    rng = np.random.default_rng([seed, FIRST_TUNING_SEED])
    rows: list[dict[str, Any]] = []
    wall = compiled = 0.0
    for index, generation in enumerate(schedule):
        population = mean + generation.deviation * rng.normal(size=(generation.population, len(names)))
        values = {name: denormalise(name, population[:, i]) for i, name in enumerate(names)}
        seeds = [FIRST_TUNING_SEED + 1000 * seed + index] * generation.population
        run = train(
            task,
            optimizer,
            steps=generation.steps,
            seeds=seeds,
            hyperparameters=values,
            chunk=chunk,
            batched=batched,
            progress=progress(index) if progress else None,
        )
        wall += float(run.wall_seconds[-1])
        compiled += run.compile_seconds
        mean = better_half(population, run.scores)
        for member in range(generation.population):
            own = {name: value[member] for name, value in values.items()}
            rows.append(
                {
                    "generation": index,
                    "seed": seeds[member],
                    "steps": generation.steps,
                    "score": run.scores[member],
                    **own,
                }
            )
    found = {name: float(denormalise(name, mean[i])) for i, name in enumerate(names)}
    return Tuning(found, {name: np.array([row[name] for row in rows]) for name in rows[0]}, wall, compiled)
