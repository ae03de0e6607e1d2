"""Memory against loss: the size of each compact form of LODO's state, and its loss paired by seed with LODO in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.analysis import statistics
from lodo_experiments.config.paths import kept_folder
from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.names import numbers_a_parameter
from lodo_experiments.results.records import Record
from lodo_experiments.studies.stored_results import load_all

#: The goal: float32 numbers a parameter at most.
GOAL = 96

#: ``storage="compact"`` with the default operator, and with the rolled permutations, which take no room.
RECOMMENDED, SMALLEST = "LODO-small-no-first", "LODO-small-no-first-rolled"

#: The verdicts on a form that is not above LODO in full.
NOT_ABOVE = ("within", "lower")

#: Experiment → the preset whose records the page shows, and the experiment's name in prose.
SHOWN = {"noisy_bowl": ("paper", "the noisy bowl"), "image_generation": ("laptop", "image generation")}


def load_bundled(folder: Path, experiment: str) -> dict[str, Record]:
    """Load the stored records of LODO in full and of its compact forms; compute nothing.

    >>> load_bundled(Path("/nowhere"), "noisy_bowl")
    {}
    """
    preset, _ = SHOWN[experiment]
    full = load_all(folder, experiment, preset).runs
    if "LODO" not in full:
        return {}
    return {"LODO": full["LODO"], **load_all(folder, f"{experiment}_compact", preset).runs}


def price_rows() -> list[dict[str, Any]]:
    """The size of every form's state, in float32 numbers a parameter, counted from its arrays."""
    names = {"LODO": "in full", **{name: optimizer.about for name, optimizer in COMPACT.items()}}
    return [
        {"form": name, "what differs": about, **{part: round(n, 1) for part, n in numbers_a_parameter(name).items()}}
        for name, about in names.items()
    ]


def loss_rows(runs: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The size and the loss of each form, the latter paired by seed with LODO in full; largest first.

    Returns:
      Rows with the mean score, the mean difference to LODO in full with its 95 % interval, and a :func:`verdict`.
    """
    rows = []
    for name, record in runs.items():
        price = numbers_a_parameter(name)
        learned = price["θ"] + price["moments"]
        scores = record.arrays["scores"]
        row: dict[str, Any] = {
            "form": name,
            "what differs": COMPACT[name].about if name in COMPACT else "in full",
            "θ and moments": round(learned, 1),
            "with permutations": round(learned + price["permutations"], 1),
            "runs": len(scores),
            "diverged": int((~np.isfinite(scores)).sum()),
            "mean loss": float(np.nanmean(scores)) if np.isfinite(scores).any() else None,
        }
        if name != "LODO":
            difference = statistics.paired_difference(record, runs["LODO"])
            low, high = difference.interval
            row |= {"difference": difference.mean, "95 % low": low, "95 % high": high}
            row["against LODO in full"] = verdict(difference)
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    full = [{column: row.get(column) for column in columns} for row in rows]
    return sorted(full, key=lambda row: -row["θ and moments"])


def verdict(difference: statistics.PairedDifference) -> str:
    """Judge the paired interval: "within" if it contains 0, else "lower" or "higher"; "diverges" if only the form does.

    >>> from dataclasses import replace
    >>> facts = {"preset": "smoke", "seeds": [0, 1, 2, 3]}
    >>> a = Record("bowl/A", {"scores": np.array([2.0, 2.5, 3.5, 2.7])}, {}, facts)
    >>> b = Record("bowl/B", {"scores": np.array([1.0, 1.6, 2.5, 1.8])}, {}, facts)
    >>> verdict(statistics.paired_difference(a, b)), verdict(statistics.paired_difference(b, a))
    ('higher', 'lower')
    """
    low, high = difference.interval
    if difference.a_diverged > difference.b_diverged:
        return "diverges"
    return "higher" if low > 0 else "lower" if high < 0 else "within"


def all_loss_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Experiment → :func:`loss_rows` of its stored records, the project's own where the folder has none; or no rows."""
    found = {name: load_bundled(folder, name) or load_bundled(kept_folder(), name) for name in SHOWN}
    return {name: loss_rows(runs) if len(runs) > 1 else [] for name, runs in found.items()}


def overview(prices: list[dict[str, Any]], losses: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row a form, from :func:`price_rows` and :func:`all_loss_rows`: what it holds, and what it loses where."""
    return [
        {
            "form": row["form"],
            "what differs": row["what differs"],
            "θ and moments": row["θ"] + row["moments"],
            "with permutations": row["θ"] + row["moments"] + row["permutations"],
            **{
                f"on {SHOWN[name][1]}": None if row["form"] == "LODO" else describe(rows, row["form"])
                for name, rows in losses.items()
                if rows
            },
        }
        for row in prices
    ]


def cheapest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the fewest numbers, permutations included, that is not above LODO in full; None where all are."""
    not_above = [row for row in rows if row["against LODO in full"] in NOT_ABOVE]
    return min(not_above, key=lambda row: row["with permutations"], default=None)


def describe(rows: list[dict[str, Any]], form: str) -> str:
    """Describe a form's difference from LODO in full, for a sentence; "not measured" where it has no row.

    >>> row = {"form": "A", "difference": 0.012, "95 % low": -0.01, "95 % high": 0.03, "against LODO in full": "within"}
    >>> describe([row], "A"), describe([row], "B")
    ('+0.012 [-0.010, +0.030] (within)', 'not measured')
    """
    for row in rows:
        if row["form"] == form:
            low, high = row["95 % low"], row["95 % high"]
            digits = 3 if high - low > 0.01 else 5
            numbers = f"{row['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            return f"{numbers} ({row['against LODO in full']})"
    return "not measured"
