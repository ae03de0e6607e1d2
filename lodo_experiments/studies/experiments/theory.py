"""What the theory's notebooks compute: learning dynamics, and what G(θ) can represent."""

from __future__ import annotations

from lodo_experiments.config.theory_presets import DYNAMICS, REPRESENTABILITY
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy
from lodo_experiments.studies.theory.representability_study import RepresentabilityStudy

EXPERIMENTS = (
    Experiment(
        name="learning_dynamics", presets=DYNAMICS, parts=lambda preset, results: DynamicsStudy(preset).parts(),
        notebooks=("learning_dynamics",), double=True,
    ),
    Experiment(
        name="representability", presets=REPRESENTABILITY,
        parts=lambda preset, results: RepresentabilityStudy(preset).parts(), notebooks=("representability",),
        double=True,
    ),
)  # fmt: skip
