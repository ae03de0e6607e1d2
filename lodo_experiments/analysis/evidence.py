"""Evidence for the ledger's verdicts: stored records, the numbers that rules compare, and what makes a test invalid."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lodo import diagnostics
from lodo.operators.base import default_hidden_size
from lodo.transform import lodo
from lodo_experiments.analysis import statistics
from lodo_experiments.analysis.best_trials import BEST_TRIALS, LEVEL, better
from lodo_experiments.config.theory_presets import REPRESENTABILITY
from lodo_experiments.optimizers.search_spaces import ABLATIONS
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.studies.stored_results import load_one
from lodo_experiments.studies.theory.representability_study import within_budget
from lodo_experiments.tasks import noisy_bowl
from lodo_experiments.utils.double_precision import double_precision

#: The presets whose records come with the project, largest first. A page's smoke run is no evidence.
BUNDLED = ("paper", "desktop", "laptop")

#: The paper's size of problem: what the ledger draws from.
TRUE_SIZE = ("paper", "desktop")

#: What needs no training of the paper's size: experiment → folders that its records may lie in.
UNTRAINED: Mapping[str, tuple[str, ...]] = {
    "learning_dynamics": ("paper", "laptop"), "representability": ("paper", "laptop"), "speed": ("benchmarks",),
}  # fmt: skip

#: ‖G − α₀ I‖_F/(α₀ √n) below which G moved too little for a test of LODO, by our choice of the bound: at 0 LODO is
#: momentum SGD.
MOVED = 0.1

#: LODO with one hyperparameter fixed: what cannot do better than LODO where LODO is tuned. One alone is known to the
#: rules: β = 0. A bad α₀ or α is caught by it only as far as it makes LODO worse than its form without momentum.
#: Momentum SGD is nested too, as α = 0. But it is what the paper compares LODO with: by a rule that took its win for a
#: failed tuning, no claim on the two could be refuted.
NESTED = ("LODO-No-Momentum",)

#: The parameters of the network of image generation, at which the verdicts on speed are measured.
NETWORK = 94_696

#: The parameters of the bowl. What a loss is there in equal time takes the step times of this size: on so small a task
#: an optimizer's step is nearly all of a step's time, on the network hardly any of it.
BOWL = 100

#: The parameters of the paper's smaller tasks: Rosenbrock's function, the bowl, image generation.
SIZES = (2, BOWL, NETWORK)


class Evidence:
    """Stored records, each read once.

    Args:
      folder: the results folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[tuple[str, str, str], Record | None] = {}

    def record(self, preset: str, experiment: str, name: str) -> Record | None:
        """One record; None where there is none.

        Where an optimizer also ran at the values of the best trial of its search, and ended lower there, that record
        takes the tuned one's place: a search that missed what it had tried says nothing of the optimizer.

        Args:
          preset: or the folder, of what is in none.
          experiment: e.g. "noisy_bowl".
          name: an optimizer, or a part.

        Raises:
          RecordError: it is damaged, foreign, or of another preset.
        """
        tuned, best = (
            self.one(preset, one, name) if one else None for one in (experiment, BEST_TRIALS.get(experiment))
        )
        return tuned and better(tuned, best)

    def one(self, preset: str, experiment: str, name: str) -> Record | None:
        """A record as it lies in its folder, whatever else there is of the optimizer. Arguments and errors as above."""
        key = (preset, experiment, name)
        if key not in self._read:
            path = self.folder.joinpath(preset, experiment, f"{name}.npz")
            bench = preset == "benchmarks"
            kind = f"{preset}/{experiment}/{name}" if bench else f"{experiment}/{name}"
            self._read[key] = load_one(path, kind, "bench" if bench else preset)
        return self._read[key]

    def preset_of(self, experiment: str, names: Sequence[str]) -> str | None:
        """The largest preset of the paper's size at which all of these have records; None where there is none."""
        for preset in UNTRAINED.get(experiment, TRUE_SIZE):
            if all(self.record(preset, experiment, name) is not None for name in names):
                return preset
        return None


