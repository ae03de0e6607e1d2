"""Which jobs a batch consists of: experiment × optimizer × seed, tuning before report, then the notebooks.

How fine the matrix is cut depends on what a job costs. At `smoke` a study is one job, as starting Python and compiling
take longer than computing. At the other presets each optimizer is tuned in a job of its own and run in another; where
one run fills a machine (the image experiments), each seed is a job too, and one more joins their runs to the record.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lodo_experiments.config import presets
from lodo_experiments.config.paths import results_folder
from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.studies import registry
from lodo_experiments.studies.paper_and_code_runs import STATED
from lodo_experiments.studies.theory_and_code import WHOLES

#: Experiments of which one run keeps a machine busy, so that its seeds are jobs of their own (except at `smoke`).
WIDE = frozenset({"image_generation", "image_classification"})

#: Notebook → the parts it draws; one that is not here is taken to draw from all of them. Beyond `smoke` the fixed
#: ablations are part of the bowl's own comparison.
DRAWN_BY = {
    "noisy_bowl": ("noisy_bowl", "noisy_bowl-authors", "noisy_bowl-frozen"),
    "rosenbrock": ("rosenbrock", "rosenbrock-defaults"),
    "image_generation": ("image_generation",),
    "image_classification": ("image_classification",),
    "ablations": ("noisy_bowl", "noisy_bowl-parts", "noisy_bowl-ablations", "image_generation-ablations"),
    "learning_dynamics": ("learning_dynamics",),
    "representability": ("representability",),
    "paper_and_code": ("noisy_bowl", "paper_and_code"),
    "speed": (),
    "memory": (),  # its records are kept with the project
}


@dataclass(frozen=True)
class Options:
    """What a batch is asked for.

    Attributes:
      preset: smoke, laptop or paper.
      only: notebooks, parts or single jobs, by name or pattern; with them goes what they need. Empty: everything.
      seeds: runs for each optimizer; 0: the preset's number.
      seeds_per_job: runs in one job; 0: as said at the top.
      results_dir: folder of the records; empty: the default place.
      data_dir: folder of the data sets; empty: the default place.
      download: whether missing data sets may be downloaded, by jobs of their own.
      notebooks: folder of the clean notebooks; None: no notebooks.
      output: where the executed notebooks go, a folder for each preset.
      timeout: seconds for a whole notebook; None: the preset's; 0: no limit.
    """

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

    @property
    def folder(self) -> Path:
        """Of the records."""
        return results_folder(self.results_dir).resolve()


@dataclass(frozen=True)
class Job:
    """One piece of a batch.

    Attributes:
      name: unique, and a relative path: e.g. "image_generation/LODO/seeds-3-3" or "notebook/rosenbrock".
      arguments: of the command that does it, after the Python interpreter.
      needs: names of the jobs before it.
      part: the part that it belongs to, e.g. "noisy_bowl-frozen"; "notebook" and "data" are parts too.
      experiment: whose records it makes; empty: none.
      variant: of the experiment.
      optimizers: whose records it makes.
      tuning: whether it only tunes.
      seeds: the seeds that it runs apart; empty: it makes the whole records.
      runs: how many runs it makes.
      lanes: how many runs or trials it may have side by side.
      dataset: that it reads; empty: none.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    part: str = ""
    experiment: str = ""
    variant: str = ""
    optimizers: tuple[str, ...] = ()
    tuning: bool = False
    seeds: tuple[int, ...] = ()
    runs: int = 0
    lanes: int = 1
    dataset: str = ""

    @property
    def in_slices(self) -> bool:
        """Whether its command takes ``--minutes``, and goes on from there when it is called again."""
        return bool(self.optimizers)


@dataclass(frozen=True)
class Part:
    """A study or a variant of it: the part of the matrix that one `Options` asks for."""

    name: str
    experiment: str
    variant: str = ""
    optimizers: tuple[str, ...] = ()
    needs: tuple[str, ...] = field(default=())


