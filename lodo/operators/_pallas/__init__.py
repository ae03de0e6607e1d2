"""The block-permutation operator by kernels written for GPUs, in Pallas on Triton; XLA's path is the reference.

Loaded only where it is asked for, by ``BlockPermutation(kernel="experimental-pallas")``: ``import lodo`` does not load
Pallas.
"""

from lodo.operators._pallas.layers import adam_step, apply, hypergradient

__all__ = ["adam_step", "apply", "hypergradient"]
