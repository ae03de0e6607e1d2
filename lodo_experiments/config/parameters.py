"""A notebook's parameters: declared once, checked before anything is computed.

papermill adds whatever it is given to a notebook's globals: a misspelt name is accepted and then ignored, and a
wrong type shows up as a traceback a hundred cells later. Each notebook of this project therefore declares its
parameters as a frozen dataclass, and the cell after the one tagged ``parameters`` hands its globals to :func:`check`.
What an experiment's preset says is a parameter of its notebook too (:func:`with_fields_of`).

The values come by ``papermill -p``, from a YAML file (``-f``) or by hand, so each is read from what any of them can
write: a list is ``[LODO, Adam]`` in YAML and ``LODO,Adam`` on the command line, and YAML reads ``1e4`` as a text.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from lodo_experiments.config.parameter_values import is_readable, problem_of_range, read

#: The presets that every experiment has, cheapest first.
PRESETS = ("smoke", "laptop", "desktop", "paper")

#: Runs for each optimizer at most; seeds from far beyond are those of tunings.
MOST_SEEDS = 1000

#: What papermill can put into a notebook. Modules, functions and classes can only come from the notebook's own cells.
_INJECTABLE = (bool, int, float, str, list, dict, type(None))

#: IPython's own names in a notebook's globals that are of one of those types.
_IPYTHON = {"In", "Out"}

Settings = TypeVar("Settings", bound="NotebookParameters")


class ParameterError(ValueError):
    """A notebook was given a parameter that it does not have, or a value that it does not take."""


def setting(
    default: Any = dataclasses.MISSING,
    about: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """Declares one parameter of a :class:`NotebookParameters` subclass, or a field of a preset.

    Args:
      default: The value where none is given, immutable; left out: a preset has to say it.
      about: One line for people: meaning and unit.
      minimum, maximum: The smallest and the largest number allowed.
      above, below: What a number has to be larger and smaller than.
      choices: The values allowed, where they can be listed; of a tuple, those of its entries.

    Returns:
      A dataclass field.
    """
    rules = {"about": about, "minimum": minimum, "maximum": maximum, "above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotebookParameters:
    """The parameters that every notebook of the project takes.

    Example:
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class BowlParameters(NotebookParameters):
      ...     dimension: int = setting(100, "the number n of optimised parameters", minimum=1)
      >>> settings = check(BowlParameters, {"preset": "laptop", "dimension": 10})
      >>> settings.preset, settings.dimension, settings.seeds
      ('laptop', 10, 0)
      >>> check(BowlParameters, {"prest": "laptop"})
      Traceback (most recent call last):
      lodo_experiments.config.parameters.ParameterError: 1 parameter of this notebook was refused:
        prest = 'laptop': there is no such parameter; did you mean 'preset'? ...
    """

    preset: str = setting("smoke", "how much to compute", choices=PRESETS)
    seeds: int = setting(0, "runs for each optimizer; 0: the preset's number", minimum=0, maximum=MOST_SEEDS)
    data_dir: str = setting("", "folder of the data sets; empty: the default place")
    download: bool = setting(False, "whether a missing data set may be downloaded")
    results_dir: str = setting("", "folder of the run records; empty: the default place")

    def changes(self) -> dict[str, Any]:
        """What is to differ from the preset: the given parameters among those that :func:`with_fields_of` added."""
        common = {field.name for field in dataclasses.fields(NotebookParameters)}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in common}
        return {name: value for name, value in own.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedPreset:
    """What the presets of every experiment have."""

    name: str  # smoke, laptop, desktop or paper

    def settings(self) -> dict[str, Any]:
        """The preset as JSON values, for records."""
        return dataclasses.asdict(self)


def with_fields_of(preset: type, **choices: Collection[str]) -> type[NotebookParameters]:
    """The parameters of a notebook whose preset may be changed: each field of the preset, None where it is not given.

    Args:
      preset: a dataclass, such as :class:`~lodo_experiments.config.presets.BowlPreset`.
      **choices: field → the values that it may have, where its declaration does not list them.

    Example:
      >>> from lodo_experiments.config.presets import BowlPreset
      >>> declaration = with_fields_of(BowlPreset, optimizers=("LODO", "Adam"))
      >>> check(declaration, {"steps": 20_000, "condition_number": "1e4", "optimizers": "LODO,Adam"}).changes()
      {'steps': 20000, 'optimizers': ('LODO', 'Adam'), 'condition_number': 10000.0}
    """
    common = {field.name for field in dataclasses.fields(NotebookParameters)}
    hints, documented = typing.get_type_hints(preset), _documented(preset)
    own: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(preset):
        if field.name not in {"name", *common} and is_readable(hints[field.name]):
            rules = {**(field.metadata or _usual_rules(hints[field.name], documented.get(field.name, "")))}
            rules |= {"choices": tuple(choices[field.name])} if field.name in choices else {}
            own.append((field.name, hints[field.name] | None, dataclasses.field(default=None, metadata=rules)))
    name = preset.__name__.replace("Preset", "") + "Parameters"
    return dataclasses.make_dataclass(name, own, bases=(NotebookParameters,), frozen=True, kw_only=True)


def _documented(preset: type) -> dict[str, str]:
    """What a preset's source says of its fields in the comment of each."""
    found = re.findall(r"^ +(\w+): [^#\n]+# (.+)$", inspect.getsource(preset), re.MULTILINE)
    return {name: text.rstrip(".") for name, text in found}


