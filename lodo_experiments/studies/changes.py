"""Presets with other values: what differs, and where records of a changed run lie."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lodo_experiments.config.schedules import Generation

#: The folder below the results folder in which changed runs have folders of their own.
FOLDER = "changed"

#: Fields that say which records there are, and nothing of what is in them.
_SAME_RECORDS = frozenset({"seeds", "optimizers"})


def changes_given(texts: Sequence[str]) -> dict[str, str]:
    """Changes that a command line gives as NAME=VALUE each; who knows the names reads the values, and refuses.

    Raises:
      ValueError: a text of another form, or a name that is given twice.

    >>> changes_given(["condition_number=1e4"])
    {'condition_number': '1e4'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"--set {text}: expected NAME=VALUE, such as steps=1000.")
        if name in found:
            raise ValueError(f"--set {text}: {name} is given as {found[name]} too; give it once, by --set or --sweep.")
        found[name] = value
    return found


def changed_preset(preset: Any, changes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A preset with other values.

    Returns:
      The changed preset, and the changes that are any: values that the preset has already are left out.

    Raises:
      ValueError: the preset has no such field.

    >>> from lodo_experiments.config.presets import BOWL
    >>> changed_preset(BOWL["smoke"], {"steps": 2_000, "size": 10})[1]
    {'size': 10}
    """
    known = [field.name for field in fields(preset) if field.name not in ("name", "seeds")]
    for name in changes:
        if name not in known:
            raise ValueError(f"There is no field {name!r} in this preset; there are {', '.join(known)}.")
    real = {name: value for name, value in changes.items() if value != getattr(preset, name)}
    return replace(preset, **real), real


def changed_folder(results: Path, experiment: str, changes: Mapping[str, Any]) -> Path:
    """The results folder of a changed run.

    It is one of the run's own, so that no record of a preset is replaced by it, or taken for it. Other optimizers
    alone make no difference to a record, and need none.

    >>> changed_folder(Path("results"), "noisy_bowl", {"size": 10, "optimizers": ("LODO",)}).as_posix()
    'results/changed/noisy_bowl-size=10-4c933bcd'
    >>> changed_folder(Path("results"), "noisy_bowl", {"optimizers": ("LODO",)}).as_posix()
    'results'
    """
    deciding = {name: written(value) for name, value in sorted(changes.items()) if name not in _SAME_RECORDS}
    if not deciding:
        return results
    words = "-".join(f"{name}={value}" for name, value in deciding.items())
    digest = hashlib.sha256(json.dumps([experiment, deciding]).encode()).hexdigest()[:8]
    return results / FOLDER / f"{experiment}-{re.sub(r'[^A-Za-z0-9_.=-]', '_', words)[:80]}-{digest}"


def written(value: Any) -> str:
    """A value as it is written on the command line.

    >>> written(("LODO", "Adam")), written((Generation(3, 300, 12),)), written(1e4)
    ('LODO,Adam', '3:300:12', '10000.0')
    """
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    if isinstance(value, Generation):
        return f"{value.deviation:g}:{value.steps}:{value.population}"
    return str(value)


def stated(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as JSON values, for a record's provenance and for pages."""
    plain = (bool, int, float, str)
    return {name: value if isinstance(value, plain) else written(value) for name, value in changes.items()}
