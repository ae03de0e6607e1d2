"""Forms of the learned inverse Hessian: each one symmetric, with its exact hypergradient, and pluggable.

==========================  =====================================================  ==========================
operator                    S(θ), with G(θ) = α₀ S(θ)                              name in the paper
==========================  =====================================================  ==========================
:class:`BlockPermutation`   (I 0) Ĝᵀ Ĝ (I 0)ᵀ, Ĝ = ∏ B(θ⁽ⁱ⁾) Pᵢ                    LODO
:class:`Residuals`          (I 0) Rᵀ D R (I 0)ᵀ, R = ∏ (I + diag(wᵢ) Pᵢ)           LODO-Residuals
:class:`Diagonal`           diag(θ)                                                LODO-Diagonal
:class:`Scalar`             θ I                                                    LODO-Global
==========================  =====================================================  ==========================

:class:`ShardedBlockPermutation` is LODO's form with its blocks spread over devices, for :mod:`lodo.sharding`.

A new one is any object with the four methods of :class:`Operator`; give it to ``lodo.lodo(operator=...)``.
"""

from lodo.operators._routes import Routes
from lodo.operators.base import Operator, Permutations, default_hidden_size
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.diagonal import Diagonal, NoFixed, Scalar
from lodo.operators.residuals import Residuals, ResidualsTheta
from lodo.operators.rolls import Rolls
from lodo.operators.sharded import ShardedBlockPermutation

__all__ = [
    "BlockPermutation",
    "Diagonal",
    "NoFixed",
    "Operator",
    "Permutations",
    "Residuals",
    "ResidualsTheta",
    "Rolls",
    "Routes",
    "Scalar",
    "ShardedBlockPermutation",
    "default_hidden_size",
]
