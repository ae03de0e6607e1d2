"""The two suites: one that defaults are chosen on, and one of other problems and seeds that is run once, afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from lodo_experiments.tasks.problems import factorisation, functions, networks, physics, regression
from lodo_experiments.tasks.problems.problem import Problem

Makers = Mapping[str, Callable[[str], Problem]]


def _of(maker: Callable[..., Problem], *given: object, **named: object) -> Callable[[str], Problem]:
    return lambda name: maker(name, *given, **named)


def _log_spaced(condition: float, size: int) -> np.ndarray:
    return np.geomspace(1, 1 / condition, size)


def _clustered(size: int) -> np.ndarray:
    return np.concatenate([np.full(5, 100.0), np.full(size - 5, 0.01)]) * np.linspace(1, 2, size)


#: Name → maker. Defaults may be chosen by what happens on these.
DEVELOPMENT: Makers = {
    "quadratic_1e2": _of(functions.quadratic, 50, _log_spaced(1e2, 50), seed=1, steps=600),
    "quadratic_1e6": _of(functions.quadratic, 50, _log_spaced(1e6, 50), seed=2, steps=1_000),
    "quadratic_noisy": _of(functions.quadratic, 50, _log_spaced(1e2, 50), seed=3, steps=1_000, noise=0.1),
    "rosenbrock_2": _of(functions.rosenbrock, 2, steps=600),
    "rosenbrock_20": _of(functions.rosenbrock, 20, steps=2_000),
    "rastrigin": _of(functions.rastrigin, 10, steps=600),
    "logistic": _of(regression.logistic, rows=200, columns=20, seed=4, steps=600),
    "linear_1e6": _of(regression.linear, condition=1e6, rows=100, columns=30, seed=5, steps=1_000),
    "mlp": _of(networks.mlp, width=12, seed=6, steps=1_000),
    "cnn": _of(networks.convolutional, batch=32, seed=7, steps=600),
    "characters": _of(networks.character_model, kinds=12, batch=32, seed=8, steps=800),
    "autoencoder": _of(networks.autoencoder, seed=9, steps=1_000),
    "matrix_factorisation": _of(factorisation.matrix, rows=20, columns=15, rank=3, seed=10, steps=800),
    "deep_linear": _of(networks.deep_linear, size=8, depth=4, condition=10.0, seed=11, steps=800),
    "poisson_network": _of(physics.poisson_network, width=12, frequency=3, points=64, steps=2_000),
    "neural_ode": _of(physics.neural_ode, width=16, seed=12, steps=600),
    "gaussian_process": _of(regression.gaussian_process, rows=40, inputs=3, seed=13, steps=600),
    "mlp_loss_1e-3": lambda name: networks.mlp("", width=12, seed=14, steps=800).scaled(name, 1e-3),
    "mlp_loss_1e3": lambda name: networks.mlp("", width=12, seed=15, steps=800).scaled(name, 1e3),
    "mlp_badly_scaled": _of(networks.mlp, width=12, seed=16, steps=1_000, scales=10.0),
    "mlp_bfloat16": _of(networks.mlp, width=12, seed=17, steps=800, dtype=jnp.bfloat16),
}

#: Name → maker. No default, rule or rate is chosen by what happens on these.
HELD_OUT: Makers = {
    "poisson_resampled": _of(physics.poisson_network, width=14, frequency=4, points=32, steps=2_000, resampled=True),
    "heat_network": _of(physics.heat_network, width=12, points=64, seed=101, steps=1_500),
    "beale": _of(functions.beale, 10, steps=800),
    "styblinski_tang": _of(functions.styblinski_tang, 20, steps=600),
    "powell_singular": _of(functions.powell_singular, 5, steps=1_000),
    "wood": _of(functions.wood, 4, steps=1_500),
    "quadratic_clustered": lambda name: functions.quadratic("", 60, _clustered(60), seed=102, steps=800).scaled(
        name, 1e-4
    ),
    "poisson_regression": _of(regression.poisson, rows=200, columns=15, seed=103, steps=800),
    "softmax_regression": _of(regression.softmax, rows=400, columns=16, classes=5, batch=32, seed=104, steps=800),
    "huber_regression": _of(regression.huber, rows=200, columns=20, seed=105, steps=800),
    "quantile_regression": _of(regression.quantile, level=0.9, rows=200, columns=12, seed=106, steps=1_000),
    "kernel_ridge": _of(regression.kernel_ridge, rows=60, width=0.5, penalty=1e-4, seed=107, steps=1_000),
    "tensor_factorisation": _of(factorisation.tensor, sizes=(10, 9, 8), rank=4, seed=108, steps=1_000),
    "word_embedding": _of(factorisation.embedding, words=30, size=4, seed=109, steps=800),
    "phase_retrieval": _of(factorisation.phase_retrieval, size=20, measurements=120, seed=110, steps=800),
    "rayleigh_quotient": _of(factorisation.rayleigh, size=30, count=3, seed=111, steps=800),
    "transformer": _of(networks.transformer, kinds=10, length=8, width=8, batch=16, seed=112, steps=800),
    "adding_network": _of(networks.adding, width=12, length=10, batch=32, steps=1_000),
    "residual_mlp": _of(networks.residual_mlp, width=10, blocks=2, batch=32, seed=113, steps=1_000),
    "mixture_density": _of(networks.mixture_density, width=16, parts=4, batch=32, seed=114, steps=800),
    "deconvolution": _of(physics.deconvolution, size=64, width=2.0, seed=115, steps=1_000),
    "linear_control": _of(physics.linear_control, length=30, states=4, seed=116, steps=800),
    "pendulum_control": _of(physics.pendulum_control, length=40, steps=800),
    "autoencoder_loss_1e4": lambda name: networks.autoencoder("", seed=117, steps=800).scaled(name, 1e4),
}

#: Suite's name → its problems' makers, in the order in which tables show them.
SUITES: Mapping[str, Makers] = {"development": DEVELOPMENT, "held_out": HELD_OUT}


@functools.cache
def problem_named(name: str) -> Problem:
    """The problem of that name, its data made on the first call.

    Raises:
      ValueError: there is none; the message lists those there are.

    >>> problem_named("rosenbrock_20").size()
    20
    """
    makers = {**DEVELOPMENT, **HELD_OUT}
    if name not in makers:
        raise ValueError(f"There is no problem {name!r}; there are {', '.join(makers)}.")
    return makers[name](name)
