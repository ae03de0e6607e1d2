"""What the records of relative LODO on the noisy bowl say: losses above Newton's, and how much of its step G makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodo_experiments.analysis.statistics import summarise, text
from lodo_experiments.results.records import Record
from lodo_experiments.studies.experiments.rlodo_bowl import CASES


def excess_by(record: Record, steps: int) -> float:
    """Mean loss above Newton's over the last tenth of the first ``steps`` steps, and over the runs.

    Raises:
      ValueError: the runs are shorter.
    """
    ends, curve = record.arrays["curve_steps"], record.arrays["curve"]
    if steps > ends[-1]:
        raise ValueError(f"The runs have {ends[-1]} steps; asked for the first {steps}.")
    within = (ends > 0.9 * steps) & (ends <= steps)
    return float(curve[:, within].mean())


def cases_table(found: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row a case: "case", "runs", "steps", "above Newton" (mean ± deviation [interval]), and two shares.

    The shares of Newton's step that G makes at the end are the means over the flattest and over the steepest tenth of
    H's eigenvectors, and over the runs; None where they were not measured.
    """
    rows = []
    for name, case in CASES.items():
        if name not in found:
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
