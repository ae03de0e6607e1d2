"""The noisy bowl (paper §5.1) and its variants: parts taken away, the authors' values, a learned G, other values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from lodo.transform import LodoState
from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES, BOWL, FIXED_ABLATIONS, BowlPreset, schedule
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.studies.changed_optimizer import as_asked
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks import noisy_bowl
from lodo_experiments.training.loop import train

#: Seeds of the runs whose G the frozen-Hessian test starts from: apart from those that are reported and that tune.
FIRST_LEARNING_SEED = 500_000


def _setup(preset: BowlPreset, data: DataOptions) -> Setup:
    del data
    task = noisy_bowl.noisy_bowl(preset.size, condition_number=preset.condition_number, drift=preset.drift)
    return Setup(task=task, after=noisy_bowl.learned_inverse)


def _only_lodo(preset: BowlPreset) -> BowlPreset:
    return replace(preset, schedule=(), optimizers=("LODO",))


def _parts_taken_away(preset: BowlPreset) -> BowlPreset:
    """LODO and its fixed ablations. At ``smoke`` shorter than the bowl itself, as there are many.

    What a reader has changed of the preset stays as it was asked for.
    """
    usual = BOWL[preset.name]
    own: dict[str, Any] = {"optimizers": ("LODO", *FIXED_ABLATIONS)}
    if preset.name == "smoke":
        own |= {"steps": 1_500, "schedule": schedule((2, 200), (1.5, 300), (0.8, 400), population=8)}
    return replace(
        preset, **{name: value for name, value in own.items() if getattr(preset, name) == getattr(usual, name)}
    )


def _with_learned_inverse(preset: BowlPreset, setup: Setup) -> Setup:
    """Run i starts from the θ that LODO has learned with other seeds in run i, at the authors' values.

    Everything else (x, the bowl's centre, momentum, the meta-optimizer) is as at any start.
    """

    def prepare(states: LodoState) -> LodoState:
        seeds = [FIRST_LEARNING_SEED + seed for seed in range(len(jax.tree.leaves(states)[0]))]
        run = train(
            setup.task, as_asked(optimizer_named("LODO"), preset), steps=preset.steps, seeds=seeds,
            hyperparameters=AUTHORS_BOWL_VALUES, chunk=setup.chunk,
        )  # fmt: skip
        return states._replace(theta=run.optimizer_state.theta, fixed=run.optimizer_state.fixed)

    return replace(setup, prepare=prepare)


_BOWL = Experiment(
    name="noisy_bowl",
    presets=BOWL,
    setup=_setup,
    parameters=lambda preset: preset.size,
    notebooks=("noisy_bowl",),
    double=True,
)

#: LODO with parts taken away, each variant tuned as the others are. Beyond ``smoke`` it belongs to the comparison.
_PARTS = _BOWL.with_variant(
    "parts", "noisy_bowl_parts", notebooks=("ablations",), folders={"laptop": "noisy_bowl", "paper": "noisy_bowl"},
    derive=_parts_taken_away,
)  # fmt: skip

EXPERIMENTS = (
    _BOWL,
    _PARTS,
    _BOWL.with_variant(
        "authors", "noisy_bowl_published", notebooks=("noisy_bowl",), derive=_only_lodo,
        fixed=lambda preset, tuned: {"LODO": AUTHORS_BOWL_VALUES},
    ),
    _BOWL.with_variant(
        "frozen", "noisy_bowl_frozen", notebooks=("noisy_bowl",), derive=_only_lodo, adapt=_with_learned_inverse,
        fixed=lambda preset, tuned: {"LODO": {**AUTHORS_BOWL_VALUES, "meta_learning_rate": 0.0}},
    ),
    _BOWL.with_variant(
        "frozen", "noisy_bowl_learning_on", notebooks=("noisy_bowl",), derive=_only_lodo, adapt=_with_learned_inverse,
        fixed=lambda preset, tuned: {"LODO": AUTHORS_BOWL_VALUES},
    ),
    # At `paper` the tuning finds β = 0, from which no β_j differs: there the authors' values are varied.
    variants.parameter_ablations(
        _BOWL, _PARTS, known={"paper": AUTHORS_BOWL_VALUES}, notebooks=("ablations",),
        folders={"smoke": "noisy_bowl_parts_ablations"},
    ),
    variants.compact_forms(_BOWL),
)  # fmt: skip
