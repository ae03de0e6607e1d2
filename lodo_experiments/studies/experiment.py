"""What an experiment is: what it trains or computes, how much of it, and which records it leaves. Nothing runs here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.config.presets import AMOUNTS, Preset
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results import records
from lodo_experiments.results.records import RecordError
from lodo_experiments.studies.changed_optimizer import as_asked, given_rates
from lodo_experiments.studies.setup import DataOptions, Part, Setup

#: Optimizer → hyperparameters.
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class RecordSpec:
    """A record that there should be."""

    # "tuning" (an optimizer's trials), "runs" (its reported runs) or "part" (of an experiment without tuning)
    role: str
    experiment: str  # as in the record's kind and its folder, e.g. "noisy_bowl_frozen".
    preset: str  # smoke, laptop, desktop or paper
    name: str  # its file's name without the ending, e.g. "Adam-tuning".
    kind: str  # as the record states it, e.g. "noisy_bowl/Adam/tuning".
    # JSON values that would decide its numbers now; None where they depend on a record that is not there
    settings: Mapping[str, Any] | None
    seeds: int = 0  # how many runs it should hold; 0: that is not counted
    optimizer: str = ""  # whose record it is; empty for a part

    @property
    def path(self) -> Path:
        """Its place below the results folder, e.g. ``paper/noisy_bowl/Adam.npz``."""
        return Path(self.preset, self.experiment, f"{self.name}.npz")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The one declaration of an experiment. ``run``, batches, the status and pages derive all they know from it.

    An experiment trains (``setup``, or a ``base`` whose variant it is), or it computes ``parts``.
    """

    name: str  # on the command line; also the folder of its records and the beginning of their kinds
    # preset's name → how much to compute, the optimizers among it; a variant derives its own
    presets: Mapping[str, Any] = field(default_factory=dict)
    # (preset, data options) → what to train. It is called only to compute; it may read a data set.
    setup: Callable[[Any, DataOptions], Setup] | None = None
    parts: Callable[[Any, Path], Mapping[str, Part]] | None = None  # (preset, results folder) → name → part
    # preset → number of parameters that it trains, from which a batch expects memory; None: not known
    parameters: Callable[[Any], int] | None = None
    notebooks: tuple[str, ...] = ()  # pages that show its records
    base: Experiment | None = None  # the experiment that it is a variant of
    variant: str = ""  # its word on the command line, beside the base's name
    derive: Callable[[Any], Preset] | None = None  # the base's preset → its own
    adapt: Callable[[Any, Setup], Setup] | None = None  # (own preset, the base's setup) → its own setup
    # (own preset, what returns the values that ``start`` tuned for an optimizer, by default LODO) → hyperparameters
    # that are taken as they are; None: they are tuned, where the preset has a schedule
    fixed: Callable[[Any, Callable[..., Mapping[str, float]]], Values] | None = None
    # the experiment in which LODO is tuned first, for ``fixed``; others that it asks for are prerequisites
    start: Experiment | None = None
    # whether ``fixed`` is given the values of the best trial of ``start`` in place of the tuned ones
    best_trial: bool = False
    # preset's name → (experiment's name, optimizer) whose tuning comes first, beside that of ``start``
    prerequisites: Callable[[str], Iterable[tuple[str, str]]] | None = None
    # preset's name → folder of its records, where that is not ``name``
    folders: Mapping[str, str] = field(default_factory=dict)
    # presets at which batches compute it and the status expects it; elsewhere only where its folder is there
    listed: tuple[str, ...] = PRESETS
    double: bool = False  # whether it is computed in float64
    # names that its preset may have, where they are not those of ``optimizers.names``
    optimizers: tuple[str, ...] = ()
    wide: bool = False  # whether one run keeps a machine busy, so that a batch makes each seed a job

    def with_variant(self, variant: str, name: str, **more: Any) -> Experiment:
        """A variant of it: of the same task, unless ``adapt`` changes it, and of the same precision."""
        return replace(self, name=name, base=self, variant=variant, presets={}, **{"notebooks": (), **more})

    def preset(self, name: str, seeds: int = 0) -> Any:
        """Its preset of that name; at ``desktop`` the paper's amounts, where it has no own ones.

        Raises:
          ValueError: there is none; the message lists those there are.
        """
        if self.base is not None and self.derive is not None:
            return self.derive(self.base.preset(name, seeds))
        if name == "desktop" and "paper" in self.presets and name not in self.presets:
            return replace(self.preset("paper", seeds), name=name)
        if name not in self.presets:
            raise ValueError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
        return replace(self.presets[name], seeds=seeds) if seeds else self.presets[name]

    def folder(self, preset: str) -> str:
        """The folder of its records at a preset, which is also the beginning of their kinds."""
        return self.folders.get(preset, self.name)

    def tunes(self, preset: str) -> bool:
        """Whether it tunes its optimizers at a preset."""
        return self.parts is None and self.fixed is None and bool(self.preset(preset).schedule)

    def dataset(self, preset: str) -> str:
        """The data set that it reads at a preset; empty: none."""
        return getattr(self.preset(preset), "dataset", "")

    def needs(self, preset: str) -> tuple[tuple[str, str], ...]:
        """(experiment's name, optimizer) whose tuning comes first."""
        start = ((self.start.name, "LODO"),) if self.start is not None else ()
        return (*start, *(self.prerequisites(preset) if self.prerequisites is not None else ()))

    def records(self, preset: str, results: Path | None = None) -> Iterator[RecordSpec]:
        """The records that it leaves at a preset. Nothing is computed, and no data set is read."""
        results, where = results or results_folder(), self.folder(preset)
        if self.parts is not None:
            for name, part in self.parts(self.preset(preset), results).items():
                yield RecordSpec("part", where, preset, name, f"{where}/{name}", as_json(part.settings))
            return
        chosen, fixed, known = self.preset(preset), None, True

        def start(optimizer: str = "LODO") -> Mapping[str, float]:
            assert self.start is not None, f"{self.name} declares no `start`"
            return self.start.tuned_values(preset, optimizer, results, best_trial=self.best_trial)

        try:
            fixed = self.fixed(chosen, start) if self.fixed is not None else None
        except RecordError:
            known = False
        for name in chosen.optimizers:
            optimizer, kind = as_asked(optimizer_named(name), chosen), f"{where}/{name}"
            settings = tuning_settings(chosen, optimizer, (fixed or {}).get(name)) if known else None
            yield RecordSpec("tuning", where, preset, f"{name}-tuning", f"{kind}/tuning", as_json(settings), 0, name)
            try:
                settings = run_settings(chosen, optimizer, self.tuned_values(preset, name, results))
            except RecordError:
                settings = None
            yield RecordSpec("runs", where, preset, name, kind, as_json(settings), chosen.seeds, name)

    def tuned_values(
        self, preset: str, optimizer: str, results: Path, *, best_trial: bool = False
    ) -> Mapping[str, float]:
        """Hyperparameters that a stored tuning found, or those of its best trial, whatever its settings.

        Raises:
          RecordError: it is missing, damaged or foreign.
        """
        where = self.folder(preset)
        path = results / preset / where / f"{optimizer}-tuning.npz"
        return values_of(records.load(path, f"{where}/{optimizer}/tuning"), best_trial=best_trial)


