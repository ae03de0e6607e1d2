"""The experiments by name, and what each notebook, command and batch computes, built in one place."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lodo_experiments.config.page_presets import PHYSICS, UNDERSTANDING
from lodo_experiments.config.parameters import PRESETS, NamedPreset, NotebookParameters, check, with_fields_of
from lodo_experiments.config.paths import results_folder
from lodo_experiments.optimizers.names import KNOWN, optimizer_named
from lodo_experiments.results.store import Store
from lodo_experiments.studies.changed_optimizer import as_asked
from lodo_experiments.studies.changes import changed_folder, changed_preset, changes_given, written
from lodo_experiments.studies.experiment import Experiment, RecordSpec, values_of
from lodo_experiments.studies.experiments import (
    image_classification,
    image_generation,
    noisy_bowl,
    paper_and_code,
    problem_suites,
    rlodo_bowl,
    rosenbrock,
    theory,
)
from lodo_experiments.studies.runner import PartStudy, Study
from lodo_experiments.studies.setup import DataOptions
from lodo_experiments.utils.lodo_kernel import lodo_kernel

#: Name → experiment, each after those whose tuning it starts from.
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for module in (
        noisy_bowl, rlodo_bowl, rosenbrock, image_generation, image_classification, theory, paper_and_code,
        problem_suites,
    )
    for experiment in module.EXPERIMENTS
}  # fmt: skip

#: Pages that show what their own cells compute, and no records: name → preset's name → how much.
PAGE_PRESETS: Mapping[str, Mapping[str, NamedPreset]] = {"physics_informed": PHYSICS, "understanding": UNDERSTANDING}

#: Pages that draw from records that come with the project or from none, and need none to be computed first.
INDEPENDENT_PAGES = frozenset({"step_cost", *PAGE_PRESETS})

#: Pages that draw from all records, whatever experiments their examples name.
PAGES_OF_ALL = frozenset({"claims"})


class Page(NamedTuple):
    """What the cells of a page of :data:`PAGE_PRESETS` compute."""

    name: str  # of its notebook
    preset: Any  # how much to compute
    changes: Mapping[str, Any]  # in what the preset differs from the one of its name


def named(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
      ValueError: there is none; the message lists those there are.

    >>> named("noisy_bowl").preset("paper").steps
    100000
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def variants(base: str, variant: str) -> list[Experiment]:
    """What belongs to an experiment beside its own comparison, by its word on the command line.

    Raises:
      ValueError: there is no such experiment or variant; the message lists those there are.

    >>> [experiment.name for experiment in variants("noisy_bowl", "frozen")]
    ['noisy_bowl_frozen', 'noisy_bowl_learning_on']
    """
    if not variant:
        return [named(base)]
    own = [one for one in EXPERIMENTS.values() if one.base is not None and one.base.name == base]
    found = [one for one in own if one.variant == variant]
    if not found:
        known = ", ".join(dict.fromkeys(one.variant for one in own))
        raise ValueError(
            f"{base} has no variant {variant!r}; " + (f"it has {known}." if known else "it has no variants.")
        )
    return found


def of_notebook(name: str, preset: str) -> list[Experiment]:
    """The experiments whose records a page shows; one that no experiment names is taken to draw from all of them."""
    if name in INDEPENDENT_PAGES:
        return []
    drawn = [one for one in EXPERIMENTS.values() if name in one.notebooks]
    return [one for one in drawn or EXPERIMENTS.values() if preset in one.listed]


def records(preset: str, results: Path | None = None) -> list[RecordSpec]:
    """All records of a preset, and what each would state if it were made now. Nothing is computed.

    Raises:
      ValueError: no such preset.

    >>> [one.name for one in records("paper", Path("/nowhere")) if one.experiment == "rosenbrock_defaults"]
    ['LODO-tuning', 'LODO']
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    results = results or results_folder()
    found: dict[Path, RecordSpec] = {}
    for one in EXPERIMENTS.values():
        if preset in one.listed or (results / preset / one.folder(preset)).is_dir():
            for spec in one.records(preset, results):
                found.setdefault(spec.path, spec)
    return list(found.values())


def unknown_records(results: Path) -> Iterator[Path]:
    """Records in a results folder that no experiment declares: of another part of the project, or of nothing."""
    known = {results / spec.path for preset in PRESETS for spec in records(preset, results)}
    for preset in PRESETS:
        for path in sorted((results / preset).rglob("*.npz")):
            if path not in known and ".partial" not in path.parts:
                yield path


