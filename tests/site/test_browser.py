"""The site in a real browser: what it asks of the network, what it reports, how it looks."""

import pytest
from pages import NOTEBOOKS, ROOT, table_of_contents

SCREENSHOTS = ROOT / "_build" / "screenshots"
VIEWS = {"light": ("light", 1360, 900), "dark": ("dark", 1360, 900), "narrow": ("light", 390, 844)}


class Visit:
    """A page in the browser, and what happened while it was loaded and drawn."""

    def __init__(self, browser, server, name, view):
        theme, width, height = VIEWS[view]
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        self.page = self.context.new_page()
        self.elsewhere, self.complaints = [], []
        self.page.on("request", lambda r: self._request(r.url, server))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.goto(f"{server}/{name}.html", wait_until="load")
        self.page.wait_for_function("() => !window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
        self.page.wait_for_function("() => !document.querySelector('.lodo-figure:not(.drawn)')")

    def _request(self, url, server):
        if not url.startswith((server, "data:", "blob:")):
            self.elsewhere.append(url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", table_of_contents())
def test_page(browser, server, name, view):
    with Visit(browser, server, name, view) as visit:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        visit.page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}-{view}.png", full_page=True)
        assert not visit.elsewhere
        assert not visit.complaints
        too_wide = visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert too_wide <= 0, f"{too_wide} pixels wider than the window"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_are_drawn_and_follow_the_theme(browser, server, name):
    ink = """() => getComputedStyle(document.querySelector('.lodo-plot .xtick text')).fill"""
    with Visit(browser, server, name := f"notebooks/{name}", "light") as visit:
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


def test_equations_are_typeset(browser, server):
    with Visit(browser, server, "book/algorithm", "light") as visit:
        assert visit.page.locator("mjx-container svg").count() > 20
        assert visit.page.locator("mjx-merror").count() == 0


def test_search_finds_a_page(browser, server):
    with Visit(browser, server, "search", "light") as visit:
        visit.page.goto(f"{server}/search.html?q=hypergradient")
        visit.page.wait_for_selector("#search-results li a", timeout=10_000)
        assert not visit.elsewhere
