"""Which jobs a batch consists of, by the rules of ``workflow/Snakefile``, which says what each does.

How fine the matrix is cut depends on what a job costs. At `smoke` a study is one job, as starting Python and compiling
take longer than computing. At the other presets each optimizer is tuned in a job of its own and run in another; where
one run fills a machine (the image experiments), each seed is a job too, and one more merges their runs to the record.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lodo_experiments.cli import amounts
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import Experiment


@dataclass(frozen=True)
class Options:
    """What a batch is asked for: the command line's options (``--help``), by their names; no ``notebooks`` is None."""

    preset: str
    only: tuple[str, ...] = ()
    seeds: int = 0
    seeds_per_job: int = 0
    results_dir: str = ""
    data_dir: str = ""
    download: bool = False
    notebooks: Path | None = Path("notebooks")
    output: Path = Path("_build/executed")
    timeout: float | None = None
    sweep: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    cores: int = 1
    executor: str = ""
    profile: str = ""
    minutes: float = 0.0

    @property
    def folder(self) -> Path:
        """Of the records."""
        return results_folder(self.results_dir).resolve()

    @property
    def state(self) -> Path:
        """What the batch notes on the way."""
        return self.folder / self.preset / ".batch"


@dataclass(frozen=True)
class Job:
    """One piece of a batch."""

    name: str  # unique, and a relative path: e.g. "image_generation/LODO/seeds-3-3" or "notebook/rosenbrock".
    rule: str  # of the Snakefile: tune, run, run_part, merge, study, data, notebook or sweep
    needs: tuple[str, ...] = ()  # names of the jobs before it
    part: str = ""  # the part that it belongs to, e.g. "noisy_bowl-frozen"; "notebook" and "data" are parts too.
    experiment: str = ""  # whose records it makes; empty: none
    variant: str = ""  # of the experiment
    optimizers: tuple[str, ...] = ()  # whose records it makes
    tunes: bool = False  # whether it tunes
    seeds: tuple[int, ...] = ()  # the seeds that it runs apart; empty: it makes the whole records
    runs: int = 0  # how many runs it makes
    lanes: int = 1  # how many runs or trials it may have side by side
    dataset: str = ""  # that it reads; empty: none


@dataclass(frozen=True)
class Cost:
    """What a job is expected to take; None: not known."""

    seconds: float | None = None  # of wall time
    memory_mb: float | None = None  # at most
    measured: bool = False  # whether the memory was measured, rather than worked out from the optimizer's state

    def as_text(self) -> tuple[str, str]:
        """For people: minutes, and memory."""
        return (
            "not known" if self.seconds is None else f"{self.seconds / 60:.1f}",
            "not known" if self.memory_mb is None else f"{self.memory_mb:,.0f} MB",
        )


def total(values: Iterable[float | None]) -> tuple[float, str]:
    """The sum of what is known, and words for how many are not."""
    given = list(values)
    known = [value for value in given if value is not None]
    return sum(known), f" (and {len(given) - len(known)} that nothing is known of)" if len(known) < len(given) else ""


def parts(preset: str) -> dict[str, list[Experiment]]:
    """The experiments of a preset by the part that they make: those stored together, or of one variant's word.

    >>> [name for name in parts("smoke") if name.startswith("rosenbrock")]
    ['rosenbrock', 'rosenbrock-defaults']
    """
    found: dict[str, list[Experiment]] = {}
    for one in registry.EXPERIMENTS.values():
        if preset in one.listed:
            found.setdefault(_part_of(one, preset), []).append(one)
    return found


def _part_of(experiment: Experiment, preset: str) -> str:
    """The part that an experiment belongs to; that of the experiment in whose folder it is stored, if in another's."""
    own = registry.EXPERIMENTS.get(experiment.folder(preset), experiment)
    return f"{own.base.name}-{own.variant}" if own.base is not None else own.name


def jobs(options: Options) -> list[Job]:
    """The jobs of a batch, each after those that it needs.

    Raises:
      ValueError: no such preset or folder, a number out of its limits, or ``only`` names what there is not.

    >>> for job in jobs(Options("paper", only=("rosenbrock/Adam",))):
    ...     print(job.name, "after", *job.needs)
    rosenbrock/Adam/tuning after
    rosenbrock/Adam after rosenbrock/Adam/tuning
    """
    if options.preset not in PRESETS:
        raise ValueError(f"There is no preset {options.preset!r}; there are {', '.join(PRESETS)}.")
    amounts.check(options)
    if options.sweep:
        if options.only or options.seeds_per_job:
            raise ValueError("--only and --seeds-per-job do not go with --sweep, whose jobs are whole notebooks.")
        return list(_sweep(options))
    if options.set:
        raise ValueError("--set goes with --sweep: it says what else differs from the preset.")
    found = list(_data(options))
    for name, experiments in parts(options.preset).items():
        found += _of_part(name, experiments, options, data=tuple(job.name for job in found if job.part == "data"))
    found += list(_notebooks(options, found))
    return list(_select(found, options.only))


