"""The block-permutation operator by kernels written in C++ for CPUs; XLA's path is the reference.

Loaded only where it is asked for (``BlockPermutation(kernel="native")``): they are compiled once on each machine, by
its C++ compiler, and ``import lodo`` needs none.
"""

from lodo.operators._native.calls import adam_step, apply, hypergradient, relative_step, through

__all__ = ["adam_step", "apply", "hypergradient", "relative_step", "through"]
