"""The same seed gives the same bits: in another process, in other chunks, side by side or alone.

Where XLA forbids bits, the tolerance is stated: a batched product rounds differently from a single one, so lanes
side by side equal lanes alone to rounding only, where an optimizer multiplies matrices or its task does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lodo_experiments.config.presets import BowlPreset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.studies.runner import Study
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.noisy_bowl import learned_inverse, noisy_bowl
from lodo_experiments.tasks.rosenbrock import rosenbrock
from lodo_experiments.training.loop import train

HERE = Path(__file__).resolve().parent
CLOCK = ("wall_seconds", "wall_steps")
PRESET = BowlPreset(
    name="smoke", steps=60, seeds=3, optimizers=("LODO",), measure_every=20, size=4,
    schedule=(Generation(1.0, 20, 4), Generation(0.5, 20, 4)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def sixty_four_bits():
    with jax.enable_x64(True):
        yield


def digests(folder: Path, **changes) -> dict[str, str]:
    """What the records of the small study say, but for their clocks, as text: what must not change by a bit."""
    setup = Setup(task=noisy_bowl(4), after=learned_inverse, **changes)
    study = Study("noisy_bowl", PRESET, folder, "make book", setup, show=False)
    found = {}
    for name in PRESET.optimizers:
        for record in (study.tune(name), study.run(name)):
            arrays = {n: np.asarray(a) for n, a in record.arrays.items() if n not in CLOCK}
            content = {n: [a.dtype.str, a.shape, a.tobytes().hex()] for n, a in arrays.items()}
            found[record.kind] = json.dumps([content, record.values["hyperparameters"]])
    return found


def without_looks(found: dict[str, str]) -> dict[str, list]:
    apart = {"inverse_hessian_displacement", "displacement_steps"}
    return {
        kind: [{n: array for n, array in content.items() if n not in apart}, values]
        for kind, (content, values) in ((kind, json.loads(text)) for kind, text in found.items())
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with jax.enable_x64(True):
        return digests(tmp_path_factory.mktemp("here"))


def test_another_process_makes_the_same_records(here, tmp_path):
    # On one core where this one has all, compiled anew where this one may have it from a cache.
    code = (
        "import os, sys, json, pathlib, jax; jax.config.update('jax_enable_x64', True)\n"
        "hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        f"import test_determinism as own; print(json.dumps(own.digests(pathlib.Path({str(tmp_path)!r}))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONHASHSEED": "7", "LODO_COMPILATION_CACHE": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == here


@pytest.mark.exhaustive
@pytest.mark.parametrize("chunk", [7, 60])
def test_other_chunks_make_the_same_records(here, tmp_path, chunk):
    # The default is 100 steps: all of a run in one. Pieces of 7 steps do not divide it. How far G has moved is measured
    # where a piece ends, so that it alone is known of other steps.
    assert without_looks(digests(tmp_path, chunk=chunk)) == without_looks(here)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("Momentum", 0.0), ("Adam", 0.0), ("RMSprop", 0.0), ("Yogi", 0.0), ("LODO", 1e-12), ("L-BFGS", 1e-9)],
)
def test_side_by_side_and_alone(name, tolerance):
    # Rosenbrock's function multiplies no matrices, so whatever differs comes from the optimizer.
    arguments = {"steps": 50, "seeds": [3, 4], "chunk": 50}
    task, optimizer = rosenbrock(), optimizer_named(name)
    together, alone = (train(task, optimizer, **arguments, lanes=lanes) for lanes in (0, 1))
    if tolerance == 0.0:
        np.testing.assert_array_equal(alone.losses, together.losses)
    np.testing.assert_allclose(alone.losses, together.losses, rtol=tolerance, atol=0.0)
