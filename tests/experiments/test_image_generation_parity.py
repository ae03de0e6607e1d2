"""Network, channels and loss against the authors' released code, whose run with seed 0 was recorded.

That code draws everything from NumPy's global generator, so its first batch, its initial weights and its
second batch can be drawn again here, from the original files of MNIST.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_cases import enable_x64

from lodo_experiments.data.original_files import read_idx
from lodo_experiments.models import AutoregressiveNetwork
from lodo_experiments.tasks.image_generation import PixelBatch, cross_entropy

SHARED = Path(__file__).resolve().parents[3] / "shared"
IMAGES = SHARED / "data" / "mnist-raw" / "train-images-idx3-ubyte.gz"
RECORDED = SHARED / "reference" / "measured" / "mnist_parity_eager_lr0.1_seed0.npz"


def initial_weights(random):
    """Their parameters, drawn in their order, as our tree; and their sum of squares."""
    total = 0.0

    def layer(fan_in, kernel, bias):
        nonlocal total
        drawn = [random.normal(0, 1 / np.sqrt(fan_in + 1), size=size) for size in (kernel, bias)]
        total += sum((array**2).sum() for array in drawn)
        return {"kernel": jnp.asarray(drawn[0]), "bias": jnp.asarray(drawn[1])}

    tree = {"input": layer(5, (5, 20), 20)}
    for stage in range(5):
        for block in range(4):
            tree[f"stage_{stage}_block_{block}"] = {
                "expand": layer(20, (20, 40), 40),
                "depthwise": layer(9, (3, 3, 40, 3), 120),
                "contract": layer(120, (120, 20), 20),
            }
    tree["output"] = layer(20, (20, 256), 256)
    return {"params": tree}, total


@pytest.mark.slow
@pytest.mark.skipif(
    not (IMAGES.exists() and RECORDED.exists()), reason="no recording of the released code beside the project"
)
def test_loss_and_gradient_norm_are_the_released_codes():
    recorded = np.load(RECORDED)
    images = read_idx(IMAGES)[:-64]
    random = np.random.RandomState(0)
    random.randint(len(images), size=256)
    with enable_x64(True):
        params, squares = initial_weights(random)
        assert math.isclose(squares, recorded["x0_sumsq"], rel_tol=1e-13)
        # LODO's sixteen permutations and blocks are drawn before the first batch: ñ = 2 · 94,696 + 4.
        for _ in range(16):
            random.permutation(189_396)
            random.normal(size=189_396 * 4)
        rows, drawn = random.randint(len(images), size=256), random.randint(28, size=(256, 2))
        positions = (drawn[:, 0] * 28 + drawn[:, 1]).astype(np.int32)
        network = AutoregressiveNetwork(param_dtype=jnp.float64, form="shifted")

        @jax.jit
        def slice_sums(slices):
            def one(batch):
                return jax.value_and_grad(lambda p: jnp.sum(cross_entropy(network, p, batch)))(params)

            zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
            return jax.lax.scan(lambda total, batch: (jax.tree.map(jnp.add, total, one(batch)), None), zero, slices)[0]

        slices = PixelBatch(jnp.asarray(images[rows].reshape(16, 16, 28, 28)), jnp.asarray(positions.reshape(16, 16)))
        loss, gradient = jax.tree.map(lambda leaf: leaf / 256, slice_sums(slices))
        assert math.isclose(loss, recorded["loss"][0], rel_tol=1e-12)
        # The second step is −α₀ Gθ m with orthogonal blocks, α₀ = 0.1 and m = 0.1 g: its norm is 0.01 ‖g‖.
        norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
        assert math.isclose(0.01 * norm, recorded["step_norm"][0], rel_tol=1e-9)
