"""Interrupted work goes on where it was, to the same bits, and nothing half done is taken for a result."""

import dataclasses
import errno
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodo_experiments.config.presets import BowlPreset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.results import locks, records
from lodo_experiments.studies.run_records import join
from lodo_experiments.studies.runner import Study
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.noisy_bowl import learned_inverse, noisy_bowl
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.loop import train
from lodo_experiments.training.tuning import tune
from lodo_experiments.utils.time_limit import OutOfTime

PRESET = BowlPreset(
    name="laptop", steps=60, seeds=3, optimizers=("LODO",), measure_every=10, size=4,
    schedule=(Generation(1.0, 20, 4), Generation(0.5, 20, 4)),
)  # fmt: skip
LODO = optimizer_named("LODO")
ARGUMENTS = {"steps": 60, "seeds": [0, 1], "measure_every": 10, "chunk": 10, "hyperparameters": {"momentum": 0.3}}


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture(scope="module")
def bowl():
    with jax.enable_x64(True):
        return noisy_bowl(4)


@pytest.fixture
def short_slices(monkeypatch):
    """Slices that are over at every fourth look at the clock."""
    looks = []

    def out_of_time(self):
        looks.append(1)
        return len(looks) % 4 == 0

    monkeypatch.setattr(Checkpoint, "out_of_time", out_of_time)


def assert_same_run(ours, theirs):
    np.testing.assert_array_equal(ours.losses, theirs.losses)
    assert ours.measured.keys() == theirs.measured.keys()
    for name in ours.measured:
        np.testing.assert_array_equal(ours.measured[name], theirs.measured[name])
    for part in ("params", "optimizer_state", "data_state"):
        for a, b in zip(jax.tree.leaves(getattr(ours, part)), jax.tree.leaves(getattr(theirs, part)), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_array_equal(ours.measured_steps, theirs.measured_steps)
    np.testing.assert_array_equal(ours.wall_steps, theirs.wall_steps)


@pytest.mark.parametrize("measure_every", [0, 10, 7])
def test_a_run_in_pieces_is_the_run(bowl, tmp_path, short_slices, measure_every):
    arguments = {**ARGUMENTS, "measure_every": measure_every}
    whole = train(bowl, LODO, **arguments)
    path, stops = tmp_path / "state", 0
    while True:
        try:
            pieces = train(bowl, LODO, **arguments, checkpoint=Checkpoint(path, every=1e9))
            break
        except OutOfTime:
            stops += 1
            assert path.exists()
            assert stops < 20
    assert stops >= 1
    assert_same_run(pieces, whole)


def test_a_killed_run_goes_on_from_its_last_save(bowl, tmp_path):
    whole = train(bowl, LODO, **ARGUMENTS)
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0), progress=_die_at(40))
    seen = []
    again = train(
        bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0), progress=lambda done, *_: seen.append(done)
    )
    assert seen[0] == 40  # 30 steps were saved
    assert_same_run(again, whole)


def harmed(path, harm):
    """Damages what a training has kept."""
    (save,) = path.iterdir()
    content = bytearray(save.read_bytes())
    if harm == "cut":
        save.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        save.write_bytes(content)
    elif harm == "record":
        records.save(save, records.Record("noisy_bowl/LODO", {}))
    else:
        shutil.rmtree(path)
        path.write_bytes(b"something else")


@pytest.mark.parametrize("harm", ["cut", "flip", "record", "foreign"])
def test_a_checkpoint_that_cannot_be_trusted_is_not_used(bowl, tmp_path, harm):
    path = tmp_path / "state"
    train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0))
    harmed(path, harm)
    says = "no folder of checkpoints" if harm == "foreign" else "unreadable"
    with pytest.warns(UserWarning, match=rf"state.* is not used: it is {says}.*starts from its beginning"):
        again = train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0))
    assert_same_run(again, train(bowl, LODO, **ARGUMENTS))
    assert len(list(path.iterdir())) == 1


def _die_at(step):
    def report(done, total, loss):
        if done == step:
            raise KeyboardInterrupt

    return report


def test_every_type_of_array_comes_back_to_the_bit(tmp_path):
    carry = {
        "halves": jnp.array([1.0, -0.0, jnp.nan], jnp.bfloat16),
        "eights": jnp.array([0.5, -2.0], jnp.float8_e4m3fn),
        "bytes": jnp.arange(5, dtype=jnp.int8),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.asarray(3),
        "zeros": jnp.array([-0.0, -0.0]),
        "nan": jnp.asarray(np.frombuffer(np.uint64(0x7FF8000000000123).tobytes(), np.float64)),
        "flags": jnp.array([True, False]),
        "keys": jax.random.split(jax.random.key(7), 2),
        "other keys": jax.random.key(7, impl="rbg"),
    }
    checkpoint = Checkpoint(tmp_path / "state")
    checkpoint.save({"run": 1}, 5, carry, {"measured.a b/c": np.arange(3), "none": np.zeros((2, 0))})
    restored, progress = checkpoint.load({"run": 1}, carry)
    assert jax.tree.structure(restored) == jax.tree.structure(carry)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(carry), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_array_equal(progress["measured.a b/c"], np.arange(3))
    assert progress["none"].shape == (2, 0)
    with pytest.warns(UserWarning, match="other shapes or types"):
        assert checkpoint.load({"run": 1}, {**carry, "scalar": jnp.zeros(2)}) is None


