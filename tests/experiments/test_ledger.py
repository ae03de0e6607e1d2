"""The stored ledger: it is what the records say, and its verdicts turn round when the records are exchanged."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.analysis import claims
from lodo_experiments.analysis.claims import CLAIMS
from lodo_experiments.analysis.evidence import (
    NESTED,
    QUANTITIES,
    UNTRAINED,
    Evidence,
    rescaled_product,
)
from lodo_experiments.analysis.not_reached import not_reached
from lodo_experiments.analysis.verdicts import (
    CONFIRMED,
    PARTLY,
    REFUTED,
    UNDECIDED,
    Claim,
    Condition,
    judge,
)
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.results.replays import DIFFERS, EQUAL, Pass, Replay, Replays
from lodo_experiments.tasks.noisy_bowl import hessian

RESULTS = Path(__file__).resolve().parents[2] / "results"
BY_KEY = {claim.key: claim for claim in CLAIMS}


def verdict(key, evidence):
    finding = judge(BY_KEY[key], evidence)
    return finding.verdict, finding.reason


# What is stored


def test_the_stored_ledger_is_what_the_records_say():
    stated = json.loads((RESULTS / claims.FILE).read_text(encoding="utf-8"))
    assert claims.differences(stated, json.loads(json.dumps(claims.ledger(RESULTS)))) == []


def test_a_changed_threshold_is_caught(monkeypatch):
    """The rule is part of what is stored, so that no threshold moves in silence."""
    before = claims.ledger(RESULTS)
    for claim in CLAIMS:
        for place, condition in enumerate(claim.confirmed):
            than = condition.than if isinstance(condition.than, tuple) else condition.than * 1.1 + 0.01
            other = dataclasses.replace(condition, than=than, factor=condition.factor * 1.1)
            changed = dataclasses.replace(
                claim, confirmed=(*claim.confirmed[:place], other, *claim.confirmed[place + 1 :])
            )
            assert changed.rule() != claim.rule()
    changed = dataclasses.replace(BY_KEY["bowl-floor"], confirmed=(Condition("noisy_bowl", "excess", "below", 0.19),))
    monkeypatch.setattr(claims, "CLAIMS", tuple(changed if one.key == changed.key else one for one in CLAIMS))
    lines = claims.differences(before, claims.ledger(RESULTS))
    assert any(
        line.startswith("bowl-floor: verdict is stated as 'confirmed', the records say 'partly'") for line in lines
    )
    assert any(line.startswith("bowl-floor: rule is stated as") for line in lines)


STORED = Evidence(RESULTS)
#: Claim → verdict, of the stored ledger, which the first test compares with the records.
STATED = {row["key"]: row["verdict"] for row in json.loads((RESULTS / claims.FILE).read_text(encoding="utf-8"))}
DECIDED = [claim for claim in CLAIMS if STATED.get(claim.key) in (CONFIRMED, PARTLY, REFUTED)]

#: What the records of runs hold that rules compare; the rest, such as how far G moved, stays with its place.
RUNS = (
    "scores", "curve", "curve_steps", "measured.x", "measured.y", "test_loss", "measured.validation_loss",
    "along_eigenvectors", "measured.inverse_hessian_error",
)  # fmt: skip


class Swapped(Evidence):
    """The stored records with runs of (experiment, optimizer) exchanged, and no sign that LODO's tuning failed."""

    def __init__(self, *pairs):
        super().__init__(RESULTS)
        self.exchanged = {place: other for pair in pairs for place, other in (pair, pair[::-1])}

    def record(self, preset, experiment, name):
        found = STORED.record(preset, experiment, name)
        if name in NESTED and any(place[0] == experiment for place in self.exchanged):
            return None
        if found is None or (experiment, name) not in self.exchanged:
            return found
        other = STORED.record(preset, *self.exchanged[experiment, name])
        assert other is not None
        runs = {key: value for key, value in other.arrays.items() if key in RUNS}
        return dataclasses.replace(found, arrays={**found.arrays, **runs})


def compares(condition):
    """Whether it compares runs: of two optimizers, or with a number."""
    return condition.seeds and condition.experiment not in UNTRAINED


