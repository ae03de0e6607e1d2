"""Tables: every number goes in whole, comes out of the CSV as it was, and is shown so that people can read it."""

import csv
import io
import math
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import computed
import jax.numpy as jnp
import numpy as np
import pytest
from sphinx.errors import ExtensionError

from lodo_experiments.analysis import statistics
from lodo_experiments.report import tables
from lodo_experiments.results import records
from lodo_experiments.results.records import Record

PAPER = Path(__file__).resolve().parents[2] / "results" / "paper" / "noisy_bowl"
AWKWARD = [
    "plain",
    "a,b",
    'say "so"',
    "two\nlines",
    "two\r\nlines",
    "β₁ = ½, Ω",
    " spaces ",
    "|*_`<$[]{x}\\",
    "'",
    "%2C&#",
]


def runs(scores, *, rate=10.0, gradients=1, **arrays):
    values = {"steps_per_second": rate, "gradients_per_step": gradients, "hyperparameters": {}}
    return Record("bowl/A", {"scores": np.asarray(scores), **arrays}, values)


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(scope="module")
def stored():
    names = sorted(path.stem for path in PAPER.glob("*.npz") if not path.stem.endswith("-tuning"))
    return {name: records.load(PAPER / f"{name}.npz") for name in names}


# The scores


def test_scores_table_by_hand():
    found = {"A": runs([1.0, 2.0, 4.0, 100.0], rate=50.0, gradients=2), "B": runs([3.0, np.nan])}
    first, second = tables.scores_table(found)
    assert (first["optimizer"], first["runs"], first["diverged"]) == ("A", 4, 0)
    assert (first["mean"], first["median"]) == (26.75, 3.0)
    assert first["std"] == pytest.approx(np.std([1, 2, 4, 100], ddof=1))
    assert (first["steps_per_second"], first["gradients_per_second"]) == (50.0, 100.0)
    assert (second["runs"], second["diverged"], second["mean"], second["median"]) == (2, 1, 3.0, math.inf)
    assert math.isnan(second["std"])
    assert "test_loss" not in first


def test_test_losses_are_shown_where_there_are_any():
    tested = runs([1.0, 2.0, 3.0], test_loss=np.array([4.0, 8.0, np.nan]))
    first, second = tables.scores_table({"A": tested, "B": runs([1.0])})
    assert (first["test_loss"], first["test_diverged"]) == (6.0, 1)
    assert first["test_loss_std"] == pytest.approx(math.sqrt(8))
    assert (second["test_loss"], second["test_loss_std"], second["test_diverged"]) == (None, None, None)
    heads, *shown = tables.cells([first, second], tables.SCORES_SHOWN)
    assert [row[heads.index("test loss")] for row in shown] == ["6 ± 2.83", ""]
    assert "test loss" not in tables.cells(tables.scores_table({"B": runs([1.0])}), tables.SCORES_SHOWN)[0]


def test_scores_table_agrees_with_the_stored_records(stored):
    rows = tables.scores_table(stored)
    assert [row["optimizer"] for row in rows] == list(stored)
    for row, (name, record) in zip(rows, stored.items()):
        scores = sorted(record.arrays["scores"].tolist())
        assert row["runs"] == len(scores) == len(record.provenance["seeds"]), name
        assert row["diverged"] == (record.arrays["diverged_at"] >= 0).sum() == 0, name
        assert row["mean"] == pytest.approx(math.fsum(scores) / 8, rel=1e-12), name
        assert (row["low"], row["high"]) == statistics.summarise(record.arrays["scores"]).interval, name
        assert row["low"] < row["mean"] < row["high"], name
        ratio = row["gradients_per_second"] / row["steps_per_second"]
        assert ratio == (2 if name in ("L-BFGS", "L-BFGS-100", "O-LBFGS", "BFGS-same-sample") else 1), name
        # The record's own clock: all runs' steps over the seconds they took together.
        clock = record.arrays["wall_steps"][-1] * len(scores) / record.arrays["wall_seconds"][-1]
        assert row["steps_per_second"] == pytest.approx(clock), name
    lodo = statistics.summarise(stored["LODO"].arrays["scores"])
    (line,) = (row for row in tables.cells(rows, tables.SCORES_SHOWN) if row[0] == "LODO")
    assert f"{lodo.mean:.3g} ± {lodo.std:.3g}" in line