def test_a_state_that_cannot_be_written_does_not_end_the_run(bowl, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0), progress=_die_at(30))
    (kept,) = path.iterdir()
    before = kept.read_bytes()
    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match=r"cannot be written: No space left.*Make room.*The run goes on"):
        run = train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0))
    assert_same_run(run, train(bowl, LODO, **ARGUMENTS))
    assert [(entry, entry.read_bytes()) for entry in path.iterdir()] == [(kept, before)]
    # Where it has to stop, it does not say that all is saved.
    looks = iter([False, True])
    monkeypatch.setattr(Checkpoint, "out_of_time", lambda self: next(looks))
    with pytest.raises(records.StorageError, match="No space left"):
        train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=1e9))
    assert [(entry, entry.read_bytes()) for entry in path.iterdir()] == [(kept, before)]


@pytest.mark.parametrize(
    "other", [{"seeds": [0, 2]}, {"hyperparameters": {"momentum": 0.4}}, {"steps": 50}, {"chunk": 20}], ids=str
)
def test_a_checkpoint_of_another_run_is_not_used(bowl, tmp_path, other):
    path = tmp_path / "state"
    train(bowl, LODO, **ARGUMENTS, checkpoint=Checkpoint(path, every=0.0))
    given = {**ARGUMENTS, **other}
    with pytest.warns(UserWarning, match=f"it is of another run .other {next(iter(other))}"):
        run = train(bowl, LODO, **given, checkpoint=Checkpoint(path))
    assert_same_run(run, train(bowl, LODO, **given))


def test_lanes_one_after_the_other_take_no_checkpoint(bowl, tmp_path):
    with pytest.raises(ValueError, match="side by side; give lanes=0"):
        train(bowl, LODO, **ARGUMENTS, lanes=1, checkpoint=Checkpoint(tmp_path / "state"))


@pytest.mark.exhaustive
def test_a_tuning_in_pieces_is_the_tuning(bowl):
    whole = tune(bowl, LODO, PRESET.schedule, chunk=20)
    kept = []
    tune(bowl, LODO, PRESET.schedule, chunk=20, lanes=3, keep=kept.append)
    assert [len(part.trials["seed"]) for part in kept] == [3, 4, 7, 8]
    for before in kept:
        again = tune(bowl, LODO, PRESET.schedule, chunk=20, before=before)
        assert again.hyperparameters == pytest.approx(whole.hyperparameters, rel=1e-12)
        np.testing.assert_allclose(again.trials["score"], whole.trials["score"], rtol=1e-12)
    with pytest.raises(ValueError, match="are of another tuning: generation 1 differs in initial_learning_rate"):
        tune(bowl, LODO, PRESET.schedule, seed=1, chunk=20, before=kept[0])


def study_in(bowl, folder, lanes=0, **changes):
    setup = Setup(task=bowl, chunk=10, after=learned_inverse, lanes=lanes)
    study = Study("noisy_bowl", PRESET, folder, "make book", setup, show=False)
    return dataclasses.replace(study, **changes)


def results(record):
    """What a record holds but its clock."""
    timed = {"wall_seconds", "wall_steps"}
    return {name: np.asarray(array).tolist() for name, array in record.arrays.items() if name not in timed}


@pytest.mark.parametrize("lanes", [2, 0])
def test_a_study_in_slices_is_the_study(bowl, tmp_path, short_slices, lanes):
    stops = 0
    while True:
        try:
            sliced = study_in(bowl, tmp_path / "sliced", lanes=lanes, until=1e9).run("LODO")
            break
        except OutOfTime:
            stops += 1
            assert stops < 50
    assert stops >= 2
    whole = study_in(bowl, tmp_path / "whole", lanes=lanes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "out_of_time", lambda self: False)
        assert results(sliced) == results(whole.run("LODO"))
    assert sliced.provenance["seeds"] == [0, 1, 2]
    left = [path.name for path in (tmp_path / "sliced").rglob("*") if path.is_file()]
    assert sorted(left) == ["LODO-tuning.npz", "LODO.npz"]


@pytest.mark.exhaustive
def test_seeds_are_added_to_a_record(bowl, tmp_path):
    first = study_in(bowl, tmp_path).with_preset(seeds=1).run("LODO")
    longer = study_in(bowl, tmp_path).run("LODO")
    assert longer.provenance["seeds"] == [0, 1, 2]
    assert [part["seeds"] for part in longer.provenance["parts"]] == [[0], [1, 2]]
    assert longer.provenance["wall_seconds"] >= first.provenance["wall_seconds"]
    assert longer.arrays["scores"][0] == first.arrays["scores"][0]
    together = study_in(bowl, tmp_path / "together").run("LODO")
    np.testing.assert_allclose(longer.arrays["scores"], together.arrays["scores"], rtol=1e-12)
    assert longer.values["steps_per_second"] == pytest.approx(3 * 60 / longer.arrays["wall_seconds"][-1])
    with pytest.raises(records.RecordError, match=r"both have seeds \[0\]"):
        join(longer, first)
    # Fewer asked for: the record is what it is.
    assert study_in(bowl, tmp_path).with_preset(seeds=2).run("LODO").provenance["seeds"] == [0, 1, 2]


