"""Learning dynamics of a full matrix G by SGD on the noisy bowl: what theory predicts, and a simulation.

Letters (those of the book's page on it): H Hessian, S = Cov(s) covariance of the centre's steps, ε meta-learning rate,
β momentum, b = x − x* offset from the centre, A = I − G H, D = H⁻¹ − G, so that A = D H. With g = H b the gradient

    e_t     = b_t − G_t m_t                        (= A_t b_t without momentum, where m_t = g_t)
    b_{t+1} = e_t − s_t
    G_{t+1} = G_t + ε H b_{t+1} m_tᵀ               (SGD along −∇_G ½ b_{t+1}ᵀ H b_{t+1})
    m_{t+1} = β m_t + (1−β) H b_{t+1}
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lodo_experiments.utils.double_precision import require_double_precision


class Windows(NamedTuple):
    """What a simulation measures in W windows of steps, for each of R runs."""

    A: np.ndarray  # [R, W, n, n]: A at the end of the window
    mean_A: np.ndarray  # [R, W, n, n]: mean over the window, as are the next four
    squared_A: np.ndarray  # [R, W]: ‖A‖_F²
    squared_D: np.ndarray  # [R, W]: ‖G − H⁻¹‖_F²
    excess: np.ndarray  # [R, W]: ½ eᵀ H e, the expected loss above Newton's
    loss: np.ndarray  # [R, W]: ½ bᵀ H b after the step
    largest: np.ndarray  # [R, W]: the largest of the window's (tr (Aᵀ A)¹⁶)^(1/32), which is at least ‖A‖₂


def hessian(eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    """H = Q diag(λ) Qᵀ with a Haar-random orthogonal Q, [n, n] float64.

    Raises:
      ValueError: an eigenvalue that is not positive and finite.

    >>> np.linalg.eigvalsh(hessian(np.array([0.5, 1.0]))).round(6).tolist()
    [0.5, 1.0]
    """
    eigenvalues = np.asarray(eigenvalues, float)
    if eigenvalues.ndim != 1 or not (np.isfinite(eigenvalues).all() and (eigenvalues > 0).all()):
        raise ValueError(f"eigenvalues must be a vector of positive finite numbers; got {eigenvalues!r}.")
    size = len(eigenvalues)
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    Q = Q * np.sign(np.diag(R))  # QR alone is not uniform
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2


def mean_step(X: np.ndarray, H: np.ndarray, covariance: np.ndarray, rate: float) -> np.ndarray:
    """X − ε H X Σ H²: what a step makes of A in the mean, when b has second moment Σ.

    Equation `dynamics-map` of book/hessian_dynamics.md.
    """
    return X - rate * H @ X @ covariance @ H @ H


def decay_rates(H: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Eigenvalues λᵢ κⱼ of X ↦ H X Σ H², [n, n]: λ of H, κ of H Σ H, both ascending.

    Equation `dynamics-rate` of book/hessian_dynamics.md.

    With ε they are the shares of A's components that a step takes away in the mean. For Σ = σ² I, the component
    (i, j) in H's eigenbasis has σ² λᵢ λⱼ².

    >>> decay_rates(np.diag([1.0, 2.0]), np.eye(2)).tolist()
    [[1.0, 4.0], [2.0, 8.0]]
    """
    return np.outer(np.linalg.eigvalsh(H), np.linalg.eigvalsh(H @ covariance @ H))


def stability_limit(H: np.ndarray, covariance: np.ndarray) -> float:
    """2 / (λ_max(H) λ_max(H Σ H)): the meta-learning rate above which A grows in the mean.

    Equation `dynamics-limit` of book/hessian_dynamics.md.

    >>> stability_limit(np.diag([1.0, 2.0]), np.eye(2))
    0.25
    """
    return 2 / float(decay_rates(H, covariance).max())


