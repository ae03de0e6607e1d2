"""Memory and arithmetic of a LODO run, worked out from shapes alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from lodo._arguments import check_optimizer
from lodo._state import LodoState, RlodoState
from lodo._validation import check_integer
from lodo.operators._routes import check_spread, is_spread
from lodo.operators.base import Operator, holds_inputs
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.sharded import ShardedBlockPermutation, exchanged_elements, sharded_hidden_size, slots_for
from lodo.transform import lodo


@dataclass(frozen=True)
class CostTable:
    """What one LODO optimizer holds and does a step; print it for a table."""

    size: int  # n
    bytes_by_part: dict[str, int]  # part of the state -> bytes
    parameter_bytes: int  # bytes of the parameters themselves
    multiplications: int  # multiplications a step, meta-optimizer left out
    traffic_bytes: int  # bytes of θ and of Adam's moments that a step has to read and write at least
    devices: int = 1  # D; with more than one, all of the above but `size` and `parameter_bytes` is for each device
    exchanged_bytes: int = 0  # bytes that each device sends to others a step

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole state, on each device."""
        return sum(self.bytes_by_part.values())

    def __str__(self) -> str:
        whole = max(self.parameter_bytes, 1)
        rows = [(part, _bytes(count), f"{count / whole:8.1f} ×") for part, count in self.parts()]
        lines = [f"LODO on n = {self.size:,} parameters ({_bytes(self.parameter_bytes).strip()})", ""]
        lines += [f"{'part of the state':<28}{'memory':>12}{'of parameters':>16}"]
        lines += [f"{part:<28}{memory:>12}{ratio:>16}" for part, memory, ratio in rows]
        if self.devices > 1:
            lines[0] += f", each of {self.devices} devices"
            lines += ["", f"sent to other devices a step {_bytes(self.exchanged_bytes).strip()}"]
        lines += ["", f"multiplications a step       {self.multiplications:.3g}"]
        lines += [f"memory traffic a step        {_bytes(self.traffic_bytes).strip()} at least"]
        return "\n".join(lines)

    def parts(self) -> list[tuple[str, int]]:
        """(part, bytes) in the table's order, the total last."""
        return [*self.bytes_by_part.items(), ("total", self.total_bytes)]


def cost_table(
    params: optax.Params, *, devices: int = 1, optimizer: Callable[..., Any] = lodo, **arguments: Any
) -> CostTable:
    """Memory and arithmetic of ``optimizer(**arguments)`` on ``params``, before anything is allocated.

    Args:
      params: the parameter tree, or the same tree of ``jax.ShapeDtypeStruct``.
      devices: D, over how many devices the operator's blocks are to be spread (:mod:`lodo.sharding`); no such devices
        are needed to ask. With more than one, the table is for each device.
      optimizer: :func:`lodo.lodo` or :func:`lodo.rlodo`.
      **arguments: the arguments that it will be given.

    Returns:
      A :class:`CostTable`: bytes of each part of the state, multiplications of a step (two vectors through Ĝ and
      back for the hypergradient, its outer products, one vector through Ĝ and back for the step; one vector less
      where the state keeps the momentum's way through the layers), and the least memory traffic (θ read up and down
      twice less one pass shared with its update; θ and the meta-optimizer's moments read and written once). For several
      devices also what each sends to the others: in each layer, up and down for the three vectors, its share of an
      exchange; and at the end its share of the step.

    Raises:
      TypeError, ValueError: as :func:`lodo.lodo` and its ``init``; several devices with an operator that cannot be
        spread over them, or with a hidden size that does not divide.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> table = cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), depth=16, block_size=4)
      >>> table.bytes_by_part["theta"] // 4, table.total_bytes // 4000
      (128256, 451)
      >>> cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), storage="compact").total_bytes // 4000
      139
      >>> each = cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), devices=8, hidden_size=2048)
      >>> each.bytes_by_part["theta"] // 4, each.exchanged_bytes // 4
      (16384, 70112)
      >>> relative = cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), optimizer=lodo.rlodo)
      >>> (relative.total_bytes - relative.bytes_by_part["permutations"]) // 4000
      141
    """
    devices = check_integer("devices", devices, 1)
    check_optimizer(optimizer)
    state: LodoState | RlodoState = jax.eval_shape(optimizer(**arguments).init, params)
    if devices > 1:
        return _for_each_device(params, devices, optimizer, arguments)
    parts: dict[str, Any] = {
        "theta": state.theta,
        "meta-optimizer": state.meta_state,
        "permutations": state.fixed,
        "momentum": state.momentum,
        "last step and its parameters": state.last,
    }
    kept = isinstance(state, LodoState) and holds_inputs(state.inputs)
    if isinstance(state, RlodoState):
        parts["directions"] = (state.direction, state.direction_before, state.snapshot)
    elif kept:
        parts["momentum in the layers"] = state.inputs
    if isinstance(state, LodoState) and state.trace is not None:
        parts["gradient trace"] = state.trace
    counted = {"theta", "meta_state", "fixed", "momentum", "last", "direction", "direction_before", "snapshot", "trace"}
    counted |= {"inputs"} if kept else set()
    parts["counters and rates"] = [value for name, value in state._asdict().items() if name not in counted]
    sizes = {name: _leaves_bytes(part) for name, part in parts.items()}
    n = sum(leaf.size for leaf in jax.tree.leaves(state.momentum))
    count = _form(arguments, optimizer).sizes(n)
    multiplications = _multiplications(count, kept)
    traffic = 5 * sizes["theta"] + 2 * sizes["meta-optimizer"]
    return CostTable(n, sizes, _parameter_bytes(params), multiplications, traffic)


