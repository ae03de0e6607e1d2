"""Networks trained on data that a seed makes: regressions, images, characters, sequences, densities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo_experiments.tasks.problems.layers import apply, cross_entropy, dense, normal, normalised
from lodo_experiments.tasks.problems.problem import Params, Problem, like


def mlp(name: str, *, width: int, seed: int, steps: int, dtype: Any = jnp.float32, scales: float = 1.0) -> Problem:
    """Fits 128 points of a function of two variables, tanh, full batch, mean square error.

    Args:
      width: of the two hidden layers.
      seed: of the function and the points.
      dtype: of the parameters and of the network's arithmetic.
      scales: the stored parameters are the layers' own times ``scales``^(1 − l) in layer l, so 1 is the plain network.
    """
    rng = np.random.default_rng(seed)
    x, (a, b) = rng.uniform(-1, 1, (128, 2)), rng.uniform(2, 4, 2)
    y = np.sin(a * x[:, 0]) * np.cos(b * x[:, 1]) + 0.5 * x[:, 0]

    def factor(layer: int) -> float:
        return float(scales ** (1 - layer))

    def init(key: jax.Array) -> Params:
        layers = dense(key, (2, width, width, 1), dtype)
        return [(w * factor(i), c * factor(i)) for i, (w, c) in enumerate(layers)]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        layers = [(w / factor(i), c / factor(i)) for i, (w, c) in enumerate(params)]
        off = apply(layers, like(x, params))[:, 0] - like(y, params)
        return jnp.mean(off.astype(jnp.promote_types(off.dtype, jnp.float32)) ** 2)

    return Problem(name, init, loss, steps)


def residual_mlp(name: str, *, width: int, blocks: int, batch: int, seed: int, steps: int) -> Problem:
    """A residual network with layer normalisation, three classes of points on noisy spirals, by minibatches."""
    rng = np.random.default_rng(seed)
    labels, turn = rng.integers(0, 3, 512), rng.uniform(0.2, 1, 512)
    angle = 4 * turn + 2 * np.pi * labels / 3
    x = turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * rng.normal(size=(512, 2))

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, blocks + 2)
        first, last = dense(keys[0], (2, width)), dense(keys[1], (width, 3))
        return {"first": first, "blocks": [dense(k, (width, width, width)) for k in keys[2:]], "last": last}

    def loss(params: Params, key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (batch,), 0, 512)
        h = apply(params["first"], like(x, params)[drawn])
        for block in params["blocks"]:
            h = h + apply(block, normalised(h), jax.nn.gelu)
        return cross_entropy(apply(params["last"], h), jnp.asarray(labels)[drawn])

    return Problem(name, init, loss, steps, stochastic=True)


def convolutional(name: str, *, batch: int, seed: int, steps: int) -> Problem:
    """Two strided convolutions and a dense layer on 8 × 8 images of noisy bars in four orientations, by minibatches."""
    rng = np.random.default_rng(seed)
    labels, grid = rng.integers(0, 4, 256), np.arange(8) - 3.5
    angle, place = np.pi * labels / 4, rng.uniform(-2, 2, 256)
    across = np.cos(angle)[:, None, None] * grid[:, None] + np.sin(angle)[:, None, None] * grid - place[:, None, None]
    images = np.exp(-(across**2)) + 0.4 * rng.normal(size=(256, 8, 8))

    def init(key: jax.Array) -> Params:
        one, two, three = jax.random.split(key, 3)
        convolutions = [(normal(one, (3, 3, 1, 4), 9), jnp.zeros(4)), (normal(two, (3, 3, 4, 8), 36), jnp.zeros(8))]
        return {"convolutions": convolutions, "dense": dense(three, (32, 4))}

    def loss(params: Params, key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (batch,), 0, 256)
        h = like(images, params)[drawn][..., None]
        for kernel, bias in params["convolutions"]:
            h = jax.lax.conv_general_dilated(h, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = jax.nn.relu(h + bias)
        return cross_entropy(apply(params["dense"], h.reshape(batch, -1)), jnp.asarray(labels)[drawn])

    return Problem(name, init, loss, steps, stochastic=True)


def _characters(seed: int, kinds: int, length: int) -> np.ndarray:
    """A text from a Markov chain of order two, [length] integers."""
    rng = np.random.default_rng(seed)
    following = rng.dirichlet(np.full(kinds, 0.15), (kinds, kinds))
    text = [0, 1]
    while len(text) < length:
        text.append(int(rng.choice(kinds, p=following[text[-2], text[-1]])))
    return np.array(text)


def character_model(name: str, *, kinds: int, batch: int, seed: int, steps: int) -> Problem:
    """The next of a few characters from embeddings of the last three, by minibatches."""
    text = _characters(seed, kinds, 2_000)

    def init(key: jax.Array) -> Params:
        one, two = jax.random.split(key)
        return {"embedding": normal(one, (kinds, 4), 1), "dense": dense(two, (12, 16, kinds))}

    def loss(params: Params, key: jax.Array) -> jax.Array:
        places = jax.random.randint(key, (batch, 1), 0, len(text) - 4) + jnp.arange(4)
        drawn = jnp.asarray(text)[places]
        h = params["embedding"][drawn[:, :3]].reshape(batch, -1)
        return cross_entropy(apply(params["dense"], h), drawn[:, 3])

    return Problem(name, init, loss, steps, stochastic=True)


def transformer(name: str, *, kinds: int, length: int, width: int, batch: int, seed: int, steps: int) -> Problem:
    """One block of causal attention and a dense layer on characters, with layer normalisation, by minibatches."""
    text = _characters(seed, kinds, 2_000)

    def init(key: jax.Array) -> Params:
        parts = ("query", "key", "value")
        token, place, hidden, out, *attention = jax.random.split(key, 4 + len(parts))
        return {
            "token": normal(token, (kinds, width), width),
            "place": normal(place, (length, width), width),
            **{part: normal(k, (width, width), width) for part, k in zip(parts, attention, strict=True)},
            "dense": dense(hidden, (width, 2 * width, width)),
            "out": dense(out, (width, kinds)),
        }

    def loss(params: Params, key: jax.Array) -> jax.Array:
        places = jax.random.randint(key, (batch, 1), 0, len(text) - length - 1) + jnp.arange(length + 1)
        drawn = jnp.asarray(text)[places]
        h = params["token"][drawn[:, :-1]] + params["place"]
        seen = normalised(h)
        attention = (seen @ params["query"]) @ (seen @ params["key"]).swapaxes(-1, -2) / width**0.5
        attention = jnp.where(np.tril(np.ones((length, length), bool)), attention, -jnp.inf)
        h = h + jax.nn.softmax(attention, axis=-1) @ (seen @ params["value"])
        h = h + apply(params["dense"], normalised(h), jax.nn.gelu)
        return cross_entropy(apply(params["out"], normalised(h)), drawn[:, 1:])

    return Problem(name, init, loss, steps, stochastic=True)


def adding(name: str, *, width: int, length: int, batch: int, steps: int) -> Problem:
    """A recurrent network that adds the two marked numbers of a sequence; new sequences at each step."""

    def init(key: jax.Array) -> Params:
        one, two, three = jax.random.split(key, 3)
        orthogonal = jnp.linalg.qr(jax.random.normal(two, (width, width)))[0]
        return {
            "input": normal(one, (2, width), 2), "memory": orthogonal, "bias": jnp.zeros(width),
            "out": dense(three, (width, 1)),
        }  # fmt: skip

    def loss(params: Params, key: jax.Array) -> jax.Array:
        dtype = params["bias"].dtype
        numbers, first, second = jax.random.split(key, 3)
        x = jax.random.uniform(numbers, (batch, length), dtype)
        marks = jax.nn.one_hot(jax.random.randint(first, (batch,), 0, length // 2), length, dtype=dtype)
        marks += jax.nn.one_hot(jax.random.randint(second, (batch,), length // 2, length), length, dtype=dtype)
        h = jnp.zeros((batch, width), dtype)
        for t in range(length):
            seen = jnp.stack([x[:, t], marks[:, t]], axis=1)
            h = jnp.tanh(seen @ params["input"] + h @ params["memory"] + params["bias"])
        return jnp.mean((apply(params["out"], h)[:, 0] - jnp.sum(x * marks, axis=1)) ** 2)

    return Problem(name, init, loss, steps, stochastic=True)


def autoencoder(name: str, *, seed: int, steps: int) -> Problem:
    """16 numbers through 3, from points on a curved three-dimensional surface, full batch."""
    rng = np.random.default_rng(seed)
    x = np.tanh(np.tanh(rng.normal(size=(128, 3)) @ rng.normal(size=(3, 8))) @ rng.normal(size=(8, 16)))

    def loss(params: Params, key: jax.Array) -> jax.Array:
        return jnp.mean((apply(params, like(x, params)) - like(x, params)) ** 2)

    return Problem(name, lambda key: dense(key, (16, 8, 3, 8, 16)), loss, steps)


def deep_linear(name: str, *, size: int, depth: int, condition: float, seed: int, steps: int) -> Problem:
    """‖W_N … W_1 − T‖² / size, a product of square matrices fitted to one with log-spaced singular values."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    target = (U * np.geomspace(1, 1 / condition, size)) @ V

    def init(key: jax.Array) -> Params:
        return [normal(k, (size, size), size) for k in jax.random.split(key, depth)]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        product = params[0]
        for W in params[1:]:
            product = W @ product
        return jnp.sum((product - like(target, params)) ** 2) / size

    return Problem(name, init, loss, steps)


def mixture_density(name: str, *, width: int, parts: int, batch: int, seed: int, steps: int) -> Problem:
    """Log likelihood of a normal mixture whose parameters a network gives, of a curve with several branches."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, 512)
    x = y + 0.3 * np.sin(2 * np.pi * y) + 0.05 * rng.normal(size=512)

    def loss(params: Params, key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (batch,), 0, 512)
        given, wanted = like(x, params)[drawn, None], like(y, params)[drawn, None]
        logits, mean, spread = jnp.split(apply(params, given), 3, axis=1)
        spread = jax.nn.softplus(spread) + 0.02
        logs = jax.nn.log_softmax(logits) - 0.5 * ((wanted - mean) / spread) ** 2 - jnp.log(spread)
        # 4 = −log 0.02 and a little: no part is narrower, so that the loss stays above 0.
        return 4.0 - jnp.mean(jax.nn.logsumexp(logs, axis=1))

    return Problem(name, lambda key: dense(key, (1, width, 3 * parts)), loss, steps, stochastic=True)