def test_scores_table_refuses_what_it_cannot_score(stored):
    with pytest.raises(ValueError, match="at least one record"):
        tables.scores_table({})
    with pytest.raises(ValueError, match=r"LODO \(noisy_bowl/LODO/tuning\) has no scores"):
        tables.scores_table({"LODO": records.load(PAPER / "LODO-tuning.npz")})


# The hyperparameters


def test_hyperparameter_table_agrees_with_the_stored_records(stored):
    tuned = {name: records.load(PAPER / f"{name}-tuning.npz") for name in stored}
    rows = {row["optimizer"]: row for row in tables.hyperparameter_table(tuned)}
    assert list(rows) == list(tuned)
    every = {h for record in tuned.values() for h in record.values["hyperparameters"]}
    for name, row in rows.items():
        assert set(row) == every | {"optimizer", "trials"}
        has = {column: value for column, value in row.items() if value is not None}
        # The runs used what the tuning found.
        assert has == {"optimizer": name, **stored[name].values["hyperparameters"], "trials": has["trials"]}
        schedule = tuned[name].values["settings"]["schedule"]
        assert has["trials"] == sum(generation["population"] for generation in schedule) > 0


def test_hyperparameter_table_refuses_other_records(stored):
    with pytest.raises(ValueError, match="at least one record"):
        tables.hyperparameter_table({})
    with pytest.raises(ValueError, match="is one of runs"):
        tables.hyperparameter_table({"LODO": stored["LODO"]})
    with pytest.raises(ValueError, match="has no hyperparameters"):
        tables.hyperparameter_table({"A": Record("bowl/A", {})})


# CSV


def test_csv_gives_every_text_and_every_digit_back():
    generator = np.random.default_rng(0)
    numbers = [*(generator.normal(size=4) * 10.0 ** generator.integers(-300, 300, 4)), 0.1 + 0.2, math.pi, 5e-324, -0.0]
    numbers += [math.inf, -math.inf][: len(AWKWARD) - len(numbers)]
    rows = [{name: text, 'n, "x"': number, "i": 2**70 + i} for i, (text, number) in enumerate(zip(AWKWARD, numbers))
            for name in ["te\nxt"]]  # fmt: skip
    back = read(tables.to_csv(rows))
    assert len(back) == len(rows) == len(AWKWARD)
    for row, other in zip(rows, back):
        assert list(other) == list(row)
        assert other["te\nxt"] == row["te\nxt"]
        assert float(other['n, "x"']).hex() == float(row['n, "x"']).hex()
        assert int(other["i"]) == row["i"]


def test_csv_is_that_of_rfc_4180():
    text = tables.to_csv(
        [{"a": 'x"y', "b": np.float64(0.1)}, {"b": np.int32(2), "c": True}, {"a": None, "b": math.nan}]
    )
    assert text == 'a,b,c\r\n"x""y",0.1,\r\n,2,True\r\n,nan,\r\n'


def test_single_precision_numbers_keep_their_value():
    value = np.float32(0.1)
    assert np.float32(read(tables.to_csv([{"a": value}]))[0]["a"]) == value
    assert float(read(tables.to_csv([{"a": value}]))[0]["a"]) == float(value)


@pytest.mark.parametrize("write", [tables.to_csv, tables.cells, tables.to_html])
def test_tables_refuse_nothing_and_cells_that_are_no_cells(write):
    with pytest.raises(ValueError, match="at least one row"):
        write([])
    for cell in ([1.0], np.ones(2), {"a": 1}, 1j):
        with pytest.raises(TypeError, match="column 'x' has"):
            write([{"x": cell}])


