"""One command writes the repository's address everywhere, and takes it out again."""

import tomllib

import pytest
import yaml

ADDRESS = "https://github.com/example/lodo-book"


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the files that name the address."""
    (tmp_path / "notebooks").mkdir()
    names = ["pyproject.toml", "CITATION.cff"]
    for name in names + [f"notebooks/{path.name}" for path in (root / "notebooks").glob("*.ipynb")]:
        (tmp_path / name).write_text((root / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def write(texts):
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def test_address_is_written_everywhere_and_taken_out_again(copy, address_tool):
    write(address_tool.written(copy, ""))
    before = {path: path.read_text(encoding="utf-8") for path in copy.rglob("*.*")}
    write(address_tool.written(copy, ADDRESS, "v0.1.0"))
    assert address_tool.stored(copy) == (ADDRESS, "v0.1.0")
    assert yaml.safe_load((copy / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"] == ADDRESS
    urls = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Repository"] == ADDRESS
    assert all(url.startswith(ADDRESS) for url in urls.values())
    assert address_tool.written(copy, ADDRESS, "v0.1.0") == {
        path: path.read_text(encoding="utf-8") for path in copy.rglob("*.*")
    }
    for path in (copy / "notebooks").iterdir():
        assert f'_REPOSITORY = \\"{ADDRESS}@v0.1.0\\"' in path.read_text(encoding="utf-8")
    write(address_tool.written(copy, ""))
    assert {path: path.read_text(encoding="utf-8") for path in copy.rglob("*.*")} == before


def test_a_notebook_without_a_place_for_it_is_noticed(copy, address_tool):
    path = copy / "notebooks" / "rosenbrock.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("_REPOSITORY", "_ELSEWHERE"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"rosenbrock\.ipynb: found 0 places"):
        address_tool.written(copy, ADDRESS)


def test_a_revision_that_is_none_is_refused(address_tool, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["address.py", ADDRESS, "--revision", "v1 0"])
    with pytest.raises(SystemExit, match="2"):
        address_tool.main()
    assert "--revision: got 'v1 0'; expected a branch, a tag or a commit, such as v0.1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["github.com/a/b", "https://github.com", "https://github.com/a", 'https://x.y/a/b"']
)
def test_form_of_an_address(address, address_tool):
    assert address_tool.FORM.fullmatch(ADDRESS)
    assert not address_tool.FORM.fullmatch(address)
