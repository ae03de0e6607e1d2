"""What computing takes: time, scaled from what was measured, and memory, worked out from the optimizers' states."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import jax

from lodo.diagnostics.cost import cost_table
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import kept_folder
from lodo_experiments.config.presets import AMOUNTS, Preset
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.store import difference_of
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.registry import Page
from lodo_experiments.studies.runner import PartStudy, Study
from lodo_experiments.utils.progress import duration

#: MB of Python, JAX and a small task's programs.
BASE_MB = 500.0

#: Copies of an optimizer's state at a step's peak: the old one, the new one, and their gradients.
COPIES = 3

#: Names of what is missing that a line has at most.
_NAMED = 12

#: Of each record, where they are known.
Seconds: TypeAlias = Sequence[float | None]


def cost_note(study: Study, presets: Mapping[str, Preset], found: Mapping[str, Record]) -> list[str]:
    """One line a preset: what it computes, and about how long that takes on this machine.

    Returns:
      Lines for people. Times scale the measured ones by steps × runs, and are left out where another preset's steps
      cost something else (another data set or network).
    """
    done, seconds = study.preset, training_seconds(study, found)
    rate = seconds / (done.optimizer_steps() * len(done.optimizers))
    lines = []
    for name, preset in presets.items():
        total = preset.optimizer_steps() * len(preset.optimizers)
        text = (
            f"{name:7} {len(preset.optimizers)} optimizers, {preset.seeds} runs of {preset.steps:,} steps each, "
            f"{len(preset.schedule)} generations of tuning: {total:,} steps in all"
        )
        if name == done.name:
            text += f"; this run, {duration(seconds)} of training"
        elif same_steps(preset, done):
            text += f"; about {duration(rate * total)} at this run's rate"
        else:
            text += "; its steps cost something else than this run's, so no time is predicted"
        lines.append(text)
    return lines


def expected(study: Study | PartStudy | Page, name: str = "") -> str:
    """How long a page's cell will take, in words: on a CPU and on a GPU, as records of such work say, or not measured.

    Args:
      study: what the cell computes.
      name: of the experiment, where its records lie in another one's folder.

    >>> from lodo_experiments.studies.registry import build_page
    >>> expected(build_page("understanding", "smoke"))
    'Expected time: on a CPU not measured; on a T4-class GPU not measured.'
    """
    if isinstance(study, Page):
        return f"Expected time: {_on_devices(lambda device: [])}."
    if isinstance(study, PartStudy):
        return _expected_parts(study)
    experiment, folders = registry.named(name or study.name), [study.folder, kept_folder()]
    missing = [one for one in study.preset.optimizers if not _is_there(study.is_complete, one)]
    runs = study.preset.steps * study.preset.seeds
    trials = sum(generation.steps * generation.population for generation in study.preset.schedule)
    tuned = {one for one in missing if _is_there(functools.partial(study.is_complete, tuning_only=True), one)}
    amounts = [(f"{one}-tuning", trials) for one in missing if trials and one not in tuned]
    amounts += [(one, runs) for one in missing]

    def seconds(device: str) -> list[float | None]:
        return [seconds_of_steps(experiment, study.preset, *amount, folders, device) for amount in amounts]

    return _told("train", missing, seconds)


def _expected_parts(study: PartStudy) -> str:
    """The same of an experiment that computes parts; where none of these was ever made, what a preset's took."""
    experiment, preset = registry.named(study.name), study.preset.name
    folders = list(dict.fromkeys((study.store.folder, study.kept, kept_folder())))
    missing = [name for name in study.parts if not _is_there(study.is_complete, name)]

    def seconds(device: str) -> list[float | None]:
        return [_seconds_of_part(study, name, folders, device) for name in missing]

    def other(device: str) -> str:
        for name in (preset, *(one for one in PRESETS if one != preset)):
            known = seconds_of_parts(experiment, name, folders, device)
            if known is not None:
                return f" (the records of the preset {name} took {duration(known)})"
        return ""

    return _told("compute", missing, seconds, other)


def _nothing(device: str) -> str:
    return ""


def _told(
    verb: str, missing: Sequence[str], seconds: Callable[[str], Seconds], other: Callable[[str], str] = _nothing
) -> str:
    if not missing:
        return f"Every record is there: nothing is left to {verb}."
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    names = ", ".join(missing[:_NAMED]) + more
    return f"To {verb}: {names}. Expected time: {_on_devices(seconds, other)} ([h:]mm:ss, by the records of such work)."


def _on_devices(seconds: Callable[[str], Seconds], other: Callable[[str], str] = _nothing) -> str:
    """What a CPU and a GPU are known to take; what is not known is said."""
    told = []
    for device, words in (("cpu", "a CPU"), ("gpu", "a T4-class GPU")):
        found = seconds(device)
        known = [one for one in found if one is not None]
        text = f"about {duration(sum(known))}" if known else f"not measured{other(device)}"
        left = len(found) - len(known) if known else 0
        told.append(f"on {words} {text}" + (f" without {left} of {len(found)} records, not measured" if left else ""))
    return "; ".join(told)


