"""Step times from the records of ``make bench``: tables, and whether each target is met.

``benchmarks/speed`` measures; this module reads, for the command and for the book's page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from lodo_experiments.config.paths import kept_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError

OURS = "lodo.lodo"
ROLLED = "lodo.lodo, rows rolled"
NATIVE = "lodo.lodo, native"
NATIVE_ROLLED = "lodo.lodo, native, rows rolled"
COMPACT = "lodo.lodo, compact"
RELATIVE = "lodo.rlodo"
RELATIVE_NATIVE = "lodo.rlodo, native"
AUTODIFF = "plain autodiff"
ARRANGED = "autodiff, arranged"
SCAN = "in a scan"
CALL = "one a call"

#: What a step is split into.
STEP = "whole step"
APPLY = "G times one vector: up and down"
HYPERGRADIENT = "hypergradient: two vectors up and down, outer products"
META = "Adam on θ"
GRADIENT = "gradient: up and down"
ADAM = "outer products and Adam"
MOMENTUM = "new momentum: up and down"
REST = "rest"

#: Parts that `make bench` measures, one record each.
PARTS = ("steps", "split", "memory", "tasks", "image_gradient")

Row = dict[str, Any]


def folder_of(results: Path) -> Path:
    """The folder of the benchmark's records in a results folder."""
    return results / "benchmarks" / "speed"


def kind_of(part: str) -> str:
    """The kind of a part's record."""
    return f"benchmarks/speed/{part}"


def load_all(results: Path) -> dict[str, Record]:
    """Load the records of all parts that have one.

    Raises:
      RecordError: a record that is damaged or foreign.
    """
    paths = {part: folder_of(results) / f"{part}.npz" for part in PARTS}
    return {part: records.load(path, kind_of(part)) for part, path in paths.items() if path.exists()}


def load_bundled() -> dict[str, Record]:
    """Load the records that come with the project, that of the steps at least.

    Raises:
      RecordError: there is none of the steps.
    """
    bundled = load_all(kept_folder())
    if "steps" not in bundled:
        raise RecordError(
            f"There is no record of the benchmark's steps in {folder_of(kept_folder())}. "
            "`make bench` in a checkout of the project makes it."
        )
    return bundled


def circumstances(parts: Mapping[str, Record]) -> str:
    """Describe the device and its load in a paragraph."""
    provenances = [record.provenance for record in parts.values()]
    devices = ", ".join(dict.fromkeys(f"{one['device']}, of which {one['usable_cores']} usable" for one in provenances))
    text = f"Measured on {devices}; {provenances[0]['platform']}."
    loads = [one[end] for one in provenances for end in ("load_before", "load_after") if one[end] is not None]
    if loads:
        text += f" The load average was {min(loads):.1f} to {max(loads):.1f} before and after its parts."
    # One part leaves the load of its own threads behind for the next.
    most = max((one[end] or 0) / one["usable_cores"] for one in provenances for end in ("load_before", "load_after"))
    if most > 2:
        text += (
            " **The machine was busy with other programs: times are too long, ratios are distorted, and no verdict "
            "below should be relied on. `make bench` on a quiet machine replaces these records.**"
        )
    return text


@dataclass(frozen=True)
class Target:
    """An aim that the project set itself."""

    key: str  # names it
    what: str  # in words
    limit: float  # the aim
    unit: str  # of the limit and the value
    part: str  # whose record has it
    value: Callable[[list[Row]], float | None]  # rows → the measured value; None where it was not measured
    at_least: bool = False  # whether the value has to be at least the limit, not at most

    def met(self, value: float) -> bool:
        """Whether a value meets it."""
        return value >= self.limit if self.at_least else value <= self.limit


