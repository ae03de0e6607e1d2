"""What the devices of a compiled program exchange, read from its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(")
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One exchange of a compiled program.

    Attributes:
      kind: all-reduce, all-gather, all-to-all, collective-permute, reduce-scatter or collective-broadcast.
      elements: numbers that one device has at hand after it, its own share included.
      nbytes: their bytes.
      times: how often a run of the program makes it.
    """

    kind: str
    elements: int
    nbytes: int
    times: int


def collectives(compiled: Any) -> list[Collective]:
    """The exchanges among devices of a compiled program.

    Args:
      compiled: ``jax.jit(f).lower(…).compile()``.

    Returns:
      One entry for each in the program's text, largest first. An exchange in a loop is counted as often as the loop
      turns. In a conditional every branch is counted.

    Raises:
      ValueError: an exchange in a loop of which XLA does not know how often it turns.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> collectives(jax.jit(jnp.sin).lower(1.0).compile())  # one device, nothing to exchange
      []
    """
    return sorted(_read(compiled.as_text()), key=lambda one: -one.elements)


def _read(text: str) -> list[Collective]:
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            entry = current if head[1] else entry
            computations[current] = []
        elif current:
            computations[current].append(line)
    found: list[Collective] = []

    def visit(name: str, times: int | None) -> None:
        for line in computations.get(name, ()):
            instruction = _INSTRUCTION.match(line)
            if instruction is None:
                continue
            result, operation = instruction.groups()
            kind = operation.removesuffix("-start")
            if kind in _KINDS:
                if times is None:
                    raise ValueError(
                        f"XLA does not know how often the loop turns that has this exchange: {line.strip()}"
                    )
                found.append(Collective(kind, *_size(result, operation.endswith("-start")), times))
            for word, called in re.findall(r"\b(body|calls|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.-]+)", line):
                turns = times
                if word == "body":
                    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                    turns = times * int(known[1]) if known and times is not None else None
                for inner in re.findall(r"[\w.-]+", called):
                    visit(inner, turns)

    visit(entry, 1)
    return found


def _size(result: str, started: bool) -> tuple[int, int]:
    """Elements and bytes of an exchange's result. One that is started has its operands beside it: the larger counts."""
    sizes = []
    for dtype, shape in _ARRAY.findall(result):
        elements = 1
        for extent in filter(None, shape.split(",")):
            elements *= int(extent)
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype) or (int(digits[0]) if digits else 0)
        sizes.append((elements, elements * bits // 8))
    if started and result.startswith("("):
        return max(sizes)
    return sum(size[0] for size in sizes), sum(size[1] for size in sizes)
