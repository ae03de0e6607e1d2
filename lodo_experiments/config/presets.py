"""Presets: how much each experiment computes, from minutes on a laptop to the paper's numbers.

``smoke`` is for a first look and for tests, ``laptop`` takes an hour or so on two cores, ``desktop`` some nights there
or about an hour on a GPU, ``paper`` has the numbers of the paper. At ``desktop`` the networks are trained at their true
size for fewer steps; what else there is takes minutes or hours at the paper's numbers, and has those there. Each is one
frozen dataclass, no file of settings, so that a type checker knows its fields, and what was computed can be told from
its name or read from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lodo_experiments.config.schedules import Generation

Schedule = tuple[Generation, ...]


def schedule(*generations: tuple[float, int], population: int) -> Schedule:
    """A schedule from (deviation, steps) of each generation, all of the same population."""
    return tuple(Generation(deviation, steps, population) for deviation, steps in generations)


#: Fields that say how much is computed; the others say of what, and change what a step costs.
AMOUNTS = frozenset(
    {"name", "optimizers", "samples", "steps", "seeds", "measure_every", "schedule", "rate_factor", "test_images"}
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What every experiment's preset says.

    Attributes:
      name: smoke, laptop, desktop or paper.
      steps: updates in each reported run.
      seeds: reported runs for each optimizer, with seeds 0, 1, ….
      optimizers: names of those compared.
      schedule: generations of the tuning; empty: the hyperparameters are not tuned.
      measure_every: steps between two of the task's measurements.
      rate_factor: factor on the first hyperparameter (the learning rate) after tuning; the paper halves it for the
        long image runs.
    """

    name: str
    steps: int
    seeds: int
    optimizers: tuple[str, ...]
    schedule: Schedule = ()
    measure_every: int
    rate_factor: float = 1.0

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records."""
        return asdict(self)

    def optimizer_steps(self) -> int:
        """Updates that one optimizer makes in all, tuning included."""
        return self.steps * self.seeds + sum(g.steps * g.population for g in self.schedule)


@dataclass(frozen=True, kw_only=True)
class BowlPreset(Preset):
    """Noisy quadratic bowl (paper §5.1).

    Attributes:
      size: n.
    """

    size: int = 100


@dataclass(frozen=True, kw_only=True)
class RosenbrockPreset(Preset):
    """Rosenbrock's function (paper §5.2)."""


@dataclass(frozen=True, kw_only=True)
class ImageGenerationPreset(Preset):
    """Autoregressive image generation (paper §5.3).

    Attributes:
      dataset: "digits" (bundled with scikit-learn) or "mnist" (tensorflow-datasets).
      batch_size: images a step.
      width: channels between the residual blocks.
      hidden: channels within them.
      blocks: residual blocks a stage.
      samples: images to draw from each trained model.
      test_images: images of the test split that the test loss is taken over; 0: all.
      reduce: factor by which the images' sides are shrunk, by averaging.
    """

    dataset: str
    reduce: int = 1
    batch_size: int = 256
    width: int = 20
    hidden: int = 40
    blocks: int = 4
    samples: int = 16
    test_images: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageClassificationPreset(Preset):
    """Image classification with a ResNet-18 (paper §5.4).

    Attributes:
      dataset: "digits" (bundled with scikit-learn) or "cifar10" (tensorflow-datasets).
      reduce: factor by which the images' sides are shrunk, by averaging.
      batch_size: images a step.
      width: channels of the first stage; the others have 2, 4 and 8 times as many.
      l2: λ of the penalty λ ½‖w‖².
      measured_images: images of the training and of the test split that losses and accuracies are taken over; 0: all
        test images, and as many of the training split.
    """

    dataset: str
    reduce: int = 1
    batch_size: int = 2048
    width: int = 64
    l2: float = 1e-4
    measured_images: int = 0


#: LODO's values on the bowl as the paper's authors tuned them, from far more trials than a short preset has.
AUTHORS_BOWL_VALUES = {"initial_learning_rate": 0.270, "meta_learning_rate": 0.00096, "momentum": 0.195}

_BOWL = ("LODO", "Momentum", "RMSprop", "Adam", "Yogi", "L-BFGS", "O-LBFGS", "BFGS", "Levenberg-Marquardt")
_SIMPLE = ("LODO", "Momentum", "RMSprop", "Adam", "Yogi")

BOWL: Mapping[str, BowlPreset] = {
    "smoke": BowlPreset(
        name="smoke", steps=3_000, seeds=2, optimizers=_BOWL, measure_every=100,
        schedule=schedule((3, 100), (3, 300), (2.5, 500), (1.5, 700), (1, 700), (0.6, 700), population=12),
    ),
    "laptop": BowlPreset(
        name="laptop", steps=30_000, seeds=4, optimizers=_BOWL, measure_every=100,
        schedule=schedule(
            (3, 100), (3, 300), (3, 1000), (2, 3000), (1.5, 3000), (1.2, 3000), (0.9, 3000), (0.6, 3000), population=16
        ),
    ),
    "paper": BowlPreset(
        name="paper", steps=100_000, seeds=8, optimizers=_BOWL, measure_every=100,
        schedule=schedule(
            (3, 100), (3, 300), (3, 1000), (3, 10_000), (2, 10_000), (1.7, 10_000), (1.4, 10_000), (1.2, 10_000),
            (0.9, 10_000), (0.6, 10_000), population=32,
        ),
    ),
}  # fmt: skip

