"""The runner: each optimizer tuned, then run on report seeds; or an experiment's parts computed. Nothing runs twice."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lodo_experiments.config.paths import kept_folder
from lodo_experiments.config.presets import Preset
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.store import Store, difference_of, name_of_part
from lodo_experiments.studies import changes
from lodo_experiments.studies.changed_optimizer import as_asked, given_rates, with_given
from lodo_experiments.studies.experiment import Values, run_settings, tuning_settings
from lodo_experiments.studies.run_records import arrays_of, join
from lodo_experiments.studies.setup import Part, Setup
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.checkpoints import Checkpoint, surroundings
from lodo_experiments.training.compiled_steps import bytes_of_lane
from lodo_experiments.training.displacement import inverse_hessian_displacement
from lodo_experiments.training.loop import train
from lodo_experiments.training.tuning import Tuning, tune
from lodo_experiments.utils import compilation_cache, environment
from lodo_experiments.utils.progress import Progress, Report
from lodo_experiments.utils.time_limit import OutOfTime, ending


@dataclass(frozen=True)
class Study:
    """Optimizers compared on one task."""

    experiment: str  # folder of the records and beginning of their kinds, e.g. "noisy_bowl".
    preset: Preset  # how much to compute, and of which optimizers
    folder: Path  # the results folder
    command: str  # what a reader would type to compute the records again
    setup: Setup | None = None  # what to train; None: an outline, which says what is stored and computes nothing
    fixed: Values | None = None  # optimizer → hyperparameters that are taken as they are, instead of tuning
    # ``time.monotonic()`` at which to stop with ``OutOfTime``, everything saved; infinity: never
    until: float = math.inf
    show: bool = True  # whether to report progress
    changes: Mapping[str, Any] = field(default_factory=dict)  # in what the preset differs from the one of its name

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment

    @property
    def is_apart(self) -> bool:
        """Whether its records lie apart from those of the preset of its name."""
        return changes.FOLDER in self.folder.parts[-2:]

    @property
    def task(self) -> Task:
        """What is minimized."""
        return self._setup.task

    @property
    def store(self) -> Store:
        """Its records."""
        dataset = str(self.setup.facts.get("dataset_sha256", "")) if self.setup is not None else ""
        return Store(self.folder, self.preset.name, self.experiment, dataset, self.until)

    def with_preset(self, **other: Any) -> Study:
        """The same study with another number of something, e.g. ``seeds=8``."""
        return replace(self, preset=replace(self.preset, **other))

    def tune(self, name: str) -> Record:
        """The record of an optimizer's tuning: every trial, and the values found."""
        optimizer = as_asked(optimizer_named(name), self.preset)
        kind, settings = self._tuning_of(optimizer)
        own = f"{name}-tuning"
        record = self.store.get_or_compute(own, kind, settings, lambda: self._tune(optimizer, kind, settings))
        self.store.tidy(own)
        return record

    def run(self, name: str) -> Record:
        """The record of an optimizer's reported runs, with tuned hyperparameters; missing seeds are added to it.

        Seeds that :meth:`run_seeds` has made are taken from there.
        """
        optimizer, store = as_asked(optimizer_named(name), self.preset), self.store
        kind, settings = self._runs_of(optimizer, self.tune(name))
        record = store.load(name, kind, settings)
        if self._missing(record):
            with store.lock(name):
                record = store.load(name, kind, settings)  # another process may have been at it meanwhile
                missing = self._missing(record)
                parts = store.parts_to_join(name, kind, settings, missing)
                left = [seed for seed in missing if not any(seed in seeds for seeds in parts)]
                for seeds in sorted([*parts, *self._groups(optimizer, left)]):
                    part = name_of_part(name, seeds)
                    with store.lock(part):  # from a process that makes it by itself
                        own = store.parts(name, kind, settings, seeds).get(seeds)
                        own = own or self._train(optimizer, kind, settings, seeds)
                        record = store.publish(name, own if record is None else join(record, own))
                        store.forget(part)
        assert record is not None
        store.tidy(name, record.provenance["seeds"])
        return record

    def run_seeds(self, name: str, seeds: Sequence[int]) -> list[Record]:
        """Runs with some of the seeds, by themselves: a batch makes several such parts at a time.

        They are stored beside the record until :meth:`run` joins them to it; joined, they are what :meth:`run` would
        have computed at once, to the last bit where these seeds would run in programs of the same width (``lanes``).

        Returns:
          A record for each group of seeds that ran side by side; none for seeds that the optimizer's record has.
        """
        optimizer, store = as_asked(optimizer_named(name), self.preset), self.store
        kind, settings = self._runs_of(optimizer, self.tune(name))
        made = []
        for group in self._groups(optimizer, self._missing(store.load(name, kind, settings), seeds)):
            part = name_of_part(name, group)
            with store.lock(part):
                if not self._missing(store.load(name, kind, settings), group):
                    continue  # made and joined while this process waited
                own = store.parts(name, kind, settings, group).get(group)
                if own is None:
                    own = self._train(optimizer, kind, settings, group)
                    records.save(store.partial(part), own)
                    self._checkpoint(part).remove()
                made.append(own)
        return made

    def is_complete(self, name: str, *, seeds: Sequence[int] | None = None, tuning_only: bool = False) -> bool:
        """Whether what is asked for is stored, so that nothing would be computed.

        Raises:
          RecordError: a stored record is damaged, or of another question.
        """
        optimizer, store = as_asked(optimizer_named(name), self.preset), self.store
        tuning = store.load(f"{name}-tuning", *self._tuning_of(optimizer))
        if tuning is None or tuning_only:
            return tuning is not None
        kind, settings = self._runs_of(optimizer, tuning)
        missing = self._missing(store.load(name, kind, settings), seeds)
        if seeds is None:
            return not missing
        return set().union(*store.parts(name, kind, settings, missing)) >= set(missing)

    def all(self) -> dict[str, Record]:
        """Records of the reported runs of every optimizer in the preset, tuned first where the preset says so."""
        return {name: self.run(name) for name in self.preset.optimizers}

    @property
    def _setup(self) -> Setup:
        if self.setup is None:
            raise RuntimeError(
                f"{self.experiment} is an outline here and computes nothing; build it with registry.build."
            )
        return self.setup

    def _tuning_of(self, optimizer: Optimizer) -> tuple[str, dict[str, Any]]:
        """Kind and settings of the record of an optimizer's tuning."""
        settings = tuning_settings(self.preset, optimizer, (self.fixed or {}).get(optimizer.name))
        return f"{self.experiment}/{optimizer.name}/tuning", settings

    def _runs_of(self, optimizer: Optimizer, tuning: Record) -> tuple[str, dict[str, Any]]:
        """Kind and settings of the record of an optimizer's runs."""
        settings = run_settings(self.preset, optimizer, tuning.values["hyperparameters"])
        return f"{self.experiment}/{optimizer.name}", settings

    def _missing(self, record: Record | None, seeds: Sequence[int] | None = None) -> list[int]:
        """Those of the seeds (None: the preset's) that a record does not hold, in order and each once."""
        done = record.provenance["seeds"] if record is not None else ()
        return sorted(set(range(self.preset.seeds) if seeds is None else seeds).difference(done))

    def _groups(self, optimizer: Optimizer, seeds: Sequence[int]) -> list[tuple[int, ...]]:
        """The seeds that run side by side, group by group; those of a group follow each other, as its name says."""
        size = self._lanes(optimizer) or len(seeds) if seeds else 1
        groups: list[tuple[int, ...]] = []
        for seed in seeds:
            if groups and seed == groups[-1][-1] + 1 and len(groups[-1]) < size:
                groups[-1] += (seed,)
            else:
                groups.append((seed,))
        return groups

    def _lanes(self, optimizer: Optimizer) -> int:
        """How many lanes side by side: as set up, and no more than the memory holds."""
        setup = self._setup
        if not setup.memory:
            return setup.lanes
        fit = max(1, setup.memory // bytes_of_lane(setup.task, optimizer, self.preset.steps))
        return min(setup.lanes or fit, fit)

    def _tune(self, optimizer: Optimizer, kind: str, settings: Mapping[str, Any]) -> Record:
        """A new record of an optimizer's tuning."""
        name, loaded = optimizer.name, _begin()
        fixed, partial = (self.fixed or {}).get(name), self.store.partial(f"{name}-tuning")
        given = given_rates(self.preset, name) if fixed is None else {}
        searched = with_given(optimizer, given)
        if fixed is not None or not self.preset.schedule or not searched.defaults:
            found = Tuning({**optimizer.defaults, **(fixed or {})}, {}, 0.0, 0.0)
        else:
            found = tune(
                self.task, searched, self.preset.schedule, seed=self._setup.tuning_seed, chunk=self._setup.chunk,
                lanes=self._lanes(optimizer),
                progress=lambda generation: self._report(f"{name}, generation {generation + 1}"),
                before=self._trials(partial, kind, settings), keep=self._keeper(partial, kind, settings),
                checkpoint=self._checkpoint(f"{name}-tuning"),
            )  # fmt: skip
        ordered = {name: {**found.hyperparameters, **given}[name] for name in optimizer.defaults}
        values = {"hyperparameters": ordered, "settings": settings}
        trials = len(found.trials.get("seed", ()))
        seeds = [int(found.trials["seed"][0]), int(found.trials["seed"][-1])] if trials else []
        stated = _provenance(self, seeds, found.wall_seconds, found.compile_seconds, loaded, **self._setup.facts)
        return Record(kind, found.trials, values, stated)

    def _train(self, optimizer: Optimizer, kind: str, settings: Mapping[str, Any], seeds: Sequence[int]) -> Record:
        """A record of runs with these seeds, side by side."""
        setup, loaded = self._setup, _begin()
        some = f", seeds {seeds[0]}–{seeds[-1]}" if len(seeds) < self.preset.seeds else ""
        run = train(
            setup.task, optimizer, steps=self.preset.steps, seeds=seeds, hyperparameters=settings["hyperparameters"],
            measure_every=self.preset.measure_every, chunk=setup.chunk, progress=self._report(optimizer.name + some),
            checkpoint=self._checkpoint(name_of_part(optimizer.name, seeds)), prepare=setup.prepare,
            displacement=inverse_hessian_displacement,
        )  # fmt: skip
        arrays = {**arrays_of(run), **(setup.after(setup.task, run) if setup.after else {})}
        values = {
            "settings": settings,
            "hyperparameters": settings["hyperparameters"],
            "steps": self.preset.steps,
            "steps_per_second": run.steps_per_second * len(seeds),
            "gradients_per_step": optimizer.gradients_per_step,
        }
        stated = _provenance(self, seeds, float(run.wall_seconds[-1]), run.compile_seconds, loaded, **setup.facts)
        return Record(kind, arrays, values, stated)

    def _report(self, label: str) -> Report | None:
        return Progress(f"{self.experiment} {self.preset.name}: {label}") if self.show else None

    def _checkpoint(self, name: str) -> Checkpoint:
        return Checkpoint(self.store.state(name), until=self.until)

    def _trials(self, partial: Path, kind: str, settings: Mapping[str, Any]) -> Tuning | None:
        """Trials of this very tuning that an interrupted run has left; None where there are none to be trusted."""
        if not partial.exists():
            return None
        try:
            record = records.load(partial, kind)
        except RecordError as error:
            warnings.warn(f"{error} The tuning starts from its beginning.", stacklevel=2)
            return None
        stored, now = record.values.get("surroundings") or {}, surroundings()
        names = [name for name in now if stored.get(name) != now[name]]
        difference = difference_of(record.values, settings) or ", ".join(names)
        if difference:
            warnings.warn(
                f"{partial} is not used: its trials are of another tuning (other {difference}). The tuning starts from "
                "its beginning.",
                stacklevel=2,
            )
            return None
        stated = record.provenance
        return Tuning({}, dict(record.arrays), stated["wall_seconds"], stated["compile_seconds"])

    def _keeper(self, partial: Path, kind: str, settings: Mapping[str, Any]) -> Callable[[Tuning], None]:
        def keep(found: Tuning) -> None:
            values = {"settings": settings, "surroundings": surroundings()}
            seconds = {"wall_seconds": found.wall_seconds, "compile_seconds": found.compile_seconds}
            records.save(partial, Record(kind, found.trials, values, {"preset": self.preset.name, **seconds}))

        return keep


@dataclass(frozen=True)
class PartStudy:
    """An experiment that computes its records part by part, without tuning."""

    preset: Any  # how much to compute
    parts: Mapping[str, Part]  # name → part
    store: Store  # its records
    command: str  # what a reader would type to compute the records again
    kept: Path  # the results folder that stored records of other presets are looked for in
    changes: Mapping[str, Any] = field(default_factory=dict)  # in what the preset differs from the one of its name

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.store.experiment

    @property
    def is_apart(self) -> bool:
        """Whether its records lie apart from those of the preset of its name."""
        return changes.FOLDER in self.store.folder.parts[-2:]

    def record(self, name: str) -> Record:
        """The record of a part, computed where it is missing. It needs ``jax_enable_x64`` where the experiment does."""
        part, kind = self.parts[name], f"{self.store.experiment}/{name}"
        return self.store.get_or_compute(name, kind, part.settings, lambda: self._compute(part, kind))

    def all(self) -> dict[str, Record]:
        """Every part's record, by name, as :meth:`record`; where any is computed, progress is reported."""
        progress = None if self.is_complete() else Progress(f"{self.name} {self.preset.name}", unit="parts")
        found = {}
        for name in self.parts:
            found[name] = self.record(name)
            if progress is not None:
                progress(len(found), len(self.parts))
        return found

    def load_stored(self, preset: str) -> dict[str, Record]:
        """What the results folder holds of a preset, by part, nothing computed; empty where there is nothing."""
        found = replace(self.store, folder=self.kept, preset=preset).all()
        return found or replace(self.store, folder=kept_folder(), preset=preset).all()

    def is_complete(self, name: str = "") -> bool:
        """Whether a part's record is stored, or all of them are, so that nothing would be computed.

        Raises:
          RecordError: a stored record is damaged, or of another question.
        """
        kind, names = self.store.experiment, [name] if name else self.parts
        found = [self.store.load(one, f"{kind}/{one}", self.parts[one].settings) for one in names]
        return all(record is not None for record in found)

    def _compute(self, part: Part, kind: str) -> Record:
        if ending.is_set() or time.monotonic() >= self.store.until:
            raise OutOfTime(f"{kind} is not begun; the parts before it are all saved.")
        started, loaded = time.perf_counter(), _begin()
        found = part.compute()
        wall = time.perf_counter() - started - found.compile_seconds
        stated = _provenance(self, part.seeds, wall, found.compile_seconds, loaded)
        return Record(kind, found.arrays, {**found.values, "settings": part.settings}, stated)


def _begin() -> int:
    """How many programs the cache has given so far. Reads the sources too: they may be edited while hours go by."""
    environment.library()
    return compilation_cache.programs_loaded()


def _provenance(
    study: Study | PartStudy, seeds: Sequence[int], wall: float, compiled: float, loaded: int, **facts: Any
) -> dict[str, Any]:
    """A record's provenance; ``loaded`` is how many programs the cache had given when its work began."""
    facts |= {"changes": changes.stated(study.changes)} if study.changes else {}
    return records.provenance(
        study.command, preset=study.preset.name, seeds=list(seeds), wall_seconds=wall, compile_seconds=compiled,
        programs_from_cache=compilation_cache.programs_loaded() - loaded, library=environment.library(), **facts,
    )  # fmt: skip