# What is shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (8.86318, "8.86"),
        (0.9, "0.9"),
        (213969.4, "214000"),
        (999400.0, "999000"),
        (999500.0, "1e+06"),
        (-999960.0, "-1e+06"),
        (59109651.99, "5.91e+07"),
        (0.00052193, "0.000522"),
        (9.936861e-12, "9.94e-12"),
        (0.0, "0"),
        (math.nan, "—"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (123456789, "123456789"),
        (np.float32(0.1), "0.1"),
        (jnp.float32(0.25), "0.25"),
        (None, ""),
        ("text", "text"),
    ],
)
def test_numbers_for_people(value, expected):
    assert tables.cells([{"x": value, "y": 1}])[1] == [expected, "1"]


def test_cells_may_be_joined():
    rows = [{"a": 1.0, "b": "{a}", "c": None}, {"a": 2.0, "b": "z", "c": 3}]
    shown = {"both": "{a} of {b}", "third": "{c}!", "absent": "{d}"}
    assert tables.cells(rows, shown) == [["both", "third"], ["1 of {a}", ""], ["2 of z", "3!"]]
    with pytest.raises(ValueError, match="Nothing of absent is in the rows; they have a, b, c"):
        tables.cells(rows, {"absent": "{d}"})


def test_what_says_nothing_is_not_shown():
    """A spread of 0, an interval of two runs, a column of no divergence."""
    rows, forms = tables.scores_shown(tables.scores_table({"A": runs([2.0] * 8), "B": runs([1.0, 3.0])}))
    heads, *shown = tables.cells(rows, forms)
    assert not {"diverged", "gradients per second"} & set(heads)
    assert shown[0][:5] == ["A", "8", "2", "", "2"]
    assert shown[1][:5] == ["B", "2", "2 ± 1.41", "", "2"]
    rows, forms = tables.scores_shown(tables.scores_table({"A": runs([1.0, 2.0, 3.0, np.nan]), "B": runs([1.0])}))
    _, first, second = tables.cells(rows, forms)
    assert first[:4] == ["A", "4", "1", "2 ± 1"]
    assert first[4].startswith("[")
    assert "±" not in "".join(second)
    assert "nan" not in "".join(second)


# HTML


