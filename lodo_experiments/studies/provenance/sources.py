"""What a piece of the library's source uses, found without running it.

Each module is taken apart into its top-level definitions: a function, a class with all its methods, a constant. A
definition has a digest over its syntax tree (comments, blank space and docstrings do not count; annotations do) and
over what its names stand for, and it *uses* every definition that one of those names leads to, through imports and
re-exports. Where that cannot be told, it uses more rather than less:

* a module that is used as a value (passed on, or searched by ``getattr``) stands for everything in it;
* statements of a module that define nothing (a call, a loop, an ``if``) count for every definition of that module, and,
  where they may reach further than it, for everything that imports it;
* ``eval``, ``exec``, ``import_module`` and their like stand for the whole library;
* a definition with a decorator that is an attribute of another (``@form.register``) counts for that other one too.

Not seen: what is read from files and what a caller from outside puts in. Those have keys of their own
(:mod:`lodo_experiments.studies.provenance.keys`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lodo_experiments.studies.provenance import names_in
from lodo_experiments.studies.provenance.names_in import Names, normalised

PACKAGE = "lodo"
#: The package beside it; its files' paths begin with its name.
BESIDE = "lodo_experiments"

#: Hexadecimal digits of a digest that are kept: 48 bits, for telling versions of one definition apart.
DIGITS = 12

#: The name under which a module's statements that define nothing are listed.
STATEMENTS = "<statements>"

#: With these a piece of code can reach anything.
DYNAMIC = frozenset(
    {"eval", "exec", "compile", "globals", "vars", "__import__", "importlib.import_module", "importlib.reload",
     "runpy.run_module", "runpy.run_path", "sys.modules"}
)  # fmt: skip


@dataclass(frozen=True)
class Definition:
    """A definition, its names followed.

    Attributes:
      digest: of its normalised source and of what its names stand for.
      uses: full names of the definitions that it uses itself; ``module.*`` is all of a module, ``*`` all there is.
      packages: top-level names of the other packages that it uses, without Python's own library.
      words: its string constants.
    """

    digest: str
    uses: frozenset[str]
    packages: frozenset[str]
    words: frozenset[str]


@dataclass(frozen=True)
class Used:
    """All that some entry points use, directly or through others.

    Attributes:
      code: full name of a definition → its digest.
      packages: top-level names of other packages.
      words: all string constants.
    """

    code: dict[str, str]
    packages: frozenset[str]
    words: frozenset[str]


@dataclass
class _Module:
    """A module taken apart, its names not yet followed."""

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    entries: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    statements: list[ast.stmt] = field(default_factory=list)
    far: bool = False
    imported: set[str] = field(default_factory=set)


class Sources:
    """The source files of the library at one moment.

    Args:
      files: path below the package's folder, with slashes → text, e.g. ``lodo_experiments/studies/study.py``.

    Example:
      >>> sources = Sources({"__init__.py": "from lodo.a import f", "a.py": "def f():\\n    return C\\nC = 1\\nD = 2"})
      >>> sorted(sources.used(["lodo.f"]).code)
      ['lodo.a.C', 'lodo.a.f']
    """

    def __init__(self, files: Mapping[str, str]):
        self._texts = {module_name(path): (path, text) for path, text in files.items()}
        self._resolved: dict[str, Definition] = {}
        self._local: dict[str, _Module] = {}
        self._nodes: dict[str, tuple[str, Definition, list[str]]] = {}

    @classmethod
    def of_folder(cls, folder: Path) -> Sources:
        """The package's files in a folder."""
        files = {path.relative_to(folder): path for path in sorted(folder.rglob("*.py"))}
        beside = sorted((folder.parent / BESIDE).rglob("*.py"))
        files |= {path.relative_to(folder.parent): path for path in beside}
        return cls({name.as_posix(): path.read_text(encoding="utf-8") for name, path in files.items()})

    def modules(self) -> tuple[str, ...]:
        """Full names of all modules."""
        return tuple(self._texts)

    def has(self, name: str) -> bool:
        """Whether there is a definition of this full name."""
        module, _, own = _split(name)
        if module not in self._texts:
            return False
        found = self._module(module)
        return own in found.definitions or own in found.entries or (own == STATEMENTS and bool(found.statements))

    def entries(self, name: str) -> dict[str, str]:
        """Of a table of named things: name of each → full name of its own definition; empty where it cannot be split.

        A dict with constant texts as keys is split by them, a tuple or list of calls by their first arguments.
        """
        module, _, own = _split(name)
        found = self._module(module) if module in self._texts else _Module(module)
        prefix = f"{own}["
        return {
            ast.literal_eval(entry[len(prefix) : -1]): f"{module}.{entry}"
            for entry in found.entries
            if entry.startswith(prefix)
        }

    def definition(self, name: str) -> Definition:
        """A definition by its full name.

        Raises:
          KeyError: there is none.
        """
        if name not in self._resolved:
            module, _, own = _split(name)
            if not self.has(name):
                raise KeyError(f"{name}: there is no such definition in the library's source.")
            found = self._module(module)
            if own == STATEMENTS:
                nodes: list[ast.AST] = [*found.statements]
            else:
                nodes = [*found.definitions.get(own, ())] or [found.entries[own]]
            self._resolved[name] = self._follow(found, nodes)
        return self._resolved[name]

    def snippet(self, source: str) -> Definition:
        """Source that belongs to no module, such as a notebook's cells: all of it as one definition."""
        module = _Module("<snippet>")
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                _note_import(module, node, "")
        return self._follow(module, [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)])

    def used(
        self,
        entries: Iterable[str | Definition],
        *,
        stop: Collection[str] = (),
        cut: Mapping[str, Collection[str]] | None = None,
    ) -> Used:
        """Everything that the entry points use.

        Args:
          entries: full names, or definitions.
          stop: modules (with what is below them) that are left out and not followed.
          cut: definition → modules or definitions that are not followed from there.

        Raises:
          KeyError: an entry point that does not exist.
        """
        cut = cut or {}
        code: dict[str, str] = {}
        packages: set[str] = set()
        words: set[str] = set()
        waiting = [entry for entry in entries if isinstance(entry, str)]
        for entry in entries:
            if not isinstance(entry, str):
                packages |= entry.packages
                words |= entry.words
                waiting += entry.uses
        while waiting:
            name = waiting.pop()
            if name in code or within(name, stop):
                continue
            if name == "*" or name.endswith(".*"):
                waiting += self._all(name)
                continue
            home, found, uses = self._node(name)
            code[home] = found.digest
            packages |= found.packages
            words |= found.words
            left_out = cut.get(home)
            waiting += [use for use in uses if not within(use, left_out)] if left_out else uses
        return Used(dict(sorted(code.items())), frozenset(packages), frozenset(words))

    def _node(self, name: str) -> tuple[str, Definition, list[str]]:
        """Where a name is defined, the definition, and all that it leads to."""
        if name not in self._nodes:
            home = self.home(name)
            found = self.definition(home)
            self._nodes[name] = home, found, list(dict.fromkeys((*found.uses, *self._beside(home))))
        return self._nodes[name]

    def home(self, name: str) -> str:
        """The full name of a definition where it is defined, for one that a package passes on."""
        if self.has(name):
            return name
        uses, _, _ = self._lead(name.split("."), frozenset())
        return next((use for use in uses if not use.endswith("*")), name)

    def _all(self, name: str) -> Iterator[str]:
        for module in self._texts:
            if name == "*" or module == name[:-2]:
                found = self._module(module)
                yield from (f"{module}.{own}" for own in found.definitions)
                if name != "*":  # what a package passes on belongs to it
                    for target in found.imports.values():
                        yield from self._lead(target.split("."), frozenset())[0] - {f"{target}.*"}
                if found.statements:
                    yield f"{module}.{STATEMENTS}"

    def _beside(self, name: str) -> Iterator[str]:
        """Statements that run where a definition's module is imported, and definitions that hang themselves on it."""
        module, _, own = _split(name)
        if self._module(module).statements and own != STATEMENTS:
            yield f"{module}.{STATEMENTS}"
        yield from self._far(module)
        yield from self._hung_on.get(name, ())

    @functools.cached_property
    def _hung_on(self) -> dict[str, list[str]]:
        """Definition → those that a decorator of theirs attaches to it, as in ``@definition.register``."""
        found: dict[str, list[str]] = {}
        for module in self._texts:
            for own, nodes in self._module(module).definitions.items():
                for node in nodes:
                    for decorator in getattr(node, "decorator_list", ()):
                        chain = names_in.chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
                        if chain is None or "." not in chain:
                            continue
                        uses, _, _ = self._resolve(self._module(module), chain.rsplit(".", 1)[0])
                        for use in uses:
                            if not use.endswith("*"):
                                found.setdefault(use, []).append(f"{module}.{own}")
        return found

    def _far(self, module: str) -> tuple[str, ...]:
        """Statements with effects beyond their own module, of every module that this one imports."""
        if module not in self._far_known:
            seen, waiting = set(), [module]
            while waiting:
                name = waiting.pop()
                if name not in seen and name in self._texts:
                    seen.add(name)
                    waiting += self._module(name).imported
            self._far_known[module] = tuple(
                f"{name}.{STATEMENTS}" for name in sorted(seen) if self._module(name).far and name != module
            )
        return self._far_known[module]

    @functools.cached_property
    def _far_known(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _module(self, name: str) -> _Module:
        if name not in self._local:
            path, text = self._texts[name]
            self._local[name] = _taken_apart(name, path.endswith("__init__.py"), text)
        return self._local[name]

    def _follow(self, module: _Module, nodes: list[ast.AST]) -> Definition:
        names = Names(module.name)
        for node in nodes:
            names.visit(node)
        uses: set[str] = set()
        packages: set[str] = set()
        meanings: set[str] = set()
        for chain in names.chains:
            found, outside, meaning = self._resolve(module, chain)
            uses |= found
            packages |= outside
            meanings |= {f"{chain.split('.')[0]}={meaning}"} if meaning else set()
        for target in names.imported:
            found, outside, meaning = self._lead(target.split("."), frozenset())
            uses |= found
            packages |= outside
            meanings |= {f"{target}={meaning}"} if meaning else set()
        text = "\n".join([*(normalised(node) for node in nodes), *sorted(meanings)])
        return Definition(
            hashlib.sha256(text.encode()).hexdigest()[:DIGITS],
            frozenset(uses),
            frozenset(package for package in packages if package not in sys.stdlib_module_names),
            frozenset(names.words),
        )

    def _resolve(self, module: _Module, chain: str) -> tuple[set[str], set[str], str]:
        """What a dotted name in a module leads to: definitions, outside packages, and what it stands for."""
        root, _, rest = chain.partition(".")
        own = {f"{module.name}.{root}"} if root in module.definitions else set()
        if root in module.imports:
            target = module.imports[root] + (f".{rest}" if rest else "")
            if target in DYNAMIC or any(target.startswith(f"{name}.") for name in DYNAMIC):
                return {"*"}, set(), "anything"
            uses, outside, meaning = self._lead(target.split("."), frozenset())
            return uses | own, outside, meaning
        if own:
            return own, set(), ""
        if chain in DYNAMIC or root in DYNAMIC:
            return {"*"}, set(), "anything"
        return {f"{star}.*" for star in module.stars}, set(), ""

    def _lead(self, parts: list[str], seen: frozenset[str]) -> tuple[set[str], set[str], str]:
        """Follows a full dotted name through the library's modules and what they import."""
        if parts[0] not in (PACKAGE, BESIDE):
            return set(), {parts[0]}, parts[0]
        place = parts[0]
        for index, part in enumerate(parts[1:], 1):
            found, inner = self._module(place) if place in self._texts else _Module(place), f"{place}.{part}"
            if part in found.definitions:
                return {inner}, set(), inner
            target = found.imports.get(part, inner)
            if target != inner and target not in seen:
                return self._lead([*target.split("."), *parts[index + 1 :]], seen | {target})
            if inner not in self._texts:
                return {f"{place}.*"}, set(), f"{place}.*"
            place = inner
        return {f"{place}.*"}, set(), f"{place}.*"


def module_name(path: str) -> str:
    """A module's full name from its path below the package's folder.

    >>> module_name("lodo_experiments/studies/study.py"), module_name("__init__.py")
    ('lodo_experiments.studies.runner', 'lodo')
    """
    parts = path.removesuffix(".py").split("/")
    parts = parts if parts[0] == BESIDE else [PACKAGE, *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, places: Collection[str]) -> bool:
    """Whether a definition is one of these, or in one of these modules or below."""
    return any(name == place or name.startswith((f"{place}.", f"{place}[")) for place in places)


def _split(name: str) -> tuple[str, str, str]:
    """Module and own name of a full name; an entry's key may hold dots."""
    head, bracket, tail = name.partition("[")
    module, dot, own = head.rpartition(".")
    return module, dot, own + bracket + tail


@functools.lru_cache(maxsize=2048)
def _taken_apart(name: str, package: bool, text: str) -> _Module:
    module = _Module(name)
    base = name if package else name.rpartition(".")[0]
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _note_import(module, node, base)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and (targets := _plain_targets(node)):
            for target in targets:
                module.definitions.setdefault(target, []).append(node)
                if node.value is not None:
                    module.entries.update({f"{target}[{key!r}]": value for key, value in _entries(node.value)})
        elif _is_typing_only(node):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    _note_import(module, inner, base)
        elif not (_is_main(node) or _is_text(node)):
            module.statements.append(node)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    _note_import(module, inner, base)
    for part in ast.walk(tree):
        if isinstance(part, ast.Import | ast.ImportFrom):
            for _, target, _ in names_in.imports(part, base):
                module.imported |= {target, target.rpartition(".")[0]}
    module.far = any(not _stays_inside(node, module) for node in module.statements)
    return module


def _note_import(module: _Module, node: ast.Import | ast.ImportFrom, base: str) -> None:
    for bound, target, star in names_in.imports(node, base):
        if star:
            module.stars.append(target)
        else:
            module.imports[bound] = target


def _plain_targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that an assignment binds; none where it sets anything else too."""
    found: list[str] = []
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        if not all(isinstance(part, ast.Name) for part in parts):
            return []
        found += [part.id for part in parts if isinstance(part, ast.Name)]
    return found


def _entries(value: ast.expr) -> list[tuple[str, ast.expr]]:
    """A table's entries by name; none where any of them has none, or two the same."""
    found: list[tuple[str, ast.expr]] = []
    if isinstance(value, ast.Dict):
        pairs: list[tuple[ast.expr | None, ast.expr]] = list(zip(value.keys, value.values, strict=True))
    elif isinstance(value, ast.Tuple | ast.List):
        pairs = [(e.args[0] if isinstance(e, ast.Call) and e.args else None, e) for e in value.elts]
    else:
        return []
    for key, entry in pairs:
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            return []
        found.append((key.value, entry))
    return found if len({key for key, _ in found}) == len(found) else []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_main(node: ast.stmt) -> bool:
    """``if __name__ == "__main__":``, which does not run on import."""
    return isinstance(node, ast.If) and "__name__" in {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}


def _is_typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and names_in.chain(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _stays_inside(node: ast.stmt, module: _Module) -> bool:
    """Whether a statement is a call on one of its module's own definitions, as ``f.defvjp(forward, backward)`` is."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    chain = names_in.chain(node.value.func)
    return chain is not None and chain.split(".")[0] in module.definitions
