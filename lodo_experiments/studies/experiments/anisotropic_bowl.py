"""The noisy bowl with a drift that is not the same in every direction: where the gradients' covariance misleads.

Full-matrix whitening needs the drift to be isotropic and of unit variance, as only then the gradient's covariance is
H². LODO learns from the loss, Newton's method and BFGS from gradients of one sample, to which the drift is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES, BowlPreset
from lodo_experiments.studies.experiments import variants
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks import noisy_bowl, other_bowls

if TYPE_CHECKING:
    from lodo_experiments.studies.experiment import Experiment

OPTIMIZERS = ("LODO", "Whitening", "Adam", "BFGS-same-sample", "Newton")
#: Runs of each optimizer, at most.
SEEDS = 6
#: How many times the drift's standard deviation is multiplied, the hyperparameters staying as they were tuned.
FACTOR = 10.0


def variants_of(bowl: Experiment) -> tuple[Experiment, ...]:
    """Standard deviations from e^−2 to e^2, normalised: along the coordinates, along a random basis, and ten times."""

    def tuned(preset: BowlPreset) -> BowlPreset:
        return replace(preset, optimizers=OPTIMIZERS, seeds=min(preset.seeds, SEEDS))

    def faster(preset: BowlPreset) -> BowlPreset:
        return replace(tuned(preset), schedule=(), drift=FACTOR * preset.drift)

    def along(rotated: bool) -> Callable[[BowlPreset, Setup], Setup]:
        def own(preset: BowlPreset, setup: Setup) -> Setup:
            directions = other_bowls.anisotropic_directions(preset.size, rotated=rotated)
            task = noisy_bowl.noisy_bowl(
                preset.size, condition_number=preset.condition_number, drift=preset.drift, directions=directions
            )
            return replace(setup, task=task)

        return own

    def variant(suffix: str, word: str = "anisotropic", **more: object) -> Experiment:
        given = {"derive": tuned, "adapt": along(rotated=False), **more}
        name = f"noisy_bowl_anisotropic{suffix}"
        return bowl.with_variant(word, name, notebooks=("noisy_bowl",), listed=("paper",), **given)

    along_coordinates = variant("")
    needed = tuple((along_coordinates.name, name) for name in OPTIMIZERS if name != "LODO")
    tenfold = variant(
        "_tenfold", "tenfold-drift", derive=faster, fixed=variants.as_tuned, start=along_coordinates,
        prerequisites=lambda preset: needed,
    )  # fmt: skip
    # Beside those tuned here: a search by short trials may miss a slow learner's values.
    authors = variant(
        "_authors", "anisotropic-authors", fixed=lambda preset, found: {"LODO": AUTHORS_BOWL_VALUES},
        derive=lambda preset: replace(tuned(preset), optimizers=("LODO",), schedule=()),
    )  # fmt: skip
    rotated = variant("_rotated", "rotated-drift", adapt=along(rotated=True))

    def best_trials(of: Experiment, suffix: str) -> Experiment:
        return variant(
            suffix, f"{of.variant}-best-trial", start=of, best_trial=True, fixed=variants.as_tuned, adapt=of.adapt,
            derive=lambda preset: replace(tuned(preset), schedule=()),
            prerequisites=lambda preset: tuple((of.name, name) for name in OPTIMIZERS if name != "LODO"),
        )  # fmt: skip

    best = best_trials(along_coordinates, "_best_trial"), best_trials(rotated, "_rotated_best_trial")
    return along_coordinates, authors, rotated, tenfold, *best