def rows_of(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows that have these entries.

    >>> rows_of([{"n": 1, "a": 2}, {"n": 3}], n=1)
    [{'n': 1, 'a': 2}]
    """
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _entry(name: str, **wanted: Any) -> Callable[[list[Row]], float | None]:
    def value(rows: list[Row]) -> float | None:
        matching = rows_of(rows, **wanted)
        return float(matching[0][name]) if matching and matching[0].get(name) is not None else None

    return value


def _longest_compilation(rows: list[Row]) -> float | None:
    ours = [row for row in rows_of(rows, form=OURS) if "compile_seconds" in row]
    return max((row["trace_seconds"] + row["compile_seconds"] for row in ours), default=None)


_SINGLE = {"dtype": "float32", "way": SCAN}


def _of_lodo(key: str, words: str, form: str, by: str) -> tuple[Target, ...]:
    """The four targets of LODO's step, by one of its ways through the layers."""
    network, large = "n = 94,696, float32", "n = 1,000,000, float32"
    at_network = {"n": 94_696, **_SINGLE}
    return (
        Target(
            f"{key}floor", f"{network}{words}: a step at most 4 × the floor", 4, "× floor", "steps",
            _entry("by_floor", form=form, **at_network),
        ),
        Target(
            f"{key}autodiff", f"{network}{words}: at least 20 × faster than plain autodiff", 20, "×", "steps",
            _entry(by, form=AUTODIFF, **at_network), at_least=True,
        ),
        Target(
            f"{key}small", f"n = 100, float32{words}: at most 0.15 ms a step inside a scan", 0.15e-3, "s", "steps",
            _entry("seconds", form=form, n=100, **_SINGLE),
        ),
        Target(
            f"{key}large", f"{large}{words}: a step at most 6 × the floor", 6, "× floor", "steps",
            _entry("by_floor", form=form, n=1_000_000, **_SINGLE),
        ),
    )  # fmt: skip


_RELATIVE = "lodo.rlodo, n = 94,696, float32, by the C++ kernels"
TARGETS = (
    *_of_lodo("", "", OURS, "by_ours"),
    *_of_lodo("native_", ", by the C++ kernels", NATIVE, "by_native"),
    Target(
        "relative_floor", f"{_RELATIVE}: at most 3 × its floor", 3, "× floor", "steps",
        _entry("by_floor", form=RELATIVE_NATIVE, n=94_696, **_SINGLE),
    ),
    Target(
        "relative_native", f"{_RELATIVE}: at most 0.5 × lodo.lodo's time", 0.5, "×", "steps",
        _entry("by_native", form=RELATIVE_NATIVE, n=94_696, **_SINGLE),
    ),
    Target("compile", "compiled in less than 3 s at every n", 3, "s", "steps", _longest_compilation),
    Target(
        "image_gradient", "image generation's gradient on one core: at most 2.7 s", 2.7, "s", "image_gradient",
        _entry("seconds", form="ours", batch=256, cores=1),
    ),
)  # fmt: skip


def verdicts(parts: Mapping[str, Record]) -> list[Row]:
    """Each target with its measured value, and whether it is met."""
    rows = []
    for target in TARGETS:
        value = target.value(parts[target.part].values["rows"]) if target.part in parts else None
        verdict = "not measured" if value is None else "met" if target.met(value) else "not met"
        rows.append(
            {"target": target.what, "aim": target.limit, "measured": value, "unit": target.unit, "verdict": verdict}
        )
    return rows


def at_size(rows: list[Row], **case: Any) -> list[Row]:
    """Every form in one case of n, precision and way of running, as a table for people.

    Args:
      rows: of the part "steps".
      **case: n, dtype and way.
    """
    return [
        {
            "form": row["form"], "ms a step": 1e3 * row["seconds"], "middle half": _middle_half("seconds", 1e3)(row),
            "× LODO": row.get("by_ours"), "× floor": row.get("by_floor"), "state, MiB": _MIB * row["state_bytes"],
            "first call, s": row["trace_seconds"] + row["compile_seconds"] + row["first_seconds"],
        }
        for row in rows_of(rows, **case)
        if "seconds" in row
    ]  # fmt: skip


def tables_of(part: str, rows: list[Row]) -> dict[str, list[Row]]:
    """A part's rows as tables for people: title → rows of equal columns, times in milliseconds and sizes in MiB."""
    found = {
        title: [{name: column(row) for name, column in columns.items()} for row in rows if needed in row]
        for title, needed, columns in _TABLES[part]
    }
    return {title: table for title, table in found.items() if table}


Column = Callable[[Row], Any]


def _columns(*names: str) -> dict[str, Column]:
    """Columns of entries as they are; "heading=entry" where the heading is another word."""
    pairs = [(heading, entry or heading) for heading, _, entry in (name.partition("=") for name in names)]
    return {heading: methodcaller("get", entry) for heading, entry in pairs}


def _scaled(entry: str, factor: float) -> Column:
    return lambda row: None if row.get(entry) is None else factor * row[entry]


def _middle_half(entry: str, factor: float) -> Column:
    """The quartiles."""
    return lambda row: " to ".join(f"{factor * row[f'{entry}_{end}'.lstrip('_')]:.4g}" for end in ("low", "high"))


_MIB = 2**-20
_STEP = _columns("n", "dtype", "form", "steps=way")
# Part → its tables: title, the entry that its rows have, heading → what it shows.
_TABLES: dict[str, list[tuple[str, str, dict[str, Column]]]] = {
    "steps": [
        ("Memory bandwidth", "kernel", {
            **_columns("beside n=n", "dtype", "kernel"), "GB/s": _scaled("bytes_per_second", 1e-9),
            "middle half": _middle_half("", 1e-9), "sets the floor": lambda row: "yes" if row["best"] else "",
        }),
        ("A step", "seconds", {
            **_STEP, "ms a step": _scaled("seconds", 1e3), "middle half": _middle_half("seconds", 1e3),
            **_columns("× LODO=by_ours", "× floor=by_floor"), "floor, ms": _scaled("floor_seconds", 1e3),
            **_columns("samples=seconds_samples"),
        }),
        ("Compilation, first call and memory", "seconds", {
            **_STEP, **_columns("tracing, s=trace_seconds", "compiling, s=compile_seconds"),
            "first call, s": lambda row: row["trace_seconds"] + row["compile_seconds"] + row["first_seconds"],
            **_columns("start, s=start_seconds"),
            "state, MiB": _scaled("state_bytes", _MIB), "peak, MiB": _scaled("peak_bytes", _MIB),
        }),
        ("The C++ kernels, compiled once on a machine", "compiler", {
            **_columns("compiler", "seconds=build_seconds"), "KiB": _scaled("build_bytes", 2**-10),
        }),
        ("Left out", "left_out", _columns("n", "dtype", "form", "left_out")),
    ],
    "split": [("Parts of a step, each alone", "seconds", {
        **_columns("n", "dtype", "part"), "ms": _scaled("seconds", 1e3), "middle half": _middle_half("seconds", 1e3),
        "% of the step": _scaled("share", 100),
    })],
    "memory": [("Memory of a process", "peak_bytes", {
        **_columns("n", "dtype", "form"),
        "before, MiB": _scaled("before_bytes", _MIB), "peak, MiB": _scaled("peak_bytes", _MIB),
        "difference, MiB": lambda row: _MIB * (row["peak_bytes"] - row["before_bytes"]),
        "by XLA's analysis, MiB": _scaled("xla_peak_bytes", _MIB),
    })],
    "tasks": [("A whole training step", "seconds", {
        **_columns("task", "n", "optimizer"), "ms a step": _scaled("seconds", 1e3),
        "middle half": _middle_half("seconds", 1e3), **_columns("× Adam=by_adam"),
    })],
    "image_gradient": [("Image generation: loss and gradient", "seconds", {
        **_columns("form", "batch", "cores", "seconds"), "middle half": _middle_half("seconds", 1),
        **_columns("× ours=by_ours", "compiling, s=compile_seconds"),
    })],
}  # fmt: skip
