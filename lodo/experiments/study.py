"""A study: each optimizer tuned, then run on report seeds; everything kept as records, and nothing computed twice.

parameters → preset → study (task × optimizers × seeds) → tuned hyperparameters → runs → records → figures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lodo.experiments import fingerprint, records
from lodo.experiments.optimizers import optimizer_named
from lodo.experiments.presets import AMOUNTS, Preset
from lodo.experiments.progress import Progress, Report, duration
from lodo.experiments.records import Record, RecordError
from lodo.experiments.tasks.base import Task
from lodo.experiments.training import Run, train
from lodo.experiments.tuning import Tuning, tune

#: Points at most in a stored loss curve; each is the mean over a window of steps.
CURVE_POINTS = 500


@dataclass(frozen=True)
class Study:
    """What to compute, and where its records are kept.

    Attributes:
      experiment: name of the experiment, e.g. "noisy_bowl".
      task: what to minimize.
      preset: how much to compute.
      folder: where the records are: ``folder/preset/experiment/…npz``.
      command: what a reader would type to compute the records again.
      batched: run seeds and trials side by side in one program.
      chunk: steps between two reports of progress.
      fixed: optimizer → hyperparameters that are taken as they are, instead of tuning.
      after: (task, run) → arrays to keep with the runs, such as samples from the trained models.
      facts: further facts for the provenance, such as the data set's fingerprint.
      show: whether to report progress.
    """

    experiment: str
    task: Task
    preset: Preset
    folder: Path
    command: str
    batched: bool = True
    chunk: int = 100
    fixed: Mapping[str, Mapping[str, float]] | None = None
    after: Callable[[Task, Run], Mapping[str, np.ndarray]] | None = None
    facts: Mapping[str, Any] | None = None
    show: bool = True

    def tuned(self, name: str) -> Record:
        """The record of an optimizer's tuning: every trial, and the values found."""
        optimizer = optimizer_named(name)
        fixed = (self.fixed or {}).get(name)
        settings = {"fixed": dict(fixed or {}), **self._settings("schedule"), "defaults": dict(optimizer.defaults)}

        def compute() -> Record:
            if fixed is not None or not self.preset.schedule:
                found = Tuning({**optimizer.defaults, **(fixed or {})}, {}, 0.0, 0.0)
            else:
                found = tune(
                    self.task,
                    optimizer,
                    self.preset.schedule,
                    chunk=self.chunk,
                    batched=self.batched,
                    progress=lambda generation: self._report(f"{name}, generation {generation + 1}"),
                )
            values = {"hyperparameters": found.hyperparameters, "settings": settings}
            trials = len(found.trials.get("seed", ()))
            seeds = [int(found.trials["seed"][0]), int(found.trials["seed"][-1])] if trials else []
            return self._record(
                f"{name}/tuning", found.trials, values, seeds, found.wall_seconds, found.compile_seconds
            )

        return self._kept(f"{name}-tuning", f"{self.experiment}/{name}/tuning", settings, compute)

    def ran(self, name: str) -> Record:
        """The record of an optimizer's reported runs, with tuned hyperparameters."""
        optimizer = optimizer_named(name)
        hyperparameters = dict(self.tuned(name).values["hyperparameters"])
        hyperparameters[next(iter(optimizer.defaults))] *= self.preset.rate_factor
        settings = {
            "hyperparameters": hyperparameters,
            **self._settings("steps", "seeds", "measure_every"),
        }

        def compute() -> Record:
            seeds = list(range(self.preset.seeds))
            run = train(
                self.task,
                optimizer,
                steps=self.preset.steps,
                seeds=seeds,
                hyperparameters=hyperparameters,
                measure_every=self.preset.measure_every,
                chunk=self.chunk,
                batched=self.batched,
                progress=self._report(name),
            )
            arrays = {**_run_arrays(run), **(self.after(self.task, run) if self.after else {})}
            values = {
                "settings": settings,
                "hyperparameters": hyperparameters,
                "steps": self.preset.steps,
                "steps_per_second": run.steps_per_second * len(seeds),
                "gradients_per_step": optimizer.gradients_per_step,
            }
            return self._record(name, arrays, values, seeds, float(run.wall_seconds[-1]), run.compile_seconds)

        return self._kept(name, f"{self.experiment}/{name}", settings, compute)

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

    def with_preset(self, **changes: Any) -> Study:
        """The same study with another number of something, e.g. ``seeds=8``."""
        return replace(self, preset=replace(self.preset, **changes))

    def _settings(self, *names: str) -> dict[str, Any]:
        """What decides a record's numbers: the preset without the fields that only say how much else is computed."""
        given = self.preset.settings()
        own = {name: value for name, value in given.items() if name not in AMOUNTS}
        return {**own, **{name: given[name] for name in names}}

    def _report(self, label: str) -> Report | None:
        return Progress(f"{self.experiment} {self.preset.name}: {label}") if self.show else None

    def _record(
        self, name: str, arrays: Mapping[str, Any], values: Mapping[str, Any], seeds: Any, wall: float, compiled: float
    ) -> Record:
        stated = records.provenance(
            self.command,
            preset=self.preset.name,
            seeds=seeds,
            wall_seconds=wall,
            compile_seconds=compiled,
            library=fingerprint.library(),
            **(self.facts or {}),
        )
        return Record(f"{self.experiment}/{name}", arrays, values, stated)

    def _kept(self, name: str, kind: str, settings: Mapping[str, Any], compute: Callable[[], Record]) -> Record:
        """The stored record where it answers the same question, else a new one, stored.

        At the preset ``smoke``, which takes minutes, a record made by other source code is computed again. The others
        take hours, so theirs are kept, with the commit that made them in their provenance.
        """
        path = self.folder / self.preset.name / self.experiment / f"{name}.npz"
        wanted = json.loads(json.dumps(settings))
        if path.exists():
            record = records.load(path, kind)
            same_code = record.provenance.get("library") == fingerprint.library()
            if record.values.get("settings") == wanted and (same_code or self.preset.name != "smoke"):
                return record
            if self.preset.name != "smoke" and not os.environ.get("LODO_RECOMPUTE"):
                raise RecordError(
                    f"{path} was made with other settings than asked for now: {_difference(record.values, wanted)}. "
                    "Use another results folder, or set LODO_RECOMPUTE=1 to replace it."
                )
        record = compute()
        records.save(path, record)
        return records.load(path, kind)


