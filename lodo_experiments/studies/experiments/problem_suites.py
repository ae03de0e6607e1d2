"""Two suites of small problems: should one use LODO?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lodo_experiments.config.suite_presets import SUITE_PRESETS, SuitePreset
from lodo_experiments.optimizers.peers import PEERS
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.setup import Part
from lodo_experiments.studies.suites.parts import SuiteStudy

_NAME = "problem_suites"


def _parts(preset: SuitePreset, results: Path) -> Mapping[str, Part]:
    return SuiteStudy(preset, results, _NAME).parts()


EXPERIMENTS = (
    Experiment(
        name=_NAME, presets=SUITE_PRESETS, parts=_parts, notebooks=("problem_suites",), listed=("smoke", "laptop"),
        optimizers=tuple(PEERS),
    ),
)  # fmt: skip