_ROSENBROCK_DEVIATIONS = (3, 3, 3, 2.5, 2, 1.5, 1, 0.75, 0.5, 0.3)

ROSENBROCK: Mapping[str, RosenbrockPreset] = {
    "smoke": RosenbrockPreset(
        name="smoke", steps=200, seeds=4, optimizers=_SIMPLE, measure_every=1,
        schedule=schedule((3, 200), (2, 200), (1, 200), (0.5, 200), population=16),
    ),
    **{
        name: RosenbrockPreset(
            name=name, steps=200, seeds=8, optimizers=_SIMPLE, measure_every=1,
            schedule=schedule(*((deviation, 200) for deviation in _ROSENBROCK_DEVIATIONS), population=32),
        )
        for name in ("laptop", "paper")
    },
}  # fmt: skip

#: The paper's fixed ablations: simpler representations of G, a simpler meta-step, no momentum.
FIXED_ABLATIONS = ("LODO-Diagonal", "LODO-Global", "LODO-Residuals", "LODO-SGD", "LODO-No-Momentum")
_IMAGES = ("LODO", "Momentum", "RMSprop", "Adam", "LARS", "Yogi", *FIXED_ABLATIONS)

IMAGE_GENERATION: Mapping[str, ImageGenerationPreset] = {
    "smoke": ImageGenerationPreset(
        name="smoke", dataset="digits", steps=800, seeds=2, optimizers=("LODO", "Adam"), measure_every=100,
        batch_size=64, width=8, hidden=12, blocks=1,
        schedule=schedule((2, 40), (1.5, 60), (0.8, 100), population=6),
    ),
    "laptop": ImageGenerationPreset(
        name="laptop", dataset="mnist", reduce=2, steps=800, seeds=4, optimizers=_IMAGES, measure_every=200,
        batch_size=64, width=8, hidden=16, blocks=1, test_images=256,
        schedule=schedule((3, 80), (2.5, 80), (2, 80), (1.5, 120), (1.2, 160), (0.9, 200), (0.6, 240), population=8),
    ),
    "desktop": ImageGenerationPreset(
        name="desktop", dataset="mnist", steps=3_000, seeds=2, optimizers=_IMAGES, measure_every=1_500, batch_size=64,
        test_images=32,
        schedule=schedule((2, 200), (1.5, 300), (1, 500), (0.6, 800), population=6),
    ),
    "paper": ImageGenerationPreset(
        name="paper", dataset="mnist", steps=300_000, seeds=8, optimizers=_IMAGES, measure_every=1_000,
        rate_factor=0.5,
        schedule=schedule(
            *((3, 1000),) * 4, (2, 1500), (1.7, 1500), (1.4, 2000), (1.2, 3000), (0.9, 5000), (0.6, 8000), population=32
        ),
    ),
}  # fmt: skip

_CLASSIFIERS = ("LODO", "Momentum", "RMSprop", "Adam", "LARS", "Yogi", "L-BFGS", "O-LBFGS")

IMAGE_CLASSIFICATION: Mapping[str, ImageClassificationPreset] = {
    "smoke": ImageClassificationPreset(
        name="smoke", dataset="digits", steps=200, seeds=2, optimizers=("LODO", "Adam"), measure_every=20,
        batch_size=64, width=2,
        schedule=schedule((2, 20), (1.2, 40), (0.6, 60), population=4),
    ),
    "laptop": ImageClassificationPreset(
        name="laptop", dataset="cifar10", reduce=2, steps=300, seeds=4, optimizers=_CLASSIFIERS, measure_every=30,
        batch_size=64, width=4, measured_images=1_000,
        schedule=schedule((3, 30), (2.5, 30), (2, 40), (1.5, 50), (1.2, 60), (0.9, 80), (0.6, 100), population=6),
    ),
    "desktop": ImageClassificationPreset(
        name="desktop", dataset="cifar10", steps=1_000, seeds=2, optimizers=_CLASSIFIERS, measure_every=100,
        batch_size=64, width=16, measured_images=1_000,
        schedule=schedule((2, 50), (1.5, 100), (1, 200), (0.6, 300), population=6),
    ),
    "paper": ImageClassificationPreset(
        name="paper", dataset="cifar10", steps=3_000, seeds=8, optimizers=_CLASSIFIERS, measure_every=20,
        schedule=schedule(
            *((3, 50),) * 4, (2, 50), (1.7, 60), (1.4, 100), (1.2, 200), (0.9, 300), (0.6, 500), population=16
        ),
    ),
}  # fmt: skip
