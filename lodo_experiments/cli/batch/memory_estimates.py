"""What a job's memory is expected to be where it was never measured: worked out from the optimizer's state."""

from __future__ import annotations

import functools
import math

import jax

from lodo.diagnostics import cost_table
from lodo_experiments.cli.batch.plan import Job
from lodo_experiments.config import presets
from lodo_experiments.models import AutoregressiveNetwork, ResNet, initial_variables
from lodo_experiments.models.autoregressive import INPUT_CHANNELS
from lodo_experiments.studies import registry

#: MB of Python, JAX and a small task's programs.
BASE = 500.0

#: Copies of an optimizer's state at a step's peak: the old one, the new one, and their gradients.
COPIES = 3

#: Side, channels and grey levels of each data set's images.
_IMAGES = {"digits": (8, 1, 17), "mnist": (28, 1, 256), "cifar10": (32, 3, 256)}


def expected_mb(job: Job, preset: str) -> float | None:
    """MB for a job's training, or None where it trains nothing; activations and the data set are not in it.

    >>> from lodo_experiments.cli.batch.plan import Options, jobs
    >>> (job,) = jobs(Options("smoke", only=("rosenbrock-defaults",), notebooks=None))
    >>> expected_mb(job, "smoke")
    500.0
    """
    if not job.optimizers:
        return None
    side_by_side = 1 if registry.named(job.experiment).dataset(preset) else job.lanes
    states = [_state_bytes(name, parameters(job.experiment, preset)) for name in job.optimizers]
    return BASE + math.floor(side_by_side * COPIES * max(states) / 1e6)


@functools.cache
def parameters(experiment: str, preset: str) -> int:
    """The number of parameters n that an experiment optimises.

    >>> parameters("noisy_bowl", "paper"), parameters("image_classification", "paper")
    (100, 11173962)
    """
    chosen = registry.named(experiment).preset(preset)
    key = jax.random.key(0)
    if isinstance(chosen, presets.ImageGenerationPreset):
        side, _, levels = _IMAGES[chosen.dataset]
        side //= chosen.reduce
        network = AutoregressiveNetwork(levels, chosen.width, chosen.hidden, blocks=chosen.blocks)
        shapes = jax.eval_shape(network.init, key, jax.ShapeDtypeStruct((1, side, side, INPUT_CHANNELS), "float32"))
    elif isinstance(chosen, presets.ImageClassificationPreset):
        side, channels, _ = _IMAGES[chosen.dataset]
        side //= chosen.reduce
        resnet = ResNet(classes=10, width=chosen.width)
        shapes, _ = jax.eval_shape(lambda k: initial_variables(resnet, k, side, side, channels), key)
    else:
        return getattr(chosen, "size", 2)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@functools.cache
def _state_bytes(optimizer: str, n: int) -> int:
    """Bytes of an optimizer's state on n numbers, about; at LODO's defaults for all of its forms."""
    if optimizer.startswith("LODO"):
        return cost_table(jax.ShapeDtypeStruct((n,), "float32")).total_bytes
    dense = optimizer in ("BFGS", "Levenberg-Marquardt")
    # A pair of vectors of history for each of some tens of steps, or a few moments.
    return 4 * n * (n if dense else 50 if "LBFGS" in optimizer.replace("-", "") else 4)