def _is_there(is_complete: Callable[[str], bool], name: str) -> bool:
    try:
        return is_complete(name)
    except RecordError:
        return False


def training_seconds(study: Study, found: Mapping[str, Record]) -> float:
    """Synchronised training seconds of a study's records, tuning included."""
    runs = sum(record.provenance["wall_seconds"] for record in found.values())
    return runs + sum(study.tune(name).provenance["wall_seconds"] for name in found)


def same_steps(first: Preset, second: Preset) -> bool:
    """Whether a step costs the same at two presets: they differ in amounts alone."""
    one, other = first.settings(), second.settings()
    return all(one[name] == other[name] for name in one if name not in AMOUNTS)


def seconds_of_steps(
    experiment: Experiment, preset: Preset, stem: str, steps: int, folders: Sequence[Path], device: str = ""
) -> float | None:
    """Seconds for so many steps (× runs) of an optimizer, from the nearest stored record of such steps.

    Returns:
      Training, scaled, and compiling; None where no record tells.
    """
    for name in (preset.name, *(other for other in PRESETS if other != preset.name)):
        if same_steps(preset, experiment.preset(name)):
            for record in _readable(folder / name / experiment.folder(name) / f"{stem}.npz" for folder in folders):
                if not _is_of(record, device):
                    continue
                if made := _steps_of(record):
                    wall, compiling = _seconds(record)
                    return compiling + wall * steps / made
    return None


def seconds_of_parts(experiment: Experiment, preset: str, folders: Sequence[Path], device: str = "") -> float | None:
    """Seconds that the stored records of an experiment took which computes parts; None where there are none."""
    places = (folder / preset / experiment.folder(preset) for folder in folders)
    made = (
        [sum(_seconds(record)) for record in _readable(sorted(place.glob("*.npz"))) if _is_of(record, device)]
        for place in places
    )
    return next((sum(found) for found in made if found), None)


def _seconds_of_part(study: PartStudy, name: str, folders: Sequence[Path], device: str) -> float | None:
    """Seconds that the same part took, wherever its record lies."""
    paths = (replace(study.store, folder=folder).path(name) for folder in folders)
    same = (
        r for r in _readable(paths) if _is_of(r, device) and not difference_of(r.values, study.parts[name].settings)
    )
    return next((sum(_seconds(record)) for record in same), None)


def memory_mb(experiment: Experiment, preset: str, optimizers: Sequence[str], lanes: int) -> float | None:
    """MB that training takes, worked out from the optimizers' states; activations and the data set are not in it.

    Returns:
      None where the experiment does not say how many parameters it has.

    >>> from lodo_experiments.studies.registry import named
    >>> memory_mb(named("rosenbrock"), "smoke", ["LODO"], 16), memory_mb(named("representability"), "smoke", [], 1)
    (500.0, None)
    """
    if experiment.parameters is None or not optimizers:
        return None
    n = experiment.parameters(experiment.preset(preset))
    states = max(_state_bytes(name, n) for name in optimizers)
    return BASE_MB + math.floor((1 if experiment.dataset(preset) else lanes) * COPIES * states / 1e6)


@functools.cache
def _state_bytes(optimizer: str, n: int) -> int:
    """Bytes of an optimizer's state on n numbers, about; at LODO's defaults for all of its forms."""
    if optimizer.startswith("LODO"):
        return cost_table(jax.ShapeDtypeStruct((n,), "float32")).total_bytes
    dense = optimizer.startswith("BFGS") or optimizer in ("Levenberg-Marquardt", "Whitening", "Newton")
    # A pair of vectors of history for each of some tens of steps, or a few moments.
    return 4 * n * (n if dense else 50 if "LBFGS" in optimizer.replace("-", "") else 4)


def _steps_of(record: Record) -> int:
    """Steps × runs that a record's clock counted."""
    if "score" in record.arrays and "steps" in record.arrays:
        return int(record.arrays["steps"].sum())
    return int(record.values.get("steps", 0)) * len(record.provenance.get("seeds", ()))


def _is_of(record: Record, device: str) -> bool:
    """Whether a record was made on this kind of device; empty: on any."""
    return str(record.provenance.get("device", "")).startswith(device)


def _seconds(record: Record) -> tuple[float, float]:
    stated = record.provenance
    return float(stated.get("wall_seconds", 0)), float(stated.get("compile_seconds", 0))


def _readable(paths: Iterable[Path]) -> Iterator[Record]:
    for path in paths:
        try:
            yield records.load(path)
        except RecordError:
            continue
