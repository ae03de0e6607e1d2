"""kill -9 of the runner at seeded moments: whatever is there is whole, and the next run ends as if nothing had been."""

import os
import random
import signal
import time

import pytest
import tiny

from lodo_experiments.results import locks

exhaustive = pytest.mark.exhaustive


def killed(warm, undisturbed, folder, draw):
    """One run that is killed at a moment drawn by its seed; returns its exit code and what it printed."""
    kind = draw.choice(("storage", "storage", "time", "bytes"))
    if kind == "storage":
        return warm.run(folder, kind=kind, at=draw.randint(1, undisturbed["events"] // 2))
    if kind == "bytes":
        return warm.run(folder, kind=kind, at=draw.randint(20, 6000), die=True)
    process = warm.start(folder)
    time.sleep(draw.uniform(0.0, 0.8 * undisturbed["seconds"]))
    os.kill(process, signal.SIGKILL)
    return warm.wait(process)


def dead_holders(folder):
    return [path for path in folder.rglob("*.lock") if locks.read_holder(path.parents[1] / f"{path.stem}.npz")]


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 5), *(pytest.param(seed, 5, marks=exhaustive) for seed in range(1, 6))]
)
def test_a_runner_that_is_killed_again_and_again(warm, undisturbed, completed, fault, tmp_path, seed, kills):
    draw, count, round_, held = random.Random(seed), 0, 0, []
    while count < kills:
        folder = tmp_path / str(round_)
        code, output = killed(warm, undisturbed, folder, draw)
        # What a reader sees of it is whole and right, at every moment.
        found = tiny.results(folder)
        assert found.items() <= undisturbed["results"].items()
        if held and code == 0:
            assert "is no more; going on from what it kept" in output
        if code == 0:  # it was done before the moment came
            assert sorted(found) == tiny.NAMES
            assert tiny.leftovers(folder) == []
            round_, held = round_ + 1, []
            continue
        assert code in (-signal.SIGKILL, -signal.SIGXFSZ), output
        fault()
        count += 1
        held = dead_holders(folder)
    output = completed(folder)
    assert not held or "is no more; going on from what it kept" in output


def test_a_polite_end_saves_and_says_so(warm, undisturbed, completed, fault, tmp_path):
    process = warm.start(tmp_path)
    while not list(tmp_path.rglob("*-state")):
        time.sleep(0.01)
    os.kill(process, signal.SIGTERM)
    code, output = warm.wait(process)
    fault()
    assert code == 75, output
    assert "all saved. The same command goes on from there." in output
    completed(tmp_path)
