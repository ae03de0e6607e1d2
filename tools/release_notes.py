"""Write what a release says of itself, its section of CHANGELOG.md, to _build/release.md.

python tools/release_notes.py v0.1.0     exit status 1 unless this is the version of lodo/_version.py
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version(root: Path) -> str:
    """The version in lodo/_version.py, read without importing anything."""
    text = (root / "lodo" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def notes(root: Path, tag: str) -> str:
    """The section of the changelog for a tag.

    Args:
        root: The repository's root.
        tag: "v" and the version, such as "v0.1.0".

    Returns:
        The section's text without its heading.

    Raises:
        ValueError: The tag is not this version's, or the changelog has nothing to say of it.
    """
    if tag != f"v{version(root)}":
        raise ValueError(
            f"the tag is {tag!r}, but lodo/_version.py has {version(root)}: expected the tag 'v{version(root)}'. "
            "Tag the commit that sets the version."
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.startswith(f"[{version(root)}]") and text.strip():
            return f"{text.strip()}\n"
    raise ValueError(
        f"CHANGELOG.md has no text under '## [{version(root)}]'. Give 'Unreleased' that heading, and the day."
    )


def main() -> int:
    """Run the command line; return its exit status."""
    if len(sys.argv) != 2:
        print("expected one argument, the tag: make release-notes TAG=v0.1.0", file=sys.stderr)
        return 2
    try:
        text = notes(ROOT, sys.argv[1])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    target = ROOT / "_build" / "release.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
