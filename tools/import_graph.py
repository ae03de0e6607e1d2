"""Print the import graph of `lodo` and `lodo_experiments`: levels, the longest chain, and lines by room.

    python tools/import_graph.py       exit status 1 on a cycle, an import that a room may not make, or too long a chain

A module stands one level above the highest module that it imports; importing a module does not count as importing the
packages around it.  Imports inside functions count for rooms and cycles, not for levels.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Levels of the longest chain.  It may only fall: towards 12.
MAX_LEVELS = 12
#: The packages that the library may import beside Python's own.
LIBRARY_PACKAGES = {"jax", "jaxlib", "optax", "numpy"}
#: Folders that no package may import.
OUTSIDE = {"tests", "notebooks", "benchmarks", "tools", "book"}
#: Rooms of the library and of the experiments, and which others each may import.  `lodo.helpers` are the library's
#: private modules, but for the transformation's; `lodo` what has no room of its own there.  CONTRIBUTING.md shows this.
LIBRARY: dict[str, tuple[str, ...]] = {
    "lodo.helpers": (),
    "lodo.operators": ("lodo.helpers",),
    "lodo.compact": ("lodo.helpers",),
    "lodo.transform": ("lodo.helpers", "lodo.operators", "lodo.compact"),
    "lodo": ("lodo.helpers", "lodo.operators", "lodo.compact", "lodo.transform"),
}
#: Each of these may import the library too.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "utils": (),
    "config": ("utils",),
    "results": ("utils", "config"),
    "data": ("utils", "config", "results"),
    "models": ("utils",),
    "optimizers": ("utils",),
    "tasks": ("utils", "config", "results", "data", "models"),
    "training": ("utils", "config", "results", "optimizers", "tasks"),
    "studies": ("utils", "config", "results", "data", "models", "optimizers", "tasks", "training"),
    "analysis": ("utils", "config", "results", "optimizers", "tasks", "studies"),
    "report": ("utils", "config", "results", "optimizers", "studies", "analysis"),
    "cli": (
        "utils", "config", "results", "data", "models", "optimizers", "tasks", "training", "studies", "analysis",
        "report",
    ),
}  # fmt: skip
TRANSFORMATION = ("transform", "_check_state", "_meta_step")
ROOMS = {**LIBRARY, **{name: (*LIBRARY, *others) for name, others in EXPERIMENTS.items()}}


def room(module: str) -> str:
    """The room of a module of the two packages."""
    parts = module.split(".")
    if parts[0] == "lodo_experiments":
        # The package itself turns on the compilation cache, which is a utility.
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "utils"
    if len(parts) == 1:
        return "lodo"
    if parts[1] in TRANSFORMATION:
        return "lodo.transform"
    if parts[1].startswith("_"):
        return "lodo.helpers"
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ROOMS else "lodo"


def module_name(path: Path, root: Path) -> str:
    """The dotted name of the module that a file is."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, str, bool]]:
    """Each import of a source file, relative ones resolved.

    Yields:
        The module; of `from module import name` the name, else ""; and whether it is made when the file is loaded.
    """
    nodes: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while nodes:
        node, at_load = nodes.pop()
        inside = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue  # for annotations alone: nothing is imported
        nodes += [(child, inside) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: None if is_package else -1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield from ((base, alias.name, at_load) for alias in node.names)


def forbidden(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module of the packages imports, anywhere in it, and may not."""
    here = room(module)
    allowed = {here, *ROOMS[here]}
    wrong = set()
    for base, name, _ in imports(source, module, is_package):
        top = base.split(".")[0]
        # `name` may be a module of `base`, as in `from lodo import operators`.
        target = f"{base}.{name}" if name else base
        ours = top in ("lodo", "lodo_experiments")
        foreign = module.split(".")[0] == "lodo" and top not in LIBRARY_PACKAGES | sys.stdlib_module_names
        if (room(target) not in allowed) if ours else (foreign or top in OUTSIDE):
            wrong.add(target)
    return sorted(wrong)


def graph(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]], list[str]]:
    """The packages below `root`.

    Returns:
        The modules that each module imports when it is loaded; those that it imports at all; complaints about
        forbidden imports.
    """
    files = {
        module_name(path, root): path
        for package in ("lodo", "lodo_experiments")
        for path in sorted((root / package).rglob("*.py"))
    }
    loaded: dict[str, set[str]] = {module: set() for module in files}
    anywhere: dict[str, set[str]] = {module: set() for module in files}
    complaints = []
    for module, path in files.items():
        source, is_package = path.read_text(encoding="utf-8"), path.name == "__init__.py"
        complaints += [f"{module} may not import {name}" for name in forbidden(source, module, is_package)]
        for base, name, at_load in imports(source, module, is_package):
            target = f"{base}.{name}" if f"{base}.{name}" in files else base
            if target in files and target != module:
                anywhere[module].add(target)
                if at_load:
                    loaded[module].add(target)
    return loaded, anywhere, complaints


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            done.add(node)
            for target in sorted(edges[node]):
                if found := visit(target, [*path, node]):
                    return found
        return []

    return next((found for node in sorted(edges) if (found := visit(node, []))), [])


def chains(edges: dict[str, set[str]]) -> dict[str, list[str]]:
    """For each node of a graph without cycles, the longest chain from it down, itself first."""
    longest: dict[str, list[str]] = {}

    def chain(node: str) -> list[str]:
        if node not in longest:
            longest[node] = [node, *max((chain(target) for target in sorted(edges[node])), key=len, default=[])]
        return longest[node]

    for node in edges:
        chain(node)
    return longest


def main(root: Path = ROOT) -> int:
    """Print the graph; return the exit status."""
    loaded, anywhere, complaints = graph(root)
    if found := cycle(anywhere):
        print(f"cycle: {' -> '.join(found)}")
        return 1
    longest = chains(loaded)
    lines: Counter[str] = Counter()
    levels: dict[str, list[int]] = defaultdict(list)
    for module, chain in longest.items():
        path = root.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        lines[room(module)] += len(file.read_text(encoding="utf-8").splitlines())
        levels[room(module)].append(len(chain))
    print(f"{'room':16} {'modules':>7} {'lines':>6}  levels")
    for name in filter(levels.__contains__, ROOMS):
        print(f"{name:16} {len(levels[name]):7} {lines[name]:6}  {min(levels[name])} to {max(levels[name])}")
    for package in ("lodo", "lodo_experiments"):
        depths = [len(chain) for module, chain in longest.items() if module.split(".")[0] == package]
        count = sum(lines[name] for name in ROOMS if name.startswith("lodo") == (package == "lodo"))
        print(f"{package}: {len(depths)} modules, {count} lines, {max(depths, default=0)} levels")
    top = max(longest.values(), key=len)
    print(f"the longest chain, {len(top)} modules (at most {MAX_LEVELS}):")
    print("".join(f"  {len(top) - i:2} {module}\n" for i, module in enumerate(top)), end="")
    if len(top) > MAX_LEVELS:
        complaints.append(f"the longest chain has {len(top)} modules, more than {MAX_LEVELS}")
    print("\n".join(complaints) or "no cycle, no forbidden import")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
