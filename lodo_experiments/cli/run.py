"""Run studies without notebooks, on any machine, in slices of time: ``python -m lodo_experiments.cli.run --help``.

Needs jax, flax, optax and numpy, and the data as files: no papermill, no TensorFlow, no network. What is done is kept
after every piece, so the same command goes on where the last one stopped, and the notebooks draw what it made.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from lodo_experiments.cli import amounts
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.data.catalogue import DataError
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.results import records
from lodo_experiments.results.records import Record, RecordError, StorageError, describe
from lodo_experiments.studies import registry
from lodo_experiments.studies.runner import Study
from lodo_experiments.utils import compilation_cache, outcome
from lodo_experiments.utils.double_precision import double_precision
from lodo_experiments.utils.time_limit import OutOfTime, ending

#: Exit status when the time given was over before the work was (``EX_TEMPFAIL``): call again.
GO_ON = 75
#: Exit status when results cannot be written (``EX_IOERR``): the disk is full, or the folder is read-only.
UNWRITTEN = 74

#: Exit status when what is asked for is refused, as for an option that does not exist: calling again changes nothing.
REFUSED = 2


@dataclass(frozen=True)
class Part:
    """One part of a plan: a study or a variant of it, some of its optimizers or parts, so many seeds or these apart."""

    experiment: str
    only: tuple[str, ...] = ()
    seeds: int = 0
    variant: str = ""
    apart: tuple[int, ...] = ()


#: Plan → whether it takes the experiments of which one run keeps a machine busy, or the others. ``networks`` is the
#: paper's §5.3 and §5.4, for an accelerator.
PLANS = {"networks": True, "small": False}


def plan(name: str, preset: str) -> list[Part]:
    """The parts of a plan: all that trains; of what keeps a machine busy one seed of everything first."""
    own = [one for one in registry.EXPERIMENTS.values() if one.parts is None and preset in one.listed]
    found = [Part((one.base or one).name, variant=one.variant) for one in own if one.wide == PLANS[name]]
    found = list(dict.fromkeys(found))
    return [*(replace(part, seeds=1) for part in found), *found] if PLANS[name] else found


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lodo_experiments.cli.run``.

    Returns:
      0 when all asked for is there, 75 when the time was over first (``--minutes``, or SIGTERM), 74 when the results
      cannot be written, 2 when it is refused: it cannot be done as asked.
    """
    options = _parser().parse_args(arguments)
    try:
        amounts.check(options)
    except ValueError as error:
        return _wrong(str(error))
    if len(instead := [f"--{name}" for name in ("apart", "tuning", "verify") if getattr(options, name)]) > 1:
        return _wrong(f"{' and '.join(instead)} do not go together: each is instead of the whole runs. Give one.")
    own = Part(options.what, tuple(options.only), options.seeds, options.variant, tuple(options.apart))
    parts = plan(options.what, options.preset) if options.what in PLANS else [own]
    if options.what in PLANS and (options.only or options.seeds or options.variant or options.apart or options.set):
        return _wrong("--only, --seeds, --variant, --apart and --set go with an experiment; a plan says them itself.")
    whole = options.what not in PLANS and registry.named(options.what).parts is not None
    if whole and (options.variant or options.apart or options.tuning or options.verify):
        return _wrong(
            f"{options.what} is made of parts, of which --only takes some; --variant, --apart, --tuning and --verify "
            "go with experiments that train optimizers."
        )
    if options.accelerator and jax.default_backend() == "cpu":
        return _wrong("--accelerator: JAX sees no accelerator here, only the CPU. Install jax[cuda12] or leave it out.")
    compilation_cache.enable()
    until = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    try:
        with _ended_politely():
            for part in parts:
                with double_precision(registry.named(part.experiment).double):
                    for line in _run(part, options, until):
                        print(line, flush=True)
    except OutOfTime as error:
        print(f"{error} The same command goes on from there.", file=sys.stderr)
        return GO_ON
    except StorageError as error:
        return _wrong(str(error), UNWRITTEN)
    except (ValueError, RecordError, DataError) as error:
        return _wrong(str(error))
    return 0


