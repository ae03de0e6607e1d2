"""Shared by the tests of `lodo.quasi_newton`: problems, a runner, and the four optimizers under one call."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import quasi_newton

# Steps long enough to learn from, with the call each optimizer wants.
FACTORIES = {
    "olbfgs": lambda **kw: quasi_newton.olbfgs(**{"learning_rate": 0.5, "decay_steps": 100.0, "epsilon": 0.1, **kw}),
    "lbfgs_no_line_search": lambda **kw: quasi_newton.lbfgs_no_line_search(
        **{"learning_rate": 0.5, "decay_steps": 100.0, "epsilon": 0.1, **kw}
    ),
    "bfgs": lambda **kw: quasi_newton.bfgs(**{"learning_rate": 0.5, "initial_scale": 0.1, **kw}),
    "bfgs_same_batch": lambda **kw: quasi_newton.bfgs(
        **{"learning_rate": 0.5, "initial_scale": 0.1, "same_batch": True, **kw}
    ),
    "levenberg_marquardt": lambda **kw: quasi_newton.levenberg_marquardt(**{"damping": 0.1, **kw}),
}
NAMES = list(FACTORIES)


def spd(n, seed=0, condition=100.0):
    """A random symmetric positive definite matrix with log-spaced eigenvalues from 1 to `condition`."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q @ np.diag(np.geomspace(1.0, condition, n)) @ q.T


def rosenbrock(x):
    return 0.01 * (1.0 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2


def run(optimizer, loss, x, batches, hessian=None):
    """x after every update [T, n] of a scan over the batches, and the last state; loss(x, batch)."""
    gradient = jax.grad(loss)

    def step(carry, batch):
        x, state = carry
        updates, state = optimizer.update(
            gradient(x, batch),
            state,
            x,
            grad_fn=lambda p: gradient(p, batch),
            hessian=lambda p: jax.hessian(loss)(p, batch),
        )
        x = optax.apply_updates(x, updates)
        return (x, state), x

    (_, state), points = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), batches))(x)
    return points, state


def noisy_quadratic(matrix):
    """The loss ½ (x − c)ᵀ A (x − c), whose batch is c."""
    a = jnp.asarray(matrix)
    return lambda x, centre: 0.5 * (x - centre) @ (a @ (x - centre))
