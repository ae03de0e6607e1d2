"""Presets: how much each experiment computes, from minutes on a laptop to the paper's numbers.

``smoke`` is for a first look and for tests, ``laptop`` takes an hour or so on two cores, ``desktop`` some nights there
or about an hour on a GPU, ``paper`` has the numbers of the paper. At ``desktop`` the network of image generation has
its true size and the ResNet-18 a quarter of its width, for fewer steps and with smaller batches; what else there is
takes minutes or hours at the paper's numbers, and has those there. Each is one frozen dataclass, no file of settings,
so that a type checker knows its fields, and what was computed can be told from its name or read from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lodo_experiments.config.parameters import NamedPreset, setting
from lodo_experiments.config.schedules import Generation

Schedule = tuple[Generation, ...]


def schedule(*generations: tuple[float, int], population: int) -> Schedule:
    """A schedule from (deviation, steps) of each generation, all of the same population."""
    return tuple(Generation(deviation, steps, population) for deviation, steps in generations)


#: Fields that say how much is computed; the others say of what, and change what a step costs.
AMOUNTS = frozenset(
    {"name", "optimizers", "samples", "steps", "seeds", "measure_every", "schedule", "rate_factor", "test_images"}
)

#: Hyperparameters of LODO that a changed preset takes as given, where the others take them as tuned.
LODO_RATES = ("initial_learning_rate", "meta_learning_rate", "momentum")

#: What a changed preset may say of LODO's form.
LODO_FORM = ("depth", "block_size", "operator", "meta_optimizer")

#: The forms of G(θ) by the names that parameters have for them.
OPERATORS = ("block_permutation", "diagonal", "scalar", "residuals")
META_OPTIMIZERS = ("adam", "sgd")

#: Fields that records state only where they are not the default, which all presets have.
STATED_WHERE_CHANGED = frozenset({*LODO_RATES, *LODO_FORM, "condition_number", "drift", "start", "stages"})


@dataclass(frozen=True, kw_only=True)
class Preset(NamedPreset):
    """What every experiment's preset says.

    Each field but the name is a parameter of the experiment's notebook too, where it may be given another value. The
    fields from ``initial_learning_rate`` on are for that alone, and None in all presets: they change LODO itself, and
    neither its ablations nor any other optimizer.
    """

    steps: int = setting(about="updates in each run", minimum=1)
    seeds: int = setting(about="runs for each optimizer", minimum=1)
    optimizers: tuple[str, ...] = setting(about="names of those compared")
    schedule: tuple[Generation, ...] = setting(
        (), "generations of the tuning, deviation:steps:population; none: not tuned"
    )
    measure_every: int = setting(about="steps between two measurements", minimum=1)
    # The paper halves the rate for the long image runs.
    rate_factor: float = setting(1.0, "factor on the tuned learning rate", above=0.0)
    initial_learning_rate: float | None = setting(None, "α₀ of LODO, not tuned", above=0.0)
    meta_learning_rate: float | None = setting(None, "α of LODO, not tuned; 0: G stays as it starts", minimum=0.0)
    momentum: float | None = setting(None, "β of LODO, not tuned", minimum=0.0, below=1.0)
    # The paper's G has 16 layers of block permutations with k = 4, trained by Adam.
    depth: int | None = setting(None, "layers N of LODO's G", minimum=0)
    block_size: int | None = setting(None, "block size k of LODO's G", minimum=1)
    operator: str | None = setting(None, "form of LODO's G", choices=OPERATORS)
    meta_optimizer: str | None = setting(None, "what trains LODO's θ", choices=META_OPTIMIZERS)

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records.

        What changes a preset and no preset has (``STATED_WHERE_CHANGED``) is left out where it is not changed, so that
        records made before it could be changed answer the same question.
        """
        usual = {field.name: field.default for field in fields(self) if field.name in STATED_WHERE_CHANGED}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    def optimizer_steps(self) -> int:
        """Updates that one optimizer makes in all, tuning included."""
        return self.steps * self.seeds + sum(g.steps * g.population for g in self.schedule)


@dataclass(frozen=True, kw_only=True)
class BowlPreset(Preset):
    """Noisy quadratic bowl (paper §5.1)."""

    size: int = setting(100, "number n of parameters", minimum=2)
    condition_number: float = setting(1e3, "largest over smallest eigenvalue of H", minimum=1.0)
    drift: float = setting(1.0, "deviation of the centre's steps", minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class RosenbrockPreset(Preset):
    """Rosenbrock's function (paper §5.2)."""

    start: tuple[float, float] = setting((-0.5, 2.0), "x and y at the start")


@dataclass(frozen=True, kw_only=True)
class ImageGenerationPreset(Preset):
    """Autoregressive image generation (paper §5.3)."""

    # "digits" comes with scikit-learn, the others with tensorflow-datasets.
    dataset: str = setting(about="data set", choices=("digits", "mnist"))
    reduce: int = setting(1, "factor by which the images' sides are shrunk", minimum=1)
    batch_size: int = setting(256, "images a step", minimum=1)
    width: int = setting(20, "channels between the residual blocks", minimum=1)
    hidden: int = setting(40, "channels within them", minimum=1)
    blocks: int = setting(4, "residual blocks a stage", minimum=1)
    samples: int = setting(16, "images to draw from each trained model", minimum=1)
    test_images: int = setting(0, "test images that are measured; 0: all", minimum=0)


@dataclass(frozen=True, kw_only=True)
class ImageClassificationPreset(Preset):
    """Image classification with a ResNet-18 (paper §5.4)."""

    dataset: str = setting(about="data set", choices=("digits", "cifar10"))
    reduce: int = setting(1, "factor by which the images' sides are shrunk", minimum=1)
    batch_size: int = setting(2048, "images a step", minimum=1)
    width: int = setting(64, "channels of the first stage", minimum=1)  # the others have 2, 4 and 8 times as many
    stages: tuple[int, ...] = setting((2, 2, 2, 2), "residual blocks of each stage; 2,2,2,2: a ResNet-18", minimum=1)
    l2: float = setting(1e-4, "λ of the penalty", minimum=0.0)
    measured_images: int = setting(0, "images of either split that are measured; 0: all test images", minimum=0)


#: LODO's values on the bowl as the paper's authors tuned them, from far more trials than a short preset has.
AUTHORS_BOWL_VALUES = {"initial_learning_rate": 0.270, "meta_learning_rate": 0.00096, "momentum": 0.195}

_BOWL = ("LODO", "Momentum", "RMSprop", "Adam", "Yogi", "L-BFGS", "O-LBFGS", "BFGS", "Levenberg-Marquardt")
_SIMPLE = ("LODO", "Momentum", "RMSprop", "Adam", "Yogi")

BOWL: Mapping[str, BowlPreset] = {
    "smoke": BowlPreset(
        name="smoke", steps=2_000, seeds=2, measure_every=100,
        optimizers=("LODO", "Momentum", "Adam", "L-BFGS", "BFGS", "Levenberg-Marquardt"),
        schedule=schedule((3, 100), (3, 300), (2.5, 500), (1.5, 500), (1, 500), (0.6, 500), population=12),
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
        name="smoke", dataset="digits", steps=400, seeds=2, optimizers=("LODO", "Adam"), measure_every=100,
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
        name="smoke", dataset="digits", steps=120, seeds=2, optimizers=("LODO", "Adam"), measure_every=20,
        batch_size=64, width=2, stages=(1, 1, 1, 1),
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
