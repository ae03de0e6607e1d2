"""Presets of the theory's notebooks: how much each computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lodo_experiments.config.parameters import NamedPreset


@dataclass(frozen=True, kw_only=True)
class DynamicsPreset(NamedPreset):
    """Learning dynamics of a full matrix G."""

    size: int  # n
    smallest: float  # λ_min; eigenvalues are log-spaced from there to 1
    seeds: int  # batches of runs
    decay_runs: int  # runs a batch for the decay of E[A], which is compared entry by entry
    runs: int  # runs a batch for everything else
    decay_rate: float  # ε there and in the comparison with the mean dynamics
    decay_steps: int  # steps there
    ball_rates: tuple[float, ...]  # values of ε for the noise ball
    relaxations: float  # length of a stationary run, in units of 1 / (ε σ² λ_min³), before and again while measuring
    # values of ε for the search of the limit, as shares of the limit of the mean dynamics
    limit_shares: tuple[float, ...]
    limit_steps: int  # steps of a run there
    momenta: tuple[float, ...]  # values of β
    momentum_rate: float  # ε there
    conditions: tuple[int, ...]  # condition numbers χ at which the learning time is measured
    condition_rate: float  # ε there
    bound_steps: int  # steps for the theorem's bound


@dataclass(frozen=True, kw_only=True)
class RepresentabilityPreset(NamedPreset):
    """What G(θ) can represent."""

    seeds: int  # draws of the permutations for the ranks
    rank_sizes: tuple[int, ...]  # values of n for the ranks
    block_sizes: tuple[int, ...]  # values of k
    # values of n for the rank at the optimizer's default depth and block size, at its start
    default_sizes: tuple[int, ...]
    fit_sizes: tuple[int, int]  # two factors of n, the size of the fitted matrices
    # block size → depths of the block-permutation operator that is fitted, with ñ = n
    fit_depths: Mapping[str, tuple[int, ...]]
    residual_depths: tuple[int, ...]  # depths of the residual operator that is fitted, likewise
    budget: int  # how many numbers a form may have in the table of fits
    targets: int  # matrices of each family
    draws: int  # draws of the permutations for the fits
    restarts: int  # starts of each fit
    iterations: int  # of each fit


DYNAMICS: Mapping[str, DynamicsPreset] = {
    "smoke": DynamicsPreset(
        name="smoke", size=4, smallest=0.5, seeds=1, decay_runs=8_192, runs=64, decay_rate=0.005, decay_steps=200,
        ball_rates=(0.003, 0.01, 0.03), relaxations=3.0,
        limit_shares=(0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1), limit_steps=5_000,
        momenta=(0.0, 0.5, 0.9), momentum_rate=0.01, conditions=(2, 4, 8), condition_rate=0.02, bound_steps=12_000,
    ),
    "laptop": DynamicsPreset(
        name="laptop", size=6, smallest=0.5, seeds=2, decay_runs=16_384, runs=64, decay_rate=0.002, decay_steps=500,
        ball_rates=(0.0005, 0.001, 0.002, 0.004, 0.008), relaxations=4.0,
        limit_shares=(0.01, 0.02, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.08), limit_steps=10_000,
        momenta=(0.0, 0.25, 0.5, 0.75, 0.9), momentum_rate=0.002,
        conditions=(2, 4, 8, 16, 32), condition_rate=0.02, bound_steps=100_000,
    ),
    "paper": DynamicsPreset(
        name="paper", size=10, smallest=0.4, seeds=16, decay_runs=16_384, runs=64, decay_rate=0.001, decay_steps=1000,
        ball_rates=(0.0002, 0.0005, 0.001, 0.002, 0.004), relaxations=5.0,
        limit_shares=(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05), limit_steps=100_000,
        momenta=(0.0, 0.25, 0.5, 0.75, 0.9), momentum_rate=0.0005,
        conditions=(2, 4, 8, 16, 32), condition_rate=0.005, bound_steps=1_000_000,
    ),
}  # fmt: skip

REPRESENTABILITY: Mapping[str, RepresentabilityPreset] = {
    "smoke": RepresentabilityPreset(
        name="smoke", seeds=3, rank_sizes=(6, 8, 10), block_sizes=(2, 3, 4), default_sizes=(16,),
        fit_sizes=(4, 2), fit_depths={"2": (2,), "4": (1,)}, residual_depths=(1, 3), budget=32,
        targets=2, draws=2, restarts=2, iterations=150,
    ),
    "laptop": RepresentabilityPreset(
        name="laptop", seeds=8, rank_sizes=(6, 8, 10, 12, 16), block_sizes=(2, 3, 4), default_sizes=(8, 16, 32, 48),
        fit_sizes=(6, 4), fit_depths={"2": (2, 4, 6), "4": (1, 2, 3)}, residual_depths=(3, 7, 11), budget=192,
        targets=2, draws=2, restarts=2, iterations=200,
    ),
    "paper": RepresentabilityPreset(
        name="paper", seeds=16, rank_sizes=(6, 8, 10, 12, 16, 20), block_sizes=(2, 3, 4),
        default_sizes=(8, 16, 32, 64, 100), fit_sizes=(6, 6), fit_depths={"2": (2, 4, 6, 8), "4": (1, 2, 3, 4)},
        residual_depths=(3, 7, 11, 15), budget=432, targets=4, draws=4, restarts=4, iterations=500,
    ),
}  # fmt: skip
