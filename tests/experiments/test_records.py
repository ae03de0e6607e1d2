"""Records: what goes in comes out, and nothing else is taken for one."""

import json
import os

import numpy as np
import pytest

from lodo_experiments.results import records

CONTENT = records.Record(
    "noisy_bowl/LODO",
    {"losses": np.arange(200.0).reshape(2, 100), "diverged_at": np.array([-1, 3]), "names": np.array(["a", "bc"])},
    {"score": float("nan"), "best": float("-inf"), "hyperparameters": {"momentum": 0.9}, "seeds": [0, 1], "note": None},
    {"command": "python -m something", "preset": "smoke"},
)


@pytest.fixture
def path(tmp_path):
    return records.save(tmp_path / "folder" / "bowl.npz", CONTENT)


def test_round_trip(path):
    back = records.load(path, "noisy_bowl/LODO")
    assert set(back.arrays) == set(CONTENT.arrays)
    for name, array in CONTENT.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype
    assert np.isnan(back.values["score"])
    assert back.values["best"] == float("-inf")
    assert back.values["hyperparameters"] == {"momentum": 0.9}
    assert back.digest() == CONTENT.digest()
    assert [entry.name for entry in path.parent.iterdir()] == ["bowl.npz"]


def test_same_content_makes_the_same_bytes(path, tmp_path):
    assert records.save(tmp_path / "again.npz", CONTENT).read_bytes() == path.read_bytes()


def test_digest_of_results_leaves_the_provenance_out():
    other = records.Record(CONTENT.kind, CONTENT.arrays, CONTENT.values, {"command": "another"})
    assert other.digest() != CONTENT.digest()
    assert other.digest(with_provenance=False) == CONTENT.digest(with_provenance=False)


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(records.RecordError, match=r"bowl\.npz"):
            records.load(path)


def test_every_flipped_bit_is_refused_or_harmless(path):
    whole = path.read_bytes()
    refused = 0
    places = [(int(place), int(place) % 8) for place in np.random.default_rng(0).choice(len(whole), 150, replace=False)]
    encrypted = whole.rindex(b"PK\x01\x02") + 8  # what the archive's list says of its last entry
    for place, bit in [*places, (encrypted, 0)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            # What a flip in the archive's own bookkeeping leaves readable must be the very same record.
            assert records.load(path).digest() == CONTENT.digest()
        except records.RecordError as error:
            refused += "bowl.npz" in str(error)
    assert refused > 75


def test_foreign_files_are_refused(tmp_path):
    plain = tmp_path / "plain.npz"
    np.savez(plain, x=np.arange(3))
    with pytest.raises(records.RecordError, match="no record of this project"):
        records.load(plain)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(records.RecordError, match="damaged or no record"):
        records.load(text)
    array = tmp_path / "array.npz"
    with open(array, "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(records.RecordError, match="damaged or no record"):
        records.load(array)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, __record__=np.array([{"a": 1}], dtype=object))
    with pytest.raises(records.RecordError, match="damaged or no record"):
        records.load(pickled)


def test_other_versions_kinds_and_missing_files_are_refused(path, tmp_path):
    with pytest.raises(records.RecordError, match="expected 'rosenbrock/LODO'"):
        records.load(path, "rosenbrock/LODO")
    with pytest.raises(records.RecordError, match=r"There is no record .*nothing\.npz"):
        records.load(tmp_path / "nothing.npz")
    with np.load(path) as stored:
        entries = dict(stored)
    header = json.loads(str(entries["__record__"]))
    entries["__record__"] = np.array(json.dumps({**header, "version": 99}))
    np.savez(path, **entries)
    with pytest.raises(records.RecordError, match="format version 99; this code reads 1"):
        records.load(path)


def test_what_a_record_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    for bad, error in (
        (records.Record("k", {"a": np.array([object()])}), TypeError),
        (records.Record("k", {}, {"f": object()}), TypeError),
        (records.Record("k", {"../a": np.zeros(2)}), ValueError),
        (records.Record("k", {"__record__": np.zeros(2)}), ValueError),
    ):
        with pytest.raises(error):
            records.save(tmp_path / "bad.npz", bad)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        records.save(tmp_path / "bad.json", CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_midway_keeps_the_old_record(path, monkeypatch):
    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(records.StorageError, match=r"bowl\.npz cannot be written: No space left.*Make room there"):
        records.save(path, records.Record("other", {}))
    monkeypatch.undo()
    assert records.load(path).kind == CONTENT.kind
    assert [entry.name for entry in path.parent.iterdir()] == ["bowl.npz"]


def test_provenance_names_what_is_needed_to_repeat():
    stated = records.provenance("make book", preset="smoke", seeds=[0, 1], wall_seconds=1.0, compile_seconds=2.0)
    assert stated["command"] == "make book"
    assert stated["seeds"] == [0, 1]
    assert stated["versions"]["jax"]
    assert "CPU cores" in stated["device"]
    assert stated["date"].endswith("+00:00")
    assert len(stated["commit"].split("+")[0]) in (7, 40)  # "unknown" outside a checkout
    assert os.sep not in stated["device"]


def test_command_line_shows_records_and_refuses_by_name(path, tmp_path, capsys):
    scored = records.Record("bowl/LODO", {"scores": np.array([1.0, np.nan])}, {}, {"preset": "smoke"})
    records.save(path.with_name("scored.npz"), scored)
    assert records.main([str(path.parent)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "noisy_bowl/LODO; preset smoke, commit unknown",
        "bowl/LODO: 1 (2 runs, 1 diverged); preset smoke, commit unknown",
    ]
    path.write_bytes(path.read_bytes()[:-40])
    assert records.main([str(path)]) == 1
    assert "refused: " in capsys.readouterr().err