@contextmanager
def _ended_politely() -> Iterator[None]:
    """A polite request to end, as batch systems send it before they kill, saves what runs, as when time is over."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ending.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ending.clear()


def _run(part: Part, options: argparse.Namespace, until: float) -> Iterator[str]:
    if registry.named(part.experiment).parts is not None:
        parts = registry.build_parts(
            part.experiment, options.preset, seeds=part.seeds, results_dir=options.results_dir, until=until,
            changes=registry.changes_of(part.experiment, options.set),
        )  # fmt: skip
        if unknown := [name for name in part.only if name not in parts.parts]:
            raise ValueError(
                f"{part.experiment} has no part {', '.join(unknown)} at {options.preset}; it has "
                f"{', '.join(parts.parts)}."
            )
        for name in part.only or parts.parts:
            yield _describe_and_tell(parts.record(name))
        return
    study = registry.build(
        part.experiment, options.preset, seeds=part.seeds, results_dir=options.results_dir, data_dir=options.data_dir,
        until=until, changes=registry.changes_of(part.experiment, options.set),
    )  # fmt: skip
    for own, name in select(study, part.variant, part.only):
        if options.verify:
            yield verify_tuning(own, name)
        elif options.tuning:
            record = own.tune(name)
            values = ", ".join(f"{key} {value:.6g}" for key, value in record.values["hyperparameters"].items())
            yield f"{record.kind}: {len(record.arrays.get('score', ()))} trials: {values}"
        elif part.apart:
            for record in own.run_seeds(name, part.apart):
                yield f"apart from its record, {_describe_and_tell(record)}"
        else:
            yield _describe_and_tell(own.run(name))


def _describe_and_tell(record: Record) -> str:
    """A line about a record; a batch is told of it where runs diverged."""
    diverged = ~np.isfinite(record.arrays.get("scores", np.zeros(0)))
    if diverged.any():
        outcome.tell(record=record.kind, runs=len(diverged), diverged=int(diverged.sum()))
    return describe(record)


def select(study: Study, variant: str = "", optimizers: Sequence[str] = ()) -> Iterator[tuple[Study, str]]:
    """Which optimizer is run in which study: those given, else all. A variant takes only its own.

    Yields:
      (study or variant, optimizer's name).

    Raises:
      ValueError: no such variant or optimizer.
    """
    for name in optimizers:
        optimizer_named(name)
    if optimizers and not variant:
        study = study.with_preset(optimizers=tuple(optimizers))
    for own in registry.variant_of(study, variant):
        foreign = [name for name in optimizers if name not in own.preset.optimizers]
        if foreign:
            raise ValueError(
                f"{study.experiment} {variant} has no optimizer {', '.join(foreign)}; it has "
                f"{', '.join(own.preset.optimizers)}."
            )
        for name in optimizers or own.preset.optimizers:
            yield own, name


def verify_tuning(study: Study, name: str) -> str:
    """Tune again from the beginning, elsewhere, and compare every trial with the stored record.

    Returns:
      A line that says so.

    Raises:
      RecordError: the record is missing, or a trial differs.
    """
    stored = records.load(study.store.path(f"{name}-tuning"), f"{study.experiment}/{name}/tuning")
    with tempfile.TemporaryDirectory() as folder:
        again = replace(study, folder=Path(folder)).tune(name)
    for array in stored.arrays:
        if not np.array_equal(stored.arrays[array], again.arrays[array], equal_nan=True):
            differ = int(np.sum(~np.isclose(stored.arrays[array], again.arrays[array], rtol=0, atol=0, equal_nan=True)))
            raise RecordError(
                f"{stored.kind}: {differ} of {len(stored.arrays[array])} trials differ in {array} from the record, "
                f"which was made on {stored.provenance['device']} with jax {stored.provenance['versions']['jax']}. "
                "Another device or another version rounds differently."
            )
    return f"{stored.kind}: the same {len(stored.arrays.get('score', ()))} trials, to the last bit"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lodo_experiments.cli.run", description=__doc__.split("\n\n")[0])
    variants = dict.fromkeys(one.variant for one in registry.EXPERIMENTS.values() if one.variant)
    experiments = [one.name for one in registry.EXPERIMENTS.values() if one.base is None]
    parser.add_argument("what", choices=[*experiments, *PLANS], help="an experiment, or a plan of several")
    parser.add_argument("--preset", default="smoke", choices=PRESETS, help="how much to compute")
    parser.add_argument(
        "--only", nargs="+", default=[], action="extend", metavar="NAME",
        help="some of its optimizers, or of its parts",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=0, help="runs for each optimizer; 0: the preset's number")
    parser.add_argument(
        "--variant",
        default="",
        help=f"{', '.join(variants)}: instead of the experiment itself",
    )
    parser.add_argument(
        "--apart", type=int, nargs="+", default=[], action="extend", metavar="SEED",
        help="these runs by themselves, to be joined later",
    )  # fmt: skip
    parser.add_argument("--tuning", action="store_true", help="tune only")
    parser.add_argument("--verify", action="store_true", help="tune again and compare with the stored trials")
    parser.add_argument("--minutes", type=float, default=0, help="stop, all saved, after so long; 0: never")
    parser.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE",
        help="fields of the preset that are to have other values; such records lie in a folder of their own",
    )  # fmt: skip
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--data-dir", default="", help="folder of the data sets")
    parser.add_argument("--accelerator", action="store_true", help="refuse to run on a CPU")
    return parser


def _wrong(message: str, code: int = REFUSED) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
