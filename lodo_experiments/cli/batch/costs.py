"""What a job will take: as Snakemake measured this very job before, else from the stored records and the state's size.

Times of records are synchronised training plus compilation; where only another preset's are there, they are scaled by
steps × runs, if a step costs the same. They are of whatever machine made the records.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lodo_experiments.cli.batch.plan import Cost, Job, Options
from lodo_experiments.config.paths import results_folder
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
