"""What a results folder holds, read without computing anything: for pages that show the best there is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lodo_experiments.config.paths import kept_folder
from lodo_experiments.optimizers.names import KNOWN
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError


@dataclass(frozen=True)
class Stored:
    """The records of one experiment at one preset."""

    experiment: str  # its name
    preset: str  # smoke, laptop, desktop or paper
    runs: Mapping[str, Record]  # optimizer → record of its runs
    tuning: Mapping[str, Record]  # optimizer → record of its tuning

    def only(self, names: Collection[str]) -> Stored:
        """The records of these optimizers."""
        runs, tuning = (
            {name: one for name, one in found.items() if name in names} for found in (self.runs, self.tuning)
        )
        return replace(self, runs=runs, tuning=tuning)


def load_all(folder: Path, experiment: str, preset: str) -> Stored:
    """All records of an experiment at a preset; empty where there are none.

    Raises:
      RecordError: a record is damaged, is of something else than its name says, or was made at another preset.
    """
    where = folder / preset / experiment
    runs, tuning = {}, {}
    for name in KNOWN:
        if record := load_one(where / f"{name}.npz", f"{experiment}/{name}", preset):
            runs[name] = record
        if record := load_one(where / f"{name}-tuning.npz", f"{experiment}/{name}/tuning", preset):
            tuning[name] = record
    return Stored(experiment, preset, runs, tuning)


def load_or_bundled(folder: Path, experiment: str, preset: str) -> Stored:
    """As :func:`load_all`; of the records that come with the project where the folder has none of the experiment's.

    So what is computed into a folder of its own is shown beside the large results that nobody wants to compute again.

    Raises:
      RecordError: as :func:`load_all`.
    """
    found = load_all(folder, experiment, preset)
    return found if found.runs else load_all(kept_folder(), experiment, preset)


def load_one(path: Path, kind: str, preset: str) -> Record | None:
    """One record; None where there is none.

    Raises:
      RecordError: as :func:`load_all`.
    """
    if not path.exists():
        return None
    record = records.load(path, kind)
    if record.provenance.get("preset") != preset:
        raise RecordError(
            f"{path} was made at the preset {record.provenance.get('preset')!r}, not {preset!r}: it lies in the wrong "
            "folder. Move it back, or remove it and compute it again."
        )
    return record