def comparisons(conditions):
    """Each (condition, other) of two records that some conditions compare; those alone, whatever the rule's side."""
    found = {}
    for condition in conditions:
        if compares(condition) and isinstance(condition.than, tuple):
            for other in condition.than:
                if other != condition.name:
                    key = (condition.experiment, condition.name, condition.quantity, other)
                    found.setdefault(key, (condition, other))
    return found.values()


def alone(condition, other, evidence, **changes):
    """What records say of one comparison alone: it holds (confirmed), its opposite does (refuted), or neither."""
    one = dataclasses.replace(condition, than=(other,), how_many="every", **changes)
    opposite = dataclasses.replace(one, relation={"below": "above", "above": "below"}[one.relation])
    return judge(Claim("one", "", "", "", (one,), (opposite,)), evidence).verdict


def exchange(condition, other):
    return Swapped(((condition.experiment, condition.name), condition._place(other)))


# What follows is made from the claims, so that a new one is covered by itself.


@pytest.mark.parametrize("claim", [pytest.param(claim, id=claim.key) for claim in DECIDED])
def test_every_comparison_of_a_verdict_turns_round_with_the_records(claim):
    turned = {CONFIRMED: REFUTED, REFUTED: CONFIRMED, UNDECIDED: UNDECIDED}
    for condition, other in comparisons(claim.conditions()):
        was = alone(condition, other, STORED, factor=1.0)
        then = alone(condition, other, exchange(condition, other), factor=1.0)
        assert then == turned[was], f"{condition.experiment}: {condition.name} against {other}, {condition.quantity}"


@pytest.mark.parametrize("claim", [pytest.param(claim, id=claim.key) for claim in DECIDED])
def test_swapping_what_a_verdict_rests_on_changes_it(claim):
    """Each comparison where its rule asks for every one, and the most extreme of them where it asks for some."""
    for condition in getattr(claim, STATED[claim.key]):
        pairs = list(comparisons([condition]))
        if condition.how_many != "every":
            gap = {}
            for one, other in pairs:
                experiment, own = one._place(other)
                against = STORED.record("paper", experiment, own)
                gap[other] = np.mean(QUANTITIES[one.than_quantity or one.quantity].of(against, STORED, one.name))
            extreme = (max if condition.relation == "below" else min)(gap, key=gap.get)
            pairs = [(condition, extreme)]
        for one, other in pairs:
            swapped = exchange(one, other)
            # A factor of a rule may let a comparison hold both ways round.
            if alone(one, other, swapped) != CONFIRMED:
                assert judge(claim, swapped).verdict != STATED[claim.key], f"{one.experiment}: {one.name} and {other}"


@pytest.mark.parametrize(
    "claim", [pytest.param(claim, id=claim.key) for claim in DECIDED if any(map(compares, claim.conditions()))]
)
def test_no_verdict_survives_every_exchange(claim):
    """Of a record that it is about with any other of the task; of a trend, all of its records in the other order."""

    def exchanges():
        for condition in filter(compares, claim.conditions()):
            if not condition.experiment:
                continue
            names = QUANTITIES[condition.quantity].also
            places = [(condition.experiment, name) for name in names]
            if places:
                yield Swapped(*zip(places, places[::-1]))
                continue
            own = STORED.record("paper", condition.experiment, condition.name)
            for path in sorted((RESULTS / "paper").glob("*/*.npz")):
                experiment = path.parent.name
                if condition.experiment.startswith(experiment) and not path.stem.endswith("-tuning"):
                    other = STORED.record("paper", experiment, path.stem)
                    if other.provenance["seeds"] == own.provenance["seeds"]:
                        yield Swapped(((condition.experiment, condition.name), (experiment, path.stem)))

    assert any(judge(claim, evidence).verdict != STATED[claim.key] for evidence in exchanges())


