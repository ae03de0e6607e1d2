"""Where the paper's text and its released code differ: one record, of every difference measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lodo_experiments.studies import paper_and_code
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.paper_and_code_runs import AMOUNTS, STATED, Amounts, Bench, bowl_values
from lodo_experiments.studies.setup import Part


def _parts(amounts: Amounts, results: Path) -> Mapping[str, Part]:
    values = bowl_values(results)
    settings = paper_and_code.settings(amounts, values)
    return {
        "differences": Part(
            settings, range(amounts.runs), lambda: paper_and_code.measure_differences(Bench(amounts, values))
        )
    }


def _tuned_baselines(preset: str) -> Iterator[tuple[str, str]]:
    """The bowl's baselines run as they were tuned at ``paper``."""
    if preset == "paper":
        yield from (("noisy_bowl", name) for name in STATED)


EXPERIMENTS = (
    Experiment(
        name="paper_and_code", presets=AMOUNTS, parts=_parts, notebooks=("paper_and_code",), double=True,
        prerequisites=_tuned_baselines,
    ),
)  # fmt: skip