def _usual_rules(kind: Any, about: str) -> dict[str, Any]:
    """The rules of a field that declares none: amounts are at least 1, other numbers not negative."""
    kinds = {kind, *typing.get_args(kind)}
    least = 1 if int in kinds else 0 if float in kinds else None
    return {"about": about, "minimum": least}


def check(declaration: type[Settings], namespace: Mapping[str, Any]) -> Settings:
    """Checks a notebook's globals against its declared parameters.

    To be called in the cell that follows the one tagged ``parameters``, with ``globals()``. Names that start with an
    underscore, modules, functions and classes are the notebook's own affair; every other name must be a parameter,
    because that is where papermill puts whatever ``-p`` was given. In a kernel that has run the notebook before, only
    the names that the latest cells of parameters set must be: what the notebook's other cells have left is its own.

    Args:
      declaration: A frozen dataclass derived from :class:`NotebookParameters`.
      namespace: The notebook's ``globals()``.

    Returns:
      An instance of ``declaration``. A field missing from ``namespace`` takes its default.

    Raises:
      ParameterError: If a name is unknown, or a value has the wrong type or is out of its range. The message lists
        every refusal at once: what was given, what is allowed and what to do.
      TypeError: If ``declaration`` is not such a dataclass.
    """
    if not (isinstance(declaration, type) and issubclass(declaration, NotebookParameters)):
        raise TypeError(
            f"declaration: got {declaration!r}; expected a dataclass derived from NotebookParameters, "
            "the class itself and not an instance."
        )
    fields = {field.name: field for field in dataclasses.fields(declaration)}
    types_of = typing.get_type_hints(declaration)
    suspects = _set_as_parameters(namespace, fields.keys())
    refusals = [
        f"{name} = {value!r}: {_unknown(name, list(fields))}"
        for name, value in namespace.items()
        if name not in fields and not name.startswith("_") and name not in _IPYTHON and isinstance(value, _INJECTABLE)
        if suspects is None or name in suspects
    ]
    given = {name: namespace[name] for name in fields if name in namespace}
    values: dict[str, Any] = {}
    for name, value in given.items():
        values[name], problem = read(value, types_of[name])
        problem = problem or problem_of_range(values[name], fields[name].metadata)
        if problem:
            about = fields[name].metadata.get("about", "")
            refusals.append(f"{name} = {value!r}: {problem} ({about})" if about else f"{name} = {value!r}: {problem}")
    if refusals:
        head = f"{len(refusals)} parameter{'s' if len(refusals) > 1 else ''} of this notebook"
        head += f" {'were' if len(refusals) > 1 else 'was'} refused:"
        raise ParameterError("\n  ".join([head, *refusals]))
    return declaration(**values)


def _set_as_parameters(namespace: Mapping[str, Any], fields: Collection[str]) -> set[str] | None:
    """The names that the latest cells of parameters have set, by IPython's record of the cells that ran.

    Those cells are the latest one that sets the most parameters, the one tagged ``parameters``, and all from there to
    the next that is the cell that runs now, which is the check: papermill puts its own between the two.

    Args:
      namespace: the notebook's ``globals()``; IPython keeps the sources of the cells in its ``In``.
      fields: the names of the parameters.

    Returns:
      The names; None where there is no such record, or no cell in it sets a parameter.
    """
    cells = namespace.get("In")
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells) or not cells:
        return None
    *before, check = cells
    names = [_assigned(cell) for cell in before]
    counts = [len(found & set(fields)) for found in names]
    most = max(counts, default=0)
    if not most:
        return None
    first = max(place for place, count in enumerate(counts) if count == most)
    checks = [place for place, cell in enumerate(cells) if cell == check]
    last = next(place for place in checks if place > first)
    # Out of order, a cell of the notebook's own may have run since; what it sets, it has set before.
    own: set[str] = set().union(*names[checks[0] : first])
    return set().union(*names[first:last]) - own


def _assigned(cell: str) -> set[str]:
    """The names that a cell assigns to, by themselves and outside of functions and blocks."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets: list[ast.expr] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
            targets.append(statement.target)
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "remove it, or start its name with an underscore."
    return f"there is no such parameter; {hint} The parameters are {', '.join(known)}."
