"""Every Python block on the pages of "Use" runs, page by page, each page in one namespace."""

import re
from pathlib import Path

import jax
import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "book" / "use").glob("*.md"))


def blocks(page: Path) -> str:
    """The Python blocks of a page as one program, each on its own lines, so that errors name the line of the page."""
    lines = page.read_text(encoding="utf-8").split("\n")
    program, inside = [], False
    for line in lines:
        if line.startswith("```"):
            inside = line.strip() == "```python"
            program.append("")
        else:
            program.append(line if inside else "")
    return "\n".join(program)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):  # as a reader's own program starts
        exec(compile(blocks(page), page, "exec"), {"__name__": "guide"})
    printed = capsys.readouterr().out
    assert re.search(r"^\s*print\(", blocks(page), re.MULTILINE) is None or printed
    assert "nan" not in printed.lower()