class Cells(HTMLParser):
    """The cells of a table, row by row: tag, attributes, text."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([tag, dict(attributes), ""])

    def handle_data(self, data):
        self.rows[-1][-1][2] += data


def test_html_has_every_text_and_names_its_rows():
    rows = [{"na<me": text, "x": 1 / 3} for text in AWKWARD]
    heads, *cells = Cells(tables.to_html(rows)).rows
    assert [cell[0] for cell in heads] == ["th", "th"]
    assert [cell[2] for cell in heads] == ["na<me", "x"]
    for row, (name, number) in zip(rows, cells, strict=True):
        assert name[:2] == ["th", {"scope": "row"}]
        assert name[2] == " ".join(row["na<me"].split())
        assert float(number[1]["data-value"]) == row["x"]
        assert number[2] == "0.333"


def best_of(rows, *, divergence_counted=False, **best):
    (_, *cells) = Cells(tables.to_html(rows, best=best, divergence_counted=divergence_counted)).rows
    return [row[0][2] for row in cells if any("best" in cell[1].get("class", "") for cell in row)]


def test_the_best_is_marked():
    rows = [{"name": "a", "loss": 2.0}, {"name": "b", "loss": 1.0}, {"name": "c", "loss": math.nan}]
    assert best_of(rows, loss="low") == ["b"]
    assert best_of(rows, loss="high") == ["a"]
    assert best_of(rows) == []
    assert best_of(rows[1:], loss="low") == []  # nothing to compare with
    assert best_of([*rows, {"name": "d", "loss": 1.0004}], loss="low") == ["b", "d"]  # alike as they are shown
    diverged = [*rows, {"name": "e", "loss": 0.1, "diverged": 1}]
    assert best_of(diverged, loss="low") == ["b"]
    assert best_of(diverged, loss="low", divergence_counted=True) == ["e"]
    assert best_of([*rows, {"name": "f", "loss": 10.0}], loss="low") == ["b"]
    with pytest.raises(ValueError, match='must be "low" or "high"'):
        best_of(rows, loss="least")


# The download


class Link(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("filename", ["scores.csv", 'noisy bowl & "more" <b>\'s.csv', "β.csv"])
def test_the_link_holds_the_table(filename):
    rows = [{"name": text, "x": 1 / 3} for text in AWKWARD]
    shown = tables.download(rows, filename)
    link = Link(shown._repr_html_())
    ((tag, attributes),) = link.found
    assert (tag, attributes["download"]) == ("a", filename)
    assert filename in link.text
    head, _, content = attributes["href"].partition(",")
    assert head == "data:text/csv;charset=utf-8"
    assert unquote_to_bytes(content).decode() == tables.to_csv(rows)
    # Nothing in it that HTML or an address could take for something else.
    assert content.isascii()
    assert not set(content) & set("\"'<>&# \n\r")


@pytest.mark.parametrize("filename", ["", ".csv", "scores", "scores.txt", "a/b.csv", "a\\b.csv", "../x.csv", "a\n.csv"])
def test_names_that_are_no_plain_names_are_refused(filename):
    with pytest.raises(ValueError, match="filename must be a plain name"):
        tables.download([{"a": 1}], filename)


# Tables that the book computes


@pytest.mark.parametrize(("function", "direction"), [("lower_is_better", "low"), ("neither", None)])
def test_the_books_tables_have_marks_and_a_link(monkeypatch, function, direction):
    rows = [{"name": "a", "loss": 2.0, "n": 1}, {"name": "b", "loss": 1.0, "n": 2}]
    module = types.ModuleType("of_a_page")
    module.lower_is_better = module.neither = lambda: rows
    module.BEST = {"lower_is_better": {"loss": "low"}}
    monkeypatch.setitem(sys.modules, "of_a_page", module)
    monkeypatch.setattr(computed, "called", computed.called.__wrapped__)
    html = computed.table(f"of_a_page:{function}")
    marked = [cell[2] for row in Cells(html).rows for cell in row if "best" in cell[1].get("class", "")]
    assert marked == (["1"] if direction else [])
    link = dict(Link(html).found)["a"]
    assert link["download"] == f"of_a_page_{function}.csv"
    assert unquote_to_bytes(link["href"].partition(",")[2]).decode() == tables.to_csv(rows)


def test_the_books_tables_name_columns_that_there_are(monkeypatch):
    module = types.ModuleType("of_a_page")
    module.rows, module.BEST = lambda: [{"name": "a"}], {"rows": {"los": "low"}}
    monkeypatch.setitem(sys.modules, "of_a_page", module)
    with pytest.raises(ExtensionError, match=r"of_a_page\.BEST has los; rows\(\) has no such column"):
        computed.table("of_a_page:rows")


def test_the_tables_on_when_to_use_it_mark_the_best(monkeypatch):
    monkeypatch.setenv("LODO_RESULTS", str(PAPER.parents[1]))
    for reference in ("paper_tasks:scores", "suite_comparison:summary"):
        html = computed.table(f"lodo_experiments.analysis.{reference}")
        assert html.count(' best"') >= 2, reference
        assert f'download="{reference.replace(":", "_")}.csv"' in html


def test_ipython_is_needed_for_the_link_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    assert tables.to_csv([{"a": 1}])
    with pytest.raises(ImportError):
        tables.download([{"a": 1}], "a.csv")
