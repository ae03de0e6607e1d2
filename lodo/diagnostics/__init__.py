"""What a LODO state has learned, and what a run will cost before it starts.

Every function that takes a state accepts a :class:`lodo.LodoState`, a :class:`lodo.RlodoState`, or any optax state that
holds exactly one, such as that of ``optax.chain``.
"""

from lodo._state import find_state
from lodo.diagnostics.collectives import Collective, collectives
from lodo.diagnostics.cost import CostTable, cost_table
from lodo.diagnostics.eigenvalues import extreme_eigenvalues
from lodo.diagnostics.inverse_hessian import apply, dense, inverse_hessian_error, spectrum
from lodo.diagnostics.monitor import monitor
from lodo.diagnostics.traffic import StepTraffic, step_traffic

__all__ = [
    "Collective",
    "CostTable",
    "StepTraffic",
    "apply",
    "collectives",
    "cost_table",
    "dense",
    "extreme_eigenvalues",
    "find_state",
    "inverse_hessian_error",
    "monitor",
    "spectrum",
    "step_traffic",
]
