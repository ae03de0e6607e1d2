"""A study: each optimizer tuned, then run on report seeds; everything kept as records, and nothing computed twice.

parameters → preset → study (task × optimizers × seeds) → tuned hyperparameters → runs → records → figures.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.config.presets import AMOUNTS, Preset
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import Optimizer
from lodo_experiments.results import locks, records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.run_records import arrays_of, difference_of, is_current, joined
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.checkpoints import Checkpoint, surroundings
from lodo_experiments.training.compiled_steps import bytes_of_lane
from lodo_experiments.training.loop import train
from lodo_experiments.training.tuning import Tuning, tune
from lodo_experiments.utils import compilation_cache, environment
from lodo_experiments.utils.progress import Progress, Report, duration


@dataclass(frozen=True)
class Study:
    """What to compute, and where its records are kept.

    Attributes:
      experiment: name of the experiment, e.g. "noisy_bowl".
      task: what to minimize.
      preset: how much to compute.
      folder: where the records are: ``folder/preset/experiment/…npz``.
      command: what a reader would type to compute the records again.
      lanes: how many seeds or trials to run side by side in one program; 0: all.
      memory: bytes that the programs may take, which bounds the lanes further; 0: no bound.
      chunk: steps between two reports of progress.
      fixed: optimizer → hyperparameters that are taken as they are, instead of tuning.
      after: (task, run) → arrays to keep with the runs, such as samples from the trained models.
      prepare: optimizer states of all runs, as they start → those to start from instead.
      facts: further facts for the provenance, such as the data set's fingerprint.
      until: ``time.monotonic()`` at which to stop with ``OutOfTime``, everything saved; infinity: never.
      show: whether to report progress.
    """

    experiment: str
    task: Task
    preset: Preset
    folder: Path
    command: str
    lanes: int = 0
    memory: int = 0
    chunk: int = 100
    fixed: Mapping[str, Mapping[str, float]] | None = None
    after: Callable[[Task, Run], Mapping[str, np.ndarray]] | None = None
    prepare: Callable[[Any], Any] | None = None
    facts: Mapping[str, Any] | None = None
    until: float = math.inf
    show: bool = True

    def __post_init__(self) -> None:
        environment.library()  # read now: the files may be edited while hours of training go by

    def tuned(self, name: str) -> Record:
        """The record of an optimizer's tuning: every trial, and the values found."""
        optimizer = optimizer_named(name)
        kind, settings = self._tuning_of(optimizer)
        path = self._path(f"{name}-tuning")
        record = self._stored(path, kind, settings)
        if record is None:
            records.refuse_when_redrawing(path)
            with locks.held(path, until=self.until):
                record = self._stored(path, kind, settings)  # another process may have made it while this one waited
                record = record or self._tune(optimizer, kind, settings)
        self._tidied(f"{name}-tuning")
        return record

    def _tune(self, optimizer: Optimizer, kind: str, settings: Mapping[str, Any]) -> Record:
        """A new record of an optimizer's tuning, stored."""
        name = optimizer.name
        fixed, partial = (self.fixed or {}).get(name), self._partial(f"{name}-tuning")
        loaded = compilation_cache.loaded()
        if fixed is not None or not self.preset.schedule:
            found = Tuning({**optimizer.defaults, **(fixed or {})}, {}, 0.0, 0.0)
        else:
            found = tune(
                self.task,
                optimizer,
                self.preset.schedule,
                chunk=self.chunk,
                lanes=self._lanes(optimizer),
                progress=lambda generation: self._report(f"{name}, generation {generation + 1}"),
                before=self._trials(partial, kind, settings),
                keep=self._keeper(partial, kind, settings),
                checkpoint=self._checkpoint(f"{name}-tuning"),
            )
        values = {"hyperparameters": found.hyperparameters, "settings": settings}
        trials = len(found.trials.get("seed", ()))
        seeds = [int(found.trials["seed"][0]), int(found.trials["seed"][-1])] if trials else []
        record = self._record(kind, found.trials, values, seeds, found.wall_seconds, found.compile_seconds, loaded)
        record = self._published(f"{name}-tuning", record)
        partial.unlink(missing_ok=True)
        return record

    def ran(self, name: str) -> Record:
        """The record of an optimizer's reported runs, with tuned hyperparameters; missing seeds are added to it.

        Seeds that :meth:`ran_apart` has made are taken from there.
        """
        optimizer = optimizer_named(name)
        kind, settings = self._runs_of(optimizer, self.tuned(name))
        record = self._stored(self._path(name), kind, settings)
        if self._missing(record):
            records.refuse_when_redrawing(self._path(name))
            with locks.held(self._path(name), until=self.until):
                record = self._stored(self._path(name), kind, settings)  # another process may have been at it meanwhile
                record = self._completed(optimizer, kind, settings, record)
        assert record is not None
        self._tidied(name, record.provenance["seeds"])
        return record

    def _completed(
        self, optimizer: Optimizer, kind: str, settings: Mapping[str, Any], record: Record | None
    ) -> Record | None:
        """The record with the seeds that it lacks, stored."""
        name, missing = optimizer.name, self._missing(record)
        apart = self._apart(name, kind, settings, missing)
        left = [seed for seed in missing if not any(seed in seeds for seeds in apart)]
        for seeds in sorted([*apart, *self._groups(optimizer, left)]):
            part = _apart_name(name, seeds)
            with locks.held(self._path(part), until=self.until):  # from a process that makes it apart
                own = self._apart(name, kind, settings, seeds).get(seeds)
                own = own or self._trained(optimizer, kind, settings, seeds, self._checkpoint(part))
                record = self._published(name, own if record is None else joined(record, own))
                self._forget(part)
        return record

    def ran_apart(self, name: str, seeds: Sequence[int]) -> list[Record]:
        """Runs with some of the seeds, by themselves: a batch makes several such parts at a time.

        They are kept beside the record until :meth:`ran` joins them to it; joined, they are what :meth:`ran` would have
        computed at once, to the last bit where these seeds would run in programs of the same width (``lanes``).

        Args:
          name: the optimizer, tuned before.
          seeds: report seeds, ints.

        Returns:
          A record for each group of seeds that ran side by side; none for seeds that the optimizer's record has.
        """
        optimizer = optimizer_named(name)
        kind, settings = self._runs_of(optimizer, self.tuned(name))
        missing = self._missing(self._stored(self._path(name), kind, settings), seeds)
        made = []
        for group in self._groups(optimizer, missing):
            part = _apart_name(name, group)
            with locks.held(self._path(part), until=self.until):
                if not self._missing(self._stored(self._path(name), kind, settings), group):
                    continue  # made and joined while this process waited
                own = self._apart(name, kind, settings, group).get(group)
                if own is None:
                    checkpoint = self._checkpoint(part)
                    own = self._trained(optimizer, kind, settings, group, checkpoint)
                    records.save(self._partial(part), own)
                    checkpoint.remove()
                made.append(own)
        return made

    def _missing(self, record: Record | None, seeds: Sequence[int] | None = None) -> list[int]:
        """Those of the seeds (None: the preset's) that a record does not hold."""
        done = record.provenance["seeds"] if record is not None else ()
        return [seed for seed in (range(self.preset.seeds) if seeds is None else seeds) if seed not in done]

    def answered(self, name: str, *, seeds: Sequence[int] | None = None, tuning_only: bool = False) -> bool:
        """Whether what is asked for is stored, so that nothing would be computed.

        Args:
          name: the optimizer.
          seeds: seeds to look for, in the optimizer's record or apart from it; None: the record with all of them.
          tuning_only: whether to ask for its tuning alone.

        Raises:
          RecordError: a stored record is damaged, or of another question.
        """
        optimizer = optimizer_named(name)
        tuning = self._stored(self._path(f"{name}-tuning"), *self._tuning_of(optimizer))
        if tuning is None or tuning_only:
            return tuning is not None
        kind, settings = self._runs_of(optimizer, tuning)
        record = self._stored(self._path(name), kind, settings)
        found = set(record.provenance["seeds"]) if record is not None else set()
        if seeds is None:
            return found >= set(range(self.preset.seeds))
        apart = self._apart(name, kind, settings, [seed for seed in seeds if seed not in found])
        return found.union(*apart) >= set(seeds)

    def all(self) -> dict[str, Record]:
        """Records of the reported runs of every optimizer in the preset, tuned first where the preset says so."""
        return {name: self.ran(name) for name in self.preset.optimizers}

    def stored(self, preset: Preset) -> dict[str, tuple[Record, Record]]:
        """What the results folder holds of another preset: optimizer → (its runs, its tuning), nothing computed.

        Raises:
          RecordError: a record that is damaged or foreign.
        """
        folder = self.folder / preset.name / self.experiment
        pairs = {name: (folder / f"{name}.npz", folder / f"{name}-tuning.npz") for name in preset.optimizers}
        return {
            name: (
                records.load(runs, f"{self.experiment}/{name}"),
                records.load(tuning, f"{self.experiment}/{name}/tuning"),
            )
            for name, (runs, tuning) in pairs.items()
            if runs.exists() and tuning.exists()
        }

    def stored_tuning(self, name: str) -> Record:
        """The record of an optimizer's tuning as it is stored.

        Raises:
          RecordError: it is missing, damaged or foreign.
        """
        return records.load(self._path(f"{name}-tuning"), f"{self.experiment}/{name}/tuning")

    def with_preset(self, **changes: Any) -> Study:
        """The same study with another number of something, e.g. ``seeds=8``."""
        return replace(self, preset=replace(self.preset, **changes))

    def _tuning_of(self, optimizer: Optimizer) -> tuple[str, dict[str, Any]]:
        """Kind and settings of the record of an optimizer's tuning."""
        fixed = dict((self.fixed or {}).get(optimizer.name) or {})
        settings = {"fixed": fixed, **self._settings("schedule"), "defaults": dict(optimizer.defaults)}
        return f"{self.experiment}/{optimizer.name}/tuning", settings

    def _runs_of(self, optimizer: Optimizer, tuning: Record) -> tuple[str, dict[str, Any]]:
        """Kind and settings of the record of an optimizer's runs."""
        hyperparameters = dict(tuning.values["hyperparameters"])
        hyperparameters[next(iter(optimizer.defaults))] *= self.preset.rate_factor
        settings = {"hyperparameters": hyperparameters, **self._settings("steps", "measure_every")}
        return f"{self.experiment}/{optimizer.name}", settings

    def _groups(self, optimizer: Optimizer, seeds: Sequence[int]) -> list[tuple[int, ...]]:
        """The seeds that run side by side, group by group."""
        size = self._lanes(optimizer) or max(1, len(seeds)) if seeds else 1
        return [tuple(seeds[first : first + size]) for first in range(0, len(seeds), size)]

    def _trained(
        self, optimizer: Optimizer, kind: str, settings: Mapping[str, Any], seeds: Sequence[int], checkpoint: Checkpoint
    ) -> Record:
        """A record of runs with these seeds, side by side."""
        some = f", seeds {seeds[0]}–{seeds[-1]}" if len(seeds) < self.preset.seeds else ""
        loaded = compilation_cache.loaded()
        run = train(
            self.task,
            optimizer,
            steps=self.preset.steps,
            seeds=seeds,
            hyperparameters=settings["hyperparameters"],
            measure_every=self.preset.measure_every,
            chunk=self.chunk,
            progress=self._report(optimizer.name + some),
            checkpoint=checkpoint,
            prepare=self.prepare,
        )
        arrays = {**arrays_of(run), **(self.after(self.task, run) if self.after else {})}
        values = {
            "settings": settings,
            "hyperparameters": settings["hyperparameters"],
            "steps": self.preset.steps,
            "steps_per_second": run.steps_per_second * len(seeds),
            "gradients_per_step": optimizer.gradients_per_step,
        }
        wall = float(run.wall_seconds[-1])
        return self._record(kind, arrays, values, list(seeds), wall, run.compile_seconds, loaded)

    def _apart(
        self, name: str, kind: str, settings: Mapping[str, Any], seeds: Sequence[int]
    ) -> dict[tuple[int, ...], Record]:
        """Records of some of these seeds that were made apart and answer the same question, by their seeds."""
        found: dict[tuple[int, ...], Record] = {}
        for path in sorted(self._partial(name).parent.glob(f"{name}-seeds-*.npz")):
            own = re.fullmatch(re.escape(name) + r"-seeds-(\d+)-(\d+)", path.stem)
            if own is None or not set(range(int(own[1]), int(own[2]) + 1)) <= set(seeds):
                continue
            try:
                record = records.load(path, kind)
            except RecordError as error:
                warnings.warn(f"{path} is not used: {error} Its seeds are run again.", stacklevel=2)
                continue
            if self._of_this_code(record) and not difference_of(record.values, json.loads(json.dumps(settings))):
                found[tuple(record.provenance["seeds"])] = record
        return found

    def _settings(self, *names: str) -> dict[str, Any]:
        """What decides a record's numbers: the preset without the fields that only say how much else is computed."""
        given = self.preset.settings()
        own = {name: value for name, value in given.items() if name not in AMOUNTS}
        return {**own, **{name: given[name] for name in names}}

    def _report(self, label: str) -> Report | None:
        return Progress(f"{self.experiment} {self.preset.name}: {label}") if self.show else None

    def _record(
        self, kind: str, arrays: Mapping[str, Any], values: Mapping[str, Any], seeds: Any, wall: float,
        compiled: float, loaded: int,
    ) -> Record:  # fmt: skip
        """A record with its provenance; ``loaded`` is how many programs the cache had given when its work began."""
        stated = records.provenance(
            self.command,
            preset=self.preset.name,
            seeds=seeds,
            wall_seconds=wall,
            compile_seconds=compiled,
            programs_from_cache=compilation_cache.loaded() - loaded,
            library=environment.library(),
            **(self.facts or {}),
        )
        return Record(kind, arrays, values, stated)

    def _dataset(self) -> str:
        return str((self.facts or {}).get("dataset_sha256", ""))

    def _lanes(self, optimizer: Optimizer) -> int:
        """How many lanes side by side: as given, and no more than the memory holds."""
        if not self.memory:
            return self.lanes
        fit = max(1, self.memory // bytes_of_lane(self.task, optimizer, self.preset.steps))
        return min(self.lanes or fit, fit)

    def _path(self, name: str) -> Path:
        return self.folder / self.preset.name / self.experiment / f"{name}.npz"

    def _partial(self, name: str) -> Path:
        """Where what is half done lies: hidden, and never read as a result."""
        return self._path(name).with_name(".partial") / f"{name}.npz"

    def _checkpoint(self, name: str) -> Checkpoint:
        return Checkpoint(self._partial(f"{name}-state").with_suffix(""), until=self.until)

    def _stored(self, path: Path, kind: str, settings: Mapping[str, Any]) -> Record | None:
        """The stored record where it answers the same question; None where it is to be computed.

        At the preset ``smoke``, which takes minutes, a record of other code is computed again. The others take hours,
        so theirs are kept where their settings and data are the same; ``make replay`` says whether today's code still
        computes the same numbers.
        """
        if not path.exists():
            return None
        wanted = json.loads(json.dumps(settings))
        record = records.load(path, kind)
        difference = difference_of(record.values, wanted)
        before = record.provenance.get("dataset_sha256", "")
        if self._dataset() and before and before != self._dataset():
            changed = f"the data set's fingerprint was {before[:12]}, now {self._dataset()[:12]}"
            difference = "; ".join(filter(None, (difference, changed)))
        if not difference and self._of_this_code(record):
            return record
        if self.preset.name != "smoke" and not os.environ.get("LODO_RECOMPUTE"):
            raise RecordError(
                f"{path} was made with other settings than asked for now: {difference}. "
                "Use another results folder, or set LODO_RECOMPUTE=1 to replace it."
            )
        return None

    def _of_this_code(self, record: Record) -> bool:
        """Whether a record's code does not count, or is that of now."""
        return self.preset.name != "smoke" or is_current(record)

    def _published(self, name: str, record: Record) -> Record:
        """The record, stored and read again: what was kept of it on the way may be removed only then."""
        return records.load(records.save(self._path(name), record), record.kind)

    def _forget(self, name: str) -> None:
        """Removes what was kept on the way to a record that is stored now."""
        self._partial(name).unlink(missing_ok=True)
        self._checkpoint(name).remove()

    def _tidied(self, name: str, seeds: Sequence[int] = ()) -> None:
        """Removes what is left of the way to a record, of these seeds: its maker died just after it was stored."""
        folder = self._partial(name).parent
        parts = {name}
        for path in folder.glob(f"{name}-seeds-*"):
            found = re.match(re.escape(name) + r"-seeds-(\d+)-(\d+)", path.name)
            # Others are made apart by somebody else, and not joined yet.
            if found is not None and set(range(int(found[1]), int(found[2]) + 1)) <= set(seeds):
                parts.add(found[0])
        for part in sorted(parts):
            kept = (self._partial(part), self._checkpoint(part).path, locks.lock_of(self._path(part)))
            if any(path.exists() for path in kept):
                locks.tidied(self._path(part), functools.partial(self._forget, part))

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
        difference = difference_of(record.values, json.loads(json.dumps(settings))) or ", ".join(names)
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


def _apart_name(name: str, seeds: Sequence[int]) -> str:
    return f"{name}-seeds-{seeds[0]}-{seeds[-1]}"


def cost_note(experiment: str, presets: Mapping[str, Preset], done: Preset, optimizer_seconds: float) -> list[str]:
    """One line a preset: what it computes, and about how long that takes on this machine.

    Args:
      experiment: its name.
      presets: the experiment's presets.
      done: the preset that ran.
      optimizer_seconds: measured seconds of all its training (tuning included).

    Returns:
      Lines for people. Times scale the measured ones by steps × runs, and are left out where another preset's steps
      cost something else (another data set or network).
    """
    rate = optimizer_seconds / (done.optimizer_steps() * len(done.optimizers))
    lines = []
    for name, preset in presets.items():
        total = preset.optimizer_steps() * len(preset.optimizers)
        text = (
            f"{name:7} {len(preset.optimizers)} optimizers, {preset.seeds} runs of {preset.steps:,} steps each, "
            f"{len(preset.schedule)} generations of tuning: {total:,} steps in all"
        )
        general = {"name", "optimizers", "schedule", "steps", "seeds", "measure_every", "samples"}
        same = all(value == getattr(done, field) for field, value in preset.settings().items() if field not in general)
        if preset is done or name == done.name:
            text += f"; this run, {duration(optimizer_seconds)} of training"
        elif same:
            text += f"; about {duration(rate * total)} at this run's rate"
        else:
            text += "; its steps cost something else than this run's, so no time is predicted"
        lines.append(text)
    return lines


def training_seconds(study: Study, found: Mapping[str, Record]) -> float:
    """Synchronised training seconds of a study's records, tuning included."""
    runs = sum(record.provenance["wall_seconds"] for record in found.values())
    return runs + sum(study.tuned(name).provenance["wall_seconds"] for name in found)
