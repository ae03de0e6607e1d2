"""Replays stored records: computes the beginning of each with today's code, and compares it with what is stored.

Of runs the first few hundred steps are made again, as many as take some seconds: the seeds that ran side by side, with
the record's hyperparameters, by the programs that a whole run would compile. Of a tuning the first trials are. Of the
theory's records the part is computed again, cut to one of its values where it has several; of another's that has a
beginning, that.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo_experiments.config.schedules import Generation
from lodo_experiments.data.catalogue import DataError
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.replays import CLOSE, DIFFERS, EQUAL, SKIPPED, Replay
from lodo_experiments.results.store import difference_of
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import Experiment, RecordSpec
from lodo_experiments.studies.run_records import arrays_of
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.loop import train
from lodo_experiments.training.tuning import FIRST_TUNING_SEED, SEEDS_A_TUNING, Tuning, tune
from lodo_experiments.utils.double_precision import double_precision

#: Steps of a run to make again, at most but for the end of its chunk.
STEPS = 400
#: Seconds of training that a record's replay may take, by the pace that the record states.
SECONDS = 5.0
#: Seconds that a part of the theory may take, which is not made of steps.
PART_SECONDS = 60.0

#: Relative difference that counts as rounding, by the record's precision.
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-5}
#: Other devices and versions round otherwise, and training makes that grow. Where numbers differ by more, the run is
#: made once more with this noise in its gradients, and so many times what that changes is let through too. The noise
#: is far above rounding, for states that are stored in few bits: those jump seldom, and then by much.
NOISE, GROWTH = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-6}, 10.0

#: Part → which of the preset's values to compute alone: the cheapest, first (0) or last (−1).
_CUTS = {
    "ball": ("ball_rates", -1), "limits": ("limit_shares", 0), "momentum": ("momenta", 0), "ranks": ("rank_sizes", 0),
    "defaults": ("default_sizes", 0),
}  # fmt: skip


class Target(NamedTuple):
    """A stored record that is to be replayed."""

    experiment: Experiment
    spec: RecordSpec
    results: Path

    @property
    def name(self) -> str:
        """``preset/experiment/part``."""
        return self.spec.path.with_suffix("").as_posix()


def targets(results: Path, presets: Sequence[str]) -> list[Target]:
    """The stored records of some presets, those together that share compiled programs."""
    found: dict[Path, Target] = {}
    for preset in presets:
        for experiment in registry.EXPERIMENTS.values():
            for spec in experiment.records(preset, results):
                if (results / spec.path).exists():
                    found.setdefault(spec.path, Target(experiment, spec, results))

    def program(target: Target) -> tuple[Any, ...]:
        base = target.experiment.base or target.experiment
        return base.double, base.name, target.spec.preset, target.spec.optimizer, target.spec.experiment

    return sorted(found.values(), key=program)


class Skip(Exception):
    """A record cannot be replayed here; says why."""


class Replayer:
    """Replays records one after the other; those of one task and optimizer share their compiled programs."""

    def __init__(self, data_dir: str = "", seconds: float = SECONDS):
        self.data = DataOptions(data_dir)
        self.seconds = seconds
        self._setups: dict[tuple[str, str], Setup] = {}

    def one(self, target: Target) -> Replay:
        """What the replay of one record finds.

        Raises:
          RecordError: it is damaged.
        """
        record = records.load(target.results / target.spec.path, target.spec.kind)
        sha256, settings = record.digest(), target.spec.settings
        of_role = {"runs": self._runs, "tuning": self._tuning, "part": self._part}
        try:
            if settings is not None and (difference := difference_of(record.values, settings)):
                raise Skip(f"it was made with other settings than today's: {difference}")
            with double_precision(target.experiment.double):
                return replace(of_role[target.spec.role](target, record), sha256=sha256)
        except Skip as why:
            return Replay(sha256, SKIPPED, words=str(why))

    def _setup(self, experiment: Experiment, preset: str) -> Setup:
        """An experiment's set-up, made once, so that what is compiled for it is found again."""
        place = experiment.name, preset
        if place not in self._setups:
            if experiment.setup is None:
                raise TypeError(f"{experiment.name} trains nothing.")
            if experiment.base is None:
                self._setups[place] = experiment.setup(experiment.preset(preset), self.data)
            else:
                setup = self._setup(experiment.base, preset)
                adapt = experiment.adapt
                self._setups[place] = adapt(experiment.preset(preset), setup) if adapt is not None else setup
        return self._setups[place]

    def _prepare(self, target: Target, record: Record) -> tuple[Task, int, int]:
        """A record's task, how many runs went side by side (0: all), and steps a chunk."""
        try:
            setup = self._setup(target.experiment, target.spec.preset)
        except DataError as error:
            # Without the folder: what is stored says nothing of the machine.
            raise Skip(re.sub(r" in \S+$", " here", str(error).partition(". ")[0])) from error
        if target.spec.role == "runs" and setup.prepare is not None:
            raise Skip("it starts from what another training has learned, which would all have to be made again")
        made_from, here = (str(facts.get("dataset_sha256", "")) for facts in (record.provenance, setup.facts))
        if made_from != here:
            raise Skip(f"its data set has the fingerprint {made_from[:12]}, the one here {here[:12]}")
        most = int(record.provenance.get("lanes_at_most", 0))
        return setup.task, min(setup.lanes or most, most) if most else setup.lanes, setup.chunk

    def _runs(self, target: Target, record: Record) -> Replay:
        optimizer = optimizer_named(target.spec.optimizer)
        task, lanes, chunk = self._prepare(target, record)
        stated = record.provenance
        seeds = (stated.get("parts") or [stated])[0]["seeds"]
        seeds = seeds[: lanes or len(seeds)]
        steps = int(record.values["settings"]["steps"])
        pace = float(record.values["steps_per_second"]) / len(seeds)
        settings, window = record.values["settings"], int(record.arrays["curve_steps"][0])
        if (seconds := window / pace) > 4 * self.seconds:
            raise Skip(f"the first point of its curve takes {seconds:.0f} s")
        measured_separately = task.measured_separately  # by a program of its own, which may cost more than the steps

        def made(optimizer: Optimizer) -> tuple[Run, dict[str, np.ndarray]]:
            run = train(
                task,
                optimizer,
                steps=steps,
                seeds=seeds,
                hyperparameters=settings["hyperparameters"],
                measure_every=0 if measured_separately else int(settings["measure_every"]),
                chunk=chunk,
                stop_after=max(window, min(STEPS, steps, int(self.seconds * pace))),
            )
            return run, arrays_of(run, window)

        run, again = made(optimizer)
        done = run.losses.shape[1]
        ends: dict[str, np.ndarray | None] = {"curve": again["curve_steps"]}
        ends |= {name: again["measured_steps"] for name in again if name.startswith("measured.")}
        if done == steps:
            ends |= dict.fromkeys(("scores", "diverged_at", "final_loss"))
        stored = {name: record.arrays[name][: len(seeds)] for name in ends}
        for name, end in ends.items():
            if end is not None:
                stored[name] = stored[name][:, : len(end)]
        precision = _precision(record.arrays["curve"])
        found = compare(stored, again, ends, precision)
        if found.state == DIFFERS:
            other, twin = made(_noisy(optimizer, precision))
            # Numbers that are stored in few bits jump seldom, in one run or in another: all runs say how far.
            most = _of_any(_growth(run.losses, other.losses))[:, -1]
            growth = {n: most if end is None else _of_any(_growth(again[n], twin[n])) for n, end in ends.items()}
            found = compare(stored, again, ends, precision, growth)
        return replace(found, steps=done, runs=len(seeds))

    def _tuning(self, target: Target, record: Record) -> Replay:
        optimizer = optimizer_named(target.spec.optimizer)
        trials, found = record.arrays, record.values["hyperparameters"]
        if not trials:
            fixed = {**optimizer.defaults, **(record.values["settings"].get("fixed") or {})}
            return _same_values(found, fixed)
        task, lanes, chunk = self._prepare(target, record)
        first = trials["generation"] == 0
        group = slice(0, min(lanes or int(first.sum()), int(first.sum())))
        steps = int(trials["steps"][0])
        pace = float(np.sum(trials["steps"])) / max(float(record.provenance["wall_seconds"]), 1e-9)
        if (seconds := steps * group.stop / pace) > 4 * self.seconds:
            raise Skip(f"its first trials take {seconds:.0f} s, and of a trial only the end is stored")

        def made(optimizer: Optimizer) -> Run:
            values = {name: trials[name][group] for name in optimizer.defaults}
            seeds = [int(seed) for seed in trials["seed"][group]]
            return train(task, optimizer, steps=steps, seeds=seeds, hyperparameters=values, chunk=chunk)

        run = made(optimizer)
        precision = _precision(run.losses)
        stored, again = {"score": trials["score"][group]}, {"score": run.scores}
        scores = compare(stored, again, {"score": None}, precision)
        if scores.state == DIFFERS:
            most = _growth(run.losses, made(_noisy(optimizer, precision)).losses)[:, -1]
            scores = compare(stored, again, {"score": None}, precision, {"score": most})
        schedule = [Generation(**generation) for generation in record.values["settings"]["schedule"]]
        try:  # with all trials given, it draws and chooses, and trains nothing
            seed = (int(trials["seed"][0]) - FIRST_TUNING_SEED) // SEEDS_A_TUNING
            before = Tuning({}, dict(trials), 0.0, 0.0)
            values = _same_values(found, tune(task, optimizer, schedule, seed=seed, before=before).hyperparameters)
        except ValueError as error:
            values = Replay("", DIFFERS, first_difference=0, words=str(error))
        worse = max(scores, values, key=lambda one: (EQUAL, CLOSE, DIFFERS).index(one.state))
        return replace(worse, tolerance=scores.tolerance, steps=steps, runs=group.stop)

    def _part(self, target: Target, record: Record) -> Replay:
        """A part that trains nothing by itself, cut to one of its values where it has several."""
        experiment, name = target.experiment, target.spec.name
        preset, place = experiment.preset(target.spec.preset), None
        assert experiment.parts is not None
        if name.endswith("step_times"):
            raise Skip("it holds times, which no run makes again")
        if beginning := experiment.parts(preset, target.results)[name].beginning:
            arrays = beginning(record.values).arrays
            return compare(record.arrays, arrays, dict.fromkeys(arrays), np.dtype(np.float32))
        if name in _CUTS:
            field, place = _CUTS[name]
            preset = replace(preset, **{field: (getattr(preset, field)[place],)})
        elif (seconds := float(record.provenance["wall_seconds"])) > PART_SECONDS:
            raise Skip(f"it takes {seconds:.0f} s, and has no beginning that can be compared")
        found = experiment.parts(preset, target.results)[name].compute()
        again = {name: np.asarray(array) for name, array in found.arrays.items()}
        stored = {name: record.arrays[name] for name in again}
        if place is None:
            again["values"], stored["values"] = (
                _numbers(found.values),
                _numbers({n: record.values[n] for n in found.values}),
            )
        else:
            stored = {n: one[-len(again[n]) :] if place < 0 else one[: len(again[n])] for n, one in stored.items()}
        return compare(stored, again, dict.fromkeys(again), np.dtype(np.float64))


