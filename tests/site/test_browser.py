"""The site in a real browser: what it asks of the network, what it reports, how it looks."""

import pytest
from pages import NOTEBOOKS, ROOT, table_of_contents

SCREENSHOTS = ROOT / "_build" / "screenshots"
VIEWS = {"light": ("light", 1360, 900), "dark": ("dark", 1360, 900), "narrow": ("light", 390, 844)}
TALLEST = 9_000  # pixels of a screenshot: drawing all of the longest pages takes longer than all else here


class Visit:
    """A page in the browser, and what happened while it was loaded and drawn."""

    def __init__(self, context, server, name):
        self.page = context.new_page()
        self.show("light")
        self.elsewhere, self.complaints = [], []
        self.page.on("request", lambda r: self._request(r.url, server))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.goto(f"{server}/{name}.html", wait_until="load")
        self.settled()

    def show(self, view):
        """Turn to another colour scheme and width, as a reader does by the system's setting and the window."""
        theme, width, height = VIEWS[view]
        self.page.emulate_media(color_scheme=theme)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(250)  # figures take the new width a moment later

    def settled(self):
        """Wait until equations and figures are drawn."""
        self.page.wait_for_function("() => !window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
        self.page.wait_for_function("() => !document.querySelector('.lodo-figure:not(.drawn)')")

    def _request(self, url, server):
        if not url.startswith((server, "data:", "blob:")):
            self.elsewhere.append(url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.page.close()


@pytest.fixture(scope="module")
def context(browser):
    """One for all pages, so that what they share is fetched once, as by a reader who goes through the site."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.mark.parametrize("name", table_of_contents())
def test_page(context, server, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Visit(context, server, name) as visit:
        for view, (theme, width, _) in VIEWS.items():
            visit.show(view)
            visit.page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
            visit.settled()
            height = min(visit.page.evaluate("document.documentElement.scrollHeight"), TALLEST)
            clip = {"x": 0, "y": 0, "width": width, "height": height}
            path = SCREENSHOTS / f"{name.replace('/', '-')}-{view}.png"
            visit.page.screenshot(path=path, full_page=True, clip=clip)
            too_wide = visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert too_wide <= 0, f"{view}: {too_wide} pixels wider than the window"
        assert not visit.elsewhere
        assert not visit.complaints


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_are_drawn_and_follow_the_theme(context, server, name):
    ink = """() => getComputedStyle(document.querySelector('.lodo-plot .xtick text')).fill"""
    with Visit(context, server, f"notebooks/{name}") as visit:
        figures = visit.page.locator(".lodo-figure")
        assert figures.count() >= 1
        assert visit.page.locator(".lodo-figure .main-svg").count() >= figures.count()
        light = visit.page.evaluate(ink)
        visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.page.wait_for_function(f"before => ({ink})() !== before", arg=light, timeout=10_000)
        surface = visit.page.evaluate(
            "() => getComputedStyle(document.querySelector('.lodo-figure').closest('.output')).backgroundColor"
        )
        assert surface in ("rgba(0, 0, 0, 0)", "transparent")


def test_equations_are_typeset(context, server):
    with Visit(context, server, "book/algorithm") as visit:
        assert visit.page.locator("mjx-container svg").count() > 20
        assert visit.page.locator("mjx-merror").count() == 0


def test_search_finds_a_page(context, server):
    with Visit(context, server, "search") as visit:
        visit.page.goto(f"{server}/search.html?q=hypergradient")
        visit.page.wait_for_selector("#search-results li a", timeout=10_000)
        assert not visit.elsewhere
