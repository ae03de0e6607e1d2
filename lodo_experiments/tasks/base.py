"""The interface of a task: pure functions that give the initial parameters, batches, losses and measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

Params = Any
Data = Any
DataState = Any
Batch = Any


@dataclass(frozen=True, eq=False)
class Task:
    """A stochastic optimization problem in pure functions, fit for ``jit``, ``vmap`` and ``lax.scan``.

    Arrays that all runs share (a data set, a Hessian) are in ``data``, which the functions take, so that they
    are arguments of a compiled program and not constants inside it. What a run carries from batch to batch (the
    bowl's centre) is its data state.
    """

    name: str
    #: Arrays that all runs share, a pytree.
    data: Data
    #: (key) → parameters, a pytree.
    init: Callable[[jax.Array], Params]
    #: (data, key) → the data state of a run.
    init_data: Callable[[Data, jax.Array], DataState]
    #: (data, data state, key) → (batch, next data state).
    sample: Callable[[Data, DataState, jax.Array], tuple[Batch, DataState]]
    #: (parameters, batch) → loss, [].
    loss: Callable[[Params, Batch], jax.Array]
    #: (data, parameters, optimizer state, data state) → named scalars that are measured now and then; None: nothing is.
    measure: Callable[[Data, Params, Any, DataState], dict[str, jax.Array]] | None = None
    #: Whether ``measure`` is compiled as a separate program, once for all optimizers, and gets None for the optimizer's
    #: state: for measurements that cost as much as many steps. Otherwise the training's program contains it.
    measured_separately: bool = False
    #: (parameters, batch) → Hessian [n, n], for second-order baselines; None: not offered.
    hessian: Callable[[Params, Batch], jax.Array] | None = None
    #: (parameters, batch, data state) → (loss, next data state): the loss of a task whose data state changes with the
    #: evaluation, such as BatchNorm's running statistics. Where given, training differentiates this one, and ``loss``
    #: serves the second evaluations on the same batch that some optimizers make. None: ``loss`` serves both.
    stateful_loss: Callable[[Params, Batch, DataState], tuple[jax.Array, DataState]] | None = None
