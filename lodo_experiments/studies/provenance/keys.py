"""Keys: what a record or an executed notebook was made from, so that it can be seen when that has changed since.

A record's key is over the definitions of the library that computed its numbers
(:mod:`lodo_experiments.studies.provenance.sources`), its settings, its data set's fingerprint, and the versions of the
packages that did the arithmetic. What only stores, reports or draws is left out (:data:`PLUMBING`), so that another
figure makes pages stale and not the records below them.

An executed notebook's key is over its source and parameters, the definitions that its cells use, down to those that
compute the records it asks for, the kept records of the experiments that it names, its data sets' files, and the
versions of all packages that notebooks need.

Three places choose by name at run time, where reading the source would find every choice: which experiment
``studies.build`` builds, which optimizer ``optimizer_named`` returns, and which files ``stored`` looks for. They are
not followed (:data:`CHOOSERS`); what is chosen is found by what is asked for instead: a record by its kind, a notebook
by the experiments that it builds and by the optimizers that the code it uses names. Where that cannot be told, it is
all of them.
"""

from __future__ import annotations

import ast
import functools
import glob
import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import lodo
from lodo_experiments.studies.provenance.sources import Definition, Sources, Used
from lodo_experiments.utils import environment as fingerprint

_E = "lodo_experiments"

#: Modules that carry numbers and do not make them: they store (with a checksum), report, or work out keys.
PLUMBING = (
    *(
        f"{_E}.{module}"
        for module in (
            "results.records",
            "utils.atomic_files",
            "results.locks",
            "utils.compilation_cache",
            "utils.progress",
        )
    ),
    f"{_E}.utils.environment",
    *(
        f"{_E}.{module}"
        for module in (
            "studies.provenance.keys",
            "studies.provenance.sources",
            "studies.provenance.names_in",
            "studies.provenance.history",
            "studies.provenance.staleness",
            "cli.status",
        )
    ),
    f"{_E}.cli.batch",
    "lodo._version",
)

_ON_PAGES = ("records", "atomic_files", "locks", "compilation_cache", "progress")
#: Modules that say whether a page is up to date, and not what is on it.
KEYING = tuple(module for module in PLUMBING if module.rpartition(".")[2] not in _ON_PAGES)

_ALL_OPTIMIZERS = f"{_E}.optimizers.search_spaces._ALL"
_ABLATIONS = f"{_E}.optimizers.search_spaces.ABLATIONS"
_COMPACT = f"{_E}.optimizers.compact_forms.COMPACT"
_BUILD = f"{_E}.studies.registry.build"
_NAMED = f"{_E}.optimizers.names.optimizer_named"

#: Definitions that choose by name → what they choose from.
CHOOSERS: Mapping[str, tuple[str, ...]] = {
    _BUILD: (
        f"{_E}.tasks", f"{_E}.models", f"{_E}.studies.experiments", f"{_E}.studies.registry.EXPERIMENTS",
    ),
    _NAMED: (f"{_E}.optimizers.search_spaces.OPTIMIZERS", _ABLATIONS, _COMPACT),
    f"{_E}.studies.stored_results.stored": (f"{_E}.optimizers.search_spaces.OPTIMIZERS", _ABLATIONS, _COMPACT),
}  # fmt: skip

#: Names experiments only to say of them what precision they take.
_NO_NAMES = frozenset({f"{_E}.studies.registry.DOUBLE"})

#: Packages whose versions may change a record's numbers; others only bring the data, which has a fingerprint.
ARITHMETIC = ("jax", "jaxlib", "optax", "flax", "numpy")


@dataclass(frozen=True)
class Family:
    """The records of one experiment.

    Attributes:
      code: definitions that compute them, beside the optimizer.
      base: the experiment that ``studies.build`` builds them from; empty: another part of the project.
      presets: the definition of its amounts.
      images: whether it has a data set of images.
    """

    code: tuple[str, ...]
    base: str = ""
    presets: str = ""
    images: bool = False


