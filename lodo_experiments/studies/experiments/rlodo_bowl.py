"""Relative LODO on the noisy bowl, untuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lodo_experiments.config.rlodo_presets import RLODO_BOWL, RlodoBowlPreset
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.rlodo_bowl import RlodoBowlStudy
from lodo_experiments.studies.setup import Part


def _parts(preset: RlodoBowlPreset, results: Path) -> Mapping[str, Part]:
    del results
    return RlodoBowlStudy(preset).parts()


EXPERIMENTS = (
    Experiment(
        name="noisy_bowl_rlodo", presets=RLODO_BOWL, parts=_parts, notebooks=("noisy_bowl",), listed=("paper",),
        double=True,
    ),
)  # fmt: skip
