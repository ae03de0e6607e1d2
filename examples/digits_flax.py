import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import lodo


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):  # [batch, 8, 8, 1]
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images, labels = jnp.asarray(digits.images[order, :, :, None] / 16), jnp.asarray(digits.target[order])
train, choose, test = slice(0, 1100), slice(1100, 1400), slice(1400, None)
network = Network()


def loss(params, batch):
    logits = network.apply(params, images[batch])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()


def accuracy(params, part):
    return float(jnp.mean(jnp.argmax(network.apply(params, images[part]), axis=1) == labels[part]))


def fit(optimizer, steps=400):
    params = network.init(jax.random.key(0), images[:1])
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(1)
    for _ in range(steps):
        params, state = step(params, state, rng.integers(0, train.stop, 128))
    return params


# Each has as many values to choose from, by the 300 images held out for choosing; rlodo has nothing to choose.
clip = optax.clip_by_global_norm(1.0)
tries = {
    "Adam": [optax.adam(rate) for rate in (1e-3, 3e-3, 1e-2)],
    "LODO": [optax.chain(clip, lodo.lodo(rate)) for rate in (0.3, 1.0, 3.0)],
    "rlodo": [lodo.rlodo()],
}
for name, optimizers in tries.items():
    fitted = max((fit(optimizer) for optimizer in optimizers), key=lambda params: accuracy(params, choose))
    print(f"{name:5s}  training loss {loss(fitted, train):.5f}  test accuracy {accuracy(fitted, test):.4f}")
