"""Quasi-Newton baselines that optax lacks, as optax gradient transformations.

* :func:`olbfgs`: limited memory, with an averaged initial scale. Needs ``grad_fn``; holds 2 m n numbers.
* :func:`lbfgs_no_line_search`: limited memory, with the scale of the newest pair. Needs ``grad_fn``; holds 2 m n.
* :func:`bfgs`: a dense estimate. Needs ``grad_fn`` with ``same_batch=True``; holds n².
* :func:`levenberg_marquardt`: the exact Hessian, damped. Needs ``hessian``; holds n².

What they need is an extra argument of ``update``. n is the number of parameters, m the buffer size. Each
factory gives the textbook form; ``form="released"`` gives the form that the released code of Liao et al.
(2023) runs, and each docstring says how the two differ. The parameters may be any pytree of real floating
arrays. Computations and state are in float64 where a leaf is float64 and in float32 otherwise, half precision
included, and updates come back in the dtypes of the parameters.

The updates are complete steps, to be applied as they are: each transformation remembers its step, so it has to be
the last of a chain, and whatever comes before it must not change the gradients.
"""

from lodo.quasi_newton._bfgs import BFGSState, bfgs
from lodo.quasi_newton._levenberg_marquardt import LevenbergMarquardtState, levenberg_marquardt
from lodo.quasi_newton._limited_memory import LimitedMemoryState, lbfgs_no_line_search, olbfgs

__all__ = [
    "BFGSState",
    "LevenbergMarquardtState",
    "LimitedMemoryState",
    "bfgs",
    "lbfgs_no_line_search",
    "levenberg_marquardt",
    "olbfgs",
]
