"""The parameterised ablations on an axis: which record belongs to which value of which hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping

from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.results.records import Record

#: Family → title of its axis.
TITLES: Mapping[str, str] = {"momentum": "β", "depth": "depth N", "block_size": "block size k (N = ⌊64/k⌋)"}


def families(found: Mapping[str, Record]) -> dict[str, tuple[list[float], list[Record]]]:
    """Records of parameterised ablations by family, in order of the value that they differ by.

    Args:
      found: ablation's name → record of its runs, e.g. "LODO-depth-8".

    Returns:
      Family → (values, records), those that are there; a family without any is left out.
    """
    grouped: dict[str, tuple[list[float], list[Record]]] = {}
    for family, optimizers in ABLATIONS.items():
        own = [found[optimizer.name] for optimizer in optimizers if optimizer.name in found]
        if own:
            values = [
                record.values["hyperparameters"]["momentum"]
                if family == "momentum"
                else float(record.kind.rsplit("-", 1)[1])
                for record in own
            ]
            grouped[family] = (values, own)
    return grouped
