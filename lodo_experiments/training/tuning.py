"""The paper's evolution strategy for hyperparameters, the same for every optimizer.

Hyperparameters are searched in normalised coordinates: the logarithm of rates, and log(1 − h) of momenta and decays.
Each generation draws a population from a normal distribution around the mean, trains each member, and makes the
mean of the better half the next mean. A member that diverges counts as the worst. All members of a generation train
with one seed, each generation with another: members meet the same batches, and differ by their hyperparameters alone
(the paper does not say how its trials were seeded). It is written here, as it is the paper's protocol: what a library
for tuning finds would be compared with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lodo._validation import check_integer
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.loop import train
from lodo_experiments.utils.progress import Report

#: Hyperparameters h that live in [0, 1) and are searched as log(1 − h); the others are positive, searched as log h.
DECAYS = frozenset({"momentum", "b1", "b2", "beta", "decay"})

#: Tuning seeds start here and report seeds at 0, so that no run that tunes is reported.
FIRST_TUNING_SEED = 1_000_000

#: Between the trials' seeds of one search and those of the next, which is started from the next seed.
SEEDS_A_TUNING = 1000


@dataclass(frozen=True)
class Tuning:
    """What tuning found, with every trial."""

    hyperparameters: dict[str, float]  # name → tuned value: the mean of the last generation's better half
    # name → [trials], with "generation", "seed", "steps" and "score" beside the hyperparameters
    trials: dict[str, np.ndarray]
    wall_seconds: float  # synchronised training time of all trials
    compile_seconds: float  # time spent compiling


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
    chunk: int = 100,
    lanes: int = 0,
    progress: Callable[[int], Report | None] | None = None,
    before: Tuning | None = None,
    keep: Callable[[Tuning], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Tuning:
    """Tune an optimizer's hyperparameters on a task.

    Args:
      task: what to minimize.
      optimizer: what to tune; the search starts at its defaults.
      schedule: the generations, in order.
      seed: of the population's draws and of the trials' seeds, all of which are at least ``FIRST_TUNING_SEED``.
      chunk: as in :func:`~lodo_experiments.training.loop.train`; lengths that it divides share one compiled program.
      lanes: how many of a generation's members train side by side in one program; 0: all.
      progress: generation → what to report its training to.
      before: the part of this very tuning that was made before; its trials are not made again.
      keep: called with all trials so far whenever some were added.
      checkpoint: where the state of the members in training is kept, and how long it may run.

    Returns:
      A :class:`Tuning`; the same for the same arguments, in how many parts it was ever made.

    Raises:
      ValueError: no generations, a negative seed, or ``before`` is part of another tuning.
      OutOfTime: the checkpoint's time is over. What was done has been given to ``keep``.

    References:
      Liao et al. 2023, §5 and appendix; the schedules are in :mod:`lodo_experiments.config.presets`.
    """
    check_integer("seed", seed, 0)
    if not schedule:
        raise ValueError("schedule must hold at least one generation; got none.")
    names = list(optimizer.defaults)
    mean = np.array([normalise(name, value) for name, value in optimizer.defaults.items()])
    rng = np.random.default_rng([seed, FIRST_TUNING_SEED])
    found = before or Tuning({}, {}, 0.0, 0.0)
    for index, generation in enumerate(schedule):
        population = mean + generation.deviation * rng.normal(size=(generation.population, len(names)))
        values = {name: denormalise(name, population[:, i]) for i, name in enumerate(names)}
        report = progress(index) if progress else None
        own_seed = FIRST_TUNING_SEED + SEEDS_A_TUNING * seed + index
        while (done := _made(found.trials, index, values)) < generation.population:
            group = slice(done, min(generation.population, done + (lanes or generation.population)))
            given = {name: value[group] for name, value in values.items()}
            seeds = [own_seed] * len(population[group])
            run = train(
                task,
                optimizer,
                steps=generation.steps,
                seeds=seeds,
                hyperparameters=given,
                chunk=chunk,
                progress=_of_members(report, group, generation),
                checkpoint=checkpoint,
            )
            fixed = {"generation": index, "seed": own_seed, "steps": generation.steps}
            rows = {name: np.full(len(seeds), value) for name, value in fixed.items()} | {"score": run.scores, **given}
            found = Tuning(
                {},
                {name: np.concatenate([found.trials.get(name, row[:0]), row]) for name, row in rows.items()},
                found.wall_seconds + float(run.wall_seconds[-1]),
                found.compile_seconds + run.compile_seconds,
            )
            if keep is not None:
                keep(found)
            if checkpoint is not None:
                checkpoint.remove()
        mean = better_half(population, found.trials["score"][found.trials["generation"] == index])
    return replace(found, hyperparameters={name: float(denormalise(name, mean[i])) for i, name in enumerate(names)})


def _made(trials: Mapping[str, np.ndarray], generation: int, values: Mapping[str, np.ndarray]) -> int:
    """How many members of a generation were trained before; they must be these members, but for a last digit.

    Another machine's exponential function may round otherwise.
    """
    if not trials:
        return 0
    members = trials["generation"] == generation
    count = int(members.sum())
    for name, value in values.items():
        if not np.allclose(trials[name][members], value[:count], rtol=1e-12, atol=0.0):
            raise ValueError(
                f"The trials made before are of another tuning: generation {generation + 1} differs in {name}. "
                "Remove the file they came from."
            )
    return count


def _of_members(report: Report | None, group: slice, generation: Generation) -> Report | None:
    """Progress over a whole generation from that of the members of one group."""
    if report is None:
        return None
    total, size = generation.population * generation.steps, group.stop - group.start
    return lambda done, _, loss: report(group.start * generation.steps + size * done, total, loss)
