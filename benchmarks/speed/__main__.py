"""Measure, store records, and print the table.

python -m benchmarks.speed                    everything (make bench)
python -m benchmarks.speed --only steps --n 94696 --dtype float32
python -m benchmarks.speed --quick            n = 100 and few repeats, for tests
python -m benchmarks.speed --show             print what the records say, measure nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.speed import image_gradient, memory, native, split, steps, tasks
from benchmarks.speed.bandwidth import ELEMENTS
from benchmarks.speed.forms import FORMS
from lodo_experiments.analysis import step_times
from lodo_experiments.config.paths import results_folder
from lodo_experiments.report import tables
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.utils import environment

Row = dict[str, Any]

#: Of the free memory, what one size's states may take together.
MEMORY_SHARE = 0.6
DTYPES = ("float32", "float64")
#: What the quick form measures.
QUICK = (step_times.OURS, step_times.NATIVE, step_times.RELATIVE_NATIVE, step_times.ARRANGED, "optax.adam")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=step_times.PARTS, default=list(step_times.PARTS), help="parts; default: all"
    )
    parser.add_argument("--n", nargs="+", type=int, default=[], help="sizes, of those there are; default: all")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--turns", type=int, default=0, help="samples of each at most; default: each size's own number")
    parser.add_argument("--store", action="store_true", help="store the records of a selection or of fewer turns too")
    parser.add_argument("--quick", action="store_true", help="n = 100 and few repeats")
    parser.add_argument("--show", action="store_true", help="print what the records say, and measure nothing")
    parser.add_argument("--results-dir", default="", help="folder of the records; default: results")
    options = parser.parse_args(argv)
    folder = results_folder(options.results_dir)
    selected = bool(options.n or options.turns or len(options.dtype) < len(DTYPES))
    store = options.store or not selected
    if not options.show:
        # What is timed is compiling, too.
        jax.config.update("jax_enable_compilation_cache", False)
        found = {}
        for part in options.only:
            found[part] = _measured(part, options)
            if store:
                records.save(step_times.folder_of(folder) / f"{part}.npz", found[part])
        if not store:
            print("A selection of sizes, dtypes or turns: printed, not stored. --store stores it.")
    else:
        found = step_times.load_all(folder)
    for part in found:
        print()
        for title, rows in step_times.tables_of(part, found[part].values["rows"]).items():
            print(f"{title}\n\n{aligned(rows)}\n")
    print(aligned(step_times.verdicts(found)))
    return 0


def _measured(part: str, options: argparse.Namespace) -> Record:
    load, began = _load(), time.perf_counter()
    print(f"{part} …", flush=True)
    rows = MEASURES[part](options)
    seconds = time.perf_counter() - began
    stated = records.provenance(
        _command(options),
        preset="quick" if options.quick else "bench",
        seeds=[],
        wall_seconds=seconds,
        compile_seconds=sum(row.get("compile_seconds") or 0 for row in rows),
        library=environment.library(),
        usable_cores=_cores(),
        load_before=load,
        load_after=_load(),
    )
    return Record(step_times.kind_of(part), {}, {"rows": rows}, stated)


def _command(options: argparse.Namespace) -> str:
    """What a reader would type."""
    chosen = ["--quick"] * options.quick + ["--store"] * options.store
    chosen += ["--n", *map(str, options.n)] * bool(options.n)
    chosen += ["--dtype", *options.dtype] * (len(options.dtype) < len(DTYPES))
    chosen += ["--turns", str(options.turns)] * bool(options.turns)
    return " ".join(["python -m benchmarks.speed", *chosen]) if chosen else "make bench"


def _cases(options: argparse.Namespace, dtypes: tuple[str, ...] = DTYPES) -> Iterator[tuple[steps.Amount, str]]:
    """Sizes and dtypes asked for, each announced."""
    amounts = steps.QUICK if options.quick else steps.AMOUNTS
    unknown = set(options.n) - {amount.n for amount in amounts}
    if unknown:
        raise SystemExit(f"--n: got {sorted(unknown)}; expected {', '.join(str(amount.n) for amount in amounts)}")
    for dtype in [dtype for dtype in options.dtype if dtype in (DTYPES[:1] if options.quick else dtypes)]:
        for amount in amounts:
            if not options.n or amount.n in options.n:
                print(f"  n = {amount.n:,}, {dtype}", flush=True)
                turns = min(options.turns or amount.turns, amount.turns)
                yield replace(amount, turns=turns), dtype


def _steps(options: argparse.Namespace) -> list[Row]:
    forms = [form for form in FORMS if form.name in QUICK] if options.quick else FORMS
    elements = 1024 if options.quick else ELEMENTS
    # Before anything else, so that no step's first call has it.
    rows = [native.measure()] if all(not form.missing() for form in forms if form.native) else []
    for amount, dtype in _cases(options):
        with jax.enable_x64(dtype == "float64"):
            rows += steps.measure(forms, amount, dtype, MEMORY_SHARE * _available(), elements)
    return rows


def _split(options: argparse.Namespace) -> list[Row]:
    # It is much the same in both precisions.
    return [row for amount, dtype in _cases(options, DTYPES[:1]) for row in split.measure(amount, dtype)]


def _memory(options: argparse.Namespace) -> list[Row]:
    # Of float64 the steps' records have XLA's analysis.
    forms = [form.name for form in FORMS if form.name in (step_times.OURS, step_times.NATIVE) and not form.missing()]
    cases = list(_cases(options, DTYPES[:1]))
    return [memory.measure(form, amount.n, dtype) for form in forms for amount, dtype in cases]


MEASURES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "steps": _steps,
    "split": _split,
    "memory": _memory,
    "tasks": lambda options: tasks.measure(options.quick, options.turns or 9),
    "image_gradient": lambda options: image_gradient.measure(options.quick, options.turns or 5),
}


def aligned(rows: list[dict[str, Any]]) -> str:
    """Rows as a text table with aligned columns."""
    head, *cells = tables.cells(rows)
    right = [all(not isinstance(row.get(name), str) for row in rows) for name in head]
    widths = [max(map(len, column)) for column in zip(head, *cells)]
    return "\n".join(
        "  ".join(cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(row, widths, right))
        for row in (head, *cells)
    )


def _available() -> int:
    """Bytes of memory that are free, where the system says so; else 8 GiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 8 * 2**30
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


if __name__ == "__main__":
    sys.exit(main())
