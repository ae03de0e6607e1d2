"""The records that the project's pages can show, at every preset, and what each would state if it were made now.

Nothing is computed and no data are loaded: a study's settings are those of its preset.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lodo_experiments.config import presets
from lodo_experiments.config import theory_presets as theory
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.studies import paper_and_code, paper_and_code_runs, registry
from lodo_experiments.studies.study import Study
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy
from lodo_experiments.studies.theory.representability_study import RepresentabilityStudy
from lodo_experiments.studies.theory.result_store import Computed, Results
from lodo_experiments.tasks.base import Task


@dataclass(frozen=True)
class Expected:
    """A record that there should be.

    Attributes:
      experiment: as in the record's kind and its folder.
      preset: smoke, laptop or paper.
      part: its file's name without the ending, e.g. "Adam-tuning".
      kind: as the record states it.
      settings: what would decide its numbers; None where that depends on a record that is not there.
      seeds: how many runs it should hold; 0: that is not counted.
    """

    experiment: str
    preset: str
    part: str
    kind: str
    settings: Mapping[str, Any] | None
    seeds: int = 0

    def path(self, folder: Path) -> Path:
        """Its place in a results folder."""
        return folder / self.preset / self.experiment / f"{self.part}.npz"


def expected(folder: Path, preset: str) -> list[Expected]:
    """All records of a preset.

    Args:
      folder: the results folder; a run's settings depend on what its tuning found.
      preset: smoke, laptop or paper.

    Raises:
      ValueError: no such preset.

    >>> [one.part for one in expected(Path("/nowhere"), "paper") if one.experiment == "rosenbrock_defaults"]
    ['LODO-tuning', 'LODO']
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    found: dict[tuple[str, str], Expected] = {}
    for study in _studies(folder, preset):
        for name in study.preset.optimizers:
            for one in cast(_Asked, study).asked(name):
                found.setdefault((one.experiment, one.part), one)
    for one in _of_theory(folder, preset):
        found[one.experiment, one.part] = one
    return list(found.values())


class _Asked(Study):
    """A study that only answers what it would compute."""

    def tuned(self, name: str) -> Record:
        """The stored record, whatever its settings."""
        return self.stored_tuning(name)

    def asked(self, name: str) -> Iterator[Expected]:
        """The records of an optimizer's tuning and of its runs."""
        optimizer = optimizer_named(name)
        experiment, preset = self.experiment, self.preset.name
        known = self.fixed is not None or not experiment.endswith(("_ablations", "_compact"))
        kind, settings = self._tuning_of(optimizer)
        yield Expected(experiment, preset, f"{name}-tuning", kind, _plain(settings) if known else None)
        try:
            kind, settings = self._runs_of(optimizer, self.stored_tuning(name))
        except RecordError:
            yield Expected(experiment, preset, name, f"{experiment}/{name}", None, self.preset.seeds)
        else:
            yield Expected(experiment, preset, name, kind, _plain(settings), self.preset.seeds)


# The task is what a study trains, and nothing of that is asked for here.
_NO_TASK = Task("none", None, *[cast(Any, None)] * 4)


def _studies(folder: Path, preset: str) -> Iterator[Study]:
    def asked(experiment: str) -> _Asked:
        chosen = presets.preset_named(experiment, preset)
        return _Asked(experiment, _NO_TASK, chosen, folder, command="", show=False)

    bowl, valley, drawing = asked("noisy_bowl"), asked("rosenbrock"), asked("image_generation")
    parts = registry.fixed_ablations(bowl)
    yield from (bowl, parts, registry.authors_bowl(bowl), *registry.frozen_bowl(bowl).values())
    yield _knobs(parts)
    yield from (valley, registry.default_rosenbrock(valley), drawing)
    if preset != "smoke":  # no page computes these there
        yield _knobs(drawing)
        # No page shows these by itself: they are looked at where there are any.
        for study in (bowl, drawing):
            if (folder / preset / f"{study.experiment}_compact").is_dir():
                yield _compact(study)
    yield asked("image_classification")


def _compact(study: Study) -> Study:
    """The forms in fewer bytes, likewise."""
    try:
        return registry.compact_forms(study)
    except RecordError:
        only = study.with_preset(schedule=(), optimizers=tuple(COMPACT))
        return replace(only, experiment=f"{study.experiment}_compact", fixed=None)


def _knobs(study: Study) -> Study:
    """The parameterised ablations, whose other values are those that a tuning found, where it is there."""
    try:
        return registry.parameterised_ablations(study)
    except RecordError:
        indices = registry.KNOBS.get(study.preset.name, tuple(range(8)))
        names = tuple(family[j].name for family in ABLATIONS.values() for j in indices)
        only = study.with_preset(schedule=(), optimizers=names)
        return replace(only, experiment=f"{study.experiment}_ablations", fixed=None)


class _Questions(Results):
    """Results that note what they are asked for instead of computing it."""

    def kept(self, part: str, settings: Mapping[str, Any], seeds: list[int], compute: Callable[[], Computed]) -> Record:
        """The settings, in place of a record."""
        return Record(f"{self.experiment}/{part}", {}, {"settings": settings})


def _of_theory(folder: Path, preset: str) -> Iterator[Expected]:
    def asked(experiment: str) -> Results:
        return _Questions(experiment, preset, folder, command="")

    moving = theory.DYNAMICS[preset]
    yield from _noted(preset, DynamicsStudy(moving, moving.seeds, asked("learning_dynamics")).all())
    forms = theory.REPRESENTABILITY[preset]
    yield from _noted(preset, RepresentabilityStudy(forms, forms.seeds, asked("representability")).all())
    amounts = paper_and_code_runs.AMOUNTS[preset]
    size = paper_and_code_runs.Bench.__dataclass_fields__["size"].default
    bench = SimpleNamespace(amounts=amounts, size=size, values=paper_and_code_runs.bowl_values(folder))
    settings = paper_and_code.settings(cast(Any, bench))
    yield from _noted(preset, {"differences": Record("paper_and_code/differences", {}, {"settings": settings})})


def _noted(preset: str, found: Mapping[str, Record]) -> Iterator[Expected]:
    for part, record in found.items():
        experiment = record.kind.partition("/")[0]
        yield Expected(experiment, preset, part, record.kind, _plain(record.values["settings"]))


def others(folder: Path, known: list[Expected]) -> list[Path]:
    """Records in a results folder that are none of those expected: of another part of the project, or of nothing."""
    places = {one.path(folder) for one in known}
    found = [path for preset in PRESETS for path in sorted((folder / preset).rglob("*.npz"))]
    return [path for path in found if path not in places and ".partial" not in path.parts]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
