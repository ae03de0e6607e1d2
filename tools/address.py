"""Write the repository's public address into every file that needs it.

    python tools/address.py https://host/owner/name --revision v0.1.0
    python tools/address.py --check

pyproject.toml's `[tool.lodo]` is where the address is kept, and the branch, tag or commit that the book's buttons open
and a notebook installs: with a tag, page, notebook and records are of one commit.  A notebook that is opened by itself
on a hosted runtime cannot read that file, so its first code cell has a copy, and so have CITATION.cff and
pyproject.toml's `[project.urls]`, which a package index shows.  The book reads pyproject.toml.  An empty address
removes it everywhere.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORM = re.compile(r"https://[\w.-]+\.[a-z]+/[\w.-]+/[\w./-]*[\w-]")
IN_NOTEBOOK = re.compile(r'(_REPOSITORY = \\")([^"\\]*)(\\")')
REVISION = re.compile(r"[\w][\w./-]*")
IN_PYPROJECT = re.compile(r'^(repository = ")([^"]*)(")', re.MULTILINE)
REVISION_IN_PYPROJECT = re.compile(r'^(revision = ")([^"]*)(")', re.MULTILINE)
URLS = re.compile(r"^\[project\.urls\]\n(?:\w+ = .*\n)+\n", re.MULTILINE)
IN_CITATION = re.compile(r'^repository-code: "[^"]*"\n', re.MULTILINE)


def written(root: Path, address: str, revision: str = "main") -> dict[Path, str]:
    """The text that each file that names the address should have.

    Args:
        root: The repository's root.
        address: The address; empty for none.
        revision: The branch, tag or commit of it.

    Returns:
        New texts by path.

    Raises:
        ValueError: A file has no place for the address.
    """
    project = root / "pyproject.toml"
    installed = f"{address}@{revision}" if address else ""  # as pip has it
    texts = {
        path: path.read_text(encoding="utf-8") for path in (project, *sorted((root / "notebooks").glob("*.ipynb")))
    }
    for path, text in texts.items():
        places = [(IN_PYPROJECT, address), (REVISION_IN_PYPROJECT, revision)]
        for place, value in places if path == project else [(IN_NOTEBOOK, installed)]:
            text, count = place.subn(lambda match, value=value: f"{match[1]}{value}{match[3]}", text)
            if count != 1:
                raise ValueError(f"{path}: found {count} places for the address; expected 1")
        texts[path] = text
    urls = (
        f'[project.urls]\nRepository = "{address}"\nIssues = "{address}/issues"\n'
        f'Changelog = "{address}/blob/main/CHANGELOG.md"\n\n'
        if address
        else ""
    )
    texts[project], count = re.subn(
        r"^\[tool\.lodo\]$", f"{urls}[tool.lodo]", URLS.sub("", texts[project]), flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError(f"{project}: found {count} tables [tool.lodo], before which [project.urls] stands; expected 1")
    citation = root / "CITATION.cff"
    text = IN_CITATION.sub("", citation.read_text(encoding="utf-8"))
    line = f'repository-code: "{address}"\n' if address else ""
    texts[citation], count = re.subn(r"^license: ", f"{line}license: ", text, count=1, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"{citation}: found no `license:` line, before which the address stands")
    return texts


def stored(root: Path) -> tuple[str, str]:
    """The address and the revision in pyproject.toml."""
    kept = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lodo"]
    return kept["repository"], kept["revision"]


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="https://host/owner/name, or '' for none")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of it; default: main")
    parser.add_argument("--check", action="store_true", help="change nothing, only see whether all files agree")
    arguments = parser.parse_args()
    if arguments.check:
        wrong = [p for p, t in written(ROOT, *stored(ROOT)).items() if p.read_text(encoding="utf-8") != t]
        for path in wrong:
            print(f"{path.relative_to(ROOT)} disagrees with pyproject.toml about the address", file=sys.stderr)
        return 1 if wrong else 0
    if arguments.address is None:
        parser.error("give the address, or --check")
    address = arguments.address.strip().rstrip("/").removesuffix(".git")
    if address and not FORM.fullmatch(address):
        parser.error(f"got {address!r}; expected https://host/owner/name")
    if not REVISION.fullmatch(arguments.revision):
        parser.error(f"--revision: got {arguments.revision!r}; expected a branch, a tag or a commit, such as v0.1.0")
    for path, text in written(ROOT, address, arguments.revision).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
