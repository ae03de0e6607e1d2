"""Every public transformation, in each form that computes in its own way, for the common battery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

import lodo
from lodo import compact, operators, quasi_newton
from lodo.operators import BlockPermutation


@dataclass(frozen=True)
class Form:
    """A factory, and the arguments at which it makes quick progress on small problems."""

    factory: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    rates: tuple[str, ...] = ()  # arguments that may be 0 in the middle of a run
    static: tuple[str, ...] = ()  # what optax.inject_hyperparams has to leave alone
    needs_params: bool = False

    def make(self, **changed: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation, with some arguments changed."""
        return self.factory(**{**self.arguments, **changed})

    def injected(self, **changed: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation made by ``optax.inject_hyperparams``."""
        return optax.inject_hyperparams(self.factory, static_args=self.static)(**{**self.arguments, **changed})


def of_lodo(**arguments: Any) -> Form:
    rates = ("initial_learning_rate",)
    if "meta_optimizer" not in arguments:
        rates = (*rates, "meta_learning_rate")
    return Form(lodo.lodo, {"initial_learning_rate": 0.1, **arguments}, (*rates, "momentum"))


def quasi(name: str, rates: tuple[str, ...], static: tuple[str, ...] = (), **arguments: Any) -> Form:
    return Form(getattr(quasi_newton, name), arguments, rates, static, needs_params=True)


LIMITED = {"learning_rate": 0.5, "decay_steps": 100.0, "epsilon": 0.1, "buffer_size": 3}
RATES = ("learning_rate", "epsilon", "regularization")
MESH = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("blocks",))

FORMS = {
    "lodo": of_lodo(operator=BlockPermutation(2, 2)),
    "lodo, by its integers": Form(
        lodo.lodo,
        {"initial_learning_rate": 0.1, "depth": 1, "block_size": 2},
        ("initial_learning_rate",),
        ("depth", "block_size", "hidden_size"),
    ),
    "lodo, large": of_lodo(operator=BlockPermutation(1, 2, hidden_size=2048)),
    "lodo, no layers": of_lodo(operator=BlockPermutation(0, 2)),
    "lodo, rolled": of_lodo(operator=BlockPermutation(2, 2, permutations="rolled")),
    "lodo, native": of_lodo(operator=BlockPermutation(2, 2, kernel="native")),
    "lodo, sharded": of_lodo(operator=operators.ShardedBlockPermutation(MESH, depth=1, block_size=2)),
    "lodo, residuals": of_lodo(operator=operators.Residuals(1), initial_learning_rate=0.02),
    "lodo, diagonal": of_lodo(operator=operators.Diagonal()),
    "lodo, scalar": of_lodo(operator=operators.Scalar()),
    "lodo, sgd": of_lodo(operator=operators.Diagonal(), meta_optimizer=optax.sgd(1e-3)),
    "lodo, compact": of_lodo(operator=BlockPermutation(1, 2), storage="compact"),
    "lodo, 8 bits": of_lodo(operator=BlockPermutation(1, 2), storage=compact.Storage("int8", "int8", "int8")),
    "lodo, factored": of_lodo(
        operator=BlockPermutation(1, 2), storage=compact.Storage("bfloat16", "bfloat16", "factored")
    ),
    "rlodo": Form(
        lodo.rlodo,
        {"initial_learning_rate": 0.1, "whitening": 0.1, "depth": 2, "block_size": 2},
        ("initial_learning_rate", "meta_learning_rate", "whitening"),
        ("depth", "block_size"),
    ),
    "rlodo, auto": Form(lodo.rlodo, {"operator": BlockPermutation(2, 2, padding=False)}, ("meta_learning_rate",)),
    "rlodo, large": Form(lodo.rlodo, {"operator": BlockPermutation(1, 2, hidden_size=2048)}, ("whitening",)),
    "rlodo, native": Form(
        lodo.rlodo, {"operator": BlockPermutation(2, 2, padding=False, kernel="native")}, ("meta_learning_rate",)
    ),
    "rlodo, compact": Form(
        lodo.rlodo, {"operator": BlockPermutation(2, 2, padding=False), "storage": "compact"}, ("meta_learning_rate",)
    ),
    "olbfgs": quasi("olbfgs", RATES, ("buffer_size",), **LIMITED),
    "olbfgs, released": quasi("olbfgs", RATES, ("buffer_size",), **LIMITED, form="released"),
    "lbfgs": quasi("lbfgs_no_line_search", RATES, ("buffer_size",), **LIMITED),
    "lbfgs, released": quasi("lbfgs_no_line_search", RATES, ("buffer_size",), **LIMITED, form="released"),
    "bfgs": quasi("bfgs", ("learning_rate", "initial_scale"), learning_rate=0.5, initial_scale=0.1),
    "bfgs, same batch": quasi("bfgs", ("learning_rate",), learning_rate=0.5, initial_scale=0.1, same_batch=True),
    "bfgs, released": quasi("bfgs", ("learning_rate",), learning_rate=0.5, initial_scale=0.1, form="released"),
    "levenberg": quasi("levenberg_marquardt", ("damping",), damping=0.1),
    "levenberg, identity": quasi("levenberg_marquardt", ("damping",), damping=0.1, scaling="identity"),
    "levenberg, released": quasi("levenberg_marquardt", ("damping",), damping=0.1, form="released"),
    "compact adam": Form(compact.scale_by_compact_adam, {}, ("b1", "b2")),
}
# Preconditioners without a learning rate ascend by themselves.
SCALED = {"compact adam"}
# Those that compute as another form does but for a detail; the tests have them with -m "", the table always.
DETAILS = {
    *("lodo, no layers", "lodo, rolled", "lodo, sgd", "lodo, scalar", "lodo, 8 bits", "lodo, factored"),
    *("olbfgs, released", "lbfgs", "lbfgs, released", "bfgs, released", "levenberg, identity", "levenberg, released"),
    *("rlodo, auto", "rlodo, large", "rlodo, native", "rlodo, compact"),
    *("lodo, diagonal", "lodo, by its integers", "bfgs, same batch"),
}
