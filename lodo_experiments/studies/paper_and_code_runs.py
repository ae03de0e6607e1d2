"""What `lodo_experiments.studies.paper_and_code` runs: both forms of each optimizer, on the two cheap tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lodo import quasi_newton
from lodo.operators.base import Permutations
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.rolls import Rolls
from lodo_experiments.optimizers import reference
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS, lodo_with
from lodo_experiments.results import records
from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks import noisy_bowl, rosenbrock
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.loop import train
from lodo_experiments.utils.double_precision import require_double_precision


@dataclass(frozen=True)
class Amounts:
    """How much is computed."""

    name: str  # smoke, laptop, desktop or paper
    runs: int  # runs on Rosenbrock's function, each of 200 steps
    bowl_steps: int  # steps on the noisy bowl
    seeds: int  # runs there
    draws: int  # repeated estimates, starts and the like


AMOUNTS: Mapping[str, Amounts] = {
    "smoke": Amounts("smoke", 4, 600, 3, 60),
    "laptop": Amounts("laptop", 8, 20_000, 4, 1_000),
    "paper": Amounts("paper", 8, 100_000, 8, 1_000),
}

ROSENBROCK_STEPS = 200
#: n of the bowl.
BOWL_SIZE = 100

#: Baseline → ("tuned" or "stated", its hyperparameters on the bowl).
BowlValues = Mapping[str, tuple[str, Mapping[str, float]]]

#: What the tuned baselines run with on the bowl where a results folder has no tuning at the preset ``paper``.
STATED: Mapping[str, Mapping[str, float]] = {
    "L-BFGS": {"learning_rate": 1.0, "decay_steps": 1e5, "epsilon": 1e-10},
    "BFGS": {"learning_rate": 0.1, "initial_scale": 1.0},
    "Levenberg-Marquardt": {"damping": 1e-6},
    "Yogi": {"learning_rate": 1.0, "b1": 0.3, "b2": 0.999},
}


def bowl_values(folder: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Hyperparameters of the baselines on the bowl: the tuned ones of the preset ``paper``, else those of `STATED`.

    Returns:
      Optimizer → ("tuned" or "stated", values).

    >>> bowl_values(Path("/nowhere"))["BFGS"]
    ('stated', {'learning_rate': 0.1, 'initial_scale': 1.0})
    """
    found = {}
    for name, stated in STATED.items():
        path = folder / "paper" / "noisy_bowl" / f"{name}-tuning.npz"
        tuned = records.load(path, f"noisy_bowl/{name}/tuning").values["hyperparameters"] if path.exists() else None
        found[name] = ("tuned", dict(tuned)) if tuned else ("stated", dict(stated))
    return found


def _lodo(name: str, meta: Callable[[Any], optax.GradientTransformation] | None = None, **fixed: Any) -> Optimizer:
    return Optimizer(name, lodo_with(meta, **fixed), OPTIMIZERS["LODO"].defaults, "for a comparison of forms")


def _like(base: str, name: str, factory: Callable[..., optax.GradientTransformation], **fixed: Any) -> Optimizer:
    """A baseline with another factory, of the same hyperparameters and calls."""
    return replace(OPTIMIZERS[base], name=name, build=lambda h, key, steps: factory(**h, **fixed))


@dataclass(frozen=True)
class SingularVectors(BlockPermutation):
    """Blocks that start as the right singular vectors of Gaussian matrices, as in the released code."""

    def init(self, key: jax.Array, size: int, dtype: Any) -> tuple[jax.Array, Permutations | Rolls]:
        """θ₀ [N, k, k, ñ/k], its blocks those singular vectors, and the permutations [N, ñ]."""
        theta, fixed = super().init(key, size, dtype)
        gaussian = jax.random.normal(jax.random.fold_in(key, 1), jnp.moveaxis(theta, 3, 1).shape, dtype)
        return jnp.moveaxis(jnp.linalg.svd(gaussian)[2], 1, 3), fixed


@functools.cache
def twice_hidden(size: int) -> Optimizer:
    """LODO with ñ = 2n for n = ``size``, which k = 4 has to divide."""
    return _lodo(f"LODO, ñ = {2 * size}", operator=BlockPermutation(hidden_size=2 * size))


KERAS = _lodo("LODO, Keras's Adam", reference.adam_epsilon_hat)
KERAS_ROUNDED = _lodo(
    "LODO, Keras's Adam, rounded", lambda rate: reference.adam_epsilon_hat(rate, float32_hyperparameters=True)
)
RELEASED = {
    "L-BFGS": _like("L-BFGS", "L-BFGS, released", quasi_newton.lbfgs_no_line_search, form="released"),
    "BFGS": _like("BFGS", "BFGS, released", quasi_newton.bfgs, form="released"),
    "Levenberg-Marquardt": _like(
        "Levenberg-Marquardt", "Levenberg-Marquardt, released", quasi_newton.levenberg_marquardt, form="released"
    ),
    "Yogi": _like("Yogi", "Yogi, released", reference.yogi),
}
OPTAX_LARS = _like("LARS", "LARS, optax", optax.lars)


@dataclass
class Bench:
    """Runs both tasks, each optimizer's runs once."""

    amounts: Amounts  # how much
    values: BowlValues  # the baselines' hyperparameters on the bowl, from `bowl_values`
    size: int = BOWL_SIZE  # n of the bowl
    compile_seconds: float = 0.0  # spent on compiling so far
    _runs: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_double_precision()
        bowl = noisy_bowl.noisy_bowl(self.size)

        def after(data: Any, x: jax.Array, state: Any, centre: jax.Array) -> dict[str, jax.Array]:
            return {"after": bowl.loss(x, noisy_bowl.BowlBatch(data.hessian, centre))}

        self.rosenbrock_task: Task = rosenbrock.rosenbrock()
        self.bowl_task: Task = bowl
        #: Measured after each step: the loss there on the batch that the step was made from.
        self.looking_back: Task = replace(bowl, measure=after)

    def rosenbrock(self, optimizer: Optimizer, **values: float) -> Run:
        """The runs of an optimizer on Rosenbrock's function, at its defaults but for ``values``; x at every step."""
        return self._once(self.rosenbrock_task, optimizer, ROSENBROCK_STEPS, self.amounts.runs, 1, values)

    def bowl(self, optimizer: Optimizer, values: Mapping[str, float], look_back: bool = False) -> Run:
        """The runs of an optimizer on the bowl; with ``look_back`` also each batch's loss after its own step."""
        task = self.looking_back if look_back else self.bowl_task
        return self._once(task, optimizer, self.amounts.bowl_steps, self.amounts.seeds, int(look_back), values)

    def both(self, name: str) -> tuple[str, Run, Run]:
        """A baseline on the bowl in the textbook's form and in the released one, and where its values come from."""
        origin, values = self.values[name]
        look_back = OPTIMIZERS[name].gradients_per_step == 2
        textbook, code = (self.bowl(form, values, look_back) for form in (OPTIMIZERS[name], RELEASED[name]))
        return origin, textbook, code

    def _once(
        self, task: Task, optimizer: Optimizer, steps: int, runs: int, every: int, values: Mapping[str, float]
    ) -> Run:
        name = f"{task.name}, {optimizer.name}, {every}, {dict(sorted(values.items()))}"
        if name not in self._runs:
            run = train(
                task, optimizer, steps=steps, seeds=range(runs), hyperparameters=values, measure_every=every,
                chunk=min(steps, 1000),
            )  # fmt: skip
            self.compile_seconds += run.compile_seconds
            self._runs[name] = run
        return self._runs[name]
