"""The ResNet: its size, its two forms, its gradient, and what BatchNorm keeps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_cases import enable_x64

from lodo_experiments.models import CONVOLUTIONS, ResNet, convolve, initial_variables

SMALL = ResNet(classes=3, width=2, stages=(1, 1))


# Compiled once for all tests: layer by layer they would take much longer.
evaluate = jax.jit(SMALL.apply)
train = jax.jit(functools.partial(SMALL.apply, train=True, mutable=["batch_stats"]))


def size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def variables(network, side, channels=1, seed=0):
    params, statistics = initial_variables(network, jax.random.key(seed), side, side, channels)
    return {"params": params, "batch_stats": statistics}


def pictures(count, side, channels=1, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, side, side, channels)), dtype)


def paper_size(width: int, classes: int) -> int:
    """Counted by hand: each convolution has a scale and a shift for each of its features, and no bias."""
    layers = [(3, 3, width)]
    channels = width
    for stage in range(4):
        features = width * 2**stage
        layers += [(3, channels, features), (3, features, features), (3, features, features), (3, features, features)]
        if stage:
            layers.append((1, channels, features))
        channels = features
    return sum(k * k * a * b + 2 * b for k, a, b in layers) + (channels + 1) * classes


def test_the_papers_network_has_11_million_parameters():
    shapes = jax.eval_shape(lambda key: initial_variables(ResNet(), key, 32, 32, 3), jax.random.key(0))
    assert size(shapes[0]) == paper_size(64, 10) == 11_173_962
    # A mean and a variance of each feature, and nothing of that among the parameters.
    assert size(shapes[1]) == 2 * (64 * 5 + (128 + 256 + 512) * 5)
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes[0])}
    assert names == {"kernel", "scale", "bias"}
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes[1])} == {"mean", "var"}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_shapes_of_every_stage(form):
    """Sides are halved upwards: 14 → 7 → 4 → 2; the last stage is eight times as wide."""
    network = ResNet(classes=5, width=2, form=form)
    shapes = jax.eval_shape(
        lambda x: network.init_with_output(jax.random.key(0), x, capture_intermediates=True),
        jax.ShapeDtypeStruct((3, 14, 14, 1), jnp.float32),
    )
    assert shapes[0].shape == (3, 5)
    blocks = shapes[1]["intermediates"]
    last = [blocks[f"stage_{stage}_block_1"]["__call__"][0].shape for stage in range(4)]
    expected = [(3, side, side, 2 * 2**stage) for stage, side in enumerate((14, 7, 4, 2))]
    assert last == (
        [tuple(shape[axis] for axis in (3, 1, 2, 0)) for shape in expected] if form == "patches" else expected
    )


def slow_convolution(x, kernel, stride):
    """Sums over the window of each output pixel, in NumPy."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            top, left = stride * i, stride * j
            window = padded[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
            out[:, i, j] = np.einsum("bijc,ijcf->bf", window, kernel)
    return out


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("side", "stride", "kernel_size"), [((4, 6), 1, 3), ((4, 6), 2, 3), ((5, 3), 2, 3), ((5, 4), 2, 1)]
)
def test_convolutions_are_sums_over_windows(form, side, stride, kernel_size):
    random = np.random.default_rng(1)
    x, kernel = random.normal(size=(2, *side, 3)), random.normal(size=(kernel_size, kernel_size, 3, 4))
    with enable_x64(True):
        given = jnp.asarray(x if form == "direct" else x.transpose(3, 1, 2, 0))
        got = np.asarray(convolve(given, jnp.asarray(kernel), stride, form))
    got = got if form == "direct" else got.transpose(3, 1, 2, 0)
    np.testing.assert_allclose(got, slow_convolution(x, kernel, stride), rtol=0, atol=1e-12)


def test_both_forms_are_one_network():
    """Values, gradients and statistics, in training and in evaluation, up to rounding in float64."""
    with enable_x64(True):
        results = []
        for form in CONVOLUTIONS:
            network = ResNet(classes=3, width=2, stages=(1, 1), form=form, param_dtype=jnp.float64)
            given, x = variables(network, 5), pictures(4, 5, dtype=np.float64)

            def square(params, network=network, given=given, x=x):
                logits, changed = network.apply({**given, "params": params}, x, train=True, mutable=["batch_stats"])
                return jnp.sum(logits**2), changed

            value, gradient = jax.jit(jax.value_and_grad(square, has_aux=True))(given["params"])
            results.append((value, gradient, jax.jit(network.apply)(given, x)))
        # flax keeps the running statistics in float32.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), *results)


