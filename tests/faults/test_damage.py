"""Truncated, bit-flipped and foreign files: a record is refused by name, half-done work is not used, bits stay."""

import dataclasses
import random
import shutil
import warnings

import jax
import numpy as np
import pytest
import tiny

from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.results import records
from lodo_experiments.results.store import Store
from lodo_experiments.studies.runner import Study
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.noisy_bowl import learned_inverse, noisy_bowl
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.loop import train

exhaustive = pytest.mark.exhaustive
ADAM = optimizer_named("Adam")
ARGUMENTS = {"steps": 40, "seeds": [0, 1], "chunk": 10, "measure_every": 10, "hyperparameters": {"learning_rate": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def sixty_four_bits():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with jax.enable_x64(True):
        preset = dataclasses.replace(tiny.PRESET, optimizers=("Adam",), steps=40)
        task, folder = noisy_bowl(4), tmp_path_factory.mktemp("study")
        setup = Setup(task=task, chunk=20, after=learned_inverse)
        return Study("noisy_bowl", preset, folder, "make book", setup, show=False)


@pytest.fixture(scope="module")
def made(study):
    study.run("Adam")
    return tiny.results(study.folder)


def harm(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The content of a file after something has happened to it; never what it was."""
    kind = draw.choice(("cut", "flip", "flip", "flip", "block", "empty", "other"))
    if kind == "cut" and content:
        return content[: draw.randrange(len(content))]
    if kind == "flip" and content:
        at = draw.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if kind == "block" and content:
        at = draw.randrange(len(content))
        return content[:at] + draw.randbytes(min(512, len(content) - at)) + content[at + 512 :]
    if kind == "other":
        return draw.choice(others)
    return b"" if content else b"something"


def refusal(study: Study) -> str:
    """What the study says against what is stored; empty where it takes it."""
    try:
        study.run("Adam")
    except records.RecordError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("seed", "times"), [(0, 25), pytest.param(1, 75, marks=exhaustive)])
def test_damaged_records_are_refused_by_name_or_are_what_they_were(study, made, fault, seed, times):
    draw, folder = random.Random(seed), study.folder / "laptop" / "noisy_bowl"
    paths = sorted(folder.glob("*.npz"))
    contents = {path: path.read_bytes() for path in paths}
    refused = 0
    for _ in range(times):
        path = draw.choice(paths)
        others = [content for other, content in contents.items() if other != path] + [b"PK\x03\x04", b"\x93NUMPY"]
        path.write_bytes(harm(contents[path], draw, others))
        fault()
        message = refusal(study)
        if message:
            refused += 1
            assert path.name in message
            assert "Remove it" in message
        else:  # a bit that nobody reads, such as a date in the archive
            assert tiny.results(study.folder) == made
        path.write_bytes(contents[path])
    assert refused > 0.5 * times
    # As the message says: remove it, and it is computed again, to the same bits.
    paths[0].unlink()
    study.run("Adam")
    assert tiny.results(study.folder) == made
    assert tiny.leftovers(study.folder) == []


@pytest.fixture(scope="module")
def checkpoint(study, tmp_path_factory):
    """A run's last checkpoint, and what the run comes to."""
    folder = tmp_path_factory.mktemp("checkpoint") / "state"
    return folder, train(study.task, ADAM, **ARGUMENTS, checkpoint=Checkpoint(folder, every=0.0))


@pytest.mark.parametrize(("seed", "times"), [(0, 12), pytest.param(1, 50, marks=exhaustive)])
def test_damaged_checkpoints_are_not_used_or_are_what_they_were(study, made, checkpoint, fault, tmp_path, seed, times):
    draw, (kept, whole) = random.Random(seed), checkpoint
    foreign = [path.read_bytes() for path in (study.folder / "laptop" / "noisy_bowl").glob("*.npz")]
    refused = 0
    for index in range(times):
        folder = tmp_path / str(index)
        shutil.copytree(kept, folder)
        (path,) = folder.iterdir()
        path.write_bytes(harm(path.read_bytes(), draw, foreign))
        fault()
        began = []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run = train(
                study.task, ADAM, **ARGUMENTS, checkpoint=Checkpoint(folder),
                progress=lambda done, *_, began=began: began.append(done),
            )  # fmt: skip
        told = [str(one.message) for one in said if "is not used" in str(one.message)]
        # Used only where it is whole; what is not used is named, and the run begins at its beginning.
        assert (began[0] == 40) == (not told), (path, told, began)
        assert began[0] in (10, 40)
        assert all(str(folder) in message for message in told)
        refused += bool(told)
        np.testing.assert_array_equal(run.losses, whole.losses)
        for a, b in zip(jax.tree.leaves(run.optimizer_state), jax.tree.leaves(whole.optimizer_state), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        shutil.rmtree(folder)
    # Others hit what nobody reads, such as a date in the archive.
    assert refused >= times // 2


@pytest.mark.parametrize(("seed", "times"), [(0, 3), pytest.param(1, 12, marks=exhaustive)])
def test_damaged_trials_of_a_tuning_are_made_again(study, made, fault, tmp_path, monkeypatch, seed, times):
    draw, own = random.Random(seed), dataclasses.replace(study, folder=tmp_path)
    partial = own.store.partial("Adam-tuning")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            own.tune("Adam")
    kept = partial.read_bytes()
    foreign = (study.folder / "laptop" / "noisy_bowl" / "Adam.npz").read_bytes()
    for _ in range(times):
        partial.write_bytes(harm(kept, draw, [foreign, b"nothing"]))
        fault()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            own.tune("Adam")
        assert all("Adam-tuning.npz" in str(one.message) for one in said)
        assert all("starts from its beginning" in str(one.message) for one in said)
        tuned = tiny.results(tmp_path)["Adam-tuning.npz"]
        assert tuned == made["Adam-tuning.npz"]
        assert tiny.leftovers(tmp_path) == []
        own.store.path("Adam-tuning").unlink()
