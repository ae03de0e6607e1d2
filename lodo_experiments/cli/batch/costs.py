"""What a job will take, from what earlier ones took: this very job, else the records there are, else nothing is said.

Memory is what was measured of this very job, else worked out from the optimizer's state (`memory`). Times of records
are synchronised training plus compilation; where only another preset's are there, they are scaled by steps × runs, if a
step costs the same. They are of whatever machine made the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lodo_experiments.cli.batch.memory_estimates import expected_mb
from lodo_experiments.cli.batch.plan import Job, Options
from lodo_experiments.config import presets
from lodo_experiments.config.paths import results_folder
from lodo_experiments.config.presets import AMOUNTS, Preset
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.studies.theory_and_code import WHOLES

#: Seconds that a job takes before it computes: Python, JAX, a notebook's kernel. Only used where nothing was measured.
START = 5.0


@dataclass(frozen=True)
class Cost:
    """What a job is expected to take; None: not known.

    Attributes:
      seconds: of wall time.
      memory_mb: at most.
      disk_mb: of what it leaves.
      measured: whether the memory was measured, rather than worked out.
    """

    seconds: float | None = None
    memory_mb: float | None = None
    disk_mb: float | None = None
    measured: bool = False


def predicted(jobs: Sequence[Job], options: Options, state: Path) -> dict[str, Cost]:
    """The cost of each job, by its name."""
    folders = list(dict.fromkeys([options.folder, results_folder().resolve()]))
    return {job.name: _of(job, options, state, folders) for job in jobs}


def total(costs: Sequence[float | None]) -> tuple[float, int]:
    """The sum of what is known, and how many are not.

    >>> total([1.0, None, 2.0])
    (3.0, 1)
    """
    return sum(cost for cost in costs if cost is not None), sum(cost is None for cost in costs)


def _of(job: Job, options: Options, state: Path, folders: Sequence[Path]) -> Cost:
    seconds, memory = _measured(job, state)
    if seconds is None and job.experiment:
        seconds = _from_records(job, options, folders)
    measured = memory is not None
    memory = memory if measured else expected_mb(job, options.preset)
    return Cost(seconds, memory, _disk(job, options, folders), measured)


def _measured(job: Job, state: Path) -> tuple[float | None, float | None]:
    """Seconds and memory that this very job took in this folder."""
    try:
        found = json.loads((state / "costs" / f"{job.name}.json").read_text(encoding="utf-8"))
        return float(found["seconds"]), float(found["peak_mb"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _from_records(job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    if job.experiment in WHOLES:
        for folder in folders:
            paths = sorted((folder / options.preset / job.experiment).glob("*.npz"))
            clocks = [_clock(record) for path in paths if (record := _read(path)) is not None]
            if clocks:
                return START + sum(clocks)
        return None
    found = 0.0
    for experiment in _experiments(job, options.preset):
        for name in job.optimizers:
            seconds = _of_optimizer(job, options, folders, experiment, name)
            if seconds is None:
                return None
            found += seconds
    return START + found if job.runs or job.tuning else START


def _of_optimizer(job: Job, options: Options, folders: Sequence[Path], experiment: str, name: str) -> float | None:
    """Seconds for one optimizer of a job; None where no record tells."""
    wanted = presets.preset_named(job.experiment, options.preset)
    seconds, whole = 0.0, not job.seeds and not job.tuning
    tunes = job.tuning or (options.preset == "smoke" and job.variant in ("", "parts"))
    if tunes and wanted.schedule:
        steps = sum(generation.steps * generation.population for generation in wanted.schedule)
        own = _scaled(job, options, folders, experiment, f"{name}-tuning", steps)
        if own is None:
            return None
        seconds += own
    if job.runs and (whole or job.seeds):
        runs = len(job.seeds) or job.runs // len(job.optimizers)
        own = _scaled(job, options, folders, experiment, name, wanted.steps * runs)
        if own is None:
            return None
        seconds += own
    return seconds


def _scaled(
    job: Job, options: Options, folders: Sequence[Path], experiment: str, stem: str, steps: int
) -> float | None:
    """Seconds for so many steps (× runs), from the nearest record of such steps."""
    wanted = presets.preset_named(job.experiment, options.preset)
    for name in (options.preset, *(other for other in presets.PRESETS if other != options.preset)):
        other = presets.preset_named(job.experiment, name)
        if not _same_steps(wanted, other):
            continue
        # The fixed ablations have an experiment of their own at smoke.
        own = "noisy_bowl" if experiment == "noisy_bowl_parts" and name != "smoke" else experiment
        for folder in folders:
            record = _read(folder / name / own / f"{stem}.npz")
            made = _steps_of(record)
            if record is not None and made:
                compiling = float(record.provenance.get("compile_seconds", 0))
                return compiling + float(record.provenance.get("wall_seconds", 0)) * steps / made
    return None


def _steps_of(record: Record | None) -> int:
    """Steps × runs that a record's clock counted."""
    if record is None:
        return 0
    if "score" in record.arrays and "steps" in record.arrays:
        return int(record.arrays["steps"].sum())
    return int(record.values.get("steps", 0)) * len(record.provenance.get("seeds", ()))


def _same_steps(first: Preset, second: Preset) -> bool:
    one, other = first.settings(), second.settings()
    return all(one[name] == other[name] for name in one if name not in AMOUNTS)


def _experiments(job: Job, preset: str) -> Iterator[str]:
    """The experiments, as records name them, that a job's records are of."""
    own = job.experiment
    parts = "noisy_bowl_parts" if preset == "smoke" and own == "noisy_bowl" else own
    yield from {
        "": (own,),
        "parts": (parts,),
        "authors": ("noisy_bowl_published",),
        "frozen": ("noisy_bowl_frozen", "noisy_bowl_learning_on"),
        "ablations": (f"{parts}_ablations",),
        "defaults": ("rosenbrock_defaults",),
    }[job.variant]


def _disk(job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    """MB that a job's files take at any preset: they hardly depend on it."""
    names = (options.preset, *(name for name in presets.PRESETS if name != options.preset))
    if job.part == "notebook":
        paths = [options.output / name / f"{job.name.split('/')[1]}.ipynb" for name in names]
        return next((path.stat().st_size / 1e6 for path in paths if path.exists()), None)
    if not job.experiment:
        return None
    for folder in folders:
        for name in names:
            if job.experiment in WHOLES:
                found = sorted((folder / name / job.experiment).glob("*.npz"))
                wanted = found
            else:
                stems = [f"{own}-tuning" if job.tuning else own for own in job.optimizers]
                where = [folder / name / experiment for experiment in _experiments(job, name)]
                wanted = [place / f"{stem}.npz" for place in where for stem in stems]
                found = [path for path in wanted if path.exists()]
            if found and len(found) == len(wanted):
                share = len(job.seeds) / 4 if job.seeds else 1
                return share * sum(path.stat().st_size for path in found) / 1e6
    return None


def _read(path: Path) -> Record | None:
    try:
        return records.load(path)
    except RecordError:
        return None


def _clock(record: Record) -> float:
    return float(record.provenance.get("wall_seconds", 0)) + float(record.provenance.get("compile_seconds", 0))
