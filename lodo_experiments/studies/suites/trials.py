"""Trials of one optimizer on one problem: a grid, extended while its best lies at an edge, and then reported runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from lodo_experiments.optimizers.peers import Peer
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.problems.problem import Problem
from lodo_experiments.training.loop import train

#: The seed of every trial; reported runs have the seeds 0, 1, ….
TUNING_SEED = 1_000_000
#: How often a grid is extended at most.
EXTENSIONS = 4

#: A point of a grid: the values in the order of its names.
Point = tuple[float, ...]


def task_of(problem: Problem, counts_evaluations: bool = False) -> Task:
    """The problem as what the training loop takes: its batch is the key that draws one."""

    def loss(params: object, batch: jax.Array) -> jax.Array:
        return problem.loss(params, jax.random.wrap_key_data(batch))

    return Task(
        problem.name,
        (),
        init=problem.init,
        init_data=lambda data, key: (),
        sample=lambda data, state, key: (jax.random.key_data(key), state),
        loss=loss,
        measure=(lambda data, x, state, data_state: {"evaluations": state.evaluations}) if counts_evaluations else None,
    )


@dataclass(frozen=True)
class Trials:
    """What tuning on one problem found."""

    points: np.ndarray  # [trials, names]
    scores: np.ndarray  # [trials] mean loss of the last tenth; nan: diverged
    # name → value; the optimizer's defaults where nothing is tuned, or where every trial diverged
    best: Mapping[str, float]
    compile_seconds: float = 0.0  # time spent compiling

    @classmethod
    def none(cls, peer: Peer) -> Trials:
        """No trials: the optimizer's defaults are taken."""
        return cls(np.zeros((0, len(peer.grid))), np.zeros(0), dict(peer.optimizer.defaults))


def search(
    names: Sequence[str],
    grid: Mapping[str, Sequence[float]],
    extended: Sequence[str],
    score: Callable[[Sequence[Point]], np.ndarray],
) -> tuple[list[Point], np.ndarray]:
    """Score a grid; while the best point lies at an edge of an extended axis, add one value beyond that edge.

    Args:
      names: the axes.
      grid: axis → its values, equally spaced in logarithm where it is extended.
      extended: axes that may grow.
      score: points → [points], the smaller the better, nan the worst.

    Returns:
      All points and their scores. A grid of which every point is nan is not extended.

    >>> points, scores = search(["a"], {"a": [0.1, 1.0]}, ["a"], lambda p: np.array([abs(x - 50) for x, in p]))
    >>> [round(a) for a, in points], float(scores[3].round())
    ([0, 1, 10, 100], 50.0)
    """
    axes = {name: list(grid[name]) for name in names}
    points: list[Point] = list(itertools.product(*axes.values()))
    scores = np.asarray(score(points), float)
    for _ in range(EXTENSIONS):
        if np.isnan(scores).all():
            break
        best = points[int(np.nanargmin(scores))]
        for i, name in enumerate(names):
            values = axes[name]
            if name not in extended or len(values) < 2 or best[i] not in (values[0], values[-1]):
                continue
            beyond = values[0] ** 2 / values[1] if best[i] == values[0] else values[-1] ** 2 / values[-2]
            values[:] = [beyond, *values] if best[i] == values[0] else [*values, beyond]
        new: list[Point] = [point for point in itertools.product(*axes.values()) if point not in points]
        if not new:
            break
        points, scores = [*points, *new], np.concatenate([scores, np.asarray(score(new), float)])
    return points, scores


def tune_on(problem: Problem, task: Task, peer: Peer, *, steps: int, lanes: int) -> Trials:
    """Tune an optimizer on a problem, all trials with one seed; nothing is run where it has no grid."""
    names = list(peer.grid)
    if not names:
        return Trials.none(peer)
    compiled = [0.0]

    def score(points: Sequence[Point]) -> np.ndarray:
        # Groups of one size share a compiled program; the last is filled by repeating its last point.
        filled = [*points, *[points[-1]] * (-len(points) % lanes)]
        found = []
        for first in range(0, len(filled), lanes):
            values = {name: [point[i] for point in filled[first : first + lanes]] for i, name in enumerate(names)}
            run = run_on(task, peer, values, [TUNING_SEED] * lanes, steps)
            compiled[0] += run.compile_seconds
            found.append(run.scores)
        return np.concatenate(found)[: len(points)]

    points, scores = search(names, peer.grid, peer.extended, score)
    if np.isnan(scores).all():
        return Trials(np.array(points), scores, dict(peer.optimizer.defaults), compiled[0])
    best = dict(zip(names, points[int(np.nanargmin(scores))], strict=True))
    return Trials(np.array(points), scores, {**peer.optimizer.defaults, **best}, compiled[0])


def run_on(
    task: Task, peer: Peer, values: Mapping[str, Sequence[float] | float], seeds: Sequence[int], steps: int
) -> Run:
    """Runs with those values and seeds, side by side in one program."""
    given = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return train(
        task, peer.optimizer, steps=steps, seeds=seeds, hyperparameters=given, chunk=steps, lanes=peer.lanes,
        measure_every=1 if peer.counts_evaluations else 0,
    )  # fmt: skip
