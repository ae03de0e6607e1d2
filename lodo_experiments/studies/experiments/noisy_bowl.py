"""The noisy bowl (paper §5.1) and its variants: parts taken away, the authors' values, a learned G, other values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from lodo.transform import LodoState
from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES, BOWL, FIXED_ABLATIONS, BowlPreset, schedule
from lodo_experiments.optimizers.names import OTHERS, RELATIVE, optimizer_named
from lodo_experiments.studies.changed_optimizer import as_asked
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.experiments import anisotropic_bowl, variants
from lodo_experiments.studies.setup import DataOptions, Setup
from lodo_experiments.tasks import noisy_bowl, other_bowls
from lodo_experiments.training.loop import train

#: Seeds of the runs whose G the frozen-Hessian test starts from: apart from those that are reported and that tune.
FIRST_LEARNING_SEED = 500_000

#: Runs of each optimizer at most in the studies that are not the paper's own.
FEWER_SEEDS = 6


def _setup(preset: BowlPreset, data: DataOptions) -> Setup:
    task = noisy_bowl.noisy_bowl(preset.size, condition_number=preset.condition_number, drift=preset.drift)
    return Setup(task=task, after=noisy_bowl.learned_inverse)


def _only(*optimizers: str, tuned: bool = False, fewer: bool = False) -> Callable[[BowlPreset], BowlPreset]:
    """The preset with these optimizers, tuned as it says or not at all, and with as many runs or fewer."""

    def derive(preset: BowlPreset) -> BowlPreset:
        seeds = min(preset.seeds, FEWER_SEEDS) if fewer else preset.seeds
        return replace(preset, optimizers=optimizers, seeds=seeds, schedule=preset.schedule if tuned else ())

    return derive


def _parts_taken_away(preset: BowlPreset) -> BowlPreset:
    """LODO and its fixed ablations. At ``smoke`` shorter than the bowl itself, and not all of them, as there are many.

    What a reader has changed of the preset stays as it was asked for.
    """
    usual = BOWL.get(preset.name, BOWL["paper"])  # `desktop` has the amounts of `paper`
    own: dict[str, Any] = {"optimizers": ("LODO", *FIXED_ABLATIONS)}
    if preset.name == "smoke":
        own |= {"optimizers": ("LODO", "LODO-Diagonal", "LODO-SGD", "LODO-No-Momentum")}
        own |= {"steps": 1_500, "schedule": schedule((2, 200), (1.5, 300), (0.8, 400), population=8)}
    return replace(
        preset, **{name: value for name, value in own.items() if getattr(preset, name) == getattr(usual, name)}
    )


def _tuned_from(seed: int) -> Callable[[BowlPreset, Setup], Setup]:
    return lambda preset, setup: replace(setup, tuning_seed=seed)


def _of_own_hessians(preset: BowlPreset, setup: Setup) -> Setup:
    return replace(setup, task=other_bowls.bowl_of_own_hessians(preset.size), after=None)


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
    "parts", "noisy_bowl_parts", notebooks=("ablations",), derive=_parts_taken_away,
    folders=dict.fromkeys(("laptop", "desktop", "paper"), "noisy_bowl"),
)  # fmt: skip

#: Beside the paper's list, in the same comparison and tuned as it is.
EXTENDED_BOWL = ("BFGS-same-sample", "L-BFGS-100", "Whitening", "LODO-Dense")
_EXTENDED = _BOWL.with_variant(
    "extended", "noisy_bowl_extended", derive=_only(*EXTENDED_BOWL, tuned=True), listed=("desktop", "paper"),
    folders=dict.fromkeys(("desktop", "paper"), "noisy_bowl"),
)  # fmt: skip

#: Relative LODO, tuned, and its peers in the same comparison; untuned it is in ``noisy_bowl_rlodo``. Without Kron: in
#: float64, which the bowl is computed in, psgdax stops at a state of which some numbers are float32.
_IN_DOUBLE = tuple(name for name in OTHERS if name != "Kron")
_OTHERS = variants.other_optimizers(_BOWL, RELATIVE.name, *_IN_DOUBLE, listed=("desktop", "paper"))

#: What a Hessian of each run's own changes, at the values tuned on the one that the other records share.
_OWN_HESSIANS = ("LODO", "Adam", "RMSprop", "Momentum", "Yogi")

EXPERIMENTS = (
    _BOWL,
    _PARTS,
    _EXTENDED,
    _OTHERS,
    *(
        _BOWL.with_variant(
            "retuned", f"noisy_bowl_retuned_{seed}", notebooks=("ablations",), listed=("paper",),
            derive=_only("LODO", tuned=True, fewer=True), adapt=_tuned_from(seed),
        )
        for seed in (1, 2)
    ),
    _BOWL.with_variant(
        "own-hessians", "noisy_bowl_own_hessians", notebooks=("noisy_bowl",), listed=("paper",), start=_BOWL,
        derive=_only(*_OWN_HESSIANS, fewer=True), adapt=_of_own_hessians, fixed=variants.as_tuned,
        prerequisites=lambda preset: tuple(("noisy_bowl", name) for name in _OWN_HESSIANS if name != "LODO"),
    ),
    *anisotropic_bowl.variants_of(_BOWL),
    _BOWL.with_variant(
        "authors", "noisy_bowl_published", notebooks=("noisy_bowl",), derive=_only("LODO"),
        fixed=lambda preset, tuned: {"LODO": AUTHORS_BOWL_VALUES},
    ),
    _BOWL.with_variant(
        "frozen", "noisy_bowl_frozen", notebooks=("noisy_bowl",), derive=_only("LODO"), adapt=_with_learned_inverse,
        fixed=lambda preset, tuned: {"LODO": {**AUTHORS_BOWL_VALUES, "meta_learning_rate": 0.0}},
    ),
    _BOWL.with_variant(
        "frozen", "noisy_bowl_learning_on", notebooks=("noisy_bowl",), derive=_only("LODO"),
        adapt=_with_learned_inverse, fixed=lambda preset, tuned: {"LODO": AUTHORS_BOWL_VALUES},
    ),
    # Not the tuned values: at `paper` the tuning finds β = 0, from which no β_j differs; at `laptop` it is too short.
    variants.parameter_ablations(
        _BOWL, _PARTS, known=dict.fromkeys(("laptop", "desktop", "paper"), AUTHORS_BOWL_VALUES), seeds=FEWER_SEEDS,
        notebooks=("ablations",), folders={"smoke": "noisy_bowl_parts_ablations"}, listed=("smoke", "desktop", "paper"),
    ),
    variants.compact_forms(_BOWL),
    variants.best_trials(
        _BOWL, *BOWL["paper"].optimizers, *FIXED_ABLATIONS, *EXTENDED_BOWL, RELATIVE.name, *_IN_DOUBLE,
        notebooks=("noisy_bowl", "ablations"),
    ),
)  # fmt: skip
