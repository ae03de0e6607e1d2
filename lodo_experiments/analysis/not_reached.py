"""What was not reached, and why: computed from the records that are declared and are not there, where that is possible.

A record is missing where :mod:`lodo_experiments.cli.status` says so: an experiment declares it, and there is no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lodo_experiments.analysis.evidence import BUNDLED, NETWORK, displacement
from lodo_experiments.analysis.verdicts import LEAST_SEEDS
from lodo_experiments.config.presets import IMAGE_GENERATION
from lodo_experiments.optimizers.names import OTHERS
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry
from lodo_experiments.studies.stored_results import load_one

#: LODO with another form of G, which a hypergradient method could have: name → form.
OTHER_FORMS = {"LODO-Diagonal": "a diagonal", "LODO-Global": "a scalar", "LODO-Dense": "a dense matrix"}

#: The tasks with networks.
NETWORKS = ("image_generation", "image_generation_ablations", "image_classification")


def not_reached(folder: Path) -> list[str]:
    """Sentences in Markdown, one for each thing.

    Args:
      folder: the results folder.

    Raises:
      RecordError: a record is damaged or foreign.
    """
    of_lodo = _of_lodo(folder)
    return [
        *_missing(folder), _cost(folder), _seeds(), _unmeasured(of_lodo), _spectra(of_lodo), _not_in_double(),
        _hypergradient_methods(folder),
    ]  # fmt: skip


def _declared(preset: str, folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Experiment → the names of its records of runs that are there, and of those that are missing."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for one in registry.records(preset, folder):
        if not one.name.endswith("-tuning"):
            there, missing = found.setdefault(one.path.parts[-2], ([], []))
            (there if (folder / one.path).exists() else missing).append(one.name)
    return found


def _missing(folder: Path) -> list[str]:
    paper, desktop = _declared("paper", folder), _declared("desktop", folder)
    nothing = [f"`{name}`" for name, (there, _) in paper.items() if not there]
    said = [f"At `paper` there are no records of {', '.join(nothing)}."] if nothing else []
    for name in NETWORKS:
        there, missing = desktop.get(name, ([], []))
        if missing:
            kept = f"those of {', '.join(there)} alone" if there else "no records"
            of = f"{len(missing)} variants of LODO" if all("LODO-" in one for one in missing) else ", ".join(missing)
            network = (
                "a ResNet-18 of a quarter of the paper's width"
                if name == "image_classification"
                else "the paper's network at its true size"
            )
            said.append(f"At `desktop`, with {network}, `{name}` has {kept}. Missing: {of}.")
    return said


def _cost(folder: Path) -> str:
    parts = [load_one(folder / "desktop/image_generation" / f"LODO{end}.npz", f"image_generation/LODO{kind}", "desktop")
             for end, kind in (("", ""), ("-tuning", "/tuning"))]  # fmt: skip
    hours = sum(one.provenance["wall_seconds"] + one.provenance["compile_seconds"] for one in parts if one) / 3600
    told = ""
    if parts[0] and parts[1]:
        device = parts[0].provenance["device"]
        told = f" LODO's record of image generation at `desktop`, tuning included, took {hours:.1f} hours ({device})."
    return (
        f"All of that is for want of machine time.{told} `make status` lists what is missing, and `make run` or "
        "`make batch` makes it."
    )


def _seeds() -> str:
    seeds = IMAGE_GENERATION["desktop"].seeds
    return (
        f"`desktop` has {seeds} runs of each network, which can never give a verdict: a comparison takes {LEAST_SEEDS} "
        f"seeds, and on {seeds} the least p of the test is {2.0**-seeds:g}. More come with `--seeds`."
    )


def _of_lodo(folder: Path) -> list[Record]:
    """Every record of runs of LODO, by whatever form of it."""
    found = []
    for path in sorted(path for preset in BUNDLED for path in folder.glob(f"{preset}/*/LODO*.npz")):
        if not path.stem.endswith("-tuning"):
            record = load_one(path, f"{path.parent.name}/{path.stem}", path.parts[-3])
            found += [record] if record is not None else []
    return found


def _unmeasured(of_lodo: Sequence[Record]) -> str:
    counts: Counter[str] = Counter()
    for record in of_lodo:
        if displacement(record) is None and record.values["hyperparameters"].get("meta_learning_rate") != 0:
            counts[f"`{record.kind.split('/')[0]}` at `{record.provenance['preset']}`"] += 1
    if not counts:
        return "How far $G$ moved is measured in every record of LODO that is here."
    told = ", ".join(f"{count} of {where}" for where, count in counts.items())
    return (
        f"How far $G$ moved is not measured in older records of LODO and its variants: {told}. No verdict rests on one "
        "of LODO. They have to be made again."
    )


def _spectra(of_lodo: Sequence[Record]) -> str:
    of_networks = [one for one in of_lodo if one.kind.split("/")[0].startswith(NETWORKS)]
    have = {one.kind.split("/")[0] for one in of_networks if "inverse_in_eigenbasis" in one.arrays}
    lacking = [f"`{name}`" for name in NETWORKS if not any(one.startswith(name) for one in have)]
    if not have:
        return "The spectrum of $G$ on a network, and how $G$ lies to the Hessian's eigenvectors, were not measured."
    told = f" None of {', '.join(lacking)} has it." if lacking else ""
    where = ", ".join(f"`{name}`" for name in sorted(have))
    return (
        f"The spectrum of $G$ on a network, and how $G$ lies to the Hessian's eigenvectors, were measured in {where} "
        f"alone, by products with vectors: a dense $G$ for {NETWORK:,} parameters takes {4 * NETWORK**2 / 1e9:.0f} GB "
        f"in float32.{told}"
    )


def _not_in_double() -> str:
    others = {name for one in registry.EXPERIMENTS.values() if one.folder("paper") == "noisy_bowl"
              for name in one.preset("paper").optimizers}  # fmt: skip
    missing = [name for name in OTHERS if name not in others]
    return (
        f"{', '.join(missing)} on the bowl: its package stops in float64, which the bowl is computed in, at a state of "
        "which some numbers are float32."
    )


def _hypergradient_methods(folder: Path) -> str:
    """The paper's sentence on the methods that it calls the most related."""
    there = [f"{form} for $G$ (`{name}`)" for name, form in OTHER_FORMS.items()
             if (folder / f"paper/noisy_bowl/{name}.npz").exists()]  # fmt: skip
    kept = f"There is LODO with {', '.join(there)}, on the bowl." if there else "There are no records of such forms."
    return (
        "The paper's sentence that it improves on hypergradient methods, which learn low-rank, diagonal or "
        "Kronecker-factorized preconditioners, by a more expressive class of them (section 2): not tested. None of the "
        f"methods that it cites was run. {kept} Low-rank and Kronecker forms were not learned by hypergradients."
    )
