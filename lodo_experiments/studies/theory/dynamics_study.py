"""What the notebook on learning dynamics measures: seven parts, each a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodo_experiments.config.theory_presets import DynamicsPreset
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.studies.theory import dynamics
from lodo_experiments.studies.theory.dynamics import Windows

#: A run whose ‖A‖_F² is beyond this (or no number) has diverged.
DIVERGED = 1e6
#: Windows that each run is measured in, and the first of those that count as stationary.
WINDOWS, LATE = 20, 10
#: The theorem's ρ, and the learning rate α₀ of its start G₀ = α₀ I.
BOUND, START = 0.8, 0.5
#: The theorem's bound is measured at this share of the largest rate that it allows.
SHARE = 0.25


@dataclass(frozen=True)
class DynamicsStudy:
    """The parts of the notebook on learning dynamics; the centre's steps have covariance I throughout."""

    preset: DynamicsPreset

    @property
    def H(self) -> np.ndarray:
        """The Hessian, [n, n]: log-spaced eigenvalues, random eigenvectors."""
        return dynamics.hessian(np.geomspace(self.preset.smallest, 1.0, self.preset.size))

    @property
    def S(self) -> np.ndarray:
        """Covariance of the centre's steps, [n, n]: I."""
        return np.eye(self.preset.size)

    def decay(self) -> Part:
        """E[A] entry by entry in H's eigenbasis, from a small A with all of them, against the mean dynamics.

        Their limit for a small A, a rate of ε λᵢ λⱼ², is ``limit_rate``.
        """
        preset, H = self.preset, self.H
        start = 0.08 * np.random.default_rng(1).choice([-1.0, 1.0], (preset.size, preset.size))

        def compute() -> Computed:
            _, Q = np.linalg.eigh(H)
            G = (np.eye(preset.size) - Q @ start @ Q.T) @ np.linalg.inv(H)
            every = preset.decay_steps // WINDOWS
            found, compiled = self._simulate(G, preset.decay_rate, every=every, runs=preset.decay_runs)
            mean, error = _mean_error(np.einsum("ai,rwab,bj->rwij", Q, found.A, Q))
            steps = every * np.arange(1, WINDOWS + 1)
            path = dynamics.mean_field(H, self.S, G, preset.decay_rate, int(steps[-1]))
            predicted = np.einsum("ai,wab,bj->wij", Q, path[steps], Q)
            last, expected = ((end / start) ** (1 / steps[-1]) for end in (mean[-1], predicted[-1]))
            return Computed(
                {
                    "steps": steps,
                    "start": start,
                    "mean": mean,
                    "standard_error": error,
                    "predicted": predicted,
                    "measured_rate": 1 - last,
                    "measured_rate_error": last * error[-1] / np.abs(mean[-1]) / steps[-1],
                    "predicted_rate": 1 - expected,
                    "limit_rate": preset.decay_rate * dynamics.decay_rates(H, self.S),
                },
                {},
                compiled,
            )

        return self._part(("decay_rate", "decay_steps", "decay_runs"), compute)

    def usual_start(self) -> Part:
        """E[A] from the usual start G₀ = α₀ I, against the mean dynamics in which E[b bᵀ] follows A."""
        preset, H = self.preset, self.H

        def compute() -> Computed:
            _, Q = np.linalg.eigh(H)
            G, every = START * np.eye(preset.size), 6 * preset.decay_steps // WINDOWS
            found, compiled = self._simulate(G, preset.decay_rate, every=every)
            steps = every * np.arange(0, WINDOWS + 1)
            mean, error = _mean_error(np.einsum("ai,rwab,bj->rwij", Q, found.A, Q))
            path = dynamics.mean_field(H, self.S, G, preset.decay_rate, int(steps[-1]))
            predicted = np.einsum("ai,wab,bj->wij", Q, path[steps], Q)
            mean = np.concatenate([predicted[:1], mean])  # all runs start alike
            error = np.concatenate([np.zeros_like(error[:1]), error])
            return Computed(
                {"steps": steps, "mean": mean, "standard_error": error, "predicted": predicted}, {}, compiled
            )

        return self._part(("decay_rate", "decay_steps", "runs"), compute)

    def ball(self) -> Part:
        """Stationary ‖I − G H‖_F², ‖G − H⁻¹‖_F² and excess loss for several ε, against ½ ε tr(HS) tr(H²) and so on."""
        preset, H = self.preset, self.H

        def compute() -> Computed:
            names, compiled = dynamics.Ball._fields, 0.0
            found: dict[str, list[Any]] = {name: [] for name in ("mean_A", *names)}
            for rate in preset.ball_rates:
                run, seconds = self._simulate(np.linalg.inv(H), rate, every=self._relaxation(rate))
                compiled += seconds
                for name, pairs in found.items():
                    pairs.append(_mean_error(getattr(run, name)[:, LATE:].mean(axis=1)))
            predicted = np.array([dynamics.noise_ball(H, self.S, rate) for rate in preset.ball_rates])
            arrays = {name: array for name, pairs in found.items() for name, array in _with_error(name, pairs).items()}
            arrays |= {f"{name}_predicted": predicted[:, i] for i, name in enumerate(names)}
            return Computed({"rates": np.array(preset.ball_rates), **arrays}, {}, compiled)

        return self._part(("ball_rates", "relaxations", "runs"), compute)

    def limits(self) -> Part:
        """Where it breaks: the limit of the mean dynamics, and the share of runs that diverge below it."""
        preset, H = self.preset, self.H

        def compute() -> Computed:
            predicted = dynamics.stability_limit(H, self.S)
            low, high = 0.5 * predicted, 2 * predicted
            while high - low > 1e-4 * predicted:
                middle = (low + high) / 2
                low, high = (low, middle) if dynamics.grows(H, self.S, middle) else (middle, high)
            shares, compiled, every = {}, 0.0, preset.limit_steps // WINDOWS
            for bounded in (False, True):
                kept = []
                for share in preset.limit_shares:
                    found, seconds = self._simulate(np.linalg.inv(H), share * predicted, every=every, bounded=bounded)
                    compiled += seconds
                    kept.append((~(found.squared_A < DIVERGED)).mean(axis=0))
                shares["bounded" if bounded else "gaussian"] = np.array(kept)
            return Computed(
                {"shares": np.array(preset.limit_shares), "steps": every * np.arange(1, WINDOWS + 1), **shares},
                {"predicted": predicted, "measured": (low + high) / 2},
                compiled,
            )

        return self._part(("limit_shares", "limit_steps", "runs"), compute)

    def momentum(self) -> Part:
        """Where G rests with momentum β, against (1 + β) H⁻¹, and the loss there against Newton's / (1 − β²)."""
        preset, H = self.preset, self.H

        def compute() -> Computed:
            floor, compiled = float(np.trace(H @ self.S)) / 2, 0.0
            factor, loss = [], []
            for momentum in preset.momenta:
                # With momentum the slowest component loses ε λ³/(1 + β)³ a step.
                every = self._relaxation(preset.momentum_rate / (1 + momentum) ** 3)
                found, seconds = self._simulate(np.linalg.inv(H), preset.momentum_rate, every=every, momentum=momentum)
                compiled += seconds
                GH = np.eye(preset.size) - found.mean_A[:, LATE:].mean(axis=1)
                factor.append(_mean_error(np.trace(GH, axis1=1, axis2=2) / preset.size))
                loss.append(_mean_error(found.loss[:, LATE:].mean(axis=1) / floor))
            arrays = {"momenta": np.array(preset.momenta), **_with_error("factor", factor), **_with_error("loss", loss)}
            for name, law in (("factor", dynamics.momentum_factor), ("loss", dynamics.momentum_loss_factor)):
                arrays[f"{name}_predicted"] = np.array([law(b) for b in preset.momenta])
            return Computed(arrays, {}, compiled)

        return self._part(("momenta", "momentum_rate", "relaxations", "runs"), compute)

    def condition(self) -> Part:
        """Steps until the flat one of two directions is half learned from G₀ = α₀ I, by the condition number χ.

        ``slope`` is that of log time over log χ; the law is 3 for large χ.
        """
        preset, target = self.preset, 0.5

        def compute() -> Computed:
            rows, compiled = [], 0.0
            for chi in preset.conditions:
                H, rate = np.diag([1 / chi, 1.0]), preset.condition_rate
                stated = dynamics.learning_time(1 / chi, START, target, rate)
                every = round(1.6 * stated / WINDOWS)
                found, seconds = self._simulate(START * np.eye(2), rate, every=every, bounded=True, H=H)
                compiled += seconds
                mean, error = _mean_error(found.A[:, :, 0, 0])
                steps = every * np.arange(0, WINDOWS + 1)
                fall = -np.concatenate([[1 - START / chi], mean])  # rises, as interpolation wants it
                speed = rate / chi**3 * target / (1 - target**2)
                rows.append((np.interp(-target, fall, steps), error[np.argmax(mean < target)] / speed, stated))
            time, error, stated = np.array(rows).T
            slope, predicted = (np.polyfit(np.log(preset.conditions), np.log(t), 1)[0] for t in (time, stated))
            arrays = {"condition": np.array(preset.conditions), "time": time, "time_error": error}
            values = {"slope": float(slope), "slope_predicted": float(predicted)}
            return Computed({**arrays, "time_predicted": stated}, values | {"start": START, "target": target}, compiled)

        return self._part(("conditions", "condition_rate", "runs"), compute)

    def bound(self) -> Part:
        """The mean expected loss above Newton's over T steps, from G₀ = α₀ I and with bounded steps, and its bound."""
        preset, H = self.preset, self.H

        def compute() -> Computed:
            radius = float(np.sqrt(3 * preset.size))
            rate = SHARE * dynamics.largest_rate(H, radius, BOUND)
            G, count = START * np.eye(preset.size), np.arange(1, WINDOWS + 1)
            every = preset.bound_steps // WINDOWS
            found, compiled = self._simulate(G, rate, every=every, bounded=True)
            steps = every * count
            so_far = np.cumsum(found.excess, axis=1) / count
            mean, error = _mean_error(so_far)
            limit = dynamics.average_excess_bound(H, self.S, G, rate, steps, radius=radius, bound=BOUND)
            return Computed(
                {"steps": steps, "mean": mean, "standard_error": error, "bound": limit},
                {"rate": rate, "rho": BOUND, "largest_norm": float(found.largest.max()), "start": START},
                compiled,
            )

        return self._part(("bound_steps", "runs"), compute)

    def parts(self) -> dict[str, Part]:
        """Every part, by name."""
        parts = (self.decay, self.usual_start, self.ball, self.limits, self.momentum, self.condition, self.bound)
        return {part.__name__: part() for part in parts}

    def _simulate(
        self, G: np.ndarray, rate: float, *, every: int, runs: int = 0, momentum: float = 0.0,
        bounded: bool = False, H: np.ndarray | None = None,
    ) -> tuple[Windows, float]:  # fmt: skip
        return dynamics.simulate(
            self.H if H is None else H, np.eye(len(G)), G, rate=rate, momentum=momentum, windows=WINDOWS, every=every,
            runs=runs or self.preset.runs, seeds=list(range(self.preset.seeds)), bounded=bounded,
        )  # fmt: skip

    def _relaxation(self, rate: float) -> int:
        """Steps of a window, so that the second half of a run is stationary."""
        return round(self.preset.relaxations / (rate * self.preset.smallest**3) / LATE)

    def _part(self, names: Sequence[str], compute: Callable[[], Computed]) -> Part:
        given = self.preset.settings()
        settings = {name: given[name] for name in ("size", "smallest", *names)} | {"seeds": self.preset.seeds}
        return Part(settings, list(range(self.preset.seeds)), compute)


def _mean_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over runs and its standard error."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _with_error(name: str, pairs: Sequence[tuple[Any, Any]]) -> dict[str, np.ndarray]:
    """Means and their standard errors as a record's arrays."""
    return {name: np.array([mean for mean, _ in pairs]), f"{name}_error": np.array([error for _, error in pairs])}
