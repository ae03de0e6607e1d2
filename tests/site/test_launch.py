"""Buttons that open a notebook elsewhere: right where the repository's address is known, absent where it is not."""

import launch
import pytest
from building import ADDRESS
from lodo_book import repository_address
from pages import ROOT, page, table_of_contents


@pytest.mark.parametrize("name", ["noisy_bowl", "claims"])
def test_buttons_open_the_clean_notebook(published_site, name):
    links = page(published_site / "notebooks" / f"{name}.html").links
    path = f"notebooks/{name}.ipynb"
    assert (ROOT / path).is_file()
    assert f"https://colab.research.google.com/github/example/lodo-book/blob/main/{path}" in links
    assert f"https://mybinder.org/v2/gh/example/lodo-book/main?urlpath=lab/tree/{path}" in links


def test_named_tests_are_linked_to_their_files(published_site):
    links = page(published_site / "book" / "algorithm.html").links
    assert f"{ADDRESS}/blob/main/tests/library/test_lodo_parity.py" in links


def test_without_an_address_there_is_no_button(site):
    for name in table_of_contents():
        links = [link for link in page(site / f"{name}.html").links if not link.startswith("#")]
        assert not [link for link in links if "colab." in link or "mybinder." in link]
        assert not [link for link in links if "executablebooks" in link and "jupyter-book" in link]


def test_other_hosts_than_github_get_binder_alone():
    buttons = launch.theme_options("https://gitlab.com/group/project", "main")["launch_buttons"]
    assert "binderhub_url" in buttons
    assert "colab_url" not in buttons


@pytest.mark.parametrize("address", ["github.com/a/b", "http://github.com/a/b", "https://github.com/a", "https://"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(ValueError, match="expected https://host/owner/name"):
        launch.theme_options(address, "main")


def test_address_is_read_from_pyproject(tmp_path, monkeypatch):
    monkeypatch.delenv("LODO_REPOSITORY", raising=False)
    (tmp_path / "pyproject.toml").write_text(f'[tool.lodo]\nrepository = "{ADDRESS}.git"\n', encoding="utf-8")
    assert repository_address(tmp_path) == ADDRESS
    monkeypatch.setenv("LODO_REPOSITORY", "")
    assert repository_address(tmp_path) == ""
