"""A release's words are its version's section of the changelog; another tag is refused."""

import pytest

import lodo

CHANGELOG = """# Changelog

## [Unreleased]

- Later.

## [1.2.0] - 2026-12-01

### Added

- A thing.

## [1.1.0] - 2026-11-01

- Before.
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "lodo").mkdir()
    (tmp_path / "lodo" / "_version.py").write_text('"""Doc."""\n\n__version__ = "1.2.0"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    return tmp_path


def test_the_section_of_the_version_is_what_a_release_says(repository, tools):
    assert tools["release_notes"].notes(repository, "v1.2.0") == "### Added\n\n- A thing.\n"


@pytest.mark.parametrize("tag", ["v1.1.0", "1.2.0", "v1.2.0rc1", ""])
def test_a_tag_of_another_version_is_refused(repository, tools, tag):
    with pytest.raises(ValueError, match=r"expected the tag 'v1\.2\.0'"):
        tools["release_notes"].notes(repository, tag)


@pytest.mark.parametrize(
    "text", [CHANGELOG.replace("1.2.0", "1.3.0"), "# Changelog\n\n## [1.2.0]\n\n## [1.1.0]\n\n- x\n"]
)
def test_a_version_without_a_section_is_refused(repository, tools, text):
    (repository / "CHANGELOG.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"no text under '## \[1\.2\.0\]'"):
        tools["release_notes"].notes(repository, "v1.2.0")


def test_the_version_is_read_as_python_reads_it(root, tools):
    assert tools["release_notes"].version(root) == lodo.__version__
