"""Two batches at once on one folder, also where the first is killed; and a wall clock that goes back."""

import os
import random
import signal
import time

import pytest
import tiny

exhaustive = pytest.mark.exhaustive


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(4))
def test_two_at_once_make_each_result_once(warm, undisturbed, fault, tmp_path, seed):
    draw = random.Random(seed)
    first = warm.start(tmp_path)
    time.sleep(draw.uniform(0.0, 0.5 * undisturbed["seconds"]))
    second = warm.start(tmp_path)
    outputs = []
    for process in (first, second):
        code, output = warm.wait(process)
        assert code == 0, output
        outputs.append(output)
    fault()
    assert tiny.results(tmp_path) == undisturbed["results"]
    assert tiny.leftovers(tmp_path) == []
    for name in tiny.NAMES:
        makers = [output.count(f"tiny: made {name}\n") for output in outputs]
        assert sum(makers) == 1, f"{name} was made {makers} times"


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(10, 14))
def test_who_waits_goes_on_where_a_killed_one_was(warm, undisturbed, fault, tmp_path, seed):
    draw = random.Random(seed)
    first = warm.start(tmp_path)
    second = warm.start(tmp_path)
    time.sleep(draw.uniform(0.2, 0.8) * undisturbed["seconds"])
    os.kill(first, signal.SIGKILL)
    fault()
    assert warm.wait(first)[0] in (0, -signal.SIGKILL)
    code, output = warm.wait(second)
    assert code == 0, output
    assert tiny.results(tmp_path) == undisturbed["results"]
    assert tiny.leftovers(tmp_path) == []


@pytest.mark.parametrize("seed", [20, *(pytest.param(seed, marks=exhaustive) for seed in range(21, 23))])
def test_a_clock_that_goes_back(warm, undisturbed, completed, fault, tmp_path, seed):
    draw = random.Random(seed)
    process = warm.start(tmp_path, kind="clock", seed=seed)
    time.sleep(draw.uniform(0.2, 0.7) * undisturbed["seconds"])
    os.kill(process, signal.SIGKILL)
    warm.wait(process)
    code, output = warm.run(tmp_path, kind="clock", seed=seed + 1)
    fault(2)
    assert code == 0, output
    assert tiny.results(tmp_path) == undisturbed["results"]
    completed(tmp_path)