def mean_field(H: np.ndarray, S: np.ndarray, G: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """A of the mean dynamics in which Σ follows A: A ← A − ε H A Σ H², Σ ← A Σ Aᵀ + S; [steps + 1, n, n].

    Equation `dynamics-closure` of book/hessian_dynamics.md.
    """
    A, covariance = np.eye(len(H)) - G @ H, np.array(S, float)
    path = [A]
    for _ in range(steps):
        A, covariance = mean_step(A, H, covariance, rate), A @ covariance @ A.T + S
        path.append(A)
    return np.array(path)


def learning_time(eigenvalue: float, start: float, target: float, rate: float) -> float:
    """(ln(a₀/a) − (a₀² − a²)/2)/(ε λ³): steps until A falls from a₀ = 1 − α₀ λ to a along one direction, with σ = 1.

    Equations `dynamics-time`, `dynamics-ode` of book/hessian_dynamics.md.

    For a small ε, so that b is stationary throughout.

    Args:
      eigenvalue: λ.
      start: α₀.
      target: a.
      rate: ε.

    >>> round(learning_time(0.25, 1.0, 0.5, 0.1))
    159
    """
    first = 1 - start * eigenvalue
    return float(np.log(first / target) - (first**2 - target**2) / 2) / (rate * eigenvalue**3)


def grows(H: np.ndarray, S: np.ndarray, rate: float) -> bool:
    """Whether the mean dynamics carry a small A of all components away from zero.

    >>> grows(np.eye(2), np.eye(2), 1.9), grows(np.eye(2), np.eye(2), 2.1)
    (False, True)
    """
    A, covariance = 1e-6 * np.ones_like(H) / len(H), np.array(S, float)
    start = np.linalg.norm(A)
    for _ in range(1000):
        A, covariance = mean_step(A, H, covariance, rate), A @ covariance @ A.T + S
        if np.linalg.norm(A) > 100 * start:
            return True
    return bool(np.linalg.norm(A) > start)


def step(H: Any, G: Any, b: Any, m: Any, s: Any, rate: Any, momentum: Any = 0.0) -> tuple[Any, Any, Any, Any]:
    """One step of the process, as at the top of this module.

    Equation `dynamics-recursion` of book/hessian_dynamics.md.

    Returns:
      The next G, b and m, and e = b − G m.
    """
    e = b - G @ m
    b = e - s
    g = H @ b
    return G + rate * g[:, None] * m[None, :], b, momentum * m + (1 - momentum) * g, e


class Ball(NamedTuple):
    """Stationary means to first order in ε."""

    squared_A: float  # E‖I − G H‖_F² = ½ ε tr(H S) tr(H²)
    squared_D: float  # E‖G − H⁻¹‖_F² = ½ ε n tr(H S)
    excess: float  # E ½ eᵀ H e = ¼ ε tr(H² S)²


def noise_ball(H: np.ndarray, S: np.ndarray, rate: float) -> Ball:
    """How far from H⁻¹ the matrix G stays, to first order in ε.

    Equation `dynamics-noise` of book/hessian_dynamics.md.

    >>> noise_ball(np.eye(2), np.eye(2), 0.01)
    Ball(squared_A=0.02, squared_D=0.02, excess=0.01)
    """
    steps = float(np.trace(H @ S))
    squared = float(np.trace(H @ H @ S))
    return Ball(rate * steps * float(np.trace(H @ H)) / 2, rate * len(H) * steps / 2, rate * squared**2 / 4)


def momentum_factor(momentum: float) -> float:
    """1 + β: with momentum the mean dynamics rest at G = (1 + β) H⁻¹, whatever H and S are."""
    return 1 + momentum


def momentum_loss_factor(momentum: float) -> float:
    """1 / (1 − β²): the mean loss at that point, in units of Newton's."""
    return 1 / (1 - momentum**2)


def momentum_pull(D: np.ndarray, H: np.ndarray, S: np.ndarray, momentum: float) -> np.ndarray:
    """(H D M − β M Dᵀ H)/(1 − β²) with M = H S H/(1 + β)²: what a mean meta-step takes from a small D, over ε.

    Equation `dynamics-momentum-pull` of book/hessian_dynamics.md.

    Here G = (1 + β) H⁻¹ − D is held fixed, and the process (b, m) is in its stationary distribution.

    >>> momentum_pull(np.eye(1), 2 * np.eye(1), np.eye(1), 0.0).tolist()
    [[8.0]]
    """
    pull = H @ D @ H @ S @ H / (1 + momentum) ** 2
    return (pull - momentum * pull.T) / (1 - momentum**2)


def largest_rate(H: np.ndarray, radius: float, bound: float) -> float:
    """1 / (L Γ²) with Γ = L R / (1 − ρ), below which the theorem for the random process holds.

    Args:
      H: [n, n]; L is its largest eigenvalue.
      radius: R, no step of the centre being longer.
      bound: ρ < 1, with ‖I − G H‖₂ ≤ ρ throughout.

    >>> largest_rate(np.eye(2), 1.0, 0.5)
    0.25
    """
    L = float(np.linalg.eigvalsh(H)[-1])
    return 1 / (L * (L * radius / (1 - bound)) ** 2)


def average_excess_bound(
    H: np.ndarray, S: np.ndarray, G: np.ndarray, rate: float, steps: Any, *, radius: float, bound: float
) -> np.ndarray:
    """(V₀/(4 ε T) + ¼ ε tr(H² S)²) / (1 − ε L Γ²): bounds the mean over T steps of the expected loss above Newton's.

    Equations `dynamics-regret`, `dynamics-transient` of book/hessian_dynamics.md.

    Args:
      H: [n, n].
      S: [n, n].
      G: [n, n] at the start; V₀ = ‖G₀ − H⁻¹‖_F².
      rate: ε.
      steps: T, a number or an array.
      radius: R, as in :func:`largest_rate`.
      bound: ρ, likewise.

    Raises:
      ValueError: a rate that is too large for the theorem.
    """
    share = rate / largest_rate(H, radius, bound)
    if share >= 1:
        raise ValueError(f"rate must be below {largest_rate(H, radius, bound):.3g} for the theorem; got {rate!r}.")
    start = np.sum((G - np.linalg.inv(H)) ** 2)
    noise = rate * np.trace(H @ H @ S) ** 2
    return (start / (rate * np.asarray(steps)) + noise) / (4 * (1 - share))


def simulate(
    H: np.ndarray,
    S: np.ndarray,
    G: np.ndarray,
    *,
    rate: float,
    momentum: float = 0.0,
    windows: int,
    every: int,
    runs: int,
    seeds: list[int],
    bounded: bool = False,
) -> tuple[Windows, float]:
    """Independent runs of the process, in double precision.

    Each starts with b₀ = −s₋₁, as if Newton's step had been made before, and m₀ = H b₀.

    Args:
      H: [n, n].
      S: [n, n] covariance of the centre's steps.
      G: [n, n] at the start.
      rate: ε > 0.
      momentum: β in [0, 1).
      windows: W, how many windows to measure in.
      every: steps a window.
      runs: runs for each seed.
      seeds: of the runs; R = ``runs`` × their number.
      bounded: uniform steps instead of Gaussian ones, of the same covariance: S^½ z with −√3 ≤ zᵢ ≤ √3.

    Returns:
      What was measured, as NumPy arrays with the runs first, and the seconds spent compiling.

    Raises:
      RuntimeError: JAX is in 32-bit mode.
      ValueError: a rate, momentum or number that is out of range.

    >>> from lodo_experiments.utils.double_precision import double_precision
    >>> with double_precision():
    ...     found, _ = simulate(np.eye(2), np.eye(2), np.eye(2), rate=0.01, windows=3, every=5, runs=4, seeds=[0])
    >>> found.A.shape, bool(found.squared_A.max() < 1)
    ((4, 3, 2, 2), True)
    """
    require_double_precision()
    if not rate > 0 or not 0 <= momentum < 1:
        raise ValueError(f"Expected rate > 0 and 0 ≤ momentum < 1; got rate {rate!r} and momentum {momentum!r}.")
    for name, count in {"windows": windows, "every": every, "runs": runs, "seeds": len(seeds)}.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}.")
    values, vectors = np.linalg.eigh(S)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = [jnp.asarray(array, jnp.float64) for array in (H, root, G, rate, momentum)]
    arguments = (*shared, jnp.asarray(every, jnp.int64))
    started = time.perf_counter()
    program = _program(len(H), runs, windows, bounded)
    compile_seconds = time.perf_counter() - started
    batches = [program(jax.random.split(jax.random.key(seed), runs), *arguments) for seed in seeds]
    return Windows(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True))), compile_seconds


