"""Former name of :mod:`lodo_experiments`, which goes in 0.2: old imports and commands still work, with a warning.

    python -W error::FutureWarning -m lodo.experiments.run

shows what is still called by an old name.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

# Modules that have another name in their room; all others are found by the name that they had.
_RENAMED = {
    "atomic": "utils.atomic_files", "compact": "optimizers.compact_forms", "data": "data", "networks": "models",
    "optimizers": "optimizers.search_spaces", "scoring": "analysis.statistics", "studies": "studies.registry",
    "study": "studies.runner", "tasks": "tasks", "theory": "studies.theory", "training": "training.loop",
}  # fmt: skip

_FUNCTIONS = {
    "atomic": {"written": "open_atomically", "partial": "temporary_path", "swept": "remove_leftovers"},
    "locks": {"held": "hold", "tidied": "remove_if_unused", "holder": "read_holder"},
}


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module, whose functions have their former names as well."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's file."""
        super().exec_module(module)
        for former, now in _FUNCTIONS.get(module.__name__.rpartition(".")[2], {}).items():
            setattr(module, former, getattr(module, now))


class _FormerNames(importlib.abc.MetaPathFinder):
    """Finds ``lodo.experiments.X`` where X is today."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The file of today's module, under its former name."""
        package, _, module = name.rpartition(".")
        if package != "lodo.experiments":
            return None  # what is inside of a package is found in that package's folder
        now = f"lodo_experiments.{_RENAMED.get(module) or _room_of(module)}"
        found = importlib.util.find_spec(now)
        if found is None or found.origin is None:
            return None
        warnings.warn(f"{name} is {now} now; the former name goes in 0.2.", FutureWarning, stacklevel=2)
        return importlib.util.spec_from_file_location(
            name,
            found.origin,
            loader=_Loader(name, found.origin),
            submodule_search_locations=found.submodule_search_locations,
        )


def _room_of(module: str) -> str:
    experiments = importlib.util.find_spec("lodo_experiments")
    if experiments is None or experiments.origin is None:
        raise ModuleNotFoundError("The experiments are not installed: pip install 'lodo[experiments]'.")
    folder = Path(experiments.origin).parent
    (place, *_) = [*folder.glob(f"*/{module}.py"), *folder.glob(f"*/{module}/__init__.py"), folder / module]
    return ".".join(place.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


sys.meta_path.append(_FormerNames())