def build(
    name: str,
    preset: str,
    *,
    seeds: int = 0,
    results_dir: str = "",
    data_dir: str = "",
    download: bool = False,
    changes: Mapping[str, Any] | None = None,
    until: float = math.inf,
    show: bool = True,
) -> Study:
    """A study that trains, by the name of its experiment.

    Args:
      name: e.g. "noisy_bowl", or a variant's as "noisy_bowl_frozen".
      preset: smoke, laptop, desktop or paper.
      seeds: runs for each optimizer; 0: the preset's number.
      results_dir: folder of the records; empty: the default place.
      data_dir: folder of the data sets; empty: the default place.
      download: whether a missing data set may be downloaded.
      changes: field of the preset → another value, as :meth:`NotebookParameters.changes` returns them. Records of a
        changed preset lie in a folder of their own (:func:`~lodo_experiments.studies.changes.changed_folder`).
      until: ``time.monotonic()`` at which to stop with everything saved; infinity: never.
      show: whether to report progress.

    Raises:
      ValueError: no such experiment, preset or field, one that trains nothing, or one in float64 without
        ``jax_enable_x64``.
      DataError: the data set is not there.

    >>> build("image_generation", "smoke", show=False).task.name
    'image_generation'
    """
    experiment = named(name)
    if experiment.double and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{name} is computed in float64, as in the paper; first call jax.config.update('jax_enable_x64', True)."
        )
    base = experiment.base or experiment
    study = outline(base.name, preset, seeds=seeds, results_dir=results_dir, changes=changes)
    assert base.setup is not None
    setup = base.setup(study.preset, DataOptions(data_dir, download))
    if most := lanes_at_most():
        why = os.environ.get("LODO_RETRIED_AFTER", "")
        facts = {**setup.facts, "lanes_at_most": most} | ({"retried_after": why} if why else {})
        setup = replace(setup, lanes=min(setup.lanes or most, most), facts=facts)
    if (kernel := lodo_kernel()) != "xla":
        setup = replace(setup, facts={**setup.facts, "kernel": kernel})
    study = replace(study, setup=setup, until=until, show=show)
    return study if experiment is base else _variant_of(study, experiment)


def outline(
    name: str, preset: str, *, seeds: int = 0, results_dir: str = "", changes: Mapping[str, Any] | None = None
) -> Study:
    """A study without its set-up: it tells what is asked for and what of it is stored, but cannot compute.

    No data set is read for it, and nothing is compiled. Arguments and errors as in :func:`build`.

    >>> outline("image_generation", "paper", results_dir="/nowhere").is_complete("LODO")
    False
    """
    experiment = named(name)
    if experiment.parts is not None:
        raise ValueError(f"{name} trains nothing; use registry.build_parts.")
    if experiment.base is not None:
        base = outline(experiment.base.name, preset, seeds=seeds, results_dir=results_dir, changes=changes)
        return _variant_of(base, experiment)
    chosen, real = changed_preset(experiment.preset(preset, seeds), changes or {})
    for optimizer in chosen.optimizers:
        as_asked(optimizer_named(optimizer), chosen)  # what it would refuse is refused now
    folder = changed_folder(results_folder(results_dir), name, real)
    command = _command(name, preset, seeds, real)
    return Study(experiment.folder(preset), chosen, folder, command, changes=real)


def parameters_of(name: str) -> type[NotebookParameters]:
    """The parameters of a notebook: those of every notebook, and each field of the preset.

    Args:
      name: of the experiment, or of a page of :data:`PAGE_PRESETS`.

    Raises:
      ValueError: no such experiment.

    >>> parameters_of("noisy_bowl")(condition_number=1e4).changes()
    {'condition_number': 10000.0}
    """
    if name in PAGE_PRESETS:
        return with_fields_of(type(PAGE_PRESETS[name][PRESETS[0]]))
    experiment = named(name)
    return with_fields_of(type(experiment.preset(PRESETS[0])), optimizers=experiment.optimizers or tuple(KNOWN))


