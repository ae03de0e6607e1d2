"""Records that are made up, as a study would keep them, and verdicts on them."""

from pathlib import Path

import numpy as np

from lodo_experiments.analysis.claims import CLAIMS
from lodo_experiments.analysis.evidence import Evidence
from lodo_experiments.analysis.verdicts import judge
from lodo_experiments.results.records import Record

RESULTS = Path(__file__).resolve().parents[2] / "results"
BY_KEY = {claim.key: claim for claim in CLAIMS}
SEEDS = 8
BOWL = ("Momentum", "RMSprop", "Adam", "Yogi", "L-BFGS", "O-LBFGS", "BFGS", "Levenberg-Marquardt")

JITTER = np.linspace(-0.01, 0.01, SEEDS)
LOW, HIGH = 1.0 + JITTER, 2.0 + JITTER[::-1]
MIXED = 1.0 + 0.5 * np.where(np.arange(SEEDS) % 2, 1, -1) * np.linspace(1, 1.3, SEEDS)


class Made(Evidence):
    """Evidence that is made up: records as a study would keep them, in memory."""

    def __init__(self, preset="paper", **more):
        super().__init__(Path("/nowhere"))
        self.preset, self.more, self.made = preset, more, {}

    def add(self, experiment, **scores):
        for name, values in scores.items():
            values = np.asarray(values, float)
            own = name.replace("_", "-")
            settings = {"steps": 10, "size": 100}
            arrays = {"scores": values, "inverse_hessian_displacement": np.full((len(values), 2), 5.0)}
            values_of = {
                "settings": settings, "steps": 10,
                "hyperparameters": {"initial_learning_rate": 1.0, "meta_learning_rate": 1e-3, "momentum": 0.0},
            }  # fmt: skip
            facts = {"preset": self.preset, "seeds": list(range(len(values))), "device": "made up", "commit": "none"}
            self.made[experiment, own] = Record(f"{experiment}/{own}", {**arrays, **self.more}, values_of, facts)
        return self

    def one(self, preset, experiment, name):
        return self.made.get((experiment, name)) if preset == self.preset else None


def bowl(preset="paper", **scores):
    return Made(preset).add("noisy_bowl", **{**{name.replace("-", "_"): HIGH for name in BOWL}, **scores})


def verdict(key, evidence):
    finding = judge(BY_KEY[key], evidence)
    return finding.verdict, finding.reason