@functools.cache
def _program(size: int, runs: int, windows: int, bounded: bool) -> Any:
    """The compiled simulation; rates, momentum and the length of a window are its arguments."""
    square, number = jax.ShapeDtypeStruct((size, size), jnp.float64), jax.ShapeDtypeStruct((), jnp.float64)
    keys = jax.random.split(jax.random.key(0), runs)
    every = jax.ShapeDtypeStruct((), jnp.int64)
    function = jax.jit(functools.partial(_simulate, windows=windows, bounded=bounded))
    return function.lower(keys, square, square, square, number, number, every).compile()


def _simulate(
    keys: jax.Array, H: jax.Array, root: jax.Array, G: jax.Array, rate: jax.Array, momentum: jax.Array,
    every: jax.Array, *, windows: int, bounded: bool,
) -> Any:  # fmt: skip
    inverse, identity = jnp.linalg.inv(H), jnp.eye(H.shape[0], dtype=H.dtype)

    def draw(key: jax.Array) -> jax.Array:
        shape, edge = (H.shape[0],), 3**0.5
        z = jax.random.uniform(key, shape, H.dtype, -edge, edge) if bounded else jax.random.normal(key, shape, H.dtype)
        return root @ z

    def measured(state: Any, key: jax.Array) -> Any:
        G, b, m = state
        G, b, m, e = step(H, G, b, m, draw(key), rate, momentum)
        A = identity - G @ H
        power = A.T @ A
        for _ in range(4):  # Schatten's norm of order 32, without a decomposition at each step
            power = power @ power
        largest = jnp.trace(power) ** (1 / 32)
        seen = (A, jnp.sum(A**2), jnp.sum((G - inverse) ** 2), e @ H @ e / 2, b @ H @ b / 2)
        return (G, b, m), (seen, largest)

    def window(state: Any, key: jax.Array) -> Any:
        def inner(index: jax.Array, carry: Any) -> Any:
            state, sums, largest = carry
            state, (seen, now) = measured(state, jax.random.fold_in(key, index))
            return state, jax.tree.map(jnp.add, sums, seen), jnp.maximum(largest, now)

        zero = jnp.zeros((), H.dtype)
        start = (state, (jnp.zeros_like(H), zero, zero, zero, zero), zero)
        state, sums, largest = lax.fori_loop(0, every, inner, start)
        means = jax.tree.map(lambda total: total / every, sums)
        return state, (identity - state[0] @ H, *means, largest)

    def run(key: jax.Array) -> Any:
        first, rest = jax.random.split(key)
        b = -draw(first)
        return lax.scan(window, (G, b, H @ b), jax.random.split(rest, windows))[1]

    return jax.vmap(run)(keys)
