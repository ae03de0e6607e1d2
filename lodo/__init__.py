"""LODO: learning an inverse Hessian during optimization, as an optax transformation.

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo())

See :func:`lodo.lodo` for the paper's optimizer, :func:`lodo.rlodo` for one that chooses its own rates and
:mod:`lodo.relative` for its parts, :func:`lodo.guard` for a way back where a loss blows up, :mod:`lodo.operators` for
the forms of the inverse Hessian, :mod:`lodo.diagnostics` for what a state has learned and what a run will cost,
:mod:`lodo.compact` for a state in fewer bytes, :mod:`lodo.sharding` for one over several devices, and
:mod:`lodo.quasi_newton` for the baselines that optax lacks.
"""

import importlib
from types import ModuleType

from lodo import compact, diagnostics, operators, quasi_newton, relative, sharding
from lodo._state import LodoState, RlodoState
from lodo._version import __version__
from lodo.relative.guard import guard
from lodo.relative.transform import rlodo
from lodo.transform import lodo

__all__ = [
    "LodoState",
    "RlodoState",
    "__version__",
    "compact",
    "diagnostics",
    "guard",
    "lodo",
    "operators",
    "quasi_newton",
    "relative",
    "rlodo",
    "sharding",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("experiments", "released"):  # former names, each of which says what is in its place
        return importlib.import_module(f"lodo.{name}")
    raise AttributeError(f"module 'lodo' has no attribute {name!r}")
