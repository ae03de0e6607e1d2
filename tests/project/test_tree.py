"""What a stranger finds in a clone: the files that should be there, and nothing of anybody's machine."""

import re
import statistics
import subprocess
import sys

import pytest
import yaml

import lodo

REQUIRED = (
    "README.md", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml",
    "requirements.lock", "constraints.txt", "environment.yml", "_config.yml", "_toc.yml", ".gitattributes",
    ".editorconfig", ".pre-commit-config.yaml", "lodo", "lodo_experiments", "notebooks", "book", "tests",
)  # fmt: skip
PLACES = {
    "a path of a machine": r"(?<![\w.\]}])/(?:work|root|tmp/\w+|home/\w+|Users/\w+)/|[A-Z]:\\\\?Users\\",
    "a registry's address": r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|anaconda\.org|/simple\b)",
    "where to install from": r"--(?:extra-)?index-url|--find-links|PIP_INDEX_URL|UV_INDEX",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# These two name such things in order to look for them.
SEARCHERS = {"tests/project/test_tree.py", "tests/project/test_requirements.py"}
UNWANTED = re.compile(r"(?:^|/)(?:uv\.lock|\.DS_Store|[^/]*\.(?:pkl|pickle|pyc|orig|rej|tmp))$")


def found_places(text: str) -> list[str]:
    """What a text says of places that a stranger does not have."""
    return [f"{what}: {hit[0]}" for what, pattern in PLACES.items() for hit in re.finditer(pattern, text)]


@pytest.mark.parametrize("name", REQUIRED)
def test_is_there(root, name):
    assert (root / name).exists()


def test_no_file_names_a_machine_or_a_registry(root, kept_files):
    for path in kept_files:
        name = path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if name not in SEARCHERS:
            assert not found_places(text), name


# Put together here, so that not even this file says one.
@pytest.mark.parametrize(
    "text",
    [
        "data = '/home/somebody/data'",
        "see {}work/other".format("/"),
        "{}root/.cache".format("/"),
        "C:\\Users\\somebody",
        "https://{}.org/an-index/numpy".format("pypi"),
        "https://files.{}.org/a-folder".format("pythonhosted"),
        "pip install --extra-index-url x",
    ],
)
def test_a_place_would_be_noticed(text):
    assert found_places(text)


@pytest.mark.parametrize(
    "text", ["../shared/reference", "{root}/" + "work/x", "a/home/b", "/dev/null", "https://arxiv.org"]
)
def test_an_innocent_text_is_let_through(text):
    assert not found_places(text)


def test_no_file_is_one_that_tools_leave_behind(root, kept_files):
    names = [path.relative_to(root).as_posix() for path in kept_files]
    assert not [name for name in names if UNWANTED.search(name)]


def test_python_files_are_short(root, kept_files):
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in kept_files
        if path.suffix == ".py"
    }
    assert not {name: length for name, length in lengths.items() if length > 500}
    assert statistics.median(lengths.values()) < 200


def test_notebooks_are_stored_clean(root, kept_files, tools):
    notebooks = [path for path in kept_files if path.suffix == ".ipynb"]
    assert notebooks
    for path in notebooks:
        notebook = tools["clean_notebooks"].read(path)
        wanted = tools["clean_notebooks"].clean(notebook)
        assert notebook == wanted, f"{path.relative_to(root)}: run python tools/clean_notebooks.py on it"


def test_cleaning_a_notebook_strips_what_running_it_left(tmp_path, root, tools):
    nbformat = tools["clean_notebooks"].nbformat
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=3, metadata={"tags": ["parameters"], "papermill": {}})
    cell.outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {}, "kernelspec": {"name": "python3", "display_name": "P"}}
    )
    path = tmp_path / "ran.ipynb"
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    command = [sys.executable, root / "tools" / "clean_notebooks.py"]
    checked = subprocess.run([*command, "--check", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "not stored clean" in checked.stderr
    subprocess.run([*command, path], capture_output=True, check=True)
    assert subprocess.run([*command, "--check", path], capture_output=True, check=False).returncode == 0
    (stored,) = nbformat.read(path, as_version=4).cells
    assert stored.source == cell.source
    assert stored.id == cell.id
    assert stored.metadata == {"tags": ["parameters"]}
    assert (stored.outputs, stored.execution_count) == ([], None)


def test_licence_is_mit(root, project):
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n")
    assert re.search(r"^Copyright \(c\) \d{4} the LODO companion authors$", text, re.MULTILINE)
    assert project["project"]["license"] == "MIT"


def test_citation_is_valid_and_prefers_the_paper(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    # The keys that the Citation File Format 1.2.0 requires, at the top and in a reference.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == lodo.__version__
    assert citation["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    authors = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert authors == ["Isaac Liao", "Rumen Dangovski", "Jakob Nicolaus Foerster", "Marin Soljačić"]
    assert paper["title"] == "Learning to Optimize Quasi-Newton Methods"
    assert paper["journal"] == "Transactions on Machine Learning Research"
    assert (paper["year"], paper["month"]) == (2023, 9)
    assert {"type": "other", "value": "arXiv:2210.06171"}.items() <= paper["identifiers"][0].items()


def test_changelog_has_the_version_or_calls_it_unreleased(root):
    headings = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))
