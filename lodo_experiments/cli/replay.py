"""Replays the stored records: the beginning of each computed with today's code and compared: ``make replay``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lodo_experiments.cli import amounts
from lodo_experiments.cli.run import UNWRITTEN
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import RecordError, StorageError
from lodo_experiments.results.replays import DIFFERS, STATES, Pass, Replay, Replays
from lodo_experiments.studies.replay import SECONDS, Replayer, targets
from lodo_experiments.utils import compilation_cache


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m lodo_experiments.cli.replay``.

    Returns:
      0; 1 where a record differs, 2 where nothing is replayed or the stored results are damaged (the whole ones are
      replayed all the same), 74 where what is found cannot be stored, 130 where it was stopped: what it had found by
      then is stored.
    """
    options = _parser().parse_args(arguments)
    try:
        amounts.check(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    folder = results_folder(options.results_dir)
    found: dict[str, Replay] = {}
    damaged: list[str] = []
    try:
        stored = Replays(folder)
        wanted = [
            target
            for target in targets(folder, options.preset or ("laptop", "desktop", "paper"))
            if not options.only or any(word in target.name for word in options.only)
        ]
        if not wanted:
            print(f"There is no record to replay in {folder}.", file=sys.stderr)
            return 2
        compilation_cache.enable()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite stop stores what was found, as Ctrl-C does
        began = before = time.monotonic()
        try:
            replayer = Replayer(options.data_dir, options.seconds)
            for target in wanted:
                try:
                    found[target.name] = replayer.one(target)
                except RecordError as error:
                    damaged.append(f"{target.name}: {error}")
                now = time.monotonic()
                said = found.get(target.name, "damaged")
                print(f"{target.name:60} {now - before:5.1f} s  {said}", flush=True)
                before = now
        finally:
            here = records.provenance("make replay", preset="", seeds=[], wall_seconds=0, compile_seconds=0)
            seconds = round(time.monotonic() - began, 1)
            by = Pass(here["commit"], here["date"], here["versions"], here["device"], seconds)
            stored.save({name: replace(result, by=by) for name, result in found.items()})
    except StorageError as error:
        print(error, file=sys.stderr)
        return UNWRITTEN
    except RecordError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; what {len(found)} records gave is stored", file=sys.stderr)
        return 130
    counts = Counter(result.state for result in found.values())
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    listed += f"{', ' if listed else ''}{len(damaged)} damaged" if damaged else ""
    print(
        f"\n{len(found) + len(damaged)} records in {time.monotonic() - began:.0f} s: {listed}; stored in {stored.path}"
    )
    differing = [name for name, result in found.items() if result.state == DIFFERS]
    for line in [*(f"{name}: {found[name]}" for name in differing), *damaged]:
        print(line, file=sys.stderr)
    return 2 if damaged else 1 if differing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.replay", description=str(__doc__).partition(":")[0] + "."
    )
    parser.add_argument("--preset", action="append", choices=PRESETS, help="this one (repeatable); else laptop, paper")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="records with this in their name")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of training for each record, about")
    parser.add_argument("--results-dir", default="", help="folder of the records")
    parser.add_argument("--data-dir", default="", help="folder of the data sets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