@pytest.mark.parametrize(
    ("key", "experiment", "other", "was", "then"),
    [
        ("bowl-lowest", "noisy_bowl", "Adam", CONFIRMED, REFUTED),
        ("bowl-lowest", "noisy_bowl", "O-LBFGS", CONFIRMED, REFUTED),
        ("bowl-floor", "noisy_bowl", "Adam", CONFIRMED, REFUTED),
        ("bowl-floor", "noisy_bowl", "Yogi", CONFIRMED, REFUTED),
        ("bowl-equal-time", "noisy_bowl", "Adam", CONFIRMED, REFUTED),
        ("bowl-equal-time", "noisy_bowl", "Momentum", CONFIRMED, REFUTED),
    ],
)
def test_swapping_two_optimizers_records_flips_the_verdicts_on_them(key, experiment, other, was, then):
    assert verdict(key, Evidence(RESULTS)) == (was, "")
    assert verdict(key, Swapped(((experiment, "LODO"), (experiment, other)))) == (then, "")


def test_the_notes_say_what_the_records_do():
    given = STORED.record("paper", "noisy_bowl", "Levenberg-Marquardt").arrays["scores"]
    assert np.all(given < STORED.record("paper", "noisy_bowl", "LODO").arrays["scores"])
    assert "It is lower than LODO in every run" in BY_KEY["bowl-lowest"].note
    turned = [STORED.record("paper", "noisy_bowl_ablations", f"LODO-beta-{j}") for j in range(8)]
    betas = [one.values["hyperparameters"]["momentum"] for one in turned]
    lowest = np.argsort([one.arrays["scores"].mean() for one in turned])[:2]
    assert sorted(lowest) == [5, 6]
    assert "lowest in between, at the sixth and seventh (β of about 0.15)" in BY_KEY["momentum-bowl"].note
    assert np.allclose([betas[j] for j in lowest], 0.15, atol=0.02)
    assert betas[-1] == pytest.approx(0.195)
    fits = STORED.record("laptop", "representability", "fits")
    settings = fits.values["settings"]
    assert (fits.values["size"], settings["restarts"], settings["iterations"]) == (24, 2, 200)
    own = fits.arrays["parameters"][fits.arrays["form"] == "LODO, k = 4"]
    assert dict(zip(settings["fit_depths"]["4"], own))[2] == 192 < fits.values["entries"]
    assert "(ñ = n = 24)" in BY_KEY["flexible"].note
    assert "192 numbers, fewer than a symmetric matrix has entries, N = 2 layers" in BY_KEY["flexible"].note
    assert "2 starts of 200 iterations" in BY_KEY["flexible"].note


def test_that_it_learns_from_nothing_has_to_be_seen():
    assert verdict("no-meta-training", Evidence(RESULTS)) == (CONFIRMED, "")
    swapped = Swapped((("noisy_bowl_ablations", "LODO-depth-16"), ("noisy_bowl_ablations", "LODO-depth-0")))
    assert verdict("no-meta-training", swapped) == (REFUTED, "")


# Numbers from records


def test_rescaled_product_equals_the_dense_one():
    generator, n = np.random.default_rng(0), 100
    H = hessian(n)
    values, Q = np.linalg.eigh(H)
    root = generator.normal(size=(2, n, n)) / 10
    G = root @ root.transpose(0, 2, 1)
    along = np.einsum("iq,rij,jq->rq", Q, G, Q)
    error = np.linalg.norm(np.eye(n) - G @ H, axis=(1, 2)) / np.sqrt(n)
    record = Record(
        "noisy_bowl/LODO", {"along_eigenvectors": along, "measured.inverse_hessian_error": error[:, None]},
        {"hyperparameters": {"momentum": 0.3}},
    )  # fmt: skip
    found, product = rescaled_product(record)
    np.testing.assert_allclose(found, np.linalg.norm(np.eye(n) - G @ H / 1.3, axis=(1, 2)) / np.sqrt(n), rtol=1e-9)
    np.testing.assert_allclose(product, values * along / 1.3)


def test_momentum_moves_what_lodo_learns_by_one_plus_beta():
    """The proposition on momentum, seen on LODO as it is run: λ qᵀGq on steep directions at two β."""
    steep = {}
    for name in ("noisy_bowl", "noisy_bowl_published"):
        record = records.load(RESULTS / "paper" / name / "LODO.npz")
        momentum = record.values["hyperparameters"]["momentum"]
        _, along = rescaled_product(record)
        steep[momentum] = (1 + momentum) * np.exp(np.log(along[:, 90:]).mean())
    assert steep[0.195] / steep[0.0] == pytest.approx(1.195, rel=0.01)


