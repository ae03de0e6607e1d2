"""The names in a piece of Python that come from outside of it, and its syntax in a form that is the same everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator

#: Fields of syntax trees that say nothing of what a program does.
_IMMATERIAL = frozenset({"ctx", "type_comment", "type_ignores", "kind"})

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def normalised(node: ast.AST) -> str:
    """A syntax tree as text, without docstrings, and the same in every version of Python that knows its constructs.

    >>> tree = lambda text: normalised(ast.parse(text))
    >>> tree("def f(x):\\n    '''Adds.'''\\n    return (x+1)  # one") == tree("def f(x): return x + 1")
    True
    >>> tree("def f(x): return x + 1") == tree("def f(x): return x + 2")
    False
    """
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    parts = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name in _IMMATERIAL or value is None or value == []:
            continue
        if name == "body" and isinstance(value, list) and isinstance(node, _DOCUMENTED):
            value = value[1:] if _is_docstring(value) else value
        if isinstance(value, list):
            inner = ", ".join("None" if entry is None else _one(entry) for entry in value)
            parts.append(f"{name}=[{inner}]")
        else:
            parts.append(f"{name}={_one(value)}")
    return f"{type(node).__name__}({', '.join(parts)})"


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _one(value: object) -> str:
    return normalised(value) if isinstance(value, ast.AST) else repr(value)


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def chain(node: ast.AST) -> str | None:
    """A dotted name such as ``a.b.c``; None where it is something else.

    >>> chain(ast.parse("a.b.c", mode="eval").body), chain(ast.parse("a().b", mode="eval").body)
    ('a.b.c', None)
    """
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def imports(node: ast.Import | ast.ImportFrom, base: str) -> Iterator[tuple[str, str, bool]]:
    """(name that is bound, full name that it stands for, whether it is a star) for each name of an import.

    Args:
      node: the import.
      base: the package that relative imports start from.
    """
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.split(".")[0]
            yield alias.asname or top, alias.name if alias.asname else top, False
        return
    above = base.split(".")
    above = above[: len(above) - (node.level - 1)] if node.level else []
    origin = ".".join([*above, *([node.module] if node.module else [])])
    for alias in node.names:
        star = alias.name == "*"
        yield alias.asname or alias.name, origin if star else f"{origin}.{alias.name}", star


class Names(ast.NodeVisitor):
    """Collects what a piece of code takes from outside.

    Names that a function binds are its own; a class's are taken to be visible from outside, which finds too much rather
    than too little.

    Args:
      module: its module's full name, for relative imports within functions.

    Attributes:
      chains: dotted names, as written, that start with a name from outside.
      imported: full names that imports within it bind, with what follows them.
      words: string constants, docstrings left out.

    Example:
      >>> names = Names("m")
      >>> names.visit(ast.parse("def f(x):\\n    from a import b\\n    return x.y + z.w(b.c)"))
      >>> sorted(names.chains), sorted(names.imported)
      (['z.w'], ['a.b.c'])
    """

    def __init__(self, module: str):
        self.chains: set[str] = set()
        self.imported: set[str] = set()
        self.words: set[str] = set()
        self._base = module.rpartition(".")[0]
        self._scopes: list[dict[str, str]] = []

    def visit_Name(self, node: ast.Name) -> None:
        """A name by itself."""
        if isinstance(node.ctx, ast.Load):
            self._note(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A dotted name, or an attribute of something computed."""
        found = chain(node)
        if found is None:
            self.visit(node.value)
        else:
            self._note(found)

    def visit_Call(self, node: ast.Call) -> None:
        """A call; ``importlib.import_module("a.b")`` of a constant name is an import like any other."""
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        named = isinstance(first, str) and not first.startswith(".")
        if named and chain(node.func) == "importlib.import_module":
            self.imported.add(str(first))
        else:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A constant."""
        if isinstance(node.value, str):
            self.words.add(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        """An import: within a function what it binds counts where it is used; elsewhere all of it does."""
        if not self._scopes:
            self.imported |= {target for _, target, _ in imports(node, self._base)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Likewise."""
        if not self._scopes:
            self.imported |= {f"{target}.*" if star else target for _, target, star in imports(node, self._base)}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class: bases, decorators and body, its docstring left out."""
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        self._body(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """A function: decorators, defaults and annotations outside, its body with its own names."""
        for part in (*node.decorator_list, *_outside(node.args), *([node.returns] if node.returns else [])):
            self.visit(part)
        self._scopes.append(_bound(node, self._base))
        self._body(node.body)
        self._scopes.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Likewise."""
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A lambda."""
        for part in _outside(node.args):
            self.visit(part)
        self._scopes.append(_bound(node, self._base))
        self.visit(node.body)
        self._scopes.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        # The first iterable belongs to the scope around it.
        self.visit(node.generators[0].iter)
        targets = [name.id for g in node.generators for name in ast.walk(g.target) if isinstance(name, ast.Name)]
        self._scopes.append(dict.fromkeys(targets, ""))
        for index, generator in enumerate(node.generators):
            for part in (*([generator.iter] if index else []), generator.target, *generator.ifs):
                self.visit(part)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _body(self, body: list[ast.stmt]) -> None:
        for node in body[1:] if _is_docstring(body) else body:
            self.visit(node)

    def _note(self, found: str) -> None:
        root, _, rest = found.partition(".")
        for scope in reversed(self._scopes):
            if root in scope:
                if scope[root]:
                    self.imported.add(scope[root] + (f".{rest}" if rest else ""))
                return
        self.chains.add(found)


def _outside(arguments: ast.arguments) -> Iterator[ast.expr]:
    """Defaults and annotations, which are evaluated around a function."""
    yield from arguments.defaults
    yield from (default for default in arguments.kw_defaults if default is not None)
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    yield from (argument.annotation for argument in every if argument is not None and argument.annotation is not None)


def _bound(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, base: str) -> dict[str, str]:
    """The names that a function binds itself; those that an import binds → what they stand for, the others → ""."""
    arguments = function.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    bound = {argument.arg: "" for argument in every if argument is not None}
    given_up: set[str] = set()
    waiting: list[ast.AST] = list(function.body) if isinstance(function.body, list) else [function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound[node.name] = ""
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, _COMPREHENSIONS):
            # Only what := binds gets out of it.
            walrus = [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
            bound |= {target.id: "" for target in walrus}
            continue
        if isinstance(node, ast.Global | ast.Nonlocal):
            given_up |= set(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {name: target for name, target, star in imports(node, base) if not star}
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.setdefault(node.id, "")
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound[node.name] = ""
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound[node.rest] = ""
        waiting += ast.iter_child_nodes(node)
    return {name: target for name, target in bound.items() if name not in given_up}
