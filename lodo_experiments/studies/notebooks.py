"""What an executed notebook was made from, as one hash: whether to execute it again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodo_experiments.config.parameters import PRESETS, NotebookParameters
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.replays import DIFFERS, Replays
from lodo_experiments.studies import registry
from lodo_experiments.studies.changes import FOLDER
from lodo_experiments.utils import environment

#: Parameters of notebooks that say how to come by something, not what is computed from it.
IMMATERIAL = frozenset({"download"})

#: Settings of JAX that say where compiled programs are kept, not what they compute.
_CACHES = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE")

CURRENT, CHANGED, UNKNOWN = "up to date", "changed", "not executed"


class NotebookError(ValueError):
    """A file that should be a notebook is none, or cannot be read."""


def content(source: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What executing a notebook would make it from now: simple rather than minimal, so that nothing is missed.

    Returns:
      Name → JSON value: the cells, the parameters, all source files of the library and of the experiments as they are
      on the disk, the stored records that the notebook names, versions of packages, and what is set for JAX.

    Raises:
      NotebookError: the file is no whole notebook.
      RecordError: what the replays have found cannot be read.
    """
    try:
        cells = json.loads(source.read_text(encoding="utf-8")).get("cells", [])
        texts = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotebookError(
            f"{source} is damaged or no notebook: {error!r}. Get it anew, such as by `git checkout`, or remove it."
        ) from error
    return {
        "notebook": digest(texts),
        "parameters": {name: value for name, value in parameters.items() if name not in IMMATERIAL},
        "library": environment.read_library(),
        "records": _records(source, parameters),
        "versions": environment.versions(),
        "flags": flags(),
    }


def parameters(preset: str, seeds: int, data_dir: str, download: bool, results_dir: str) -> dict[str, Any]:
    """What papermill injects into every notebook; folders are made absolute, empty ones stay empty."""
    folders = {"data_dir": data_dir, "results_dir": results_dir}
    absolute = {name: str(Path(folder).resolve()) if folder else "" for name, folder in folders.items()}
    return {"preset": preset, "seeds": seeds, "download": download, **absolute}


def output_folder(output: Path, preset: str, given: Mapping[str, str]) -> Path:
    """Where executed notebooks go: a folder for each preset, and below it one for each set of other values.

    >>> output_folder(Path("executed"), "smoke", {"steps": "100"}).as_posix()
    'executed/smoke/changed/steps=100'
    """
    words = "-".join(f"{name}={value}" for name, value in sorted(given.items()))
    return output / preset / FOLDER / re.sub(r"[^A-Za-z0-9_.,=:-]", "_", words) if given else output / preset


def stored_hash(executed: Path) -> str:
    """The hash of what a notebook was executed from; empty where there is no whole executed notebook."""
    return str(noted(executed, "lodo", "fingerprint") or "")


def noted(executed: Path, *names: str) -> Any:
    """What the metadata of an executed notebook hold under these names; None where they do not, or it is damaged."""
    try:
        return functools.reduce(operator.getitem, names, json.loads(executed.read_text(encoding="utf-8"))["metadata"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_unchanged(source: Path, folder: Path, given: dict[str, Any]) -> bool:
    """Whether a notebook was executed into a folder from all that it would be executed from now."""
    return stored_hash(folder / source.name) == digest(content(source, given))


def digest(value: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def state_of(source: Path, executed: Path) -> tuple[str, tuple[str, ...]]:
    """Whether an executed notebook is what executing it now would be made from.

    Returns:
      "up to date", "changed" or "not executed", and the names of what of :func:`content` changed.
    """
    then, parameters = (noted(executed, "lodo", name) for name in ("content", "parameters"))
    if then is None or parameters is None:
        return UNKNOWN, ()
    now = content(source, parameters)
    changed = tuple(name for name in now if then.get(name) != now[name])
    return (CHANGED, changed) if changed else (CURRENT, ())


def flags() -> dict[str, str]:
    """What the environment sets for JAX and XLA."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("JAX_", "XLA_"))}
    return {name: value for name, value in given.items() if not name.startswith(_CACHES)}


def made_by(source: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Devices and seeds of a notebook's own records, at its own preset; empty where it computes nothing."""
    folder, preset = _folder(source, parameters), str(parameters.get("preset"))
    if parameters.keys() - {field.name for field in dataclasses.fields(NotebookParameters)}:
        return {}  # a changed run's records are none of the preset's
    own = [one for one in registry.EXPERIMENTS.values() if source.stem in one.notebooks] if preset in PRESETS else []
    specs = [spec for one in own for spec in one.records(preset, folder) if spec.role != "tuning"]
    paths = [folder / spec.path for spec in specs if (folder / spec.path).exists()]
    stated = [records.load(path).provenance for path in paths]
    if not stated:
        return {}
    seeds = sorted({int(seed) for one in stated for seed in one["seeds"]})
    runs = seeds == list(range(len(seeds))) and len(seeds) > 1
    return {
        "devices": sorted({str(one["device"]) for one in stated}),
        "seeds": f"0–{seeds[-1]}" if runs else ", ".join(map(str, seeds)),
    }


def records_shown(source: Path, folder: Path) -> list[Path]:
    """The stored records that a notebook may show: benchmarks, and experiments that it names, or whose base it names.

    What those experiments need counts too. Records of ``smoke`` are made on the way, and do not count. A notebook that
    names no experiment may show any, and so may the ledger's, which names one in an example.
    """
    if source.stem in registry.PAGE_PRESETS:
        return []
    words = set(re.findall(r"\w+", source.read_text(encoding="utf-8"))) & registry.EXPERIMENTS.keys()
    if source.stem in registry.PAGES_OF_ALL:
        words = set()
    needs = [one for name in words for preset in PRESETS for one, _ in registry.EXPERIMENTS[name].needs(preset)]
    words |= set(needs)

    def named(experiment: str) -> bool:
        parts = experiment.split("_")
        return any("_".join(parts[:count]) in words for count in range(1, len(parts) + 1))

    paths = [path for path in sorted(folder.glob("*/*/*.npz")) if path.parts[-3] != "smoke"]
    return [path for path in paths if not words or path.parts[-3] == "benchmarks" or named(path.parts[-2])]


def _records(source: Path, parameters: Mapping[str, Any]) -> str:
    """A digest over the records that a notebook may show, and over which of them no longer replay."""
    folder = _folder(source, parameters)
    paths = records_shown(source, folder)
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in paths}
    differing = [name for name, replay in Replays(folder).by_name.items() if replay.state == DIFFERS and name in names]
    return digest([[[path.relative_to(folder).as_posix(), file_digest(path)] for path in paths], sorted(differing)])


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(source: Path, parameters: Mapping[str, Any]) -> Path:
    """The results folder that a notebook works with."""
    given = str(parameters.get("results_dir") or os.environ.get("LODO_RESULTS", ""))
    return results_folder(given) if given else source.resolve().parent.parent / "results"