def test_a_record_in_the_wrong_folder_is_refused(tmp_path):
    source = RESULTS / "laptop" / "noisy_bowl" / "LODO.npz"
    target = tmp_path / "paper" / "noisy_bowl" / "LODO.npz"
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    with pytest.raises(records.RecordError, match=r"was made at the preset 'laptop', not 'paper'.*wrong folder"):
        judge(BY_KEY["bowl-lowest"], Evidence(tmp_path))


def test_what_was_not_reached_follows_the_records(tmp_path):
    def told(word):
        (line,) = (line for line in not_reached(tmp_path) if word in line)
        return line

    desktop = "with the paper's network at its true size, `image_generation` has"
    assert f"{desktop} no records. Missing: LODO, Momentum" in told(desktop)
    assert "measured in every record" in told("How far $G$ moved")
    for name, left_out in (
        ("desktop/image_generation/LODO", ()),
        ("laptop/image_generation_compact/LODO-rolled", ("inverse_hessian_displacement", "displacement_steps")),
    ):
        found = records.load(RESULTS / f"{name}.npz")
        arrays = {key: value for key, value in found.arrays.items() if key not in left_out}
        records.save(tmp_path / f"{name}.npz", dataclasses.replace(found, arrays=arrays))
    assert f"{desktop} those of LODO alone. Missing: Momentum" in told(desktop)
    assert "1 of `image_generation_compact` at `laptop`." in told("How far $G$ moved")
    assert "were not measured" in told("The spectrum")
    assert told("on the bowl: its package").startswith("Kron on the bowl")
    assert "(section 2): not tested. None of" in told("hypergradient methods")
    assert "no records of such forms" in told("hypergradient methods")
    (stored,) = (line for line in not_reached(RESULTS) if "hypergradient methods" in line)
    assert "LODO with a diagonal for $G$ (`LODO-Diagonal`), a scalar" in stored


# The command


@pytest.fixture
def copied(tmp_path):
    for source in (RESULTS / "paper" / "noisy_bowl").glob("*.npz"):
        if not source.stem.endswith("-tuning"):
            target = tmp_path / "paper" / "noisy_bowl" / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path


def test_command_writes_and_compares(copied, capsys):
    assert claims.main(["--results-dir", str(copied)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert claims.main(["--results-dir", str(copied), "--write"]) == 0
    assert claims.main(["--results-dir", str(copied)]) == 0
    shown = capsys.readouterr().out
    assert "bowl-lowest              confirmed" in shown
    assert "rosenbrock               not tested (no records of the paper's size)" in shown
    (copied / "paper" / "noisy_bowl" / "LODO.npz").write_bytes(b"no record")
    assert claims.main(["--results-dir", str(copied)]) == 1
    assert "LODO.npz is damaged" in capsys.readouterr().err


def test_a_verdict_on_a_record_that_no_longer_replays_is_marked(copied, capsys):
    before = claims.ledger(copied)
    assert claims.main(["--results-dir", str(copied), "--write"]) == 0
    names = ("LODO", "Adam")
    stored = {name: records.load(copied / "paper" / "noisy_bowl" / f"{name}.npz") for name in names}
    by = Pass("b" * 40, "2026-12-02T00:00:00+00:00", {}, "cpu")

    def replay(**states):
        found = {
            f"paper/noisy_bowl/{name}": Replay(stored[name].digest(), state, first_difference=0, by=by)
            for name, state in states.items()
        }
        Replays(copied).save(found)

    replay(LODO=EQUAL, Adam=EQUAL)
    assert claims.ledger(copied) == before
    replay(LODO=EQUAL, Adam=DIFFERS)
    rows = {row["key"]: row for row in claims.ledger(copied)}
    marked = [key for key, row in rows.items() if "differing" in row]
    assert "bowl-lowest" in marked
    assert all("noisy_bowl/Adam" in rows[key]["records"] for key in marked)
    assert rows["bowl-lowest"]["evidence"][0] == "Today's code replays other numbers than those of noisy_bowl/Adam."
    capsys.readouterr()
    assert claims.main(["--results-dir", str(copied)]) == 1
    assert "(replays differ: noisy_bowl/Adam)" in capsys.readouterr().out
