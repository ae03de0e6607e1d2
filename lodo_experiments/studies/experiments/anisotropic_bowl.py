"""The noisy bowl with a drift that is not the same in every direction: where the gradients' covariance misleads.

Full-matrix whitening needs the drift to be isotropic and of unit variance, as only then the gradient's covariance is
H². LODO learns from the loss, Newton's method and BFGS from gradients of one sample, to which the drift is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lodo_experiments.config.presets import BowlPreset
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks import noisy_bowl

OPTIMIZERS = ("LODO", "Whitening", "Adam", "BFGS-same-sample", "Newton")
#: Generations' population: half of the bowl's own, for all optimizers alike.
POPULATION = 16
#: How many times the drift's standard deviation is multiplied, the hyperparameters staying as they were tuned.
FACTOR = 10.0


def drift_of(experiment: str, size: int) -> np.ndarray:
    """L [n, n] of an experiment's drift, by the experiment's name.

    >>> drift_of("noisy_bowl_anisotropic_tenfold", 4).shape
    (4, 4)
    """
    scale = FACTOR if experiment.endswith("_tenfold") else 1.0
    return noisy_bowl.anisotropic_drift(size, rotated=experiment.endswith("_rotated"), scale=scale)


def variants_of(bowl: Experiment) -> tuple[Experiment, ...]:
    """Standard deviations from e^−2 to e^2, normalised: along the coordinates, along a random basis, and ten times."""

    def tuned(preset: BowlPreset) -> BowlPreset:
        generations = tuple(replace(generation, population=POPULATION) for generation in preset.schedule)
        return replace(preset, optimizers=OPTIMIZERS, schedule=generations)

    def untuned(preset: BowlPreset) -> BowlPreset:
        return replace(preset, optimizers=OPTIMIZERS, schedule=())

    def adapt(name: str) -> Callable[[BowlPreset, Setup], Setup]:
        def own(preset: BowlPreset, setup: Setup) -> Setup:
            return replace(setup, task=noisy_bowl.noisy_bowl(preset.size, drift=drift_of(name, preset.size)))

        return own

    def variant(suffix: str, word: str = "anisotropic", **more: object) -> Experiment:
        name = f"noisy_bowl_anisotropic{suffix}"
        given = {"derive": tuned, "notebooks": ("noisy_bowl",), "listed": ("paper",), "adapt": adapt(name), **more}
        return bowl.with_variant(word, name, **given)

    along_coordinates = variant("")
    needed = tuple((along_coordinates.name, name) for name in OPTIMIZERS if name != "LODO")
    return (
        along_coordinates,
        variant("_rotated"),
        variant(
            "_tenfold",
            "tenfold-drift",
            derive=untuned,
            fixed=variants.as_tuned,
            start=along_coordinates,
            prerequisites=lambda _: needed,
        ),
    )