def values_of(tuning: records.Record, *, best_trial: bool = False) -> Mapping[str, float]:
    """The hyperparameters that a tuning found: by the paper's rule the mean of the last generation's better half.

    Args:
      tuning: record of the trials.
      best_trial: whether to take those of the trial with the lowest loss instead, among the longest ones.
    """
    values: Mapping[str, float] = tuning.values["hyperparameters"]
    trials = tuning.arrays
    if not best_trial or not values or "score" not in trials:
        return values
    scores = np.where(trials["steps"] == trials["steps"].max(), trials["score"], np.nan)
    if np.isnan(scores).all():
        return values
    best = int(np.nanargmin(scores))
    return {name: float(trials[name][best]) for name in values}


def tuning_settings(preset: Preset, optimizer: Optimizer, fixed: Mapping[str, float] | None) -> dict[str, Any]:
    """What decides the numbers of an optimizer's tuning; ``fixed`` hyperparameters are taken as they are, if any."""
    return {"fixed": dict(fixed or {}), **_deciding(preset, "schedule"), "defaults": dict(optimizer.defaults)}


def run_settings(preset: Preset, optimizer: Optimizer, hyperparameters: Mapping[str, float]) -> dict[str, Any]:
    """What decides the numbers of reported runs: tuned values, the first (the rate) times the preset's factor.

    A rate that the preset gives is taken as it is.
    """
    values, first = dict(hyperparameters), next(iter(optimizer.defaults), None)
    if first is not None and first not in given_rates(preset, optimizer.name):
        values[first] *= preset.rate_factor
    return {"hyperparameters": values, **_deciding(preset, "steps", "measure_every")}


def _deciding(preset: Preset, *names: str) -> dict[str, Any]:
    """The preset without the fields that only say how much else is computed."""
    given = preset.settings()
    own = {name: value for name, value in given.items() if name not in AMOUNTS}
    return {**own, **{name: given[name] for name in names}}


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples as lists."""
    return json.loads(json.dumps(value))
