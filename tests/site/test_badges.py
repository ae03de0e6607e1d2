"""Where a page says it comes from, and that it turns stale by itself."""

import json

import badges
import pytest
from pages import NOTEBOOKS, page

from lodo_experiments.studies.provenance import keys


@pytest.fixture
def notebook(tmp_path):
    """A clean notebook that publishes a number, and the same executed; with it, what it was sealed with."""
    source, executed = tmp_path / "notebooks" / "x.ipynb", tmp_path / "executed" / "x.ipynb"
    for path in (source, executed):
        path.parent.mkdir()
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "\n", "Text."]},
        {"cell_type": "code", "metadata": {}, "source": "from lodo_experiments.report import glue\nglue.publish(a=1)"},
    ]
    source.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    stated = {"parameters": {"preset": "smoke"}, "key": keys.notebook_key(source, {"preset": "smoke"})}
    stated |= {"commit": "0123456789abcdef" + "+changes", "date": "2026-01-02T03:04:05+00:00"}
    stated |= {"made": {"devices": ["cpu: cpu"], "seeds": "0–3"}}
    executed.write_text(json.dumps({"cells": cells, "metadata": {"lodo": stated}}), encoding="utf-8")
    return source, executed


def test_badge_says_where_a_page_comes_from(notebook, tmp_path):
    text = badges.badge(*notebook, tmp_path / "results")
    assert "lodo-badge-fresh" in text
    for fact in (
        "preset smoke",
        "device cpu: cpu",
        "seeds 0–3",
        "jax ",
        "commit 0123456789ab+changes",
        "date 2026-01-02",
    ):
        assert fact in text


def test_badge_turns_stale_and_says_why(notebook, tmp_path):
    source, executed = notebook
    stated = json.loads(executed.read_text(encoding="utf-8"))
    stated["metadata"]["lodo"]["key"]["code"]["lodo_experiments.report.glue.publish"] = "0" * 12
    executed.write_text(json.dumps(stated), encoding="utf-8")
    text = badges.badge(source, executed, tmp_path / "results")
    assert "lodo-badge-stale" in text
    assert "report.glue.publish changed" in text


def test_badge_stands_below_the_title(notebook):
    given = json.loads(notebook[1].read_text(encoding="utf-8"))
    badges.with_badge(given, "<div></div>")
    assert given["cells"][0]["source"].startswith("# A title\n\n<div></div>\n")
    assert given["cells"][0]["source"].endswith("Text.")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebooks_page_has_its_badge(site, name):
    found = page(site / "notebooks" / f"{name}.html")
    assert "lodo-badge-fresh" in found.classes
    assert "preset smoke" in found.text


def test_status_page_lists_every_experiment(site):
    text = page(site / "book" / "status.html").text
    for experiment in ("noisy_bowl", "image_generation", "representability", "pages"):
        assert experiment in text
    assert "In all:" in text
