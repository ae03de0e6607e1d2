"""What a page says of itself to other sites: where it is read, and the picture to show beside a link to it.

These need absolute addresses. Where the site's is not known, a page says neither.
"""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from lodo_experiments.report import social_card

#: Where the picture lies in the site.
CARD = "_static/social_card.png"


def site_address() -> str:
    """The address at which the site is read, ``LODO_SITE``, with a slash at its end; empty where it is not known.

    Raises:
      ExtensionError: it is no address.
    """
    given = os.environ.get("LODO_SITE", "").strip()
    if given and not re.fullmatch(r"https?://[\w-]+(\.[\w-]+)*(:\d+)?(/[\w.~%-]+)*/?", given):
        raise ExtensionError(
            f"the site's address: got {given!r}; expected https://host or https://host/folder, where the book's pages "
            "will be read. Correct SITE (`make html SITE=...`) or LODO_SITE, or leave it out."
        )
    return given and given.rstrip("/") + "/"


def tags(site: str, address: str, title: str, stated: str) -> str:
    """The elements that a page's head gets, but for those that it has: what the page says of itself comes first.

    Args:
      site: its address.
      address: the page's.
      title: the page's; may hold HTML.
      stated: the elements that there are.
    """
    width, height = social_card.SIZE
    wanted = {
        "og:title": re.sub(r"<[^>]+>", "", title),
        "og:type": "article",
        "og:site_name": "LODO",
        "og:url": address,
        "og:image": site + CARD,
        "og:image:width": str(width),
        "og:image:height": str(height),
        "og:image:alt": social_card.WORDS,
        "twitter:card": "summary_large_image",
    }
    named = {
        f'{"name" if name.startswith("twitter") else "property"}="{name}"': value for name, value in wanted.items()
    }
    lines = [
        f'<meta {name} content="{html.escape(html.unescape(value))}" />'
        for name, value in named.items()
        if name not in stated
    ]
    return "\n".join(["", *lines, ""])


def add_tags(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Adds the elements to a page's head."""
    if app.config.html_baseurl:
        stated = context.get("metatags") or ""
        context["metatags"] = stated + tags(
            app.config.html_baseurl, context["pageurl"], context.get("title") or "", stated
        )


def write_card(app: Sphinx, error: Exception | None) -> None:
    """Draws the picture, and writes the site's door: a page that leads to the first one and says what that says."""
    if error is not None or app.builder.format != "html":
        return
    first = f"{app.config.root_doc}.html"
    head = []
    if app.config.html_baseurl:
        social_card.picture().save(Path(app.outdir, CARD), optimize=True)
        text = Path(app.outdir, first).read_text(encoding="utf-8")
        head = re.findall(
            r'<title>.*?</title>|<meta [^>]*"(?:description|og:[^"]*|twitter:[^"]*)"[^>]*>', text, re.DOTALL
        )
    refresh = f'<meta http-equiv="Refresh" content="0; url={first}" />'
    Path(app.outdir, "index.html").write_text("\n".join([refresh, *head, ""]), encoding="utf-8")


if __name__ == "__main__":
    try:
        site_address()
    except ExtensionError as wrong:
        sys.exit(str(wrong))
