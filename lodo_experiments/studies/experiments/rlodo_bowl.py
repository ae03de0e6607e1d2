"""Relative LODO on the noisy bowl: at the paper's protocol, with parts taken away, and on bowls unlike the paper's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo.operators.block_permutation import BlockPermutation
from lodo.relative import scale_by_relative
from lodo.relative.transform import rlodo
from lodo.transform import lodo
from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES
from lodo_experiments.config.rlodo_presets import RLODO_BOWL, RlodoBowlPreset
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.optimizers.relative_by_entries import relative_by_entries
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.bowls_of_cases import GROUPS, bowl_of_case
from lodo_experiments.training.loop import train

#: Points of a stored curve, means over windows of steps; and measurements of G.
POINTS, MEASURED = 100, 20
#: Losses at the beginning of the runs, which a replay makes again.
BEGINNING = 20
#: What the whitening is divided by after t steps, in the rule it is compared with: 1 + t / 2,000.
DECAY_STEPS = 2_000


@dataclass(frozen=True)
class Case:
    """One record."""

    about: str  # what it is, for tables
    # arguments of :func:`~lodo_experiments.tasks.bowls_of_cases.bowl_of_case`
    bowl: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "rlodo"  # "rlodo", or "lodo" at the values that the paper's authors tuned for it
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the optimizer; none: its defaults
    protocol: bool = False  # whether it has the steps and seeds of the paper's protocol
    group: str = "parts"  # of :data:`GROUPS_OF_CASES`


#: What a case is there for → the heading of its table.
GROUPS_OF_CASES: Mapping[str, str] = {
    "defaults": "As it is",
    "parts": "With one part changed or taken away",
    "steps": "From LODO towards it, one part at a time",
    "bowls": "On other Hessians",
    "drifts": "Under other drifts, and with noise in the gradients",
}


def _rate(count: jax.Array) -> jax.Array:
    """The meta-learning rate that ``lodo.rlodo`` has at n = 100 and the β of LODO's cases."""
    return 2.5e-3 * (1 - AUTHORS_BOWL_VALUES["momentum"]) ** 0.5 / (1 + count / 1_500)


#: What a record says instead of an object.
NAMED: Mapping[str, Any] = {
    "1/(1 + t/2000)": lambda count: 1 / (1 + count / DECAY_STEPS),
    "ñ = 2n": BlockPermutation(32, 4),
    "ñ = n": BlockPermutation(32, 4, padding=False),
    "relative": scale_by_relative(_rate),
    "relative, a moment an entry": relative_by_entries(_rate),
}


