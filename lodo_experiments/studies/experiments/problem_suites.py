"""Two suites of small problems: should one use LODO?"""

from __future__ import annotations

from lodo_experiments.config.suite_presets import SUITE_PRESETS
from lodo_experiments.optimizers.peers import PEERS
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.suites.parts import suite_parts

EXPERIMENTS = (
    Experiment(
        name="problem_suites", presets=SUITE_PRESETS, parts=suite_parts, notebooks=("problem_suites",),
        listed=("smoke", "laptop"), optimizers=tuple(PEERS),
    ),
)  # fmt: skip
