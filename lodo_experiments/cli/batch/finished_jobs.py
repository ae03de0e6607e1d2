"""Whether a job's results are there and can be trusted: the one place where a batch asks.

The results themselves answer (records and executed notebooks, by the same checks that the job would make), never a
receipt or a file's date: what is damaged, of other settings or out of date is not done, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lodo_experiments.cli import run
from lodo_experiments.cli.batch.plan import Job, Options
from lodo_experiments.data import images
from lodo_experiments.data.catalogue import DataError
from lodo_experiments.results.records import RecordError
from lodo_experiments.studies import notebooks, registry
from lodo_experiments.studies.changes import changes_given


@dataclass(frozen=True)
class Finished:
    """How a batch's jobs stand before it starts."""

    done: frozenset[str]
    refused: dict[str, str]


def find_finished(jobs: Sequence[Job], options: Options) -> Finished:
    """How the jobs stand, in their order; one that needs a job that is not done is not done."""
    done: set[str] = set()
    refused: dict[str, str] = {}
    for job in jobs:
        if not done.issuperset(job.needs):
            continue
        try:
            if is_done(job, options):
                done.add(job.name)
        except (RecordError, OSError) as error:
            refused[job.name] = str(error)
    return Finished(frozenset(done), refused)


def check_data(left: Sequence[Job], options: Options) -> None:
    """Refuses a batch whose data sets are neither there nor to be fetched by it.

    Raises:
      DataError: the message names the data set, and ways to get it or to do without.
    """
    fetched = {job.dataset for job in left if job.rule == "data"}
    for dataset in sorted({job.dataset for job in left} - fetched - {""}):
        try:
            images.check_present(dataset, options.data_dir or None)
        except DataError as error:
            needed = ", ".join(sorted({job.part for job in left if job.dataset == dataset} - {"notebook"}))
            raise DataError(
                f"{error}\n  3. in a batch: --download lets it fetch the data, and --only leaves out what needs them"
                + (f" ({needed})." if needed else ".")
            ) from None


def is_done(job: Job, options: Options) -> bool:
    """Whether a job's results are there, given that those of the jobs it needs are.

    Raises:
      RecordError: a record that is damaged or answers another question.
    """
    if job.rule == "data":
        try:
            images.check_present(job.dataset, options.data_dir or None)
        except DataError:
            return False
        return True
    if job.rule in ("notebook", "sweep"):
        assert options.notebooks is not None
        given = (options.preset, options.seeds, options.data_dir, options.download, options.results_dir)
        _, name, *setting = job.name.split("/", 2)
        source = (options.notebooks / f"{name}.ipynb").resolve()
        changes = changes_given([*options.set, *setting])
        folder = notebooks.output_folder(options.output, options.preset, changes)
        return notebooks.is_unchanged(source, folder.resolve(), notebooks.parameters(*given) | changes)
    asked: dict[str, Any] = {"seeds": options.seeds, "results_dir": str(options.folder)}
    if registry.named(job.experiment).parts is not None:
        return registry.build_parts(job.experiment, options.preset, **asked).is_complete()
    study = registry.outline(job.experiment, options.preset, **asked)
    return all(
        own.is_complete(name, seeds=job.seeds or None, tuning_only=job.rule == "tune")
        for own, name in run.select(study, job.variant, job.optimizers)
    )
