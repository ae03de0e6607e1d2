"""Memory and arithmetic of a LODO run, worked out from shapes alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lodo.operators import BlockPermutation
from lodo.transform import LodoState, lodo


@dataclass(frozen=True)
class CostTable:
    """What one LODO optimizer holds and does a step; print it for a table."""

    size: int  # n
    bytes_by_part: dict[str, int]  # part of the state -> bytes
    parameter_bytes: int  # bytes of the parameters themselves
    multiplications: int  # multiplications a step, meta-optimizer left out
    traffic_bytes: int  # bytes of θ and of Adam's moments that a step has to read and write at least

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole state."""
        return sum(self.bytes_by_part.values())

    def __str__(self) -> str:
        rows = [(part, _bytes(count), f"{count / self.parameter_bytes:8.1f} ×") for part, count in self.parts()]
        lines = [f"LODO on n = {self.size:,} parameters ({_bytes(self.parameter_bytes).strip()})", ""]
        lines += [f"{'part of the state':<28}{'memory':>12}{'of parameters':>16}"]
        lines += [f"{part:<28}{memory:>12}{ratio:>16}" for part, memory, ratio in rows]
        lines += ["", f"multiplications a step       {self.multiplications:.3g}"]
        lines += [f"memory traffic a step        {_bytes(self.traffic_bytes).strip()} at least"]
        return "\n".join(lines)

    def parts(self) -> list[tuple[str, int]]:
        """(part, bytes) in the table's order, the total last."""
        return [*self.bytes_by_part.items(), ("total", self.total_bytes)]


def cost_table(params: Any, **arguments: Any) -> CostTable:
    """Memory and arithmetic of ``lodo.lodo(**arguments)`` on ``params``, before anything is allocated.

    Args:
      params: the parameter tree, or the same tree of ``jax.ShapeDtypeStruct``.
      **arguments: the arguments that :func:`lodo.lodo` will be given.

    Returns:
      A :class:`CostTable`: bytes of each part of the state, multiplications of a step (two vectors through Ĝ and
      back for the hypergradient, its outer products, one vector through Ĝ and back for the step), and the least
      memory traffic (θ read up and down twice less one pass shared with its update; θ and the meta-optimizer's
      moments read and written once).

    Raises:
      TypeError, ValueError: as :func:`lodo.lodo` and its ``init``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> table = cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), depth=16, block_size=4)
      >>> table.bytes_by_part["theta"] // 4, table.total_bytes // 4000
      (128256, 449)
      >>> cost_table(jax.ShapeDtypeStruct((1000,), jnp.float32), storage="compact").total_bytes // 4000
      169
    """
    optimizer = lodo(**arguments)
    state: LodoState = jax.eval_shape(optimizer.init, params)
    parts = {
        "theta": state.theta,
        "meta-optimizer": state.meta_state,
        "permutations": state.fixed,
        "momentum": state.momentum,
        "counters and rates": (state.step_count, state.initial_learning_rate, state.rounding_key),
    }
    sizes = {name: sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(part)) for name, part in parts.items()}
    n = sum(leaf.size for leaf in jax.tree.leaves(state.momentum))
    bound = inspect.signature(lodo).bind(**arguments)
    bound.apply_defaults()
    given = bound.arguments
    form = given["operator"] or BlockPermutation(given["depth"], given["block_size"], given["hidden_size"])
    count = form.sizes(n)
    # Up and down for m and g, and for the step: three applications; two products for each entry of the hypergradient.
    multiplications = 3 * count["multiplications"] + 2 * count["theta"]
    traffic = 5 * sizes["theta"] + 2 * sizes["meta-optimizer"]
    parameter_bytes = sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(jax.eval_shape(lambda p: p, params)))
    return CostTable(n, sizes, parameter_bytes, multiplications, traffic)


def _leaf_bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


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
