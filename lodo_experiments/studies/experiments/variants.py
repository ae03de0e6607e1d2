"""Variants that more than one experiment has: LODO with other values, in fewer bytes, or measured; other optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES, Preset
from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.search_spaces import ABLATIONS, ablated_momentum
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.base import Task

if TYPE_CHECKING:
    from lodo_experiments.studies.experiment import Experiment, Values

#: Preset → which of the eight values of each of β, depth and block size are tried, where not all are.
ABLATED_VALUES: Mapping[str, tuple[int, ...]] = {"smoke": (3,)}

#: Where a learned G lies to the Hessian is measured in so many runs of so many steps at most, as a product with the
#: Hessian of all examples costs many steps' time; seed of the examples, apart from those of the runs.
CURVATURE_RUNS, CURVATURE_STEPS, CURVATURE_SEED = 2, 1_000, 600_000


def as_tuned(preset: Preset, tuned: Callable[..., Mapping[str, float]]) -> Values:
    """Every optimizer's values as the variant's ``start`` tuned them: an Experiment's ``fixed``."""
    return {name: tuned(name) for name in preset.optimizers}


def parameter_ablations(
    base: Experiment,
    start: Experiment,
    known: Mapping[str, Mapping[str, float]] | None = None,
    seeds: int = 0,
    **more: object,
) -> Experiment:
    """LODO with other β, depth and block size, everything else as ``start`` tuned it.

    Args:
      base: whose task it is.
      start: the experiment in which LODO is tuned.
      known: preset's name → LODO's hyperparameters that are taken there instead of tuned ones.
      seeds: runs of each at most; 0: as many as the base has.
      **more: further attributes of the :class:`~lodo_experiments.studies.experiment.Experiment`.
    """

    def derive(preset: Preset) -> Preset:
        indices = ABLATED_VALUES.get(preset.name, tuple(range(8)))
        names = tuple(optimizers[j].name for optimizers in ABLATIONS.values() for j in indices)
        return replace(preset, schedule=(), optimizers=names, seeds=min(preset.seeds, seeds or preset.seeds))

    def fixed(preset: Preset, tuned: Callable[[], Mapping[str, float]]) -> Values:
        values = dict((known or {}).get(preset.name) or tuned())
        own = {
            optimizer.name: dict(values)
            if family != "momentum"
            else {**values, "momentum": ablated_momentum(values["momentum"], j)}
            for family, optimizers in ABLATIONS.items()
            for j, optimizer in enumerate(optimizers)
        }
        return {name: own[name] for name in preset.optimizers}

    name = f"{base.name}_ablations"
    return base.with_variant("ablations", name, derive=derive, fixed=fixed, start=start, **more)


def other_optimizers(base: Experiment, *optimizers: str, **more: object) -> Experiment:
    """Optimizers that the paper does not compare, tuned as its own are, with the records of the base.

    Args:
      base: whose task, schedule and folder they share.
      *optimizers: their names.
      **more: further attributes of the :class:`~lodo_experiments.studies.experiment.Experiment`.
    """
    # At smoke apart: pages there show what was computed for them, and nothing beside it.
    presets = [name for name in PRESETS if name != "smoke"]
    return base.with_variant(
        "others", f"{base.name}_others", derive=lambda preset: replace(preset, optimizers=optimizers),
        folders=dict.fromkeys(presets, base.name), **more,
    )  # fmt: skip


def compact_forms(base: Experiment) -> Experiment:
    """LODO in fewer bytes, with the values that the base tuned for LODO in full. No page computes it by itself.

    At ``smoke`` LODO in full is run beside them, all with the authors' values on the bowl.

    Args:
      base: in which LODO is tuned; of its optimizers those that are compact forms are run, or all where it has none.
    """

    def derive(preset: Preset) -> Preset:
        names = tuple(name for name in preset.optimizers if name in COMPACT) or tuple(COMPACT)
        return replace(preset, schedule=(), optimizers=("LODO", *names) if preset.name == "smoke" else names)

    def fixed(preset: Preset, tuned: Callable[[], Mapping[str, float]]) -> Values:
        values = AUTHORS_BOWL_VALUES if preset.name == "smoke" else tuned()
        return {name: dict(values) for name in preset.optimizers}

    def adapt(preset: Preset, setup: Setup) -> Setup:
        return replace(setup, task=replace(setup.task, measure=None), after=None)

    name = f"{base.name}_compact"
    return base.with_variant("compact", name, derive=derive, fixed=fixed, adapt=adapt, start=base, listed=())


def best_trials(base: Experiment, *optimizers: str, **more: object) -> Experiment:
    """Optimizers at the values of the best trial of their search, which are not those that the paper's rule finds.

    By that rule the tuned values are the mean of a generation's better half. Where the good values lie along a bent
    valley, their mean is not among them: so this tells a search that failed from an optimizer that does.

    Args:
      base: in which, or beside which, they are tuned.
      *optimizers: their names.
      **more: further attributes of the :class:`~lodo_experiments.studies.experiment.Experiment`.
    """
    return base.with_variant(
        "best-trial", f"{base.name}_best_trial", start=base, best_trial=True, listed=("paper",),
        derive=lambda preset: replace(preset, schedule=(), optimizers=optimizers), fixed=as_tuned,
        prerequisites=lambda preset: tuple((base.name, name) for name in optimizers if name != "LODO"), **more,
    )  # fmt: skip


def network_curvature(base: Experiment, measure: Callable[[Any, Task, Run], Mapping[str, np.ndarray]]) -> Experiment:
    """LODO at the values that the base tuned, and after fewer steps how its G lies to the Hessian of the network.

    Args:
      base: whose network it is; a page of it shows this.
      measure: (preset, task, runs) → the arrays of :func:`~lodo_experiments.training.curvature.curvature_of_runs`, to
        store with the runs.
    """

    def derive(preset: Preset) -> Preset:
        steps, seeds = min(preset.steps, CURVATURE_STEPS), min(preset.seeds, CURVATURE_RUNS)
        return replace(preset, schedule=(), optimizers=("LODO",), steps=steps, seeds=seeds, measure_every=steps)

    def adapt(preset: Preset, setup: Setup) -> Setup:
        def after(task: Task, run: Run) -> Mapping[str, np.ndarray]:
            return measure(preset, task, run)

        return replace(setup, after=after)

    return base.with_variant(
        "curvature", f"{base.name}_curvature", notebooks=base.notebooks, listed=("desktop",), derive=derive,
        adapt=adapt, fixed=as_tuned, start=base,
    )  # fmt: skip