def parts(preset: str) -> list[Part]:
    """The studies of a preset, with their optimizers; those that start from another's tuned values after it.

    >>> [part.name for part in parts("smoke") if part.experiment == "rosenbrock"]
    ['rosenbrock', 'rosenbrock-defaults']
    """
    small = preset == "smoke"
    indices = registry.KNOBS.get(preset, tuple(range(8)))
    knobs = tuple(own[j].name for own in ABLATIONS.values() for j in indices)
    # At smoke the fixed ablations are a smaller study of their own; else they are compared with the bowl's optimizers.
    fixed = () if small else presets.FIXED_ABLATIONS
    found = [
        Part("noisy_bowl", "noisy_bowl", "", (*presets.BOWL[preset].optimizers, *fixed)),
        Part("noisy_bowl-authors", "noisy_bowl", "authors", ("LODO",)),
        Part("noisy_bowl-frozen", "noisy_bowl", "frozen", ("LODO",)),
    ]
    if small:
        found.append(Part("noisy_bowl-parts", "noisy_bowl", "parts", presets.BOWL_ABLATIONS[preset].optimizers))
    found += [
        Part(
            "noisy_bowl-ablations", "noisy_bowl", "ablations", knobs, ("noisy_bowl-parts" if small else "noisy_bowl",)
        ),
        Part("rosenbrock", "rosenbrock", "", presets.ROSENBROCK[preset].optimizers),
        Part("rosenbrock-defaults", "rosenbrock", "defaults", ("LODO",)),
        Part("image_generation", "image_generation", "", presets.IMAGE_GENERATION[preset].optimizers),
        Part("image_classification", "image_classification", "", presets.IMAGE_CLASSIFICATION[preset].optimizers),
    ]
    if not small:
        found.append(Part("image_generation-ablations", "image_generation", "ablations", knobs, ("image_generation",)))
    # The comparison with the released code runs the bowl's baselines as they were tuned at `paper`.
    after = {"paper_and_code": tuple(f"noisy_bowl/{name}/tuning" for name in STATED) if preset == "paper" else ()}
    return [*found, *(Part(name, name, needs=after.get(name, ())) for name in WHOLES)]


