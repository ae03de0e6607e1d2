"""The ledger: verdicts follow their rules, and what is stored is what the records say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.analysis import claims, evidence
from lodo_experiments.analysis import verdicts as judges
from lodo_experiments.analysis.evidence import CONFIRMED, NOT_HERE, OPEN, PARTLY, REFUTED, Evidence
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.replays import DIFFERS, EQUAL, Pass, Replay, Replays

RESULTS = Path(__file__).resolve().parents[2] / "results"


def runs_record(experiment, name, scores, preset, **more):
    """A record of runs with these scores, as a study would keep it."""
    scores = np.asarray(scores, float)
    arrays = {"scores": scores, "diverged_at": np.where(np.isnan(scores), 3, -1), **more.pop("arrays", {})}
    settings = {"steps": 10, "hyperparameters": {"learning_rate": 1.0}}
    values = {"settings": settings, "hyperparameters": {}, "steps": 10, "steps_per_second": 5.0, **more}
    return Record(
        f"{experiment}/{name}",
        arrays,
        values,
        {"preset": preset, "seeds": list(range(len(scores))), "device": "made up", "commit": "none"},
    )


@pytest.fixture
def folder(tmp_path):
    def write(experiment, preset="paper", more=None, **scores):
        for name, values in scores.items():
            own = name.replace("_", "-")
            record = runs_record(experiment, own, values, preset, **(more or {}).get(name, {}))
            records.save(tmp_path / preset / experiment / f"{own}.npz", record)
        return Evidence(tmp_path)

    return write


LOW, HIGH = [1.0, 1.1, 0.9, 1.0], [2.0, 2.2, 1.9, 2.1]
MIXED = [0.5, 1.6, 0.4, 1.5]


def test_the_stored_ledger_is_what_the_records_say():
    stated = json.loads((RESULTS / claims.FILE).read_text(encoding="utf-8"))
    assert claims.differences(stated, json.loads(json.dumps(claims.ledger(RESULTS)))) == []


def test_a_changed_record_changes_the_ledger(tmp_path):
    """The comparison above can fail: another score in one record is seen."""
    for source in (RESULTS / "paper" / "noisy_bowl").glob("*.npz"):
        target = tmp_path / "paper" / "noisy_bowl" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    before = claims.ledger(tmp_path)
    path = tmp_path / "paper" / "noisy_bowl" / "LODO.npz"
    record = records.load(path)
    worse = {**record.arrays, "scores": record.arrays["scores"] + 100.0}
    records.save(path, dataclasses.replace(record, arrays=worse))
    lines = claims.differences(before, claims.ledger(tmp_path))
    assert any(
        line.startswith("bowl-lowest: verdict is stated as 'partly', the records say 'refuted'") for line in lines
    )


def test_every_claim_has_its_rules_and_its_page():
    keys = [claim.key for claim in claims.CLAIMS]
    assert len(set(keys)) == len(keys)
    root = RESULTS.parent
    for claim in claims.CLAIMS:
        assert claim.confirm
        assert claim.refute
        assert claim.statement
        assert (root / "notebooks" / f"{claim.page}.ipynb").exists() or (root / "book" / f"{claim.page}.md").exists()
        target = claim.link().split("(")[1].rstrip(")")
        assert (root / "notebooks" / target).resolve().exists()


def test_without_records_nothing_is_claimed(tmp_path):
    verdicts = {row["key"]: row["verdict"] for row in claims.ledger(tmp_path)}
    assert verdicts.pop("no-meta-training") == CONFIRMED
    assert set(verdicts.values()) == {OPEN}


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ({"LODO": LOW, "Adam": HIGH}, CONFIRMED),
        ({"LODO": LOW, "Adam": HIGH, "Levenberg_Marquardt": [0.1] * 4}, PARTLY),
        ({"LODO": HIGH, "Adam": LOW}, REFUTED),
        ({"LODO": LOW, "Adam": MIXED}, PARTLY),
        ({"LODO": LOW, "Adam": [np.nan] * 4}, CONFIRMED),
        ({"LODO": [np.nan] * 4, "Adam": LOW}, REFUTED),
    ],
)
def test_lowest_on_the_bowl(folder, scores, verdict):
    assert judges.bowl_lowest(folder("noisy_bowl", **scores)).verdict == verdict


def test_only_the_papers_scale_refutes(folder):
    assert judges.bowl_lowest(folder("noisy_bowl", "laptop", LODO=HIGH, Adam=LOW)).verdict == NOT_HERE


@pytest.mark.parametrize(
    ("lodo", "other", "verdict"),
    [(8.0, 14.0, CONFIRMED), (9.5, 14.0, PARTLY), (8.0, 8.5, PARTLY), (15.0, 14.0, REFUTED)],
)
def test_the_floor(folder, lodo, other, verdict):
    found = judges.bowl_floor(folder("noisy_bowl", LODO=[lodo] * 3, Adam=[other] * 3, BFGS=[np.nan] * 3))
    assert found.verdict == verdict
    assert "7.412" in found.evidence[0]


@pytest.mark.parametrize(
    ("names", "scores", "verdict"),
    [
        (("LODO-SGD",), {"LODO": LOW, "LODO_SGD": HIGH}, CONFIRMED),
        (("LODO-SGD",), {"LODO": HIGH, "LODO_SGD": LOW}, REFUTED),
        (("LODO-SGD",), {"LODO": LOW, "LODO_SGD": MIXED}, PARTLY),
        (("LODO-SGD", "LODO-Global"), {"LODO": LOW, "LODO_SGD": HIGH, "LODO_Global": MIXED}, PARTLY),
        (("LODO-SGD", "LODO-Global"), {"LODO": LOW, "LODO_SGD": HIGH}, OPEN),
    ],
)
def test_ablations(folder, names, scores, verdict):
    assert (
        judges.ablations_are_worse(folder("image_generation", **scores), "image_generation", names).verdict == verdict
    )


def test_unsettled_at_a_small_scale_is_said_so(folder):
    found = folder("image_generation", "laptop", LODO=LOW, LODO_SGD=MIXED)
    assert judges.ablations_are_worse(found, "image_generation", ("LODO-SGD",)).verdict == NOT_HERE


@pytest.mark.parametrize(("rate", "verdict"), [(6.0, CONFIRMED), (20.0, PARTLY), (50.0, REFUTED)])
def test_speed(folder, rate, verdict):
    more = {"Adam": {"steps_per_second": rate}, "LODO": {"steps_per_second": 5.0}}
    assert judges.images_speed(folder("image_generation", more=more, LODO=LOW, Adam=LOW)).verdict == verdict


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ({"LODO": LOW, "Adam": HIGH, "Yogi": HIGH, "LARS": LOW, "Momentum": HIGH, "RMSprop": LOW}, CONFIRMED),
        (
            {"LODO": [x - 0.1 for x in HIGH], "Adam": HIGH, "Yogi": LOW, "LARS": LOW, "Momentum": LOW, "RMSprop": LOW},
            PARTLY,
        ),
        ({"LODO": HIGH, "Adam": LOW, "Yogi": LOW, "LARS": LOW, "Momentum": LOW, "RMSprop": LOW}, REFUTED),
    ],
)
def test_competitive(folder, scores, verdict):
    assert judges.images_competitive(folder("image_generation", **scores)).verdict == verdict


@pytest.mark.parametrize(
    ("accuracy", "scores", "verdict"),
    [([0.8, 0.7], [1.0, 1.0], CONFIRMED), ([0.8, 0.1], [1.0, 1.0], PARTLY), ([0.8, 0.9], [1.0, np.nan], PARTLY),
     ([0.1, 0.1], [1.0, 1.0], REFUTED)],
)  # fmt: skip
def test_classification(folder, accuracy, scores, verdict):
    measured = {"arrays": {"measured.test_accuracy": np.array(accuracy)[:, None]}}
    found = folder("image_classification", more={"LODO": measured, "Adam": measured}, LODO=scores, Adam=[1.0, 1.0])
    assert judges.classification(found).verdict == verdict


def test_the_largest_scale_counts_and_scales_are_not_mixed(folder):
    folder("noisy_bowl", "laptop", LODO=HIGH, Adam=LOW, Yogi=LOW)
    found = judges.bowl_lowest(folder("noisy_bowl", "paper", LODO=LOW, Adam=HIGH))
    assert (found.verdict, found.scale()) == (CONFIRMED, "paper")
    assert set(found.records) == {"noisy_bowl/LODO", "noisy_bowl/Adam"}


def test_smoke_is_no_evidence(folder):
    assert judges.bowl_lowest(folder("noisy_bowl", "smoke", LODO=LOW, Adam=HIGH)).verdict == OPEN


def test_a_record_in_the_wrong_folder_is_refused(folder, tmp_path):
    folder("noisy_bowl", "laptop", LODO=LOW)
    (tmp_path / "paper" / "noisy_bowl").mkdir(parents=True)
    (tmp_path / "laptop" / "noisy_bowl" / "LODO.npz").rename(tmp_path / "paper" / "noisy_bowl" / "LODO.npz")
    with pytest.raises(records.RecordError, match=r"was made at the preset 'laptop', not 'paper'.*wrong folder"):
        judges.bowl_lowest(Evidence(tmp_path))


def test_command_writes_and_compares(tmp_path, capsys, folder):
    folder("noisy_bowl", LODO=LOW, Adam=HIGH)
    assert claims.main(["--results-dir", str(tmp_path)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert claims.main(["--results-dir", str(tmp_path), "--write"]) == 0
    assert claims.main(["--results-dir", str(tmp_path)]) == 0
    assert "bowl-lowest              confirmed          paper" in capsys.readouterr().out
    (tmp_path / "paper" / "noisy_bowl" / "LODO.npz").write_bytes(b"no record")
    assert claims.main(["--results-dir", str(tmp_path)]) == 1
    assert "LODO.npz is damaged" in capsys.readouterr().err


def test_a_verdict_on_a_record_that_no_longer_replays_is_marked(tmp_path, capsys, folder):
    folder("noisy_bowl", LODO=LOW, Adam=HIGH)
    before = claims.ledger(tmp_path)
    assert claims.main(["--results-dir", str(tmp_path), "--write"]) == 0
    names = ("LODO", "Adam")
    stored = {name: records.load(tmp_path / "paper" / "noisy_bowl" / f"{name}.npz") for name in names}
    by = Pass("b" * 40, "2026-12-02T00:00:00+00:00", {}, "cpu")

    def replay(**states):
        found = {
            f"paper/noisy_bowl/{name}": Replay(stored[name].digest(), state, first_difference=0, by=by)
            for name, state in states.items()
        }
        Replays(tmp_path).save(found)

    replay(LODO=EQUAL, Adam=EQUAL)
    assert claims.ledger(tmp_path) == before
    replay(LODO=EQUAL, Adam=DIFFERS)
    rows = {row["key"]: row for row in claims.ledger(tmp_path)}
    marked = [key for key, row in rows.items() if "differing" in row]
    assert "bowl-lowest" in marked
    assert all("noisy_bowl/Adam" in rows[key]["records"] for key in marked)
    assert rows["bowl-lowest"]["evidence"][0] == "Today's code replays other numbers than those of noisy_bowl/Adam."
    capsys.readouterr()
    assert claims.main(["--results-dir", str(tmp_path)]) == 1
    assert "(replays differ: noisy_bowl/Adam)" in capsys.readouterr().out


def test_side_of_a_difference():
    low, high = runs_record("a", "x", LOW, "paper"), runs_record("a", "y", HIGH, "paper")
    difference = evidence.statistics.paired_difference
    assert evidence.direction(difference(high, low)) == "higher"
    assert evidence.direction(difference(low, high)) == "lower"
    assert evidence.direction(difference(low, low)) == "unsettled"
    lost = runs_record("a", "z", [np.nan, *LOW[1:]], "paper")
    # Lower where both ended, but one run was lost: that settles nothing.
    assert evidence.direction(difference(lost, high)) == "unsettled"