_STUDY = (f"{_E}.studies.runner.Study", f"{_E}.studies.run_records.joined", _BUILD)
_BOWL = (*_STUDY, f"{_E}.tasks.noisy_bowl.noisy_bowl", f"{_E}.tasks.noisy_bowl.learned")
_VALLEY = (*_STUDY, f"{_E}.tasks.rosenbrock.rosenbrock")
_IMAGES = (*_STUDY, *(f"{_E}.studies.experiments.image_data.{name}" for name in ("images_of", "setup_on")))
_GENERATION = (
    *_IMAGES, *(f"{_E}.tasks.image_generation.{name}" for name in ("image_generation", "judged")),
    f"{_E}.models.autoregressive.AutoregressiveNetwork",
)  # fmt: skip
_CLASSIFICATION = (
    *_IMAGES, f"{_E}.tasks.image_classification.image_classification", f"{_E}.models.resnet.ResNet",
)  # fmt: skip


def _variant(code: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return (*code, *(f"{_E}.studies.experiments.{name}" for name in names))


#: Experiment, as in a record's kind and folder → what computes its records.
FAMILIES: Mapping[str, Family] = {
    "noisy_bowl": Family(_BOWL, "noisy_bowl", f"{_E}.config.presets.BOWL"),
    "noisy_bowl_parts": Family(
        _variant(_BOWL, "noisy_bowl._PARTS"), "noisy_bowl", f"{_E}.config.presets.BOWL_ABLATIONS"
    ),
    "noisy_bowl_parts_ablations": Family(_variant(_BOWL, "variants.parameter_ablations"), "noisy_bowl"),
    "noisy_bowl_ablations": Family(_variant(_BOWL, "variants.parameter_ablations"), "noisy_bowl"),
    "noisy_bowl_published": Family(_variant(_BOWL, "noisy_bowl._with_learned_inverse"), "noisy_bowl"),
    "noisy_bowl_frozen": Family(_variant(_BOWL, "noisy_bowl._with_learned_inverse"), "noisy_bowl"),
    "noisy_bowl_learning_on": Family(_variant(_BOWL, "noisy_bowl._with_learned_inverse"), "noisy_bowl"),
    "noisy_bowl_compact": Family(_variant(_BOWL, "variants.compact_forms"), "noisy_bowl"),
    "rosenbrock": Family(_VALLEY, "rosenbrock", f"{_E}.config.presets.ROSENBROCK"),
    "rosenbrock_defaults": Family(_variant(_VALLEY, "rosenbrock.EXPERIMENTS"), "rosenbrock"),
    "image_generation": Family(_GENERATION, "image_generation", f"{_E}.config.presets.IMAGE_GENERATION", images=True),
    "image_generation_ablations": Family(
        _variant(_GENERATION, "variants.parameter_ablations"), "image_generation", images=True
    ),
    "image_generation_compact": Family(
        _variant(_GENERATION, "variants.compact_forms"), "image_generation", images=True
    ),
    "image_classification": Family(
        _CLASSIFICATION, "image_classification", f"{_E}.config.presets.IMAGE_CLASSIFICATION", images=True
    ),
    "learning_dynamics": Family((f"{_E}.studies.theory.dynamics_study.DynamicsStudy",)),
    "representability": Family((f"{_E}.studies.theory.representability_study.RepresentabilityStudy",)),
    "paper_and_code": Family(
        (f"{_E}.studies.paper_and_code.measured", f"{_E}.studies.paper_and_code_runs.bowl_values")
    ),
}


def read_sources() -> Sources:
    """The library as it is on the disk now."""
    return Sources.of_folder(Path(lodo.__file__).parent)


@functools.cache
def library_sources() -> Sources:
    """The library that is running: as it was on the disk when this was asked first."""
    return read_sources()


def entry_points(kind: str, sources: Sources) -> list[str] | None:
    """The definitions that a record of some kind was computed by; None where the experiment is not known.

    >>> entry_points("noisy_bowl/Adam/tuning", library_sources())[-1]
    "lodo_experiments.optimizers.search_spaces._ALL['Adam']"
    """
    experiment, _, rest = kind.partition("/")
    family = FAMILIES.get(experiment)
    if family is None:
        return None
    if not family.base:
        return list(family.code)
    optimizer = rest.removesuffix("/tuning")
    table = sources.entries(_ALL_OPTIMIZERS)
    if optimizer in table:
        return [*family.code, table[optimizer]]
    # One of those that are made by a rule, in whose names it stands; where there is no table, it may be any.
    others = [_ABLATIONS] if experiment.endswith("_ablations") else [_ABLATIONS, _COMPACT]
    return [*family.code, *others, *([] if table else [f"{_E}.optimizers.search_spaces.OPTIMIZERS"])]


@functools.lru_cache(maxsize=1024)
def record_code(kind: str, sources: Sources) -> Used:
    """What a record of some kind is computed by; all of the library where its experiment is not known."""
    entries = entry_points(kind, sources)
    if entries is None:
        return sources.used(["*"], stop=PLUMBING)
    return sources.used(entries, stop=PLUMBING, cut=CHOOSERS)


def record_key(kind: str, settings: Mapping[str, Any], dataset: str = "") -> dict[str, Any]:
    """A record's key, for its provenance.

    Args:
      kind: the record's.
      settings: JSON values that decide its numbers.
      dataset: its data set's SHA-256; empty: it has none.

    Returns:
      ``code`` (definition → digest), ``versions`` of the packages that it is computed with, ``flags`` of JAX and XLA,
      ``dataset``, and the ``sha256`` over these and the settings.
    """
    used = record_code(kind, library_sources())
    key = {
        "code": used.code,
        "versions": versions_of(used),
        "flags": flags(),
        "dataset": dataset,
    }
    return {**key, "sha256": digest({**key, "settings": settings})}


def unchanged(kind: str, stated: Mapping[str, Any]) -> bool:
    """Whether a record that states this provenance has a key, and its code, versions and flags are those of now."""
    used = record_code(kind, library_sources())
    now = {"code": used.code, "versions": versions_of(used), "flags": flags()}
    made = keys_of_parts(stated)
    return all(key is not None and key[name] == value for key in made for name, value in now.items())


def recompute_stale(preset: str) -> bool:
    """Whether records of a preset are computed again where their key is not that of now."""
    return preset == "smoke" or os.environ.get("LODO_RECOMPUTE") == "stale"


def keys_of_parts(stated: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """The key of each part that a record was made in, from its provenance; None for one that has no key."""
    whole = stated.get("key")
    found = [part.get("key") for part in stated["parts"]] if stated.get("parts") else [whole]
    return [whole if whole and key == whole["sha256"] else key for key in found]


def parts_of(stated: Mapping[str, Any], whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record's provenance as parts of a larger one, whose key is not repeated where theirs is the same.

    Args:
      stated: the provenance of the record, in parts itself or not.
      whole: the provenance of the larger record.
    """
    names = ("seeds", "commit", "device", "platform", "versions", "date", "wall_seconds", "compile_seconds", "library")
    parts = stated.get("parts") or [{name: stated[name] for name in names if name in stated}]
    found = []
    for part, key in zip(parts, keys_of_parts(stated), strict=True):
        own = {name: value for name, value in part.items() if name != "key"}
        if key is not None:
            own["key"] = key["sha256"] if key == whole.get("key") else key
        found.append(own)
    return found


def versions_of(used: Used) -> dict[str, str]:
    """Versions of the packages that do a record's arithmetic."""
    names = {*used.packages, *(["jaxlib"] if "jax" in used.packages else [])}
    return {name: _version_of(name) for name in ARITHMETIC if name in names}


@functools.cache
def _version_of(package: str) -> str:
    from lodo_experiments.results.records import version_of

    return version_of(package)


def flags() -> dict[str, str]:
    """What was set for JAX and XLA in the environment, and the width of its numbers."""
    import jax

    return {**environment(), "x64": str(bool(jax.config.read("jax_enable_x64")))}


#: Settings of JAX that say where compiled programs are kept, not what they compute.
_CACHES = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE")


def environment() -> dict[str, str]:
    """What the environment sets for JAX and XLA."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("JAX_", "XLA_"))}
    return {name: value for name, value in given.items() if not name.startswith(_CACHES)}


def digest(value: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """How the code that something uses differs, a phrase for each definition.

    >>> code_changes({"lodo.a.f": "1", "lodo.a.g": "1"}, {"lodo.a.f": "2", "lodo.a.h": "1"})
    ['a.f changed', 'a.h is used now', 'a.g is used no longer']
    """
    short = functools.partial(re.sub, r"^lodo(_experiments)?\.", "")
    found = [f"{short(name)} changed" for name in then if name in now and then[name] != now[name]]
    found += [f"{short(name)} is used now" for name in now if name not in then]
    return found + [f"{short(name)} is used no longer" for name in then if name not in now]


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same setting: equal, but for the last digits of numbers that were computed.

    A tuned rate differs in its last digit from machine to machine; a setting that anyone chooses differs by more.

    >>> alike({"rate": 0.00186}, {"rate": 0.00186 * (1 + 4e-16)}), alike([0.1], [0.1000001])
    (True, False)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


def value_changes(what: str, then: Mapping[str, Any], now: Mapping[str, Any], ignored: Iterable[str] = ()) -> list[str]:
    """How named values differ, a phrase for each.

    >>> value_changes("", {"jax": "0.10.1"}, {"jax": "0.10.2"})
    ['jax was 0.10.1, now 0.10.2']
    """
    names = [name for name in {**then, **now} if name not in ignored and not alike(then.get(name), now.get(name))]
    return [f"{what}{name} was {then.get(name, 'absent')}, now {now.get(name, 'absent')}" for name in names]


#: Parameters of notebooks that say how to come by something, not what is computed from it.
IMMATERIAL = frozenset({"download"})


# Python 3.11's parser must not run in two threads at once: it fails with "AST constructor recursion depth mismatch"
# (NumPy's reading of arrays calls it too). Notebooks are executed by threads.
_ONE_AT_A_TIME = threading.RLock()

_F = TypeVar("_F", bound=Callable[..., Any])


def _alone(function: _F) -> _F:
    """A function that runs in one thread at a time."""

    @functools.wraps(function)
    def alone(*arguments: Any, **named: Any) -> Any:
        with _ONE_AT_A_TIME:
            return function(*arguments, **named)

    return cast(_F, alone)


@_alone
def notebook_key(source: Path, parameters: Mapping[str, Any], sources: Sources | None = None) -> dict[str, Any]:
    """The key of an executed notebook.

    Args:
      source: the clean notebook.
      parameters: what papermill injects into it.
      sources: the library; None: the one that is running.

    Returns:
      ``notebook`` (digest of its cells), ``parameters``, ``code``, ``versions``, ``flags``, ``records`` (experiment →
      digest of the kept ones) and ``data`` (data set → digest of its files).
    """
    cells = json.loads(source.read_text(encoding="utf-8")).get("cells", [])
    used = notebook_code(cells, sources or library_sources())
    texts = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    folder = results_of(source, parameters)
    return {
        "notebook": digest(texts),
        "parameters": {name: value for name, value in parameters.items() if name not in IMMATERIAL},
        "code": used.code,
        "versions": fingerprint.versions(),
        "flags": environment(),
        "records": _records(folder, used.words),
        "data": _data(used, parameters),
    }


def notebook_code(cells: Iterable[Mapping[str, Any]], sources: Sources) -> Used:
    """The library's definitions that a notebook's cells use, down to those that compute the records it asks for."""
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # IPython's own lines; and what `globals()` is handed to here looks at names only.
    text = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE).replace(", globals())", ")")
    entries: list[str | Definition] = [sources.snippet(text)]
    while True:
        used = sources.used(entries, stop=KEYING, cut=CHOOSERS)
        more = {*_built(text, used, sources), *_named(used, sources)} - {e for e in entries if isinstance(e, str)}
        if not more:
            told = [sources.definition(name).words for name in used.code if name not in _NO_NAMES]
            return Used(used.code, used.packages, frozenset(sources.snippet(text).words.union(*told)))
        entries += sorted(more)


def _built(text: str, used: Used, sources: Sources) -> set[str]:
    """What computes the studies that a notebook builds: those that it names, or all where that cannot be told."""
    if _BUILD not in used.code:
        return set()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    built = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "build"]
    first = [call.args[0].value for call in built if call.args and isinstance(call.args[0], ast.Constant)]
    elsewhere = [name for name in used.code if _BUILD in sources.definition(name).uses]
    plain = len(first) == len(built) == len(re.findall(r"\bbuild\b", text)) and not elsewhere
    chosen = set(first) if plain and set(first) <= FAMILIES.keys() else set(FAMILIES)
    families = [family for name, family in FAMILIES.items() if name in chosen]
    return {name for family in families for name in (*family.code, family.presets) if name}


def _named(used: Used, sources: Sources) -> set[str]:
    """The optimizers that code which asks for them by name does name."""
    if _NAMED not in used.code:
        return set()
    table = sources.entries(_ALL_OPTIMIZERS)
    if not table:
        return {f"{_E}.optimizers.search_spaces.OPTIMIZERS"}
    return {definition for name, definition in table.items() if name in used.words}


def experiments_named(folder: Path, words: Iterable[str]) -> list[str]:
    """The folders of records whose experiments are among the words, or variants of such."""
    known = {path.name for preset in folder.glob("*") if preset.is_dir() for path in preset.iterdir() if path.is_dir()}
    given = set(words) & {*known, *FAMILIES}

    def named(experiment: str) -> bool:
        parts = experiment.split("_")
        return any("_".join(parts[:count]) in given for count in range(1, len(parts) + 1))

    return sorted(experiment for experiment in known if named(experiment))


def results_of(source: Path, parameters: Mapping[str, Any]) -> Path:
    """The results folder that a notebook works with."""
    given = str(parameters.get("results_dir") or os.environ.get("LODO_RESULTS", ""))
    return Path(given).expanduser() if given else source.resolve().parent.parent / "results"


@_alone
def made_by(source: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Devices and seeds of a notebook's own records, at its own preset; empty where it computes nothing.

    Args:
      source: the clean notebook.
      parameters: what papermill injected into it.
    """
    from lodo_experiments.results import records

    cells = json.loads(source.read_text(encoding="utf-8")).get("cells", [])
    used = notebook_code(cells, library_sources())
    if not {f"{_E}.studies.runner.Study", f"{_E}.studies.runner.PartStudy"} & used.code.keys():
        return {}
    folder = results_of(source, parameters)
    named = experiments_named(folder, used.words)
    paths = [p for name in named for p in sorted((folder / str(parameters.get("preset")) / name).glob("*.npz"))]
    stated = [records.load(path).provenance for path in paths if not path.stem.endswith("-tuning")]
    seeds = sorted({int(seed) for one in stated for seed in one["seeds"]})
    runs = seeds == list(range(len(seeds))) and len(seeds) > 1
    return {
        "devices": sorted({str(one["device"]) for one in stated}),
        "seeds": f"0–{seeds[-1]}" if runs else ", ".join(map(str, seeds)),
    }


def _records(folder: Path, words: Iterable[str]) -> dict[str, str]:
    """Kept records that a page may show, by experiment; those of ``smoke`` are made on the way."""
    found = {}
    for experiment in experiments_named(folder, words):
        found_there = sorted(folder.glob(f"*/{glob.escape(experiment)}/*.npz"))
        paths = [path for path in found_there if path.parts[-3] != "smoke"]
        if paths:
            found[experiment] = digest([["/".join(path.parts[-3:]), file_digest(path)] for path in paths])
    return found


def _data(used: Used, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Files of the data sets that a page's own preset works on; the digits come with scikit-learn."""
    from lodo_experiments.data import CATALOGUE
    from lodo_experiments.data.images import default_data_dir
    from lodo_experiments.studies.registry import EXPERIMENTS

    where = Path(str(parameters.get("data_dir") or default_data_dir())).expanduser()
    found = {}
    for family in FAMILIES.values():
        if (
            family.images
            and family.presets in used.code
            and parameters.get("preset") in EXPERIMENTS[family.base].presets
        ):
            source = CATALOGUE.get(EXPERIMENTS[family.base].dataset(parameters["preset"]))
            if source is not None:
                paths = [path for path in sorted(source.folder(where).rglob("*")) if path.is_file()]
                found[source.name] = digest([[p.name, file_digest(p)] for p in paths]) if paths else "absent"
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