def _of_part(part: str, members: Sequence[Experiment], options: Options, data: tuple[str, ...]) -> Iterator[Job]:
    experiment = members[0]
    split = options.preset != "smoke" or bool(options.seeds_per_job)
    first = dict.fromkeys(
        (_part_of(registry.named(other), options.preset), optimizer)
        for one in members
        for other, optimizer in one.needs(options.preset)
    )
    tuned = tuple(dict.fromkeys(f"{name}/{optimizer}/tuning" if split else name for name, optimizer in first))
    trained = (one.preset(options.preset).optimizers for one in members if one.parts is None)
    optimizers = tuple(dict.fromkeys(name for names in trained for name in names))
    own = Job(part, "study", tuned, part, (experiment.base or experiment).name, experiment.variant)
    if not optimizers:
        yield own
        return
    preset = experiment.preset(options.preset, options.seeds)
    seeds, dataset = preset.seeds, experiment.dataset(options.preset)
    fetched = tuple(name for name in data if name == f"data/{dataset}")
    lanes = max([seeds, *(generation.population for generation in preset.schedule)])
    own = replace(own, needs=(*fetched, *tuned), lanes=lanes, dataset=dataset)
    tunes = experiment.tunes(options.preset)
    if not split:
        yield replace(own, optimizers=optimizers, runs=seeds * len(optimizers), tunes=tunes)
        return
    size = options.seeds_per_job or (1 if experiment.wide else seeds)
    groups = [range(seeds)[first : first + size] for first in range(0, seeds, size)] if size < seeds else []
    for optimizer in optimizers:
        name = f"{part}/{optimizer}"
        base = replace(own, name=name, rule="run", optimizers=(optimizer,), runs=seeds)
        if tunes:
            yield replace(base, name=f"{name}/tuning", rule="tune", tunes=True, runs=0)
            base = replace(base, needs=(*fetched, f"{name}/tuning"))
        apart = [
            replace(
                base, name=f"{name}/seeds-{group[0]}-{group[-1]}", rule="run_part", seeds=(*group,), runs=len(group)
            )
            for group in groups
        ]
        yield from apart
        yield replace(base, rule="merge", needs=tuple(job.name for job in apart), runs=0) if apart else base


def _data(options: Options) -> Iterator[Job]:
    """Jobs that fetch data sets, where that is allowed."""
    sets = {one.dataset(options.preset) for one in registry.EXPERIMENTS.values() if options.preset in one.listed}
    for name in sorted(sets - {"", "digits"}) if options.download else ():
        yield Job(f"data/{name}", "data", part="data", dataset=name)


def _notebooks(options: Options, before: Sequence[Job]) -> Iterator[Job]:
    if options.notebooks is None:
        return
    sources = sorted(options.notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"There are no notebooks in {options.notebooks}; name their folder, or leave them out.")
    for source in sources:
        drawn = {_part_of(one, options.preset) for one in registry.of_notebook(source.stem, options.preset)}
        needs = tuple(job.name for job in before if job.part in drawn)
        own = registry.EXPERIMENTS.get(source.stem)
        dataset = own.dataset(options.preset) if own is not None else ""
        yield Job(f"notebook/{source.stem}", "notebook", needs, "notebook", dataset=dataset)


def _sweep(options: Options) -> Iterator[Job]:
    """The same notebook once for each value of one of its parameters."""
    notebook, field, *values = (*options.sweep, "", "")[: max(2, len(options.sweep))]
    if not values:
        raise ValueError("--sweep: give a notebook, one of its parameters and values, such as noisy_bowl drift 0 1 2.")
    if notebook not in registry.EXPERIMENTS or options.notebooks is None:
        raise ValueError(f"--sweep {notebook}: expected an experiment with a notebook, such as noisy_bowl.")
    if not (options.notebooks / f"{notebook}.ipynb").exists():
        raise ValueError(f"--sweep {notebook}: there is no {notebook}.ipynb in {options.notebooks}.")
    for value in dict.fromkeys(values):
        registry.changes_of(notebook, [*options.set, f"{field}={value}"])  # refused here rather than in each job
        yield Job(f"sweep/{notebook}/{field}={value}", "sweep", part="sweep")


def _select(found: Sequence[Job], only: Iterable[str]) -> Iterator[Job]:
    """The jobs that are asked for, and those that they need, in their order."""
    by_name = {job.name: job for job in found}
    wanted: list[str] = []
    for given in only:
        hits = [
            job.name
            for job in found
            if fnmatch.fnmatchcase(job.name, given)
            or given == job.part
            or job.name in (f"notebook/{given}", f"data/{given}")
        ]
        if not hits:
            names = sorted({*by_name, *(job.part for job in found)} - {""})
            close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "`--dry-run` lists them all."
            raise ValueError(f"--only {given}: there is no such notebook, part or job; {hint}")
        wanted += hits
    if not only:
        wanted = list(by_name)
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += by_name[name].needs
    yield from (job for job in found if job.name in needed)
