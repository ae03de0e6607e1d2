"""The figures of the book's front page, from the paper-scale records and the benchmark alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lodo
from lodo_experiments.analysis import best_trials, step_times
from lodo_experiments.analysis.evidence import QUANTITIES, Evidence
from lodo_experiments.config.paths import kept_folder, results_folder
from lodo_experiments.optimizers.names import UNTUNED
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor

#: Optimizers of the bowl that are given gradients alone, in the order of the picture's lines.
_DRAWN = ("LODO", "O-LBFGS", "Yogi", "RMSprop", "Adam", "Momentum")
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def numbers() -> dict[str, float | str]:
    """What the front page quotes, by name.

    Raises:
      RecordError: a record is damaged.
      KeyError: the results folder lacks one of the records that the page is about.
    """
    folder = results_folder()
    bowl, valley = (best_trials.load(folder, name) for name in ("noisy_bowl", "rosenbrock"))
    bowl_scores = {name: _mean(record) for name, record in bowl.items() if name in _DRAWN}
    searches = [
        _mean(stored_results.load_or_bundled(folder, f"noisy_bowl_retuned_{i}", "paper").runs["LODO"]) for i in (1, 2)
    ]
    valley_scores = {name: _mean(record) for name, record in valley.items()}
    valley_best, valley_place = _best_other(valley_scores)
    rows = step_times.load_all(folder).get("steps") or step_times.load_bundled()["steps"]

    def milliseconds(form: str) -> float:
        case = {"n": 94_696, "dtype": "float32", "way": step_times.SCAN}
        return 1e3 * float(step_times.rows_of(rows.values["rows"], form=form, **case)[0]["seconds"])

    gradients = step_times.load_bundled()["image_gradient"].values["rows"]

    def memory(optimizer: Callable[..., Any]) -> float:
        """Bytes of the state for each byte of the network's parameters."""
        table = lodo.diagnostics.cost_table(jax.ShapeDtypeStruct((94_696,), np.float32), optimizer=optimizer)
        return table.total_bytes / table.parameter_bytes

    return {
        "bowl_lodo": bowl_scores["LODO"],
        "bowl_spread": float(np.std(bowl["LODO"].arrays["scores"], ddof=1)),
        "bowl_adam": bowl_scores["Adam"],
        "bowl_muon": _mean(bowl["Muon"]),
        "bowl_search_low": min(searches),
        "bowl_search_high": max(searches),
        "bowl_online": bowl_scores["O-LBFGS"],
        "bowl_two_gradients": _mean(bowl["BFGS-same-sample"]),
        "bowl_whitening": _mean(bowl["Whitening"]),
        "bowl_rlodo": _mean(relative()),
        "drift_rlodo": float(relative("anisotropic_100").arrays["excess"].mean()),
        "drift_lodo": float(relative("anisotropic_100_lodo").arrays["excess"].mean()),
        "bowl_runs": len(bowl["LODO"].arrays["scores"]),
        "valley_lodo": valley_scores["LODO"],
        "valley_place": valley_place,
        "valley_count": len(valley_scores),
        "valley_best": valley_best,
        "valley_best_loss": valley_scores[valley_best],
        **_at_true_size("network", stored_results.load_or_bundled(folder, "image_generation", "desktop").runs),
        **_at_true_size("classifier", stored_results.load_or_bundled(folder, "image_classification", "desktop").runs),
        "whole_step_ratio": float(QUANTITIES["whole step"].of(None, Evidence(kept_folder()), "")[1]),
        "gradient_seconds": next(row["seconds"] for row in gradients if row["form"] == "ours"),
        "memory_lodo": memory(lodo.lodo),
        "memory_rlodo": memory(lodo.rlodo),
        "step_ms": milliseconds(step_times.OURS),
        "step_native_ms": milliseconds(step_times.NATIVE),
        "step_adam_ms": milliseconds("optax.adam"),
    }


def _at_true_size(name: str, runs: Mapping[str, Record]) -> dict[str, float | str]:
    """Where optimizers end on a network, LODO, Adam and relative LODO by themselves, the others as a text."""
    apart = {"LODO", "Adam", UNTUNED.name}
    others = sorted((one for one in runs if one not in apart), key=lambda one: _mean(runs[one]))
    return {
        f"{name}_lodo": _mean(runs["LODO"]),
        f"{name}_adam": _mean(runs["Adam"]),
        f"{name}_best": (best := min(runs, key=lambda one: _mean(runs[one]))),
        f"{name}_best_loss": _mean(runs[best]),
        f"{name}_others": ", ".join(f"{one} {_mean(runs[one]):.2f}" for one in others),
        f"{name}_rlodo": f"{_mean(runs[UNTUNED.name]):.2f}" if UNTUNED.name in runs else "not run",
        f"{name}_seeds": " or ".join(map(str, sorted({len(record.arrays["scores"]) for record in runs.values()}))),
        f"{name}_steps": int(runs["LODO"].values["steps"]),
    }


def relative(case: str = "rlodo") -> Record:
    """The runs of relative LODO on the bowl, untuned; the project's own where the results folder has none.

    Args:
      case: one of :data:`~lodo_experiments.studies.experiments.rlodo_bowl.CASES`.
    """
    name = Path("paper", "noisy_bowl_rlodo", f"{case}.npz")
    path = results_folder() / name
    return records.load(path if path.exists() else kept_folder() / name)


def bowl() -> tuple[dict[str, np.ndarray], float, int]:
    """The bowl's mean loss of optimizers that are given gradients alone, ours first.

    Returns:
      Name → loss over the run, means over runs and over equal parts of the steps; the loss of Newton's method; the
      number of steps. Relative LODO's record has its loss above Newton's on the same drift, to which that is added.
    """
    runs = best_trials.load(results_folder(), "noisy_bowl")
    floor = newton_floor(hessian(100))
    curves = {name: runs[name].arrays["curve"].mean(axis=0) for name in (*_DRAWN, "Whitening")}
    curve = floor + relative().arrays["curve"].mean(axis=0)
    return {"rlodo": curve, **curves}, floor, int(runs["LODO"].values["steps"])


def _mean(record: Record) -> float:
    return float(np.mean(record.arrays["scores"]))


def _best_other(scores: Mapping[str, float]) -> tuple[str, str]:
    """The best optimizer beside LODO, and LODO's place in words."""
    others = {name: score for name, score in scores.items() if name != "LODO"}
    return min(others, key=lambda name: others[name]), _PLACES[
        sorted(scores, key=lambda name: scores[name]).index("LODO")
    ]
