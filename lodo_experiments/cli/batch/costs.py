"""What a job will take: as Snakemake measured this very job before, else from the stored records and the state's size.

Times of records are synchronised training plus compilation; where only another preset's are there, they are scaled by
steps × runs, if a step costs the same. They are of whatever machine made the records.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lodo_experiments.cli.batch.plan import Cost, Job, Options
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.data.catalogue import CATALOGUE
from lodo_experiments.studies import cost, registry
from lodo_experiments.studies.experiment import Experiment

#: Seconds that a job takes before it computes: Python, JAX. Only used where nothing was measured.
START = 5.0


def predict(jobs: Sequence[Job], options: Options) -> dict[str, Cost]:
    """The cost of each job, by its name."""
    folders = list(dict.fromkeys([options.folder, results_folder().resolve()]))
    found = {}
    for job in jobs:
        own = _read_benchmark(options.state / "benchmarks" / f"{job.name}.tsv")
        if own.seconds is None and job.experiment:
            own = replace(own, seconds=_from_records(job, options.preset, folders))
        if own.memory_mb is None and job.experiment:
            estimate = cost.memory_mb(registry.named(job.experiment), options.preset, job.optimizers, job.lanes)
            own = replace(own, memory_mb=estimate)
        found[job.name] = own
    return found


def disk(jobs: Sequence[Job], options: Options) -> tuple[list[float | None], float]:
    """MB that each job writes (data, or as large a record or notebook as is there), None: not known; and MB free."""
    folders = list(dict.fromkeys([options.folder, results_folder().resolve()]))
    there = next(folder for folder in (options.state, *options.state.parents) if folder.is_dir())
    return [_disk_of(job, options, folders) for job in jobs], shutil.disk_usage(there).free / 1e6


def _disk_of(job: Job, options: Options, folders: Sequence[Path]) -> float | None:
    if job.rule == "data":  # the original files, and the prepared ones beside them
        return 2 * sum(file.size for file in CATALOGUE[job.dataset].files) / 1e6
    if job.rule in ("notebook", "sweep"):
        made = options.output / options.preset / f"{job.name.split('/')[1]}.ipynb"
        return made.stat().st_size / 1e6 if made.exists() else None
    found = 0.0
    for one in registry.variants(job.experiment, job.variant):
        stems = [f"{name}-tuning" for name in job.optimizers if job.tunes]
        stems += [name for name in job.optimizers if job.rule != "tune"] if one.parts is None else ["*"]
        for stem in stems:
            places = (folder / name / one.folder(name) for name in (options.preset, *PRESETS) for folder in folders)
            sizes = (sum(path.stat().st_size for path in place.glob(f"{stem}.npz")) for place in places)
            size = next(filter(None, sizes), None)
            if size is None:
                return None
            found += size / 1e6
    return found


def _read_benchmark(benchmark: Path) -> Cost:
    """What Snakemake measured; of a job that ends at once, it measures no memory."""
    try:
        with benchmark.open(encoding="utf-8", newline="") as file:
            (found,) = csv.DictReader(file, delimiter="\t")
        known = found["max_rss"] not in ("-", "NA")
        return Cost(float(found["s"]), float(found["max_rss"]) if known else None, known)
    except (OSError, ValueError, KeyError):
        return Cost()


def _from_records(job: Job, preset: str, folders: Sequence[Path]) -> float | None:
    """Seconds from the records there are; None where they do not tell."""
    found = [_of_experiment(one, job, preset, folders) for one in registry.variants(job.experiment, job.variant)]
    known = [seconds for seconds in found if seconds is not None]
    return START + sum(known) if len(known) == len(found) else None


def _of_experiment(one: Experiment, job: Job, preset: str, folders: Sequence[Path]) -> float | None:
    if one.parts is not None:
        return cost.seconds_of_parts(one, preset, folders)
    amounts, seconds = one.preset(preset), 0.0
    trials = sum(generation.steps * generation.population for generation in amounts.schedule)
    for name in job.optimizers:
        runs = amounts.steps * job.runs // len(job.optimizers)
        for stem, steps in ((f"{name}-tuning", trials * job.tunes), (name, runs)):
            own = cost.seconds_of_steps(one, amounts, stem, steps, folders) if steps else 0.0
            if own is None:
                return None
            seconds += own
    return seconds