class InPlace(Evidence):
    """Evidence with some records in the place of others.

    Args:
      evidence: where they come from.
      places: (experiment, name) → name of the record, of the same experiment, that is taken for it.
    """

    def __init__(self, evidence: Evidence, places: Mapping[tuple[str, str], str]):
        super().__init__(evidence.folder)
        self._evidence, self._places = evidence, places

    def record(self, preset: str, experiment: str, name: str) -> Record | None:
        """One record, or the one that is taken for it."""
        return self._evidence.record(preset, experiment, self._places.get((experiment, name), name))


@dataclass(frozen=True)
class Quantity:
    """A number for each run that rules compare, or a few numbers without runs; the smaller the better."""

    words: str  # what it is
    # record → numbers; or record, evidence and the name of the optimizer that it is compared with → numbers
    function: Callable[..., np.ndarray]
    wide: bool = False  # whether it is the second
    also: tuple[str, ...] = ()  # further records of the same experiment that it needs
    others: tuple[tuple[str, str], ...] = ()  # further records of other experiments, as (experiment, name)
    # record, evidence and the other's name → what the number rests on, where that depends on the other
    told: Callable[..., str] | None = None
    lost: float = math.inf  # what LODO's run counts for where the number is not finite: the worst for the claim

    def of(self, record: Record | None, evidence: Evidence, other: str) -> np.ndarray:
        """The numbers of a record."""
        return self.function(record, evidence, other) if self.wide else self.function(record)


def _array(name: str, place: Any = ...) -> Callable[[Record], np.ndarray]:
    return lambda record: np.asarray(record.arrays[name])[place]


@functools.cache
def _eigenvalues(size: int) -> np.ndarray:
    """λ of the bowl's Hessian, ascending."""
    return np.linalg.eigvalsh(noisy_bowl.hessian(size))


def _excess(record: Record) -> np.ndarray:
    return np.asarray(record.arrays["scores"]) / (_eigenvalues(record.values["settings"]["size"]).sum() / 2) - 1


