"""What a job will take, from what earlier ones took: this very job, else the records there are, else nothing is said.

Memory is what was measured of this very job, else worked out from the optimizer's state. Times of records
are synchronised training plus compilation; where only another preset's are there, they are scaled by steps × runs, if a
step costs the same. They are of whatever machine made the records.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lodo_experiments.cli.batch.plan import Job, Options
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.studies import cost, registry
from lodo_experiments.studies.experiment import Experiment

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
    if memory is None and job.experiment:
        memory = cost.memory_mb(registry.named(job.experiment), options.preset, job.optimizers, job.lanes)
    return Cost(seconds, memory, _disk(job, options, folders), measured)


def _measured(job: Job, state: Path) -> tuple[float | None, float | None]:
    """Seconds and memory that this very job took in this folder."""
    try:
        found = json.loads((state / "costs" / f"{job.name}.json").read_text(encoding="utf-8"))
        return float(found["seconds"]), float(found["peak_mb"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _from_records(job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    """Seconds from the records there are; None where they do not tell."""
    found = [_of_experiment(one, job, options, folders) for one in _experiments(job)]
    known = [seconds for seconds in found if seconds is not None]
    return START + sum(known) if len(known) == len(found) else None


def _of_experiment(one: Experiment, job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    if one.parts is not None:
        return cost.seconds_of_parts(one, options.preset, folders)
    preset, seconds = one.preset(options.preset), 0.0
    trials = sum(generation.steps * generation.population for generation in preset.schedule)
    runs = len(job.seeds) or job.runs // len(job.optimizers)
    for name in job.optimizers:
        for stem, steps in ((f"{name}-tuning", trials * job.tunes), (name, preset.steps * runs)):
            own = cost.seconds_of_steps(one, preset, stem, steps, folders) if steps else 0.0
            if own is None:
                return None
            seconds += own
    return seconds


def _experiments(job: Job) -> list[Experiment]:
    """The experiments that a job's records are of."""
    return registry.variants(job.experiment, job.variant)


def _disk(job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    """MB that a job's files take at any preset: they hardly depend on it."""
    names = (options.preset, *(name for name in PRESETS if name != options.preset))
    if job.part == "notebook":
        paths = [options.output / name / f"{job.name.split('/')[1]}.ipynb" for name in names]
        return next((path.stat().st_size / 1e6 for path in paths if path.exists()), None)
    if not job.experiment:
        return None
    for folder in folders:
        for name in names:
            where = [folder / name / one.folder(name) for one in _experiments(job)]
            stems = [f"{own}-tuning" if job.tuning else own for own in job.optimizers] or ["*"]
            found = [path for place in where for stem in stems for path in sorted(place.glob(f"{stem}.npz"))]
            if found and len(found) >= len(where) * len(stems):
                share = len(job.seeds) / 4 if job.seeds else 1
                return share * sum(path.stat().st_size for path in found) / 1e6
    return None