def changes_of(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Changes of an experiment's preset as a command line gives them.

    Args:
      name: of the experiment.
      given: "field=value" each, such as "optimizers=LODO,Adam".

    Raises:
      ValueError: no such experiment, or what :func:`~lodo_experiments.studies.changes.changes_given` or
        :func:`~lodo_experiments.config.parameters.check` refuses.

    >>> changes_of("noisy_bowl", ["condition_number=1e4", "optimizers=LODO,Adam"])
    {'optimizers': ('LODO', 'Adam'), 'condition_number': 10000.0}
    """
    values = changes_given(given)
    common = [field for field in values if field in NotebookParameters.__dataclass_fields__]
    if common:
        raise ValueError(f"--set {common[0]}=…: this is an option of its own, --{common[0].replace('_', '-')}.")
    return check(parameters_of(name), values).changes()


def build_parts(
    name: str,
    preset: str,
    *,
    seeds: int = 0,
    results_dir: str = "",
    changes: Mapping[str, Any] | None = None,
    until: float = math.inf,
) -> PartStudy:
    """What an experiment computes that trains nothing by itself, e.g. "learning_dynamics".

    Arguments and errors as in :func:`build`; it stops between two parts. Computing needs ``jax_enable_x64``.

    >>> build_parts("representability", "smoke", results_dir="/nowhere").is_complete()
    False
    """
    experiment, folder = named(name), results_folder(results_dir)
    if experiment.parts is None:
        raise ValueError(f"{name} trains its optimizers; use registry.build.")
    chosen, real = changed_preset(experiment.preset(preset, seeds), changes or {})
    store = Store(changed_folder(folder, name, real), preset, experiment.folder(preset), until=until)
    command = _command(name, preset, seeds, real)
    return PartStudy(chosen, experiment.parts(chosen, folder), store, command, kept=folder, changes=real)


def build_page(name: str, preset: str, *, seeds: int = 0, changes: Mapping[str, Any] | None = None) -> Page:
    """What the cells of a page compute that has no records.

    Args:
      name: of a page of :data:`PAGE_PRESETS`.
      preset: smoke, laptop, desktop or paper.
      seeds: runs for each optimizer; 0: the preset's number. A page that runs each once does not look at it.
      changes: field of the preset → another value.

    Raises:
      ValueError: there is no such page or preset; the message lists those there are.

    >>> page = build_page("understanding", "smoke", changes={"size": 10, "steps": 20_000})
    >>> page.preset.size, page.changes
    (10, {'size': 10})
    """
    if name not in PAGE_PRESETS:
        raise ValueError(f"There is no page {name!r} of presets of its own; there are {', '.join(PAGE_PRESETS)}.")
    if preset not in PAGE_PRESETS[name]:
        raise ValueError(f"There is no preset {preset!r}; there are {', '.join(PAGE_PRESETS[name])}.")
    usual: Any = PAGE_PRESETS[name][preset]
    chosen, real = changed_preset(
        replace(usual, seeds=seeds) if seeds and hasattr(usual, "seeds") else usual, changes or {}
    )
    return Page(name, chosen, real)


def usual_preset(study: Study | PartStudy | Page) -> Any:
    """The preset of a study's name, unchanged."""
    name = study.preset.name
    return PAGE_PRESETS[study.name][name] if isinstance(study, Page) else EXPERIMENTS[study.name].preset(name)


def variant_of(study: Study, variant: str) -> tuple[Study, ...]:
    """What belongs to a study beside its own comparison, with the study's own amounts.

    Raises:
      ValueError: the study has no such variant.
    """
    if not variant:
        return (study,)
    return tuple(_variant_of(study, one) for one in variants(study.experiment, variant))


def _variant_of(base: Study, experiment: Experiment) -> Study:
    assert experiment.derive is not None
    start = experiment.start

    def tuned(optimizer: str = "LODO") -> Any:
        own = base if start is experiment.base or start is None else _variant_of(base, start)
        return values_of(own.tune(optimizer), best_trial=experiment.best_trial)

    preset = experiment.derive(base.preset)
    setup = base.setup
    if setup is not None and experiment.adapt is not None:
        setup = experiment.adapt(preset, setup)
    return replace(
        base,
        experiment=experiment.folder(preset.name),
        preset=preset,
        setup=setup,
        fixed=experiment.fixed(preset, tuned) if experiment.fixed is not None else None,
        command=f"{base.command} --variant {experiment.variant}",
    )


def _command(name: str, preset: str, seeds: int, changes: Mapping[str, Any]) -> str:
    command = f"python -m lodo_experiments.cli.run {name} --preset {preset}" + (f" --seeds {seeds}" if seeds else "")
    return command + "".join(f" --set {field}={written(value)}" for field, value in changes.items())


def lanes_at_most() -> int:
    """Runs side by side in one program at most, as the environment says by LODO_LANES; 0: it says nothing.

    A batch sets it for a job that ran out of memory; what is computed under it says so in its provenance.

    Raises:
      ValueError: it is no positive integer.
    """
    given = os.environ.get("LODO_LANES", "")
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"LODO_LANES must be a positive integer, or unset; got {given!r}.")
    return int(given or 0)