def compare(
    stored: Mapping[str, np.ndarray],
    again: Mapping[str, np.ndarray],
    ends: Mapping[str, np.ndarray | None],
    precision: np.dtype[Any],
    growth: Mapping[str, np.ndarray] | None = None,
) -> Replay:
    """What stored arrays and the same computed again have in common.

    Numbers count as the same where they differ by no more than the tolerance, relative to the number or to the first of
    its row, whichever is larger: a loss that has shrunk to nothing is not asked for more digits than it was made from.

    Args:
      stored: name → [runs] or [runs, points], as recorded.
      again: the same computed now.
      ends: name → [points] the steps at which the points end; None where it has no steps.
      precision: of the arithmetic.
      growth: name → how far rounding moves each number; `GROWTH` times that is let through too.

    >>> one, ends = {"curve": np.array([[2.0, 1.0]])}, {"curve": np.array([10, 20])}
    >>> compare(one, {"curve": one["curve"] * (1 + 1e-14)}, ends, one["curve"].dtype).state
    'close'
    >>> compare(one, {"curve": one["curve"] + [[0, 1]]}, ends, one["curve"].dtype).first_difference
    10
    """
    tolerance, equal = TOLERANCE[precision], True
    found: list[tuple[float, str]] = []
    for name, steps in ends.items():
        one, two = stored[name], np.asarray(again[name])
        if one.shape != two.shape:
            return Replay("", DIFFERS, tolerance=tolerance, first_difference=0, words=f"{name} has another shape")
        equal &= np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
        bad = ~_alike(one, two, tolerance, GROWTH * growth[name] if growth else 0.0)
        if not bad.any():
            continue
        at = math.inf
        place: tuple[Any, ...] = np.unravel_index(int(np.argmax(bad)), bad.shape)
        if steps is not None:
            column = int(np.argmax(bad.any(axis=0)))
            place = (int(np.argmax(bad[:, column])), column)
            # A point of a curve is a mean over the steps since the point before.
            at = int(steps[column]) - int(steps[0]) * (name == "curve")
        found.append((at, f"{name} was {one[place]:.9g}, now {two[place]:.9g}"))
    if found:
        at, words = min(found)
        first = 0 if at == math.inf else int(at)
        return Replay("", DIFFERS, tolerance=tolerance, first_difference=first, words=words)
    return Replay("", EQUAL if equal else CLOSE, tolerance=tolerance)


