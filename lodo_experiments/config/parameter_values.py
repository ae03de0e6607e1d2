"""A parameter's value, read as the type that it should have, and what is wrong with it in words for people."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from lodo_experiments.config.schedules import Generation

#: How a value of a type is written on the command line.
_EXAMPLES: Mapping[Any, str] = {bool: "True", int: "8", float: "0.1", str: "text"}


def is_readable(expected: Any) -> bool:
    """Whether values of a type can be read from what papermill hands on."""
    inner = [kind for kind in typing.get_args(expected) if kind not in (type(None), Ellipsis)]
    if isinstance(expected, types.UnionType):
        return len(inner) == 1 and is_readable(inner[0])
    if typing.get_origin(expected) is tuple:
        return all(kind in (int, float, str, Generation) for kind in inner)
    return expected in (bool, int, float, str)


def read(value: Any, expected: Any) -> tuple[Any, str]:
    """A value as the type that it should have, and what is wrong with it; empty where nothing is."""
    if isinstance(expected, types.UnionType):
        if value is None:
            return None, ""
        (expected,) = (kind for kind in typing.get_args(expected) if kind is not type(None))
    if typing.get_origin(expected) is tuple:
        return _read_tuple(value, expected)
    if expected in (int, float) and isinstance(value, str):
        value = _number_in(value)
    if expected is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    problem = _type_problem(value, expected)
    return (value if problem else expected(value)), problem


def _number_in(text: str) -> int | float | str:
    """The number that a text says, which YAML does not see in "1e4"; the text itself where it says none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read_tuple(value: Any, expected: Any) -> tuple[Any, str]:
    inner = typing.get_args(expected)
    entry, length = inner[0], None if Ellipsis in inner else len(inner)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list | tuple):
        return value, f"expected a list, got {type(value).__name__}; write {_example_of(entry)}."
    found = [_read_generation(one) if entry is Generation else read(one, entry) for one in value]
    problem = next((problem for _, problem in found if problem), "")
    if not problem and length is not None and len(found) != length:
        problem = f"expected {length} values, got {len(found)}; write {_example_of(entry)}."
    return (value if problem else tuple(one for one, _ in found)), problem


def _example_of(entry: Any) -> str:
    if entry is Generation:
        return "generations as 3:300:12,1:500:12 (deviation:steps:population), in YAML as [[3, 300, 12], [1, 500, 12]]"
    first, second = ("LODO", "Adam") if entry is str else (_EXAMPLES[entry], _EXAMPLES[entry])
    return f"them as {first},{second}, in YAML as [{first}, {second}]"


def _read_generation(value: Any) -> tuple[Any, str]:
    """One generation of a tuning: deviation:steps:population, or a list of the three."""
    parts = value.split(":") if isinstance(value, str) else value
    if isinstance(value, Generation):
        return value, ""
    if isinstance(parts, list | tuple) and len(parts) == 3:
        found = [read(part, kind) for part, kind in zip(parts, (float, int, int))]
        if not any(problem for _, problem in found):
            try:
                return Generation(*(part for part, _ in found)), ""
            except (TypeError, ValueError) as error:
                return value, f"{error}"
    return value, f"expected deviation, steps and population of a generation; write {_example_of(Generation)}."


def _type_problem(value: Any, expected: type) -> str:
    # bool is a subclass of int, and an integer is a perfectly good float.
    allowed = (int, float) if expected is float else (expected,)
    if isinstance(value, allowed) and (expected is bool or not isinstance(value, bool)):
        if isinstance(value, float) and not math.isfinite(value):
            return "expected a finite number; give one."
        return ""
    problem = f"expected {expected.__name__}, got {type(value).__name__}; "
    if expected is bool:
        return problem + "write True or False, with papermill by `-p`, which takes only these two for booleans."
    if isinstance(value, str):
        return problem + "write a number."
    if expected is str and value is None:
        return problem + "leave it out, or give a text."
    if expected is str:
        return problem + "with papermill, pass it by `-r`, which reads everything as text."
    return problem + f"give a value such as {expected(1)!r}."


def problem_of_range(value: Any, rules: Mapping[str, Any]) -> str:
    """What rules (see :func:`~lodo_experiments.config.parameters.setting`) a value breaks; empty where none."""
    if value is None:
        return ""
    choices, minimum, maximum = (rules.get(rule) for rule in ("choices", "minimum", "maximum"))
    above, below = rules.get("above"), rules.get("below")
    entries = value if isinstance(value, tuple) else (value,)
    foreign = [] if choices is None else [one for one in entries if one not in choices]
    if choices is not None and foreign:
        known = ", ".join(map(repr, choices))
        if isinstance(value, tuple):
            close = difflib.get_close_matches(str(foreign[0]), list(map(str, choices)), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else "choose from them."
            return f"expected some of {known}, which {foreign[0]!r} is not; {hint}"
        return f"expected one of {known}; choose one of them."
    if choices is not None and value == ():
        return f"expected at least one of {', '.join(map(repr, choices))}; got none."
    twice = [one for place, one in enumerate(entries) if one in entries[:place]] if choices is not None else []
    if twice:
        return f"expected each once, and {twice[0]!r} is there twice; leave one out."
    if value == () and not (minimum is maximum is above is below is None):
        return "expected at least one value; got none."
    for entry in entries:
        if above is not None and entry <= above:
            return f"expected more than {above}; give a larger number."
        if below is not None and entry >= below:
            return f"expected less than {below}; give a smaller number."
        if minimum is not None and entry < minimum:
            return f"expected at least {minimum}; give a larger number."
        if maximum is not None and entry > maximum:
            return f"expected at most {maximum}; give a smaller number."
    return ""
