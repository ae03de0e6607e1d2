"""The numbers that the pages quote from records of the learning dynamics of a full matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lodo_experiments.config.theory_presets import DynamicsPreset
from lodo_experiments.results.records import Record
from lodo_experiments.studies.theory import dynamics
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy


def measured(parts: Mapping[str, Record], preset: DynamicsPreset) -> dict[str, float | None]:
    """What was measured, beside what the theory predicts, as the pages quote it.

    Args:
      parts: the study's records, by part.
      preset: what they were made with.

    Raises:
      RuntimeError: a run left the set of the theorem, which has no projection here, or the rates that were tried do not
        bracket the one at which half of the runs diverge; what the pages say would be wrong.
    """
    decay, ball, bound = parts["decay"], parts["ball"], parts["bound"]
    limits, momentum, condition = parts["limits"], parts["momentum"], parts["condition"]
    ratio = decay.arrays["measured_rate"] / decay.arrays["predicted_rate"]
    relative_error = decay.arrays["measured_rate_error"] / decay.arrays["predicted_rate"]
    log_rate, log_size = np.log(ball.arrays["rates"]), np.log(ball.arrays["squared_A"])
    weights = (ball.arrays["squared_A"] / ball.arrays["squared_A_error"]) ** 2  # of log size
    centred = log_rate - np.average(log_rate, weights=weights)
    bias = ball.arrays["mean_A"][0] / ball.arrays["mean_A_error"][0]
    shares, gaussian, uniform = limits.arrays["shares"], *(limits.arrays[s][:, -1] for s in ("gaussian", "bounded"))
    top = int(np.argmax(momentum.arrays["momenta"]))
    rho, H = bound.values["rho"], DynamicsStudy(preset).H
    delta = bound.values["rate"] / dynamics.largest_rate(H, np.sqrt(3 * preset.size), rho)
    if not bound.values["largest_norm"] < rho:
        raise RuntimeError("A run left the set of the theorem, which has no projection here; the page would be wrong.")
    if not gaussian[0] < 0.5 < gaussian[-1]:
        raise RuntimeError("limit_shares do not bracket the rate at which half of the runs diverge; widen them.")
    return {
        "size": preset.size,
        "decay_runs": preset.decay_runs * preset.seeds,
        "runs": preset.runs * preset.seeds,
        "rate_ratio": float(ratio.mean()),
        "rate_ratio_error": float(2 * np.sqrt(np.sum(relative_error**2)) / ratio.size),
        "limit_ratio": float((decay.arrays["predicted_rate"] / decay.arrays["limit_rate"]).mean()),
        "condition_least": int(condition.arrays["condition"][0]),
        "condition_most": int(condition.arrays["condition"][-1]),
        "condition_slope": condition.values["slope"],
        "condition_slope_predicted": condition.values["slope_predicted"],
        "ball_slope": float(np.sum(weights * centred * log_size) / np.sum(weights * centred**2)),
        "ball_slope_error": float(2 / np.sqrt(np.sum(weights * centred**2))),
        "ball_rate": float(ball.arrays["rates"][0]),
        "ball_rate_most": float(ball.arrays["rates"][-1]),
        "ball_ratio": float(ball.arrays["squared_A"][0] / ball.arrays["squared_A_predicted"][0]),
        "ball_excess_ratio": float(ball.arrays["excess"][0] / ball.arrays["excess_predicted"][0]),
        "bias_rms": float(np.sqrt(np.mean(bias**2))),
        "limit_predicted": limits.values["predicted"],
        "limit_measured": limits.values["measured"],
        "limit_half": float(np.interp(0.5, gaussian, shares)),
        "limit_half_uniform": float(np.interp(0.5, uniform, shares)) if uniform[0] < 0.5 < uniform[-1] else None,
        "limit_steps": int(limits.arrays["steps"][-1]),
        "momentum_beta": float(momentum.arrays["momenta"][top]),
        "momentum_rate": preset.momentum_rate,
        "momentum_factor": float(momentum.arrays["factor"][top]),
        "momentum_factor_predicted": float(momentum.arrays["factor_predicted"][top]),
        "momentum_loss": float(momentum.arrays["loss"][top]),
        "momentum_loss_predicted": float(momentum.arrays["loss_predicted"][top]),
        "bound_steps": int(bound.arrays["steps"][-1]),
        "bound_ratio": float(bound.arrays["bound"][-1] / bound.arrays["mean"][-1]),
        "bound_slack": float(1 / (1 - delta)),
        "bound_norm": bound.values["largest_norm"],
        "bound_rho": rho,
    }