def _numbers(value: Any) -> np.ndarray:
    """All numbers in a JSON value, in order."""
    if isinstance(value, Mapping):
        return _numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return np.concatenate([np.zeros(0), *map(_numbers, value)])
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return np.array([float(value)] if is_number else [])


def _same_values(stored: Mapping[str, float], now: Mapping[str, float]) -> Replay:
    """Whether hyperparameters are the same by name."""
    if stored.keys() != now.keys():
        return Replay("", DIFFERS, first_difference=0, words=f"{', '.join(stored)} are now {', '.join(now)}")
    names = dict.fromkeys(stored)
    one, two = ({name: np.array([values[name]]) for name in names} for values in (stored, now))
    return compare(one, two, names, np.dtype(np.float64))


@functools.cache
def _noisy(optimizer: Optimizer, precision: np.dtype[Any]) -> Optimizer:
    """The optimizer with rounding in its gradients: of each array, relative to its entries' root mean square."""
    share = NOISE[precision]

    def build(values: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformationExtraArgs:
        inner = optax.with_extra_args_support(optimizer.build(values, key, steps))

        def noisy(x: jax.Array) -> jax.Array:
            return x + share * jnp.sqrt(jnp.mean(x**2)) * jax.random.normal(jax.random.key(0), x.shape, x.dtype)

        def update(gradient: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            return inner.update(jax.tree.map(noisy, gradient), state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return replace(optimizer, build=build)


def _growth(run: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """How far two arrays [runs, points] are apart at most so far; infinity once one of them is no number."""
    with np.errstate(all="ignore"):
        apart = np.abs(run - twin)
    return np.maximum.accumulate(
        np.where(np.isnan(apart) & ~(np.isnan(run) & np.isnan(twin)), np.inf, np.nan_to_num(apart)), axis=1
    )


def _of_any(growth: np.ndarray) -> np.ndarray:
    """The growth of any run [runs, points] for each; where a run has become no number, that is its own affair."""
    return np.maximum(growth, np.where(np.isinf(growth), 0.0, growth).max(axis=0, keepdims=True))


def _alike(one: np.ndarray, two: np.ndarray, tolerance: float, growth: np.ndarray | float) -> np.ndarray:
    if one.dtype.kind != "f":
        return np.asarray((one == two) | np.isinf(growth))
    scale = np.abs(one[:, :1]) if one.ndim == 2 else np.max(np.abs(one), initial=0) * (one.ndim > 2)
    scale = np.where(np.isfinite(scale), scale, 0)
    with np.errstate(all="ignore"):
        near = np.abs(one - two) <= np.maximum(tolerance * np.maximum(np.abs(one), scale), growth)
    return near | (one == two) | (np.isnan(one) & np.isnan(two)) | np.isinf(growth)


def _precision(array: np.ndarray) -> np.dtype[Any]:
    return array.dtype if array.dtype in TOLERANCE else np.dtype(np.float32)
