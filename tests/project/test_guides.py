"""Every Python block on the pages of "Use" runs, page by page in one namespace, and prints what stands below it."""

import re
from pathlib import Path

import jax
import pytest

from tools import guide_outputs

PAGES = sorted(guide_outputs.PAGES.glob("*.md"))
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def agree(printed: str, written: str) -> bool:
    """The same words, and numbers that are equal, within a factor of 2, or within 0.1: machines round differently."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", written).split():
        return False
    ours, theirs = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, written))
    return all(a == b or abs(a - b) <= 0.1 or 0.5 <= a / b <= 2 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run_and_print_what_is_written_below_them(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):  # as a reader's own program starts
        for block, printed in guide_outputs.outputs(page):
            assert agree(printed, block["printed"] or ""), f"{printed}\nRun tools/guide_outputs.py {page}"
            assert "nan" not in printed.lower()


def test_a_page_is_written_once_and_then_as_it_was(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 2\n```\n\nText.\n\n```python\nprint(x)\n```\nMore.\n")
    assert guide_outputs.write(page)
    text = page.read_text()
    assert text == "# Page\n\n```python\nx = 2\n```\n\nText.\n\n```python\nprint(x)\n```\n\n```text\n2\n```\nMore.\n"
    assert not guide_outputs.write(page)
    assert page.read_text() == text
    page.write_text(text.replace("x = 2", "x = 200"))
    assert [agree(printed, block["printed"] or "") for block, printed in guide_outputs.outputs(page)] == [True, False]


def test_an_error_names_the_line_of_the_page(tmp_path):
    page = Path(tmp_path / "page.md")
    page.write_text("# Page\n\n```python\nx = 2\ny = 1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        list(guide_outputs.outputs(page))
    assert raised.traceback[-1].lineno == 4