def _for_each_device(params: Any, devices: int, optimizer: Callable[..., Any], arguments: dict[str, Any]) -> CostTable:
    """The table of one of several devices: what :class:`lodo.operators.ShardedBlockPermutation` would put there."""
    form = _form(arguments, optimizer)
    if not isinstance(form, BlockPermutation | ShardedBlockPermutation):
        raise ValueError(
            f"{form} cannot be spread over devices; lodo.operators.BlockPermutation can. Leave devices at 1."
        )
    if isinstance(form, BlockPermutation) and form.permutations != "uniform":
        raise ValueError(
            f"{form.permutations} permutations cannot be spread over devices, uniform ones can. Leave devices at 1."
        )
    n = sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(params))
    hidden = sharded_hidden_size(n, form.block_size, devices, form.hidden_size, form.padding)
    blocks = hidden // form.block_size
    plain = BlockPermutation(form.depth, form.block_size, hidden)
    rest = {name: value for name, value in arguments.items() if name not in ("depth", "block_size", "hidden_size")}
    rest["operator"] = plain
    whole = cost_table(params, optimizer=optimizer, **rest)
    state: LodoState | RlodoState = jax.eval_shape(optimizer(**rest).init, params)
    check_spread((state.theta, state.meta_state), blocks)

    def held(tree: Any) -> int:
        return sum(_leaf_bytes(leaf) // (devices if is_spread(leaf, blocks) else 1) for leaf in jax.tree.leaves(tree))

    slots = slots_for(n, hidden, form.depth, devices, form.padding)
    # A sharded state has no inputs; where the whole one has only their form, those are among its counters.
    inputs = getattr(state, "inputs", None)
    formal = 0 if holds_inputs(inputs) else _leaves_bytes(inputs)
    sizes = {
        **{name: size for name, size in whole.bytes_by_part.items() if name != "momentum in the layers"},
        "counters and rates": whole.bytes_by_part["counters and rates"] - formal,
        "theta": held(state.theta),
        "meta-optimizer": held(state.meta_state),
        "permutations": 2 * 4 * form.depth * (hidden // devices + devices * slots),
    }
    width = whole.bytes_by_part["momentum"] // max(n, 1)
    exchanged = width * exchanged_elements(n, hidden, form.block_size, form.depth, devices, form.padding)
    return CostTable(
        n,
        sizes,
        whole.parameter_bytes,
        _multiplications(plain.sizes(n), kept=False) // devices,
        5 * sizes["theta"] + 2 * sizes["meta-optimizer"],
        devices,
        exchanged,
    )


def _multiplications(count: dict[str, int], kept: bool) -> int:
    # Up and down for m (unless its way is kept), for g and for the step; two for each entry of the hypergradient.
    return (2 if kept else 3) * count["multiplications"] + 2 * count["theta"]


def _form(arguments: dict[str, Any], optimizer: Callable[..., Any]) -> Operator:
    bound = inspect.signature(optimizer).bind(**arguments)
    bound.apply_defaults()
    given = bound.arguments
    usual = {"hidden_size": given["hidden_size"]} if "hidden_size" in given else {"padding": False}
    return given["operator"] or BlockPermutation(given["depth"], given["block_size"], **usual)


def _parameter_bytes(params: Any) -> int:
    return _leaves_bytes(jax.eval_shape(lambda p: p, params))


def _leaves_bytes(tree: Any) -> int:
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: Any) -> int:
    result: int = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
    return result


def _bytes(count: int) -> str:
    """Bytes in binary units.

    >>> _bytes(1536)
    '1.5 KiB'
    """
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{count} B"
        amount /= 1024
    return f"{amount:.1f} TiB"
