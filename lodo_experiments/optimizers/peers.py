"""What LODO is compared with on the problem suites: each optimizer with a grid of trials, or as it is used untuned.

Every tuned entry has the same number of trials. An optimizer of a package that is not installed is named as missing.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lodo.operators.block_permutation import BlockPermutation
from lodo.transform import lodo
from lodo_experiments.optimizers.optimizer import Build, Optimizer
from lodo_experiments.utils.lodo_kernel import lodo_kernel

#: Trials of each tuned entry, before its grid is extended where the best lies at an edge.
TRIALS = 24


@dataclass(frozen=True, eq=False)
class Peer:
    """An entry of the comparison."""

    optimizer: Optimizer  # how it is built from hyperparameters
    # hyperparameter → values, equally spaced in logarithm where they can be extended; empty: untuned
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    extended: tuple[str, ...] = ()  # the names whose values go on beyond an edge
    missing: str = ""  # the package that it needs and that is not installed; empty: it can run
    version: str = ""  # of that package
    # runs side by side in one program; 0: all. One at a time where that is faster, or a step may end early
    lanes: int = 0
    counts_evaluations: bool = False  # whether a step takes several evaluations, which its state counts


def rates(first: float, last: float, count: int) -> tuple[float, ...]:
    """Values from first to last, equally spaced in logarithm.

    >>> rates(0.01, 1.0, 3)
    (0.01, 0.1, 1.0)
    """
    step = (last / first) ** (1 / max(1, count - 1))
    return tuple(float(f"{first * step**i:.4g}") for i in range(count))


class ScaledGradientState(NamedTuple):
    """State of the online scaled gradient method."""

    scale: optax.Params  # the diagonal P, a tree like the parameters
    gradient: optax.Updates  # of the step before, a tree like the parameters


def online_scaled_gradient(learning_rate: Any, initial_scale: Any) -> optax.GradientTransformation:
    """Gradient descent with a diagonal P that is learned by normalised hypergradients.

    x ← x − P ∘ g and P ← P + η g ∘ g₋ / ‖g₋‖², where g₋ is the gradient of the step before.

    Args:
      learning_rate: η.
      initial_scale: P at the start.

    References:
      Gao, Chu, Ye, Udell, "Gradient Methods with Online Scaling", arXiv 2411.01803.

    >>> optimizer = online_scaled_gradient(0.1, 0.5)
    >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    >>> updates.tolist(), optimizer.update(jnp.ones(2), state)[0].round(3).tolist()
    ([-0.5, -0.5], [-0.550000011920929, -0.550000011920929])
    """

    def init(params: optax.Params) -> ScaledGradientState:
        scale = jax.tree.map(lambda leaf: jnp.full_like(leaf, initial_scale), params)
        return ScaledGradientState(scale, jax.tree.map(jnp.zeros_like, params))

    def update(g: optax.Updates, state: ScaledGradientState, params: Any = None) -> tuple[Any, ScaledGradientState]:
        square = optax.tree.norm(state.gradient, squared=True)
        rate = jnp.where(square > 0, learning_rate / jnp.where(square > 0, square, 1), 0)
        scale = jax.tree.map(lambda p, a, b: p + (rate * a * b).astype(p.dtype), state.scale, g, state.gradient)
        return jax.tree.map(lambda p, a: -p * a, scale, g), ScaledGradientState(scale, g)

    return optax.GradientTransformation(init, update)


def _same_types(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transformation whose state keeps its types also where hyperparameters are arrays, which widen bfloat16."""
    inner = optax.with_extra_args_support(inner)

    def update(g: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, after = inner.update(g, state, params, **extra)
        return updates, jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), after, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _with(factory: Callable[..., Any]) -> Build:
    return lambda h, key, steps: _same_types(factory(**h))


