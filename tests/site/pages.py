"""Reading the built HTML: pages of the table of contents, and what a page links to, loads and says."""

import functools
import html.parser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def table_of_contents() -> list[str]:
    """The pages of `_toc.yml`, the first one first."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *(one["file"] for c in chapters for one in (c, *c.get("sections", ())))]


#: The elements that make a browser load something, and the attribute that says what.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


class Page(html.parser.HTMLParser):
    """What a page holds: ids, links, loaded files, elements of a class, text outside of scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.ids, self.links, self.loaded, self.classes = set(), [], [], []
        self.words, self._silent = [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        self.classes += (attributes.get("class") or "").split()
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        self.loaded += [attributes[name] for element, name in LOADED if element == tag and attributes.get(name)]
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pages_of(site: Path) -> list[Path]:
    """Every page of a built site (the theme leaves templates, which are none, under `_static`)."""
    return sorted(path for path in site.rglob("*.html") if path.relative_to(site).parts[0] != "_static")


@functools.cache
def page(path: Path) -> Page:
    """The page at a path, read once."""
    return Page(path)