def rescaled_product(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """What G H/(1 + β) is at the end, where the theory puts the identity.

    Args:
      record: of LODO on the noisy bowl, whose last measurement is its last step.

    Returns:
      [runs] ‖I − G H/(1 + β)‖_F/√n, and [runs, n] λ qᵀGq/(1 + β) for each eigenvector q of H, by ascending λ.
    """
    factor = 1 + record.values["hyperparameters"].get("momentum", 0.0)
    along = np.asarray(record.arrays["along_eigenvectors"])
    size = along.shape[-1]
    along = along * _eigenvalues(size)
    trace = along.sum(axis=-1)
    # ‖I − GH‖² = n − 2 tr GH + ‖GH‖² tells ‖GH‖ from what was measured.
    square = size * np.asarray(record.arrays["measured.inverse_hessian_error"])[:, -1] ** 2 - size + 2 * trace
    return np.sqrt(np.maximum(1 + (square / factor**2 - 2 * trace / factor) / size, 0)), along / factor


def _multiple_error(record: Record) -> np.ndarray:
    """[runs] min over c of ‖I − c H‖_F/√n, at c = tr H/‖H‖²: what one number can do."""
    eigenvalues = _eigenvalues(record.values["settings"]["size"])
    least = 1 - eigenvalues.sum() ** 2 / (len(eigenvalues) * (eigenvalues**2).sum())
    return np.full(len(record.arrays["scores"]), np.sqrt(least))


def steep_half(record: Record) -> np.ndarray:
    """[runs] geometric mean of λ qᵀGq/(1 + β) over the steeper half of H's eigenvectors."""
    _, along = rescaled_product(record)
    return np.exp(np.log(along[:, along.shape[1] // 2 :]).mean(axis=1))


def displacement(record: Record) -> np.ndarray | None:
    """[runs] ‖G − α₀ I‖_F/(α₀ √n) at the end; None where it was not measured.

    Taken from G's spectrum where the record has that.
    """
    if "inverse_hessian_displacement" in record.arrays:
        return np.asarray(record.arrays["inverse_hessian_displacement"])[:, -1]
    if "spectrum" in record.arrays:
        rate = record.values["hyperparameters"]["initial_learning_rate"]
        return np.sqrt(np.mean((np.asarray(record.arrays["spectrum"]) / rate - 1) ** 2, axis=1))
    return None


def tuning_failure(runs: Mapping[str, Record]) -> str:
    """Why the tuning of a study's LODO failed, so that the study compares nothing; empty where it did not.

    Args:
      runs: optimizer → record of its runs, as tuned.

    >>> facts = {"preset": "smoke", "seeds": [0, 1, 2]}
    >>> runs = {name: Record(f"bowl/{name}", {"scores": np.array(scores)}, {}, facts)
    ...         for name, scores in {"LODO": [2.0, 2.1, 2.2], "LODO-No-Momentum": [1.0, 1.1, 1.3]}.items()}
    >>> tuning_failure(runs)
    'Tuning failed: LODO-No-Momentum, which is LODO with one hyperparameter fixed, beats LODO by 0.967 [0.823, 1.110].'
    """
    for name in NESTED:
        if name in runs and "LODO" in runs:
            difference = statistics.paired_difference(runs["LODO"], runs[name])
            failed = f"Tuning failed: {name}, which is LODO with one hyperparameter fixed, beats LODO "
            low, high = difference.interval
            if low > 0:
                return f"{failed}by {(low + high) / 2:.3f} [{low:.3f}, {high:.3f}]."
            if difference.p_above <= LEVEL:
                pairs = f"{difference.b_lower} of {len(difference.seeds)} pairs"
                return f"{failed}in {pairs}, p = {difference.p_above:.2g}."
    return ""


def _path(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Height above the valley's floor y = x², [runs, steps], and where it changes its sign."""
    x, y = record.arrays["measured.x"], record.arrays["measured.y"]
    height = y - x**2
    return height, height[:, 1:] * height[:, :-1] < 0


def _overshoot(record: Record) -> np.ndarray:
    height, crosses = _path(record)
    after = np.maximum.accumulate(crosses, axis=1)
    return np.max(np.abs(height[:, 1:]) * after, axis=1) / np.abs(height[:, 0])


def _distance(record: Record) -> np.ndarray:
    return np.hypot(record.arrays["measured.x"][:, -1] - 1, record.arrays["measured.y"][:, -1] - 1)


def _trend(family: str) -> Quantity:
    """Spearman's correlation, for each seed, between the value of a hyperparameter and the loss; a lost run is last."""
    names = tuple(optimizer.name for optimizer in ABLATIONS[family])

    def of(record: Record, evidence: Evidence, other: str) -> np.ndarray:
        experiment, preset = record.kind.split("/")[0], record.provenance["preset"]
        found = {name: evidence.record(preset, experiment, name) for name in names}
        if missing := [name for name, one in found.items() if one is None]:
            raise RecordError(f"{experiment} at {preset} has no record of {', '.join(missing)}, which its trend needs.")
        scores = np.array([one.arrays["scores"] for one in found.values() if one is not None])
        scores = np.where(np.isfinite(scores), scores, np.inf)
        ranks = ((scores[:, None] > scores).sum(axis=1) - (scores[:, None] < scores).sum(axis=1)).astype(float)
        place = np.arange(len(names)) - (len(names) - 1) / 2
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(place @ ranks / np.sqrt(place @ place * (ranks**2).sum(axis=0)))

    words = {"momentum": "momentum β", "depth": "depth N", "block_size": "block size k"}[family]
    return Quantity(f"rank correlation between {words} and loss", of, wide=True, also=names)


def _rows(evidence: Evidence, name: str) -> list[dict[str, Any]]:
    record = evidence.record("benchmarks", "speed", name)
    assert record is not None
    return record.values["rows"]


def _ends(row: Mapping[str, Any]) -> np.ndarray:
    return np.array([row["seconds_low"], row["seconds"], row["seconds_high"]])


def _whole_step(record: Record | None, evidence: Evidence, other: str) -> np.ndarray:
    """As :func:`_step_ratio`, with the gradient of as many images as were measured."""
    return _step_ratio(evidence)


def _step_ratio(evidence: Evidence, batch: int = 0) -> np.ndarray:
    """Seconds of a step with LODO over one with Adam, gradient included: at the least, as measured, at the most.

    Args:
      evidence: with the benchmarks' records.
      batch: images a step, to which the gradient's time, measured apart, is proportional; 0: as many as were measured.
    """
    steps = {
        row["form"]: _ends(row)
        for row in _rows(evidence, "steps")
        if row.get("n") == NETWORK and row.get("way") == "in a scan" and row["dtype"] == "float32" and "seconds" in row
    }
    measured = next(row for row in _rows(evidence, "image_gradient") if row["form"] == "ours")
    gradient = (batch / measured["batch"] if batch else 1) * _ends(measured)[::-1]
    return (gradient + steps["lodo.lodo"]) / (gradient + steps["optax.adam"][::-1])


def time_ratio(record: Record, evidence: Evidence, other: str, *, greatest: bool) -> float:
    """Time of a step with LODO over one with another, at the size of the record's task, at the least or the greatest.

    On the bowl over both forms that are measured, one run alone and eight side by side, as LODO's records were made in
    the first way and the others' in the second.
    """
    if record.kind.startswith(("noisy_bowl/", f"{BEST_TRIALS['noisy_bowl']}/")):
        rows = [row for row in _rows(evidence, "tasks") if row["task"].startswith("noisy bowl") and row["n"] == BOWL]
        ends: list[float] = []
        for lanes in sorted({row["lanes"] for row in rows}):
            one = {row["optimizer"]: _ends(row) for row in rows if row["lanes"] == lanes}
            ends += list(one["LODO"] / one[other][::-1])
        return max(ends) if greatest else min(ends)
    return float(_step_ratio(evidence, record.values["settings"]["batch_size"])[-1 if greatest else 0])


def _equal_time(greatest: bool) -> Quantity:
    """LODO's loss over the last tenth of the steps that it makes in the time that another takes for all of its own."""

    def last(record: Record, evidence: Evidence, other: str) -> float:
        return record.values["steps"] / time_ratio(record, evidence, other, greatest=greatest)

    def of(record: Record, evidence: Evidence, other: str) -> np.ndarray:
        steps, end = np.asarray(record.arrays["curve_steps"]), last(record, evidence, other)
        return np.asarray(record.arrays["curve"])[:, (steps > 0.9 * end) & (steps <= end)].mean(axis=1)

    def told(record: Record, evidence: Evidence, other: str) -> str:
        ratio = time_ratio(record, evidence, other, greatest=greatest)
        return f"which is {last(record, evidence, other):,.0f} steps, each taking {ratio:.3g} times as long"

    end = "greatest" if greatest else "least"
    words = (
        f"training loss in the time that the other takes for all its steps, at the {end} ratio of step times measured "
        f"at the task's n (bowl {BOWL}, image generation {NETWORK:,}, the gradient's time in proportion to the batch),"
    )
    parts = (("speed", "tasks"), ("speed", "steps"), ("speed", "image_gradient"))
    return Quantity(words, of, wide=True, others=parts, told=told)


def _fit_error(form: str) -> Quantity:
    """The family on which a form fits worst within the budget: a flexible form has none that it fits badly."""

    def of(record: Record) -> np.ndarray:
        place = within_budget(record, REPRESENTABILITY[record.provenance["preset"]].budget)[form]
        return np.median(record.arrays["error"][place], axis=(1, 2)).max(keepdims=True)

    return Quantity(f"largest of the families' median errors of the best fit by {form}", of)


@functools.cache
def _start_displacement(record: Record | None) -> np.ndarray:
    """Computed here and now: it is a property of the program."""
    n, rate = 10, 0.3
    with double_precision():
        states = [lodo(rate, seed=seed).init(jax.numpy.zeros(n)) for seed in range(5)]
        found = [np.abs(np.asarray(diagnostics.dense(state)) - rate * np.eye(n)).max() for state in states]
    return np.maximum(found, 1e-13)  # rounding is another on another machine


def _room(record: Record | None) -> np.ndarray:
    """Computed here and now, by the bound that the page on representability proves for any permutations."""
    n, depth, k = np.array(SIZES), 16, 4
    hidden = np.array([default_hidden_size(size, k) for size in SIZES])
    return np.minimum((k * n + (depth - 2 + 0.5) * (k - 1) * hidden) / (n * (n + 1) / 2), 1)


def _ratio(of: str, by: str, place: Any = ...) -> Callable[[Record], np.ndarray]:
    return lambda record: np.atleast_1d(np.mean((record.arrays[of] / record.arrays[by])[place]))


_decay_rate = _ratio("measured_rate", "predicted_rate")
_noise_ball = _ratio("squared_A", "squared_A_predicted", 0)


#: Every number that a rule compares, by name.
QUANTITIES: Mapping[str, Quantity] = {
    "loss": Quantity("training loss, mean over the last tenth of the steps,", _array("scores")),
    "validation loss": Quantity("validation loss at the end", _array("measured.validation_loss", (..., -1))),
    "test loss": Quantity("test loss", _array("test_loss")),
    "test error": Quantity(
        "share of test images classified wrongly at the end",
        lambda record: 1 - np.asarray(record.arrays["measured.test_accuracy"])[:, -1],
    ),
    "excess": Quantity("excess over Newton's floor tr(H)/2, as a share of the floor,", _excess),
    "equal-time loss, slowest": _equal_time(greatest=True),
    "equal-time loss, fastest": _equal_time(greatest=False),
    "inverse error": Quantity("‖I − G H/(1 + β)‖_F/√n at the end", lambda record: rescaled_product(record)[0]),
    "multiple error": Quantity("‖I − c H‖_F/√n of the best multiple c I of the identity", _multiple_error),
    "steep half": Quantity("λ qᵀGq/(1 + β), geometric mean over the steeper half of H's eigenvectors,", steep_half),
    "crossings": Quantity(
        "number of crossings of the valley's floor y = x²",
        lambda record: _path(record)[1].sum(axis=1).astype(float),
    ),
    "overshoot": Quantity(
        "greatest |y − x²| after the first crossing, over that at the start,", _overshoot, lost=0,
    ),
    "distance": Quantity("distance from the minimum (1, 1) at the end", _distance),
    **{f"{family} trend": _trend(family) for family in ABLATIONS},
    "whole step": Quantity(
        f"time of a step over that with Adam, gradient included, at n = {NETWORK:,} and batch 256,", _whole_step, True,
        also=("image_gradient",),
    ),
    "start": Quantity("largest entry of |G(θ₀) − α₀ I|, 10⁻¹³ standing for less, for five seeds,", _start_displacement),
    "decay rate": Quantity(
        "decay rate of E[I − G H] over that of the mean dynamics, mean over the entries,", _decay_rate,
    ),
    "noise ball": Quantity("E‖I − G H‖² at rest over the predicted one, at the smallest ε,", _noise_ball),
    "rank": Quantity(
        "rank of the Jacobian at the start over n(n + 1)/2, for each n,",
        lambda record: record.arrays["rank"] / record.arrays["entries"],
    ),
    "room": Quantity(
        "greatest rank at N = 16 and k = 4 over n(n + 1)/2, by counting, for n = "
        + "".join(f"{n:,}, " for n in SIZES).rstrip(),
        _room,
    ),
    **{f"fit of {form}": _fit_error(form) for form in ("LODO, k = 4", "low rank + c I", "Kronecker", "Diagonal")},
}  # fmt: skip
