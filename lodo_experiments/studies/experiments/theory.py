"""What the theory's notebooks compute: learning dynamics, and what G(θ) can represent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lodo_experiments.config.theory_presets import DYNAMICS, REPRESENTABILITY, DynamicsPreset, RepresentabilityPreset
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.setup import Part
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy
from lodo_experiments.studies.theory.representability_study import RepresentabilityStudy


def _dynamics(preset: DynamicsPreset, results: Path) -> Mapping[str, Part]:
    return DynamicsStudy(preset).parts()


def _representability(preset: RepresentabilityPreset, results: Path) -> Mapping[str, Part]:
    return RepresentabilityStudy(preset).parts()


EXPERIMENTS = (
    Experiment(
        name="learning_dynamics", presets=DYNAMICS, parts=_dynamics, notebooks=("learning_dynamics",), double=True
    ),
    Experiment(
        name="representability", presets=REPRESENTABILITY, parts=_representability, notebooks=("representability",),
        double=True,
    ),
)  # fmt: skip
