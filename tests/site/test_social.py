"""What other sites are told of a page: its address and a picture, absolute where the site's address is known."""

import re

import pytest
import social
from building import SITE
from PIL import Image
from sphinx.errors import ExtensionError


def head(path) -> dict[str, str]:
    """The elements of a page's head that say something of it."""
    text = path.read_text(encoding="utf-8")
    elements = [dict(re.findall(r'([\w-]+)="([^"]*)"', element)) for element in re.findall(r"<meta ([^>]*)>", text)]
    named = [(one.get("property") or one.get("name", ""), one.get("content", "")) for one in elements]
    found = [(name, content) for name, content in named if name.startswith(("og:", "twitter:"))]
    assert len(found) == len(dict(found)), "something is said twice"
    canonical = re.findall(r'<link rel="canonical" href="([^"]*)"', text)
    return dict(found) | {"canonical": canonical[0] if canonical else ""}


def test_a_published_page_says_where_it_is_and_shows_a_picture(published_site):
    for name in ("book/index", "book/algorithm", "notebooks/claims"):
        said = head(published_site / f"{name}.html")
        assert said["canonical"] == said["og:url"] == f"{SITE}/{name}.html"
        assert said["og:image"] == f"{SITE}/{social.CARD}"
        assert said["twitter:card"] == "summary_large_image"
    assert head(published_site / "book" / "algorithm.html")["og:title"] == "How LODO works"
    with Image.open(published_site / social.CARD) as card:
        assert (card.format, card.size) == ("PNG", (1200, 630))
        assert [said["og:image:width"], said["og:image:height"]] == ["1200", "630"]
    assert (published_site / social.CARD).stat().st_size < 100_000


def test_the_door_of_a_published_site_says_what_the_first_page_says(published_site):
    first, door = (head(published_site / name) for name in ("book/index.html", "index.html"))
    assert door == first | {"canonical": ""}
    assert first["og:type"] == "website"  # as the page itself says
    assert "url=book/index.html" in (published_site / "index.html").read_text(encoding="utf-8")


def test_without_an_address_there_is_no_picture(site):
    for name in ("index", "book/index", "book/algorithm"):
        said = head(site / f"{name}.html")
        assert not said["canonical"]
        assert not said.keys() & {"og:image", "og:url", "twitter:card"}
    assert "url=book/index.html" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("given", ["", " ", SITE, f"{SITE}/", "http://example.org:8000", "https://example.org/a/%7Eb"])
def test_the_sites_address_ends_with_a_slash(monkeypatch, given):
    monkeypatch.setenv("LODO_SITE", given)
    assert social.site_address() == (f"{given.rstrip('/')}/" if given.strip() else "")


@pytest.mark.parametrize(
    "given", ["foo", "example.org", "ftp://example.org", "https://", "https://a b", 'https://a/"x', "https://a/?q"]
)
def test_what_is_no_address_of_a_site_is_refused(monkeypatch, given):
    monkeypatch.setenv("LODO_SITE", given)
    with pytest.raises(ExtensionError, match=f"got {re.escape(repr(given))}; expected https://host"):
        social.site_address()


def test_a_title_is_said_as_plain_text():
    said = social.tags(f"{SITE}/", f"{SITE}/x.html", 'The code "lodo" &amp; <em>G</em>', '<meta property="og:type" />')
    assert 'property="og:title" content="The code &quot;lodo&quot; &amp; G"' in said
    assert "og:type" not in said
    assert "twitter:card" in said
    assert "twitter:card" not in social.tags(
        f"{SITE}/", f"{SITE}/x.html", "x", '<meta name="twitter:card" content="x" />'
    )
