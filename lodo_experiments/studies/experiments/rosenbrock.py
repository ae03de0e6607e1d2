"""Rosenbrock's function (paper §5.2), tuned and at LODO's defaults, and both with G frozen where it starts."""

from __future__ import annotations

from dataclasses import replace

from lodo_experiments.config.presets import ROSENBROCK, RosenbrockPreset
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks import rosenbrock


def _setup(preset: RosenbrockPreset, data: DataOptions) -> Setup:
    return Setup(task=rosenbrock.rosenbrock(start=preset.start), chunk=200)


_ROSENBROCK = Experiment(
    name="rosenbrock",
    presets=ROSENBROCK,
    setup=_setup,
    parameters=lambda preset: 2,
    notebooks=("rosenbrock",),
    double=True,
)

EXPERIMENTS = (
    _ROSENBROCK,
    _ROSENBROCK.with_variant(
        "defaults", "rosenbrock_defaults", notebooks=("rosenbrock",),
        derive=lambda preset: replace(preset, seeds=8, schedule=(), optimizers=("LODO",)),
        fixed=lambda preset, tuned: {"LODO": dict(optimizer_named("LODO").defaults)},
    ),
    # LODO with G = α₀ I for good, which is momentum descent, tuned and at the defaults: what learning G adds.
    _ROSENBROCK.with_variant(
        "frozen", "rosenbrock_frozen", start=_ROSENBROCK, listed=("paper",),
        derive=lambda preset: replace(preset, seeds=8, schedule=(), optimizers=("LODO",)),
        fixed=lambda preset, tuned: {"LODO": {**tuned(), "meta_learning_rate": 0.0}},
    ),
    _ROSENBROCK.with_variant(
        "defaults-frozen", "rosenbrock_defaults_frozen", listed=("paper",),
        derive=lambda preset: replace(preset, seeds=8, schedule=(), optimizers=("LODO",)),
        fixed=lambda preset, tuned: {"LODO": {**optimizer_named("LODO").defaults, "meta_learning_rate": 0.0}},
    ),
    variants.best_trials(_ROSENBROCK, *ROSENBROCK["paper"].optimizers, notebooks=("rosenbrock",)),
    _ROSENBROCK.with_variant(
        "best-trial-frozen", "rosenbrock_best_trial_frozen", start=_ROSENBROCK, best_trial=True, listed=("paper",),
        derive=lambda preset: replace(preset, schedule=(), optimizers=("LODO",)),
        fixed=lambda preset, tuned: {"LODO": {**tuned(), "meta_learning_rate": 0.0}},
    ),
)  # fmt: skip