def test_what_is_left_behind_is_removed_and_what_waits_to_be_joined_is_not(bowl, tmp_path):
    study = study_in(bowl, tmp_path).with_preset(optimizers=("Adam",))
    study.with_preset(seeds=1).run("Adam")
    study.run_seeds("Adam", [1, 2])
    apart = study.store.partial("Adam-seeds-1-2")
    # What a process leaves that dies between storing a record and removing what it kept on the way.
    for left in ("Adam-tuning", "Adam-seeds-0-0"):
        study.store.partial(left).write_bytes(b"left")
        study.store.state(left).mkdir()
        locks.lock_of(study.store.path(left)).write_bytes(b"")
    study.with_preset(seeds=1).run("Adam")
    assert [path.name for path in apart.parent.iterdir()] == [apart.name]
    assert study.run("Adam").provenance["seeds"] == [0, 1, 2]
    assert list(apart.parent.iterdir()) == []


@pytest.fixture
def apart(bowl, tmp_path, monkeypatch):
    """A study that trains nothing: a run's score is its seed."""

    def score(self, optimizer, kind, settings, seeds):
        arrays = {"scores": np.array(seeds), "wall_steps": np.array([60]), "wall_seconds": np.array([1.0])}
        stated = {"seeds": list(seeds), "wall_seconds": 1.0, "compile_seconds": 0.0}
        return records.Record(kind, arrays, {"settings": settings, "steps": 60}, stated)

    monkeypatch.setattr(Study, "_train", score)
    return study_in(bowl, tmp_path).with_preset(optimizers=("Adam",), schedule=(), seeds=4)


def parts_of(study):
    """The seeds of what waits to be joined, by its file's name."""
    paths = study.store.partial("Adam").parent.glob("*.npz")
    return {path.stem: records.load(path).provenance["seeds"] for path in paths}


def test_a_seed_that_is_asked_for_twice_is_run_once(apart):
    assert [record.provenance["seeds"] for record in apart.run_seeds("Adam", [1, 1])] == [[1]]
    assert apart.run("Adam").provenance["seeds"] == [0, 1, 2, 3]


def test_parts_with_gaps_between_their_seeds_are_kept_apart(apart):
    for seeds in ([9, 5, 3], [5, 7, 9], [6, 5]):
        apart.run_seeds("Adam", seeds)
    assert parts_of(apart) == {
        "Adam-seeds-3-3": [3], "Adam-seeds-5-5": [5], "Adam-seeds-9-9": [9], "Adam-seeds-7-7": [7],
        "Adam-seeds-5-6": [5, 6],
    }  # fmt: skip
    with pytest.warns(UserWarning, match=r"Adam-seeds-5-5\.npz is not used: .*Adam-seeds-5-6\.npz has .* seeds \[5\]"):
        record = apart.with_preset(seeds=10).run("Adam")
    assert record.arrays["scores"].tolist() == record.provenance["seeds"] == list(range(10))
    assert parts_of(apart) == {}


def test_a_seed_in_two_parts_is_joined_once(apart):
    apart.run_seeds("Adam", [0, 1])
    apart.run_seeds("Adam", [1])
    says = r"Adam-seeds-1-1\.npz is not used: .*Adam-seeds-0-1\.npz has runs with seeds \[1\] too.*nothing to do"
    with pytest.warns(UserWarning, match=says):
        record = apart.run("Adam")
    assert record.arrays["scores"].tolist() == record.provenance["seeds"] == [0, 1, 2, 3]
    assert parts_of(apart) == {}


def test_a_part_with_more_seeds_than_its_name_says_is_left_out(apart):
    """Before, parts with gaps were named by their first seed and their last, in the order given."""
    apart.with_preset(seeds=1).run("Adam")
    (part,) = apart.run_seeds("Adam", [1])
    old = dataclasses.replace(part, provenance={**part.provenance, "seeds": [2, 0, 3]})
    records.save(apart.store.partial("Adam-seeds-2-3"), old)
    assert apart.run("Adam").provenance["seeds"] == [0, 1, 2, 3]


def test_nothing_is_saved_of_a_run_that_had_no_time_at_all(bowl, tmp_path):
    path = tmp_path / "state"
    over = Checkpoint(path, until=time.monotonic() - 1)
    with pytest.raises(OutOfTime, match="stopped after 0 of 60 steps"):
        train(bowl, LODO, **ARGUMENTS, checkpoint=over)
    assert not path.exists()
