"""The bytes that one LODO step has to move: the floor under its time where the state is larger than the cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

from lodo._arguments import check_optimizer
from lodo._state import LodoState, RlodoState
from lodo.operators.base import holds_inputs
from lodo.operators.block_permutation import BlockPermutation
from lodo.transform import lodo


@dataclass(frozen=True)
class StepTraffic:
    """What :func:`step_traffic` counts; print it for a table.

    Attributes:
      size: n, the number of parameters.
      passes: what moves in any implementation → bytes.
      indices: bytes of the permutations' indices, where they are stored; not in the floor.
      activations: bytes of the layers' inputs, written and read again; not in the floor.
    """

    size: int
    passes: Mapping[str, int]
    indices: int
    activations: int

    @property
    def floor_bytes(self) -> int:
        """Bytes that any implementation has to move in a step."""
        return sum(self.passes.values())

    def seconds(self, bandwidth: float) -> float:
        """The floor under a step's time.

        Args:
          bandwidth: of the memory, bytes a second.
        """
        return self.floor_bytes / bandwidth

    def __str__(self) -> str:
        rows = {**self.passes, "floor": self.floor_bytes}
        rows |= {"beside it: indices": self.indices, "beside it: activations": self.activations}
        lines = [f"one LODO step on n = {self.size:,} parameters moves", ""]
        return "\n".join(lines + [f"{name:<52}{count / 2**20:12.3f} MiB" for name, count in rows.items()])


def step_traffic(params: optax.Params, *, optimizer: Callable[..., Any] = lodo, **arguments: Any) -> StepTraffic:
    r"""Bytes between memory and cores in one step of ``optimizer(**arguments)``, from shapes alone.

    The least number of passes over θ and the meta-optimizer's state, for a state that is larger than the cache:

    1. g goes **up** through all layers at θ_t: θ is read. Nothing can be updated yet, since the hypergradient of a
       layer needs what comes back from the last one.
    2. g goes **down** again, last layer first: θ is read a second time. With uᵢ and dᵢ of g and m at hand the layer's
       outer products, Adam and the new θ⁽ⁱ⁾ follow in the same visit: μ and ν are read, θ, μ and ν are written.
    3. The new m goes **up** at θ_{t+1}: θ is read. It starts at the first layer, which the downward sweep changed
       last, and so cannot travel with it.
    4. It goes **down** for the step: θ is read. It needs the whole way up before.

    Pass 1 of the next step reads θ_{t+1} too, but waits for a gradient that waits for this step. So θ is read four
    times and written once, and Adam's two moments are read and written once each: nine passes at equal dtypes.
    m at θ_t is no further pass: its activations are either kept from steps 3 and 4 of the update before (the state's
    ``inputs``), or it travels beside g in 1 and 2. Of vectors of size n the gradient is read, the momentum read and
    written, the step written twice (returned and remembered), the one before read, the parameters read now, read as
    they were, and remembered. A cache that holds part of θ from one pass to the next can beat the floor by that part.

    :func:`lodo.rlodo` makes the same passes for m and p in place of g, but has one second moment a block, which is
    small: five passes in all. m at θ_t travels beside p, as keeping its activations would take half as many numbers
    as θ. Of vectors it reads and writes three directions and one parameter vector more.

    Not in the floor, and listed apart: the permutations' indices (each direction is read twice a step, but a
    permutation may be computed instead of stored) and the layers' inputs (written on one way, read on another, but
    they may stay in a cache, or be recomputed backwards).

    Args:
      params: the parameter tree, or the same tree of ``jax.ShapeDtypeStruct``.
      optimizer: :func:`lodo.lodo` or :func:`lodo.rlodo`.
      **arguments: its arguments; the operator has to be a ``BlockPermutation``.

    Returns:
      A :class:`StepTraffic`, all in bytes.

    Raises:
      TypeError, ValueError: as :func:`lodo.lodo` and its ``init``; an operator of another form.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> traffic = step_traffic(jax.ShapeDtypeStruct((94_696,), jnp.float32))
      >>> theta = traffic.passes["θ read, up for g"]
      >>> theta, round(traffic.floor_bytes / theta, 2)
      (48485376, 9.07)
      >>> traffic = step_traffic(jax.ShapeDtypeStruct((94_696,), jnp.float32), optimizer=lodo.rlodo)
      >>> round(traffic.floor_bytes / traffic.passes["θ written"], 2)
      5.23
    """
    check_optimizer(optimizer)
    bound = inspect.signature(optimizer).bind(**arguments)
    bound.apply_defaults()
    operator = bound.arguments["operator"]
    if operator is not None and not isinstance(operator, BlockPermutation):
        raise ValueError(
            f"step_traffic counts the passes of BlockPermutation; got operator={operator!r}. "
            "lodo.diagnostics.cost_table tells the memory of every operator."
        )
    state: LodoState | RlodoState = jax.eval_shape(optimizer(**arguments).init, params)
    relative = isinstance(state, RlodoState)
    k = next(leaf.shape[1] for leaf in jax.tree.leaves(state.theta) if leaf.ndim == 4)
    theta, meta, fixed, momentum = (
        _bytes(part) for part in (state.theta, state.meta_state, state.fixed, state.momentum)
    )
    passes = {
        "θ read, up for g": theta,
        "θ read, down for g, with the outer products": theta,
        "θ written": theta,
        "meta-optimizer's state read": meta,
        "meta-optimizer's state written": meta,
        "θ read, up for m": theta,
        "θ read, down for m": theta,
        "vectors: gradient, momentum twice, step": 4 * momentum,
        **(
            {"vectors: parameters three times, directions six times": 9 * momentum}
            if relative
            else {"vectors: parameters three times, last step twice": 5 * momentum}
        ),
    }
    # The inputs of all layers for one vector: N·ñ numbers, where θ has N·ñ·k.
    inputs = theta // k
    # uᵢ(g), uᵢ(m) and, where m's are kept from step to step, dᵢ(m); dᵢ(g) can be used where it arises.
    kept = 3 if isinstance(state, LodoState) and holds_inputs(state.inputs) else 2
    size = sum(leaf.size for leaf in jax.tree.leaves(state.momentum))
    return StepTraffic(size, passes, 2 * fixed, 2 * kept * inputs)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
