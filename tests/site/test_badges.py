"""Where a page says it comes from, what has changed since, and whether its records still replay."""

import json

import badges
import pytest
from pages import NOTEBOOKS, page

from lodo_experiments.results import records
from lodo_experiments.results.replays import DIFFERS, EQUAL, Pass, Replay, Replays
from lodo_experiments.studies import notebooks


@pytest.fixture
def notebook(tmp_path):
    """A clean notebook that publishes a number, and the same executed; with it, what it was sealed with."""
    source, executed = tmp_path / "notebooks" / "x.ipynb", tmp_path / "executed" / "x.ipynb"
    for path in (source, executed):
        path.parent.mkdir()
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "\n", "Text."]},
        {"cell_type": "code", "metadata": {}, "source": "show('rosenbrock')"},
    ]
    source.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    stated = {"parameters": {"preset": "smoke"}, "content": notebooks.content(source, {"preset": "smoke"})}
    stated |= {"commit": "0123456789abcdef" + "+changes", "date": "2026-01-02T03:04:05+00:00"}
    stated |= {"made": {"devices": ["cpu: cpu"], "seeds": "0–3"}}
    executed.write_text(json.dumps({"cells": cells, "metadata": {"lodo": stated}}), encoding="utf-8")
    return source, executed


def test_badge_says_where_a_page_comes_from(notebook, tmp_path):
    text = badges.badge(*notebook, tmp_path / "results")
    assert "lodo-badge-up-to-date" in text
    for fact in (
        "preset smoke",
        "device cpu: cpu",
        "seeds 0–3",
        "jax ",
        "commit 0123456789ab+changes",
        "date 2026-01-02",
    ):
        assert fact in text


def test_badge_says_what_changed(notebook, tmp_path):
    source, executed = notebook
    source.write_text(source.read_text(encoding="utf-8").replace("Text.", "Another text."), encoding="utf-8")
    text = badges.badge(source, executed, tmp_path / "results")
    assert "lodo-badge-changed" in text
    assert "<strong>changed</strong> since it was executed: notebook" in text


@pytest.mark.parametrize(
    ("state", "words"), [(EQUAL, "same numbers"), (DIFFERS, "other numbers"), ("", "not replayed")]
)
def test_badge_says_who_made_and_who_replayed_the_records(notebook, tmp_path, state, words):
    source, executed = notebook
    made = {"commit": "a" * 40, "date": "2026-11-26T01:02:03+00:00"}
    record = records.Record("rosenbrock/LODO", {}, {}, made)
    records.save(tmp_path / "results" / "paper" / "rosenbrock" / "LODO.npz", record)
    by = Pass("b" * 40, "2026-12-02T00:00:00+00:00", {}, "cpu")
    if state:
        found = Replay(record.digest(), state, first_difference=0, by=by)
        Replays(tmp_path / "results").save({"paper/rosenbrock/LODO": found})
    text = badges.badge(source, executed, tmp_path / "results")
    replayed = f"replayed by commit bbbbbbb on 2 Dec 2026: {words}" if state else words
    assert f"made by commit aaaaaaa on 26 Nov 2026; {replayed};" in text
    assert ("lodo-badge-differs" in text) == (state == DIFFERS)


def test_badge_stands_below_the_title(notebook):
    given = json.loads(notebook[1].read_text(encoding="utf-8"))
    badges.with_badge(given, "<div></div>")
    assert given["cells"][0]["source"].startswith("# A title\n\n<div></div>\n")
    assert given["cells"][0]["source"].endswith("Text.")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebooks_page_has_its_badge(site, name):
    found = page(site / "notebooks" / f"{name}.html")
    assert "lodo-badge-up-to-date" in found.classes
    assert "preset smoke" in found.text


def test_status_page_lists_every_experiment(site):
    text = page(site / "book" / "status.html").text
    for experiment in ("noisy_bowl", "image_generation", "representability", "pages"):
        assert experiment in text
    assert "In all:" in text
