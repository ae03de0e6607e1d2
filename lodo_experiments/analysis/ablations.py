"""Records of the ablations, grouped by the hyperparameter that each family varies."""

from __future__ import annotations

from collections.abc import Mapping

from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.results.records import Record

#: Family → title of its axis.
TITLES: Mapping[str, str] = {"momentum": "β", "depth": "depth N", "block_size": "block size k"}


def families(runs: Mapping[str, Record]) -> dict[str, tuple[list[float], list[Record]]]:
    """Group the records of ablations by family, each in order of the hyperparameter that it varies.

    Args:
      runs: ablation's name → record of its runs, e.g. "LODO-depth-8".

    Returns:
      Family → (values, records); families without records are left out.
    """
    grouped: dict[str, tuple[list[float], list[Record]]] = {}
    for family, optimizers in ABLATIONS.items():
        members = [runs[optimizer.name] for optimizer in optimizers if optimizer.name in runs]
        if members:
            values = [
                record.values["hyperparameters"]["momentum"]
                if family == "momentum"
                else float(record.kind.rsplit("-", 1)[1])
                for record in members
            ]
            grouped[family] = (values, members)
    return grouped
