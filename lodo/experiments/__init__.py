"""Former name of :mod:`lodo_experiments`, which goes in 0.2: old imports and commands still work, with a warning."""

import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

# Modules that have another name today; all others are found in their room by the name that they had.
_RENAMED = {
    "atomic": "atomic_files", "compact": "compact_forms", "networks": "models", "optimizers": "search_spaces",
    "scoring": "statistics", "studies": "registry", "study": "runner", "training": "loop",
}  # fmt: skip


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ == "lodo.experiments.locks":
            vars(module)["held"] = vars(module)["hold"]


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object, target: object = None) -> ModuleSpec | None:
        experiments = importlib.util.find_spec("lodo_experiments")
        package, _, module = name.rpartition(".")
        if package != "lodo.experiments" or experiments is None or experiments.origin is None:
            return None
        folder, module = Path(experiments.origin).parent, _RENAMED.get(module, module)
        for file in [*folder.rglob(f"{module}.py"), *folder.rglob(f"{module}/__init__.py")]:
            now = ".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
            warnings.warn(f"{name} is {now} now; the former name goes in 0.2.", FutureWarning, stacklevel=2)
            inside = [str(file.parent)] if file.stem == "__init__" else None
            return importlib.util.spec_from_file_location(
                name, file, loader=_Loader(name, str(file)), submodule_search_locations=inside
            )
        return None


sys.meta_path.append(_Finder())