def test_gradient_against_finite_differences():
    with enable_x64(True):
        network = ResNet(classes=3, width=2, stages=(1, 1), param_dtype=jnp.float64)
        given, x = variables(network, 4), pictures(5, 4, dtype=np.float64)
        assert {leaf.dtype for leaf in jax.tree.leaves(given["params"])} == {jnp.dtype("float64")}

        @jax.jit
        def loss(params):
            logits, _ = network.apply({**given, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(logits))

        def along(direction, sign, step=1e-6):
            return loss(jax.tree.map(lambda p, d: p + sign * step * d, given["params"], direction)) / (2 * step)

        gradient = jax.jit(jax.grad(loss))(given["params"])
        random = np.random.default_rng(0)
        for _ in range(4):
            direction = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), given["params"])
            slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
            assert float(abs(slope)) > 1e-3
            np.testing.assert_allclose(along(direction, 1) - along(direction, -1), slope, rtol=1e-5)


def test_statistics_move_by_the_momentum_towards_the_batchs():
    given, x = variables(SMALL, 4), pictures(64, 4)
    _, changed = train(given, x)
    stem = slow_convolution(np.asarray(x, np.float64), np.asarray(given["params"]["stem"]["kernel"], np.float64), 1)
    mean, variance = stem.mean((0, 1, 2)), stem.var((0, 1, 2))
    norm = changed["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(norm["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_running_statistics_of_one_batch_over_and_over_are_its_own():
    """In the limit the evaluation with running statistics is the training's with that batch's."""
    given, x = variables(SMALL, 4), pictures(32, 4)

    statistics = given["batch_stats"]
    for _ in range(200):
        logits, changed = train({**given, "batch_stats": statistics}, x)
        statistics = changed["batch_stats"]
    evaluated = evaluate({**given, "batch_stats": statistics}, x)
    np.testing.assert_allclose(evaluated, logits, rtol=1e-4, atol=1e-5)
    # Not so before: running statistics at their start are 0 and 1.
    assert not np.allclose(evaluate(given, x), logits, atol=1e-2)


def test_evaluation_looks_at_each_image_alone_and_training_does_not():
    given, x = variables(SMALL, 4), pictures(6, 4)
    whole, part = evaluate(given, x), evaluate(given, x[:2])
    np.testing.assert_allclose(whole[:2], part, rtol=1e-5, atol=1e-6)
    trained = [train(given, some)[0][:2] for some in (x, x[:2])]
    assert not np.allclose(*trained, atol=1e-2)


def test_normalised_features_have_mean_0_and_variance_1():
    """BatchNorm's scale and shift are 1 and 0 at the start; the variance lacks what ε takes."""
    network = ResNet(classes=3, width=4, stages=(1,), form="direct")
    given, x = variables(network, 8), 0.03 * pictures(64, 8)
    _, state = network.apply(given, x, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True)
    stem = np.asarray(state["intermediates"]["stem"]["__call__"][0], np.float64)
    np.testing.assert_allclose(stem.mean((0, 1, 2)), 0, atol=1e-5)
    raw = slow_convolution(np.asarray(x, np.float64), np.asarray(given["params"]["stem"]["kernel"], np.float64), 1)
    variance = raw.var((0, 1, 2))
    np.testing.assert_allclose(stem.var((0, 1, 2)), variance / (variance + 1e-5), rtol=1e-4)


def test_initial_parameters_are_hes_and_differ_by_key():
    network = ResNet(width=16, stages=(1,))
    start = jax.jit(lambda key: initial_variables(network, key, 8, 8, 3)[0])
    params, others = start(jax.random.key(0)), start(jax.random.key(1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel" and leaf.size > 2000:
            wanted = math.sqrt(2 / math.prod(leaf.shape[:-1]))
            # Five standard errors of a standard deviation over so many draws.
            assert abs(float(jnp.std(leaf)) / wanted - 1) < 5 / math.sqrt(2 * leaf.size)
    assert not np.allclose(params["stem"]["kernel"], others["stem"]["kernel"])
    # The same tree as flax's own start, with the same constants.
    flax_own = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.float32))
    assert jax.tree.structure(flax_own["params"]) == jax.tree.structure(params)
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(flax_own["params"])):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if path[-1].key != "kernel":
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (SMALL, (8, 8, 1), "takes images"),
        (SMALL, (0, 8, 8, 1), "takes images"),
        (ResNet(width=0), (1, 8, 8, 1), "width must be an integer of at least 1"),
        (ResNet(classes=0), (1, 8, 8, 1), "classes must be"),
        (ResNet(stages=()), (1, 8, 8, 1), "stages must hold"),
        (ResNet(stages=(1, 0)), (1, 8, 8, 1), "stages must be"),
        (ResNet(form="grouped"), (1, 8, 8, 1), "form must be one of patches, direct"),
    ],
)
def test_what_does_not_fit_is_refused(network, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