def jobs(options: Options) -> list[Job]:
    """The jobs of a batch, each after those that it needs.

    Raises:
      ValueError: no such preset or folder, seeds below 0, or ``only`` names what there is not.

    >>> for job in jobs(Options("paper", only=("rosenbrock/Adam",))):
    ...     print(job.name, "after", *job.needs)
    rosenbrock/Adam/tuning after
    rosenbrock/Adam after rosenbrock/Adam/tuning
    """
    if options.preset not in presets.PRESETS:
        raise ValueError(f"There is no preset {options.preset!r}; there are {', '.join(presets.PRESETS)}.")
    for name in ("seeds", "seeds_per_job"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must be 0 or more; got {getattr(options, name)}.")
    found = list(_data(options))
    for part in parts(options.preset):
        found += _of_part(part, options, data=tuple(job.name for job in found if job.part == "data"))
    found += list(_notebooks(options, found))
    return list(_selected(found, options.only))


def _of_part(part: Part, options: Options, data: tuple[str, ...]) -> Iterator[Job]:
    if part.experiment in WHOLES:
        yield Job(part.name, _command(part, options), part.needs, part=part.name, experiment=part.experiment)
        return
    preset = presets.preset_named(part.experiment, options.preset)
    seeds = options.seeds or (8 if part.variant == "defaults" else preset.seeds)
    population = max((g.population for g in preset.schedule), default=1)
    dataset = getattr(preset, "dataset", "")
    fetched = tuple(name for name in data if name == f"data/{dataset}")
    lanes = max(seeds, population)
    own = Job("", (), fetched, part.name, part.experiment, part.variant, lanes=lanes, dataset=dataset)
    if options.preset == "smoke" and not options.seeds_per_job:
        runs = seeds * len(part.optimizers)
        needs = (*fetched, *part.needs)
        yield replace(
            own, name=part.name, arguments=_command(part, options), needs=needs, optimizers=part.optimizers, runs=runs
        )
        return
    tuned = part.variant in ("", "parts") and bool(preset.schedule)
    # Knobs are turned around the values that LODO was tuned to.
    around = tuple(f"{name}/LODO/tuning" for name in part.needs)
    size = options.seeds_per_job or (1 if part.experiment in WIDE else seeds)
    for optimizer in part.optimizers:
        base = replace(own, optimizers=(optimizer,), needs=(*fetched, *around))
        name = f"{part.name}/{optimizer}"
        command = _command(part, options, "--only", optimizer)
        if tuned:
            yield replace(base, name=f"{name}/tuning", arguments=(*command, "--tuning"), tuning=True)
            base = replace(base, needs=(*fetched, f"{name}/tuning"))
        apart = [tuple(range(seeds)[first : first + size]) for first in range(0, seeds, size)] if size < seeds else []
        for group in apart:
            yield replace(
                base, name=_group(name, group), arguments=(*command, "--apart", *map(str, group)), seeds=group,
                runs=len(group),
            )  # fmt: skip
        if apart:
            base = replace(base, needs=tuple(_group(name, group) for group in apart))
        yield replace(base, name=name, arguments=command, runs=0 if apart else seeds)


def _group(name: str, seeds: Sequence[int]) -> str:
    return f"{name}/seeds-{seeds[0]}-{seeds[-1]}"


def _command(part: Part, options: Options, *more: str) -> tuple[str, ...]:
    given = ["-m", "lodo_experiments.cli.run", part.experiment, "--preset", options.preset]
    given += ["--variant", part.variant] if part.variant else []
    given += ["--seeds", str(options.seeds)] if options.seeds else []
    given += ["--results-dir", str(options.folder)]
    if options.data_dir and part.experiment in WIDE:
        given += ["--data-dir", str(Path(options.data_dir).expanduser().resolve())]
    return (*given, *more)


def _data(options: Options) -> Iterator[Job]:
    """Jobs that fetch data sets, where that is allowed."""
    sets = {getattr(presets.EXPERIMENTS[name][options.preset], "dataset") for name in sorted(WIDE)}  # noqa: B009
    for name in sorted(sets - {"digits"}) if options.download else ():
        given = ["-m", "lodo_experiments.data", name, "--download"]
        given += ["--data-dir", str(Path(options.data_dir).expanduser().resolve())] if options.data_dir else []
        yield Job(f"data/{name}", tuple(given), part="data", dataset=name)


def _notebooks(options: Options, before: Sequence[Job]) -> Iterator[Job]:
    if options.notebooks is None:
        return
    sources = sorted(options.notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"There are no notebooks in {options.notebooks}; name their folder, or leave them out.")
    for source in sources:
        given = ["-m", "lodo_experiments.cli.execute", "--only", source.stem, "--jobs", "1", "--preset", options.preset]
        given += ["--notebooks", str(options.notebooks.resolve()), "--output", str(options.output.resolve())]
        given += ["--seeds", str(options.seeds)] if options.seeds else []
        given += ["--data-dir", options.data_dir] if options.data_dir else []
        given += ["--download"] if options.download else []
        given += ["--results-dir", options.results_dir] if options.results_dir else []
        given += ["--timeout", f"{options.timeout:g}"] if options.timeout is not None else []
        drawn = DRAWN_BY.get(source.stem)
        if drawn is not None and options.preset == "smoke" and source.stem != "noisy_bowl":
            drawn = tuple(name for name in drawn if name != "noisy_bowl")
        needs = tuple(job.name for job in before if job.part != "data" and (drawn is None or job.part in drawn))
        own = presets.EXPERIMENTS.get(source.stem, {}).get(options.preset)
        yield Job(f"notebook/{source.stem}", tuple(given), needs, "notebook", dataset=getattr(own, "dataset", ""))


def _selected(found: Sequence[Job], only: Iterable[str]) -> Iterator[Job]:
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