def _lodo(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformationExtraArgs:
    return lodo(**h, operator=BlockPermutation(kernel=lodo_kernel()), seed=key)


def _prodigy(h: Mapping[str, Any], key: jax.Array, steps: int) -> Any:
    return _same_types(optax.contrib.prodigy(h["learning_rate"], betas=(h["b1"], 0.999)))


def _sophia(h: Mapping[str, Any], key: jax.Array, steps: int) -> optax.GradientTransformationExtraArgs:
    """optax's Sophia, which asks for the objective under another name."""
    diagonal = optax.contrib.hutchinson_estimator_diag_hessian(key)
    inner = _same_types(
        optax.contrib.sophia(
            h["learning_rate"], b1=h["b1"], weight_decay=0.0, hessian_diagonal_fn=diagonal, update_interval=10
        )
    )

    def update(g: Any, state: Any, params: Any = None, *, value_fn: Any, **extra: Any) -> Any:
        return inner.update(g, state, params, obj_fn=value_fn)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class CountedState(NamedTuple):
    """State of L-BFGS with its evaluations counted."""

    inner: Any  # optax's
    evaluations: jax.Array  # losses with gradients so far, int32


def counted_lbfgs(budget: int = 0) -> optax.GradientTransformationExtraArgs:
    """optax's L-BFGS with its line search, whose evaluations are counted; at the budget it stops where it is.

    Args:
      budget: evaluations of a loss with its gradient, those of the line search included; 0: none.
    """
    inner = optax.lbfgs()

    def init(params: optax.Params) -> CountedState:
        return CountedState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(g: Any, state: CountedState, params: Any = None, *, value: Any, value_fn: Any, **extra: Any) -> Any:
        def go_on() -> tuple[Any, CountedState]:
            updates, after = inner.update(g, state.inner, params, value=value, grad=g, value_fn=value_fn)
            searched = optax.tree.get(after, "num_linesearch_steps")
            return updates, CountedState(after, state.evaluations + 1 + jnp.asarray(searched, jnp.int32))

        def stay() -> tuple[Any, CountedState]:
            return jax.tree.map(jnp.zeros_like, g), state

        return jax.lax.cond(state.evaluations < budget, go_on, stay) if budget else go_on()

    return optax.GradientTransformationExtraArgs(init, update)


def _kron(h: Mapping[str, Any], key: jax.Array, steps: int) -> Any:
    kron = importlib.import_module("psgdax.psgd").kron
    inner = kron(h["learning_rate"], preconditioner_lr=h["preconditioner_rate"], key=key)

    def init(params: optax.Params) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the size of its state
            return inner.init(params)

    def update(g: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return inner.update(g, state, params)

    return _same_types(optax.GradientTransformationExtraArgs(init, update))


def _rlodo(h: Mapping[str, Any], key: jax.Array, steps: int) -> Any:
    """`lodo.rlodo`, at its own depth and block size also where another kernel is asked for."""
    rlodo = importlib.import_module("lodo").rlodo
    usual, operator = inspect.signature(rlodo).parameters, None
    if (kernel := lodo_kernel()) != "xla":
        depth, block_size = (usual[name].default for name in ("depth", "block_size"))
        operator = BlockPermutation(depth, block_size, padding=False, kernel=kernel)
    return rlodo(**h, operator=operator, seed=key)


def _guarded(build: Build) -> Build:
    return lambda h, key, steps: importlib.import_module("lodo").guard(build(h, key, steps))


_LODO = {"initial_learning_rate": 1.0, "meta_learning_rate": 1e-3}
_LODO_GRID = {
    "initial_learning_rate": rates(1e-3, 1e2, 6),
    "meta_learning_rate": rates(10**-3.5, 1e-2, 4),
}
_RATE = rates(10**-3.5, 1.0, 8)


class MissingPackageError(ValueError):
    """An optimizer was asked for whose package is not installed."""


def _of_package(package: str, peer: Peer) -> Peer:
    """An entry that needs a package of the extra ``peers``; to build it without the package is refused."""
    try:
        return replace(peer, version=f"{package} {metadata.version(package)}")
    except metadata.PackageNotFoundError:
        pass

    def refuse(h: Mapping[str, Any], key: jax.Array, steps: int) -> Any:
        raise MissingPackageError(
            f"{peer.optimizer.name} needs {package}, which is not installed. Install it by: pip install 'lodo[peers]', "
            "or name the other optimizers by --only."
        )

    return replace(peer, missing=package, optimizer=replace(peer.optimizer, build=refuse))


def _tuned(
    name: str, build: Callable[..., Any], about: str, grid: Mapping[str, tuple[float, ...]], lanes: int = 0
) -> Peer:
    """An entry that is tuned over a grid of `TRIALS`, whose rates are extended."""
    scales = ("learning_rate", "initial_learning_rate", "meta_learning_rate", "initial_scale")
    extended = tuple(one for one in grid if one in scales)
    middle = {one: values[len(values) // 2] for one, values in grid.items()}
    return Peer(Optimizer(name, build, middle, about), grid, extended, lanes=lanes)


_ENTRIES = (
    _tuned("LODO tuned", _lodo, "lodo.lodo, α₀ and the meta-learning rate", _LODO_GRID, lanes=1),
    Peer(Optimizer("LODO", _lodo, _LODO, "lodo.lodo() at its defaults"), lanes=1),
    Peer(Optimizer("rlodo", _rlodo, {}, "lodo.rlodo() at its defaults"), lanes=1),
    Peer(Optimizer("LODO guarded", _guarded(_lodo), _LODO, "lodo.guard(lodo.lodo()) at its defaults"), lanes=1),
    Peer(Optimizer("rlodo guarded", _guarded(_rlodo), {}, "lodo.guard(lodo.rlodo()) at its defaults"), lanes=1),
    _tuned(
        "Adam", _with(optax.adam), "optax.adam", {"learning_rate": rates(10**-3.5, 1.0, 8), "b1": (0.8, 0.9, 0.95)}
    ),
    Peer(Optimizer("Adam untuned", _with(optax.adam), {"learning_rate": 1e-3}, "optax.adam(1e-3)")),
    _tuned("Momentum", _with(optax.sgd), "optax.sgd", {"learning_rate": _RATE, "momentum": (0.0, 0.9, 0.99)}),
    _tuned(
        "Muon", _with(optax.contrib.muon), "optax.contrib.muon; Adam on what is no matrix",
        {"learning_rate": _RATE, "beta": (0.9, 0.95, 0.98)},
    ),
    _tuned(
        "Schedule-free", _with(optax.contrib.schedule_free_adamw), "optax.contrib.schedule_free_adamw",
        {"learning_rate": _RATE, "b1": (0.9, 0.95, 0.98)},
    ),
    _tuned(
        "Prodigy", _prodigy, "optax.contrib.prodigy",
        {"learning_rate": rates(10**-1.75, 10**1.75, 8), "b1": (0.8, 0.9, 0.95)},
    ),
    Peer(Optimizer("Prodigy untuned", _prodigy, {"learning_rate": 1.0, "b1": 0.9}, "optax.contrib.prodigy()")),
    _tuned(
        "Sophia", _sophia, "optax.contrib.sophia, Hutchinson's estimate each ten steps",
        {"learning_rate": _RATE, "b1": (0.9, 0.965, 0.99)},
    ),
    _tuned(
        "Online scaling", _with(online_scaled_gradient), "a diagonal learned by normalised hypergradients",
        {"learning_rate": rates(1e-3, 1.0, 4), "initial_scale": rates(1e-4, 1e1, 6)},
    ),
    _of_package(
        "psgdax",
        _tuned(
            "Kron", _kron, "psgdax's Kronecker-factored PSGD",
            {"learning_rate": _RATE, "preconditioner_rate": (0.03, 0.1, 0.3)},
        ),
    ),
    Peer(
        Optimizer(
            "L-BFGS", lambda h, key, steps: counted_lbfgs(budget=steps), {},
            "optax.lbfgs() with its line search, whose evaluations count as steps",
            uses_steps=True,
        ),
        lanes=1, counts_evaluations=True,
    ),
)  # fmt: skip

#: Name → entry, in the order in which tables show them.
PEERS: Mapping[str, Peer] = {peer.optimizer.name: peer for peer in _ENTRIES}
