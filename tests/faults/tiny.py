"""A tiny study that the real runner runs, the faults that can be put into its process, and what must come out.

Used in the processes that are disturbed (by warm.py, and by the notebooks that the tests make) and by the tests.
"""

import contextlib
import datetime
import os
import random
import resource
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lodo_experiments.cli import run
from lodo_experiments.config import presets
from lodo_experiments.config.schedules import Generation
from lodo_experiments.results import locks, records
from lodo_experiments.results.store import Store
from lodo_experiments.studies.runner import Study
from lodo_experiments.utils import atomic_files

COMMAND = ["noisy_bowl", "--preset", "laptop", "--results-dir"]
NAMES = ["Adam-tuning.npz", "Adam.npz", "Momentum-tuning.npz", "Momentum.npz"]
PRESET = presets.BowlPreset(
    name="laptop", steps=400, seeds=2, optimizers=("Momentum", "Adam"), measure_every=100, size=4,
    schedule=(Generation(1.0, 200, 2), Generation(0.5, 200, 2)),
)  # fmt: skip


def install() -> None:
    """Makes the bowl's `laptop` preset tiny, and checkpoints frequent, in this process alone."""
    presets.BOWL["laptop"] = PRESET
    own, published = Study._checkpoint, Store.publish
    Study._checkpoint = lambda self, name: replace(own(self, name), every=0.0)

    def told(self, name, record):
        print(f"tiny: made {name}.npz", flush=True)
        return published(self, name, record)

    Store.publish = told


def main(folder: str, fault: dict) -> int:
    """The real runner on the tiny study, with a fault in it."""
    install()
    with disturbed(Path(folder), fault):
        return run.main([*COMMAND, folder])


@contextlib.contextmanager
def disturbed(folder: Path, fault: dict):
    """Puts a fault into this process.

    ``storage``: SIGKILL at the n-th time that it opens, makes, renames, removes or locks something in the folder;
    ``bytes``: no file may get longer than n bytes: SIGKILL's like at the byte, or an error as of a full disk;
    ``clock``: the wall clock jumps back, again and again.
    """
    kind, limit = fault.get("kind"), resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "storage":
        kill_at_storage_event(folder, fault["at"])
    elif kind == "bytes":
        # SIGXFSZ ends the process in the middle of its write; ignored, as Python does, the write fails.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fault["die"] else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["at"], limit[1]))
    elif kind == "clock":
        turn_back_the_clock(random.Random(fault["seed"]))
    elif kind == "count":
        events = kill_at_storage_event(folder, -1)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if kind == "count":
            print(f"storage events: {len(events)}", flush=True)


def kill_at_storage_event(folder: Path, at: int) -> list[str]:
    """Counts what this process does to files in the folder, and kills it at the given one; −1: never."""
    seen, guard = [], threading.Lock()
    names = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.scandir", "fcntl.flock"}

    def hook(event, arguments):
        if event not in names:
            return
        what = str(arguments[0])
        if event == "fcntl.flock" or str(folder) in what:
            with guard:
                seen.append(event)
                if len(seen) == at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def turn_back_the_clock(draw: random.Random) -> None:
    """The wall clock of this process goes back by up to a day whenever it is looked at."""
    real, lost = time.time, [0.0]

    def earlier() -> float:
        lost[0] += draw.uniform(0.0, 86_400.0)
        return real() - lost[0]

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(earlier(), tz)

    class Module:
        datetime, UTC = Wrong, datetime.UTC

    time.time = earlier
    records.datetime = locks.datetime = Module
    assert atomic_files.time.time is earlier


def results(folder: Path) -> dict[str, dict]:
    """What the records in a folder say, but for clocks and provenance: the part that must not change."""
    found = {}
    for path in sorted((folder / "laptop" / "noisy_bowl").glob("*.npz")):
        record = records.load(path)
        arrays = {n: np.asarray(a) for n, a in record.arrays.items() if n not in ("wall_seconds",)}
        found[path.name] = {
            "kind": record.kind,
            "seeds": record.provenance["seeds"],
            "values": repr({n: v for n, v in sorted(record.values.items()) if n != "steps_per_second"}),
            "arrays": {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()},
        }
    return found


def leftovers(folder: Path) -> list[str]:
    """Files in a folder that are no results: there must be none when all is done."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not (path.suffix == ".npz" and path.name in NAMES)
    )
