"""The ledger: the paper's claims, what would confirm or refute each, and the verdict that the stored records give.

``python -m lodo_experiments.analysis.claims`` prints it; ``--write`` stores it as ``results/ledger.json``, which the
tests compare with what the records say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodo_experiments.analysis import verdicts
from lodo_experiments.analysis.evidence import Evidence, Finding
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results.records import RecordError
from lodo_experiments.results.replays import Replays
from lodo_experiments.utils.atomic_files import open_atomically

#: The stored ledger's name in the results folder.
FILE = "ledger.json"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
      key: short name.
      statement: the claim, in our words.
      section: of the paper.
      confirm: what would confirm it.
      refute: what would refute it.
      page: of the book, where the figures are.
      judge: evidence → finding.
    """

    key: str
    statement: str
    section: str
    confirm: str
    refute: str
    page: str
    judge: Callable[[Evidence], Finding]

    def link(self) -> str:
        """A Markdown link to the page, from the ledger's."""
        if self.page == "algorithm":
            return "[The algorithm](../book/algorithm.md)"
        return f"[{self.page.replace('_', ' ').capitalize()}]({self.page}.ipynb)"


CLAIMS = (
    Claim(
        "bowl-lowest",
        "On the noisy quadratic bowl LODO's loss is below that of every other optimizer tried.",
        "5.1",
        "Tuned alike, every other optimizer's score is higher on shared seeds, with 95 % confidence. Partly: only "
        "one that "
        "is given the exact Hessian is lower.",
        "An optimizer that works from gradients alone is lower with 95 % confidence.",
        "noisy_bowl",
        verdicts.bowl_lowest,
    ),
    Claim(
        "bowl-floor",
        "On the bowl LODO's loss approaches the floor of Newton's method.",
        "5.1",
        "LODO's excess over the floor is below a quarter of the floor, and below half of the excess of the best "
        "other that "
        "works from gradients alone. Partly: only the latter.",
        "Another one that works from gradients alone comes closer.",
        "noisy_bowl",
        verdicts.bowl_floor,
    ),
    Claim(
        "bowl-inverse",
        "On the bowl LODO learns the inverse Hessian.",
        "5.1",
        "‖I − G H‖_F/√n falls below 0.1 in every run. Partly: it falls in every run, and along the steeper half of the "
        "Hessian's eigenvectors G is on average within a factor of two of 1/λ.",
        "It does not fall.",
        "noisy_bowl",
        verdicts.bowl_inverse,
    ),
    Claim(
        "representations-bowl",
        "Simpler representations of the inverse Hessian (Diagonal, Global, Residuals) do worse: on the bowl.",
        "5.1, ablations",
        "Each scores higher than LODO on shared seeds with 95 % confidence, all tuned alike.",
        "One of them is lower with 95 % confidence.",
        "ablations",
        lambda evidence: verdicts.ablations_are_worse(evidence, "noisy_bowl", verdicts.REPRESENTATIONS),
    ),
    Claim(
        "representations-images",
        "Simpler representations of the inverse Hessian (Diagonal, Global, Residuals) do worse: on image generation.",
        "5.3, ablations",
        "Each scores higher than LODO on shared seeds with 95 % confidence, all tuned alike.",
        "One of them is lower with 95 % confidence.",
        "image_generation",
        lambda evidence: verdicts.ablations_are_worse(evidence, "image_generation", verdicts.REPRESENTATIONS),
    ),
    Claim(
        "meta-step",
        "A simpler meta-step (SGD instead of Adam) does worse, on image generation.",
        "5.3, ablations",
        "LODO-SGD scores higher than LODO on shared seeds with 95 % confidence.",
        "It is lower with 95 % confidence.",
        "image_generation",
        lambda evidence: verdicts.ablations_are_worse(evidence, "image_generation", ("LODO-SGD",)),
    ),
    Claim(
        "momentum",
        "Without momentum LODO does worse, on image generation.",
        "5.3, ablations",
        "LODO-No-Momentum scores higher than LODO on shared seeds with 95 % confidence.",
        "It is lower with 95 % confidence.",
        "image_generation",
        lambda evidence: verdicts.ablations_are_worse(evidence, "image_generation", ("LODO-No-Momentum",)),
    ),
    Claim(
        "rosenbrock",
        "On Rosenbrock's function LODO behaves like a momentum method that overshoots and corrects, and reaches the "
        "minimum.",
        "5.2",
        "Each run, at the defaults and tuned, crosses the valley's floor y = x² more than once, and one of the two "
        "ends within 0.1 of the minimum in every run. Partly: one of these.",
        "Neither.",
        "rosenbrock",
        verdicts.rosenbrock,
    ),
    Claim(
        "images-competitive",
        "On the autoregressive network LODO is competitive with tuned standard optimizers.",
        "5.3",
        "LODO's score is lower than that of at least half of Momentum, RMSprop, Adam, LARS and Yogi, on shared seeds "
        "with 95 % "
        "confidence. Partly: of at least one.",
        "All of them are lower than LODO.",
        "image_generation",
        verdicts.images_competitive,
    ),
    Claim(
        "images-speed",
        "On that network LODO trains at a speed comparable to the standard optimizers'.",
        "5.3",
        "A step takes at most twice as long as one with Adam, measured in the same study. Partly: at most five times.",
        "More than five times.",
        "image_generation",
        verdicts.images_speed,
    ),
    Claim(
        "classification",
        "A ResNet-18 on CIFAR-10 trains with LODO, at a stated overhead.",
        "5.4",
        "No run diverges, and every run's test accuracy ends above twice that of guessing. Partly: some do.",
        "None does.",
        "image_classification",
        verdicts.classification,
    ),
    Claim(
        "no-meta-training",
        "LODO needs no meta-training: it starts from nothing, and learns while it optimizes.",
        "1, 3",
        "G(θ₀) = α₀ I to rounding before the first step, for any seed, and each step takes one gradient of the task "
        "itself.",
        "It starts from anything that an earlier run has learned, or evaluates another task.",
        "algorithm",
        verdicts.no_meta_training,
    ),
)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Every claim with its verdict, as JSON values.

    Args:
      folder: the results folder.

    Returns:
      For each claim its key, verdict, scale, devices, evidence and, by name, the SHA-256 of each record used; where
      today's code replays other numbers than a record's, those records' kinds under ``differing``.

    Raises:
      RecordError: a record is damaged or foreign.
    """
    evidence, replays = Evidence(folder), Replays(folder)
    rows = []
    for claim in CLAIMS:
        finding = claim.judge(evidence)
        differing = replays.differing(finding.records.values())
        mark = [f"Today's code replays other numbers than those of {', '.join(differing)}."] if differing else []
        rows.append(
            {
                "key": claim.key,
                "verdict": finding.verdict,
                "scale": finding.scale(),
                "devices": finding.devices(),
                "evidence": [*mark, *finding.evidence],
                "records": {name: record.digest() for name, record in sorted(finding.records.items())},
                **({"differing": differing} if differing else {}),
            }
        )
    return rows


def differences(stated: Sequence[Mapping[str, Any]], computed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where two ledgers differ, a line each; none where they agree.

    >>> differences([{"key": "a", "verdict": "partly"}], [{"key": "a", "verdict": "refuted"}])
    ["a: verdict is stated as 'partly', the records say 'refuted'"]
    """
    first, second = ({row["key"]: row for row in rows} for rows in (stated, computed))
    lines = [f"{key}: only in one of the two" for key in sorted(first.keys() ^ second.keys())]
    for key in first.keys() & second.keys():
        for name in sorted({*first[key], *second[key]}):
            one, other = first[key].get(name), second[key].get(name)
            if one != other:
                lines.append(f"{key}: {name} is stated as {one!r}, the records say {other!r}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lodo_experiments.analysis.claims``.

    Returns:
      0; 1 where records are refused, or where the stored ledger is not what they say.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.analysis.claims", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--write", action="store_true", help="store the ledger beside the records")
    options = parser.parse_args(arguments)
    folder = results_folder(options.results_dir)
    path = folder / FILE
    try:
        computed = ledger(folder)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    for row in computed:
        mark = f"  (replays differ: {', '.join(row['differing'])})" if "differing" in row else ""
        print(f"{row['key']:24} {row['verdict']:18} {row['scale']}{mark}")
    if options.write:
        with open_atomically(path) as file:
            file.write((json.dumps(computed, indent=1, ensure_ascii=False) + "\n").encode())
        return 0
    stated = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    lines = differences(stated, computed)
    for line in lines:
        print(f"{path} is out of date: {line}. Run this command with --write.", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