def _cases() -> dict[str, Case]:
    found = {
        "rlodo": Case("the defaults", protocol=True, group="defaults"),
        "loss_30": Case("the loss times 30", {"loss_factor": 30.0}, protocol=True, group="defaults"),
        "no_whitening": Case("w = 0", arguments={"whitening": 0.0}),
        "fixed_whitening": Case("w = 1", arguments={"whitening": 1.0}),
        "constant_rate": Case("α = 5e-4, constant", arguments={"meta_learning_rate": 5e-4}),
        "no_momentum": Case("β = 0", arguments={"momentum": 0.0}),
        "momentum_0.9": Case("β = 0.9", arguments={"momentum": 0.9}),
        "lodo": Case("LODO at the authors' values", optimizer="lodo", group="steps"),
    }
    for depth in (8, 16, 64):
        found[f"depth_{depth}"] = Case(f"N = {depth}", arguments={"depth": depth})
    for k in (2, 8):
        found[f"block_{k}"] = Case(f"k = {k}, N = {128 // k}", arguments={"depth": 128 // k, "block_size": k})
    for condition in (1e2, 1e4, 1e5, 1e6):
        bowl = {"condition_number": condition}
        found[f"condition_{condition:.0e}"] = Case(f"condition {condition:.0e}", bowl, group="bowls")
    for size in (30, 300, 1000):
        found[f"size_{size}"] = Case(f"n = {size}", {"size": size}, group="bowls")
    for size in (300, 1000):
        found[f"size_{size}_lodo"] = Case(f"n = {size}, LODO", {"size": size}, "lodo", group="bowls")
    still = {"momentum": 0.0}
    found["no_whitening_no_momentum"] = Case("w = 0, β = 0", arguments={"whitening": 0.0, **still})
    normalised = {"normalised_hypergradient": True}
    relative = {"operator": "ñ = n", "meta_optimizer": "relative"}
    by_entries = {**relative, "meta_optimizer": "relative, a moment an entry"}
    for name, about, arguments in (
        ("lodo_no_momentum", "β = 0", still),
        ("trace_lodo", "gradient trace 0.8", {"gradient_trace": 0.8}),
        ("trace_lodo_no_momentum", "gradient trace 0.8, β = 0", {"gradient_trace": 0.8, **still}),
        ("lodo_normalised", "normalised hypergradient", normalised),
        ("lodo_relative", "relative meta-steps, N = 32, ñ = n", relative),
        ("lodo_relative_normalised", "relative meta-steps, normalised hypergradient", {**relative, **normalised}),
        ("lodo_relative_entries", "the same with a second moment an entry", {**by_entries, **normalised}),
    ):
        found[name] = Case(f"LODO, {about}", optimizer="lodo", arguments=arguments, group="steps")
    found["padded"] = Case("ñ = 2n", arguments={"operator": "ñ = 2n"})
    found["clustered"] = Case("half the eigenvalues 1e-3, half 1", {"clustered": True}, group="bowls")
    drifts: dict[str, dict[str, Any]] = {
        "anisotropic_10": {"ratio": 10.0},
        "anisotropic_100": {"ratio": 100.0},
        "anisotropic_55_rotated": {"ratio": float(np.exp(4)), "rotated": True},
    }
    decaying = {"whitening": "1/(1 + t/2000)"}
    for name, bowl in drifts.items():
        about = f"drift of ratio {bowl['ratio']:.0f}" + (", rotated" if bowl.get("rotated") else "")
        found[name] = Case(about, bowl, group="drifts")
        found[f"{name}_fixed"] = Case(f"{about}, w = 1", bowl, arguments={"whitening": 1.0}, group="drifts")
        found[f"{name}_decaying"] = Case(f"{about}, w decaying", bowl, arguments=decaying, group="drifts")
        found[f"{name}_lodo"] = Case(f"{about}, LODO", bowl, "lodo", group="drifts")
    found["decaying"] = Case("w decaying", arguments=decaying)
    noisy = {"gradient_noise": 0.3}
    found["gradient_noise"] = Case("gradient noise 0.3", noisy, group="drifts")
    found["gradient_noise_lodo"] = Case("gradient noise 0.3, LODO", noisy, "lodo", group="drifts")
    return found


#: Name of a record → what is computed for it.
CASES: Mapping[str, Case] = _cases()


def parts(preset: RlodoBowlPreset, results: Path | None = None) -> dict[str, Part]:
    """The parts of the study, one a case, by its name."""
    return {name: _part(CASES[name], preset) for name in preset.cases or CASES}


def _part(case: Case, preset: RlodoBowlPreset) -> Part:
    steps = preset.steps if case.protocol else preset.other_steps
    seeds = list(range(preset.seeds if case.protocol else preset.other_seeds))
    asked = {"condition_number": preset.condition_number, "ratio": preset.drift_ratio}
    asked["gradient_noise"] = preset.gradient_noise
    usual = {name: field.default for name, field in inspect.signature(bowl_of_case).parameters.items()}
    # What is as usual is not named: so it is in the records.
    changed = {name: value for name, value in asked.items() if value != usual[name]}
    bowl = {"size": preset.size, **changed, **case.bowl}
    settings = {
        "bowl": bowl, "optimizer": case.optimizer, "arguments": dict(case.arguments), "steps": steps,
        "seeds": len(seeds),
    }  # fmt: skip

    def compute() -> Computed:
        every = max(1, steps // MEASURED)
        run = train(bowl_of_case(**bowl), _optimizer(case), steps=steps, seeds=seeds, measure_every=every, chunk=every)
        still = replace(bowl_of_case(**{**bowl, "gradient_noise": 0.0}), measure=None)  # the same drift
        floor = train(still, newton_on(still), steps=steps, seeds=seeds)
        return _computed(run, floor, bowl.get("loss_factor", 1.0))

    def beginning(values: Mapping[str, Any]) -> Computed:
        run = train(bowl_of_case(**bowl), _optimizer(case), steps=BEGINNING, seeds=seeds)
        return Computed({"beginning": run.losses}, {}, run.compile_seconds)

    return Part(settings, seeds, compute, beginning)


def newton_on(task: Task) -> Optimizer:
    """Newton's method with that bowl's own H: its losses on the same drift are what an excess is counted from."""
    inverse = jnp.linalg.inv(task.data.hessian)

    step = optax.stateless(lambda updates, params: -(inverse @ updates))
    return Optimizer("Newton", lambda h, key, steps: step, {}, "with the exact Hessian")


def _optimizer(case: Case) -> Optimizer:
    def build(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformation:
        given: dict[str, Any] = {name: NAMED[x] if isinstance(x, str) else x for name, x in case.arguments.items()}
        if case.optimizer != "lodo":
            return rlodo(**given, seed=key)
        values: dict[str, Any] = {**AUTHORS_BOWL_VALUES, **given}
        if "meta_optimizer" in values:
            del values["meta_learning_rate"]  # which is the default meta-optimizer's
        return lodo(**values, seed=key)

    return Optimizer(case.optimizer, build, {}, case.about)


def _computed(run: Run, floor: Run, factor: float) -> Computed:
    """Losses above Newton's on the same drift, and the shares of its step, all in units of the loss's factor."""
    above = (run.losses - floor.losses) / factor
    windows = np.array_split(np.arange(above.shape[1]), min(POINTS, above.shape[1]))
    curve = np.stack([above[:, window].mean(axis=1) for window in windows], axis=1)
    last = max(1, above.shape[1] // 10)
    names = [f"share_{i}" for i in range(GROUPS)]
    shares = {"shares": np.stack([run.measured[name] for name in names], axis=-1)} if names[0] in run.measured else {}
    arrays = {
        "beginning": run.losses[:, :BEGINNING],
        "curve": curve,
        "curve_steps": np.array([window[-1] + 1 for window in windows]),
        "excess": above[:, -last:].mean(axis=1),
        "scores": run.scores,
        "floor_scores": floor.scores,
        "measured_steps": run.measured_steps,
        **shares,
    }
    diverged = int(np.sum(run.diverged_at >= 0))
    return Computed(arrays, {"diverged": diverged}, run.compile_seconds + floor.compile_seconds)


EXPERIMENTS = (
    Experiment(
        name="noisy_bowl_rlodo", presets=RLODO_BOWL, parts=parts, notebooks=("relative_lodo",),
        listed=("smoke", "paper"), double=True,
    ),
)  # fmt: skip
