"""Write below each Python block of the guide's pages what it prints, as a block of text.

    python tools/guide_outputs.py [PAGE…]     run the pages of book/use, or those named, and write what they print

Each page is one program, run in a folder of its own. `tests/project/test_guides.py` runs them again, and compares.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent / "book" / "use"
#: A block of Python, and what is written below it.
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def outputs(page: Path) -> Iterator[tuple[re.Match[str], str]]:
    """Each block of a page and what it prints, run one after the other in one namespace."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "guide"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Padded with lines, so that an error names the line of the page.
            exec(compile("\n" * line + block["code"], page, "exec"), names)
        yield block, printed.getvalue()


def write(page: Path) -> bool:
    """Runs a page and writes what it prints; says whether that changed the page."""
    text, end = page.read_text(encoding="utf-8"), 0
    parts: list[str] = []
    for block, printed in outputs(page):
        below = f"\n```text\n{printed.rstrip()}\n```\n" if printed.strip() else ""
        parts += [text[end : block.start()], f"```python\n{block['code']}```\n{below}"]
        end = block.end()
    made = "".join([*parts, text[end:]])
    page.write_text(made, encoding="utf-8")
    return made != text


def main(names: list[str]) -> int:
    """Runs the pages named, or all."""
    pages = [Path(name).resolve() for name in names] or sorted(PAGES.glob("*.md"))
    for page in pages:
        if not page.is_file():
            print(f"{page} is no file; name pages of book/use, or none for all.", file=sys.stderr)
            return 2
    for page in pages:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            done = "written" if write(page) else "as it was"
        print(f"{os.path.relpath(page, PAGES.parent.parent)}: {done}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
