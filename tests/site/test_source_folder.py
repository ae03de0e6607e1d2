"""The folder of the book's sources decides what a page shows, wherever the build is started, and for one page too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lodo_book
import pytest
from building import ROOT
from sphinx.errors import ExtensionError


@pytest.fixture
def elsewhere(tmp_path):
    """The working directory: another clone, whose records are damaged."""
    folder = tmp_path / "another clone"
    (folder / "lodo").mkdir(parents=True)
    (folder / "lodo" / "_version.py").write_text("", encoding="utf-8")
    for record in (ROOT / "results" / "benchmarks" / "scale").glob("*.npz"):
        copy = folder / record.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"no record")
    return folder


def build_page(page: str, folder: Path, **environment: str) -> str:
    """Builds one page alone from another folder; returns its HTML."""
    command = [Path(sys.executable).parent / "jupyter-book", "build", ROOT / page, "--path-output", folder / "out"]
    settings = {name: text for name, text in os.environ.items() if name != "LODO_RESULTS"}
    settings |= {"LODO_PRESET": "smoke", "LODO_REPOSITORY": "", "LODO_SITE": ""} | environment
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (html,) = (folder / "out").rglob(f"html/{Path(page).stem}.html")
    return html.read_text(encoding="utf-8")


@pytest.mark.exhaustive
def test_a_page_computes_from_the_records_of_its_own_repository(elsewhere):
    html = build_page("book/scale.md", elsewhere)
    assert "GB/s of" in html
    assert "lodo.css" in html
    assert next((elsewhere / "out").rglob("_static/lodo.css"))


@pytest.mark.exhaustive
def test_a_notebook_alone_is_shown_as_it_was_executed(elsewhere, tmp_path):
    shown = f"<div {lodo_book.MARK}>as it was drawn</div>"
    figure = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [shown]}}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A page by itself\n"]},
        {"cell_type": "code", "metadata": {}, "source": ["1"], "execution_count": 1, "outputs": [figure]},
    ]
    made = {"fingerprint": "0" * 64, "parameters": {"preset": "smoke"}, "date": "2026-01-02"}
    notebook = {"cells": cells, "metadata": {"lodo": made}, "nbformat": 4, "nbformat_minor": 4}
    executed = tmp_path / "executed" / "smoke" / "claims.ipynb"  # no other one is there
    executed.parent.mkdir(parents=True)
    executed.write_text(json.dumps(notebook), encoding="utf-8")
    html = build_page("notebooks/claims.ipynb", elsewhere, LODO_EXECUTED=str(tmp_path / "executed"))
    assert "A page by itself" in html
    assert "as it was drawn" in html
    assert "date 2026-01-02" in html


def test_the_repository_is_the_source_folder_or_above_it(tmp_path):
    assert lodo_book.root_of(ROOT) == lodo_book.root_of(ROOT / "notebooks") == ROOT
    with pytest.raises(ExtensionError, match=r"has the book's _config\.yml and pyproject\.toml"):
        lodo_book.root_of(tmp_path)