def results_folder(results_dir: str = "") -> Path:
    """Where records are kept: the folder given, else LODO_RESULTS, else ``results`` in the checkout or here.

    >>> results_folder("somewhere").name
    'somewhere'
    """
    given = results_dir or os.environ.get("LODO_RESULTS", "")
    if given:
        return Path(given).expanduser()
    here = Path.cwd()
    checkout = next((folder for folder in (here, *here.parents) if (folder / "lodo" / "_version.py").exists()), here)
    return checkout / "results"


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


def _run_arrays(run: Run) -> dict[str, np.ndarray]:
    """A run as small arrays: curves of window means, scores, measurements, clock."""
    steps = run.losses.shape[1]
    window = max(1, -(-steps // CURVE_POINTS))
    whole = steps // window * window
    with np.errstate(all="ignore"):
        curve = run.losses[:, :whole].reshape(len(run.losses), -1, window).mean(axis=2)
    return {
        "scores": run.scores,
        "diverged_at": run.diverged_at,
        "curve": curve,
        "curve_steps": (np.arange(curve.shape[1]) + 1) * window,
        "final_loss": run.losses[:, -1],
        "measured_steps": run.measured_steps,
        **{f"measured.{name}": np.asarray(value) for name, value in run.measured.items()},
        "wall_steps": run.wall_steps,
        "wall_seconds": run.wall_seconds,
    }


def _difference(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    stored = given.get("settings") or {}
    names = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
    return "; ".join(f"{name} was {stored.get(name)!r}, now {wanted.get(name)!r}" for name in names)
