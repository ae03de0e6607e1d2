"""What a study's record holds: a training as small arrays, and runs that were made at two times as one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.results.store import difference_of
from lodo_experiments.results.training_run import Run

#: Points at most in a stored loss curve; each is the mean over a window of steps.
CURVE_POINTS = 500

#: Arrays of a run's record that all its runs share; the others have the runs along their first axis.
SHARED = frozenset({"curve_steps", "measured_steps", "wall_steps", "wall_seconds", "displacement_steps"})


def join(first: Record, second: Record) -> Record:
    """Runs of one optimizer that were made at two times, as one record.

    Its clock is the sum over both, as of runs that are made one after the other, and each part's origin is kept in the
    provenance under ``parts``.

    Raises:
      RecordError: the two are not of the same question, or share a seed.
    """
    difference = difference_of(first.values, second.values["settings"])
    both = set(first.provenance["seeds"]) & set(second.provenance["seeds"])
    if first.kind != second.kind or difference or both:
        raise RecordError(
            f"{first.kind} and {second.kind} cannot be joined: {difference or f'both have seeds {sorted(both)}'}."
        )
    arrays = {
        name: array if name in SHARED else np.concatenate([array, second.arrays[name]])
        for name, array in first.arrays.items()
    }
    clock = np.interp(first.arrays["wall_steps"], second.arrays["wall_steps"], second.arrays["wall_seconds"])
    arrays["wall_seconds"] = first.arrays["wall_seconds"] + clock
    runs, seconds = len(arrays["scores"]), float(arrays["wall_seconds"][-1])
    values = {**second.values, "steps_per_second": runs * second.values["steps"] / seconds}
    parts = [part for record in (first, second) for part in _parts_of(record.provenance)]
    total = {
        name: round(first.provenance[name] + second.provenance[name], 3) for name in ("wall_seconds", "compile_seconds")
    }
    total["programs_from_cache"] = sum(record.provenance.get("programs_from_cache", 0) for record in (first, second))
    seeds = [*first.provenance["seeds"], *second.provenance["seeds"]]
    return Record(first.kind, arrays, values, {**second.provenance, **total, "seeds": seeds, "parts": parts})


def arrays_of(run: Run, window: int = 0) -> dict[str, np.ndarray]:
    """A run as small arrays: curves of window means, scores, measurements, clock, and how far G moved.

    Args:
      run: the training.
      window: steps that a point of the curve is the mean over; 0: so many that there are at most `CURVE_POINTS`.
    """
    steps = run.losses.shape[1]
    window = window or max(1, -(-steps // CURVE_POINTS))
    whole = steps // window * window
    with np.errstate(all="ignore"):
        curve = run.losses[:, :whole].reshape(len(run.losses), -1, window).mean(axis=2)
    displacement = {"displacement_steps": run.displacement_steps, "inverse_hessian_displacement": run.displacement}
    return {
        "scores": run.scores,
        "diverged_at": run.diverged_at,
        "curve": curve,
        "curve_steps": (np.arange(curve.shape[1]) + 1) * window,
        "final_loss": run.losses[:, -1],
        "measured_steps": run.measured_steps,
        **{f"measured.{name}": np.asarray(value) for name, value in run.measured.items()},
        "wall_steps": run.wall_steps,
        "wall_seconds": run.wall_seconds,
        **(displacement if len(run.displacement_steps) else {}),
    }


def _parts_of(stated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The provenance of a record as parts of a larger one."""
    names = ("seeds", "commit", "device", "platform", "versions", "date", "wall_seconds", "compile_seconds", "library")
    return stated.get("parts") or [{name: stated[name] for name in names if name in stated}]
