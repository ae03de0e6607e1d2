"""What the records of relative LODO on the noisy bowl say: losses above Newton's, and how much of its step G makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lodo_experiments.analysis.statistics import summarise, text
from lodo_experiments.results.records import Record
from lodo_experiments.studies.experiments.rlodo_bowl import CASES


def excess_by(record: Record, steps: int) -> float:
    """Mean loss above Newton's over the last tenth of the first ``steps`` steps, and over the runs.

    Raises:
      ValueError: the runs are shorter.
    """
    return float(_by(record, steps).mean())


def _by(record: Record, steps: int) -> np.ndarray:
    """Of each run, [runs]."""
    ends, curve = record.arrays["curve_steps"], record.arrays["curve"]
    if steps > ends[-1]:
        raise ValueError(f"The runs have {ends[-1]} steps; asked for the first {steps}.")
    within = (ends > 0.9 * steps) & (ends <= steps)
    mean: np.ndarray = curve[:, within].mean(axis=1)
    return mean


#: Where the drift's standard deviations have a ratio, a record's name begins so.
DRIFTS: Mapping[str, float] = {"anisotropic_10": 10.0, "anisotropic_55_rotated": math.exp(4), "anisotropic_100": 100.0}
#: How a line of :func:`by_drift` is called → its record on the paper's drift, and how its others end.
_BY_DRIFT: Mapping[str, tuple[str, str]] = {
    "rlodo": ("rlodo", ""), "rlodo, w = 1": ("fixed_whitening", "_fixed"),
    "rlodo, w decaying": ("decaying", "_decaying"), "LODO": ("lodo", "_lodo"),
}  # fmt: skip


def by_drift(found: Mapping[str, Record], steps: int = 20_000) -> dict[str, dict[float, list[float]]]:
    """Loss above Newton's against how unequal the drift is: line → ratio → one value a run, over the first ``steps``.

    Ratios of which a record is missing are left out.
    """
    lines = {}
    for name, (plain, ending) in _BY_DRIFT.items():
        records = {1.0: found.get(plain)} | {ratio: found.get(drift + ending) for drift, ratio in DRIFTS.items()}
        lines[name] = {ratio: list(_by(one, steps)) for ratio, one in records.items() if one is not None}
    return lines


def cases_table(found: Mapping[str, Record], group: str = "") -> list[dict[str, Any]]:
    """One row a case: "case", "runs", "steps", "above Newton" (mean ± deviation [interval]), and two shares.

    With ``group``, of :data:`~lodo_experiments.studies.experiments.rlodo_bowl.GROUPS_OF_CASES`, its cases alone.

    The shares of Newton's step that G makes at the end are the means over the flattest and over the steepest tenth of
    H's eigenvectors, and over the runs; None where they were not measured.
    """
    rows = []
    for name, case in CASES.items():
        if name not in found or (group and case.group != group):
            continue
        arrays = found[name].arrays
        last = arrays["shares"][:, -1].mean(axis=0) if "shares" in arrays else (None, None)
        rows.append(
            {
                "case": case.about, "runs": len(arrays["excess"]), "steps": int(arrays["curve_steps"][-1]),
                "above Newton": text(summarise(arrays["excess"])),
                "share, flattest": last[0] if last[0] is None else float(last[0]),
                "share, steepest": last[-1] if last[-1] is None else float(last[-1]),
            }
        )  # fmt: skip
    return rows
