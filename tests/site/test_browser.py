"""The site in a real browser: what it asks of the network, what it reports, how it looks, who can use it."""

import os
import urllib.parse
from pathlib import Path

import pytest
from pages import NOTEBOOKS, ROOT, table_of_contents
from visit import VIEWS, Visit

SCREENSHOTS = ROOT / "_build" / "screenshots"
#: With LODO_SCREENSHOTS=whole a screenshot is of the whole page, up to so many pixels, and on paper too. By default it
#: is of the first screen: drawing the longest pages takes longer than all else here.
WHOLE, TALLEST = os.environ.get("LODO_SCREENSHOTS") == "whole", 9_000
LONGEST = 15  # screens of 900 pixels at a width of 1300, what is folded closed
HEAVIEST = 1_500_000  # bytes of a page before a figure is opened; what all pages share is loaded once
PAPER = 718  # pixels across an A4 page within its margins

#: What lies wrong in a page as it is shown: an object of functions, by name.
FAULTS = (Path(__file__).parent / "faults.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def context(browser):
    """One for all pages, so that what they share is fetched once, as by a reader who goes through the site."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture(scope="module")
def axe():
    """The checker of accessibility, as a script."""
    axe_playwright_python = pytest.importorskip("axe_playwright_python")
    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def faults(visit):
    """What lies wrong in the page as it is shown."""
    code = FAULTS.partition("\n")[2]
    found = visit.find(f"() => Object.fromEntries(Object.entries({code}).map(([name, list]) => [name, list()]))")
    return {name: listed for name, listed in found.items() if listed}


def lasting_faults(visit):
    """The faults that stay: figures settle a moment after the window has changed, later on a busy machine."""
    for _ in range(20):
        if not (found := faults(visit)):
            break
        visit.page.wait_for_timeout(250)
    return found


def barriers(visit, axe):
    """What keeps some readers from using the page as it is shown: rule, and where it is broken."""
    if not visit.find("() => 'axe' in window"):
        visit.find(axe)
    found = visit.find("() => axe.run(document, { resultTypes: ['violations'], preload: false })")["violations"]
    return [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in found for node in one["nodes"][:3]]


INK = "() => getComputedStyle(document.querySelector('.lodo-plot .xtick text, .lodo-plot text')).fill"
SURFACE = "() => getComputedStyle(document.querySelector('.lodo-figure').closest('.output')).backgroundColor"


def check_figures(visit):
    """Every figure is drawn, and offers nothing that leaves the page."""
    figures = visit.page.locator(".lodo-figure")
    assert figures.count() >= 1
    assert visit.page.locator(".lodo-figure .main-svg").count() >= figures.count()
    assert "Share" not in visit.page.locator(".modebar").first.inner_html()
    assert visit.page.locator(".modebar a[data-title*='Cloud'], .modebar [data-title*='Share']").count() == 0


def check_on_paper(visit, name):
    """On paper are pictures and whole tables, also of what was folded."""
    visit.find("() => { for (const one of document.querySelectorAll('.bd-article details')) one.open = false; }")
    visit.page.emulate_media(media="print", color_scheme="light")
    visit.page.set_viewport_size({"width": PAPER, "height": 1000})
    if WHOLE:
        visit.page.screenshot(path=SCREENSHOTS / f"notebooks-{name}-print.png", full_page=True)
    assert not visit.find("""() => [...document.querySelectorAll('.lodo-figure')].filter((figure) =>
      figure.querySelector('.lodo-static').getBoundingClientRect().height < 80 ||
      figure.querySelector('.lodo-plot').getBoundingClientRect().height > 0).length""")
    assert not visit.find("""() => [...document.querySelectorAll('.bd-article table')].filter((table) =>
      table.getBoundingClientRect().right > innerWidth + 1).map((table) => table.textContent.slice(0, 60))""")


def take_screenshot(visit, name, view):
    """The page as it is shown, for people to look at."""
    path, more = SCREENSHOTS / f"{name.replace('/', '-')}-{view}.jpg", {}
    if WHOLE:
        height = min(visit.find("() => document.documentElement.scrollHeight"), TALLEST)
        more = {"full_page": True, "clip": {"x": 0, "y": 0, "width": VIEWS[view][1], "height": height}}
    visit.page.screenshot(path=path, type="jpeg", quality=80, **more)


@pytest.mark.parametrize("name", table_of_contents())
def test_page(context, server, site, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Visit(context, server, name) as visit:
        if not visit.find(
            "() => document.querySelector('.lodo-figure')?.getBoundingClientRect().top < innerHeight + 200"
        ):
            assert not [url for url in visit.loaded if "plotly" in url]
        assert (site / f"{name}.html").stat().st_size < HEAVIEST
        assert visit.find("() => document.documentElement.scrollHeight / 900") < LONGEST
        for view, (theme, *_) in VIEWS.items():
            visit.show(view)
            visit.page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
            visit.read()
            take_screenshot(visit, name, view)
            assert not lasting_faults(visit), view
            if name.startswith("notebooks/"):
                if view == "light":
                    check_figures(visit)
                    light = visit.find(INK)
                elif view == "dark":
                    visit.page.wait_for_function(f"before => ({INK})() !== before", arg=light, timeout=10_000)
                    assert visit.find(SURFACE) in ("rgba(0, 0, 0, 0)", "transparent")
        if name.startswith("notebooks/"):
            check_on_paper(visit, Path(name).name)
        assert not visit.elsewhere
        assert not visit.complaints


#: One page of each kind is looked at, as each takes some ten seconds; with -m "" every page is.
KINDS = {"book/index", "book/algorithm", "book/use/quick_start", "book/api/optimizer", "notebooks/rosenbrock"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.exhaustive) for n in table_of_contents()]
)
def test_anyone_can_use_the_page(context, server, axe, name):
    with Visit(context, server, name) as visit:
        for view in VIEWS:
            visit.show(view)
            visit.read()
            for _ in range(10):  # what is wider than its box can be reached a moment after it has been opened
                if not (found := barriers(visit, axe)):
                    break
                visit.page.wait_for_timeout(500)
            assert not found, view


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_without_javascript_figures_are_pictures(browser, server, name):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(f"{server}/notebooks/{name}.html")
    for summary in page.locator(".bd-article details:has(.lodo-figure) > summary").all():
        summary.click()
    for picture in page.locator(".lodo-figure .lodo-static").all():
        box = picture.bounding_box()
        assert box["width"] > 600
        assert box["height"] > 80
    assert page.locator(".lodo-figure .lodo-static").count() == page.locator(".lodo-figure").count() > 0
    page.screenshot(path=SCREENSHOTS / f"notebooks-{name}-plain.png")
    context.close()


#: What a visitor sees of the front page before scrolling.
DOORS = [f".sd-card:has-text('{door}')" for door in ("Understand", "Reproduce", "Use")]
FIRST_SCREEN = (".lede", "figure.lodo-front", "text=8.86", "text=pip install", "text=apply_updates", *DOORS)


def test_the_first_screen_says_what_how_well_and_how(context, server):
    with Visit(context, server, "book/index") as visit:
        visit.show("light")
        article = visit.page.locator(".bd-article")
        for what in FIRST_SCREEN:
            box = article.locator(what).first.bounding_box()
            assert box["y"] + box["height"] <= 900, what
        for view in VIEWS:
            visit.show(view)
            assert not visit.find("""() => {
              const right = document.querySelector('.lodo-front svg').getBoundingClientRect().right + 1;
              const cut = (text) => text.getBoundingClientRect().right > right;
              return [...document.querySelectorAll('.lodo-front text')].filter(cut).map((text) => text.textContent); }
            """), view


def test_without_javascript_drawings_have_colours(browser, server):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server}/book/index.html")
    fills = page.locator("svg .boxes rect").evaluate_all("(all) => all.map((box) => getComputedStyle(box).fill)")
    assert fills
    assert "rgb(0, 0, 0)" not in fills
    context.close()


def test_figures_are_drawn_from_the_disk_too(context, site):
    with Visit(context, f"file://{site}", "notebooks/noisy_bowl") as visit:
        visit.read()
        assert visit.page.locator(".lodo-plot .main-svg").count() > 0
        assert not visit.elsewhere


def test_a_step_moves_the_paths_and_leaves_the_landscape(context, server):
    points = "() => document.querySelector('.lodo-plot').data[1].x.length"
    with Visit(context, server, "notebooks/rosenbrock") as visit:
        visit.read()
        figure = visit.page.locator(".lodo-figure[data-stops]").first
        slider, play = figure.locator("input[type=range]"), figure.get_by_role("button", name="Play")
        title, legend = (figure.locator(part).bounding_box() for part in (".xtitle", ".legend"))
        assert title["y"] + title["height"] < legend["y"]
        assert visit.find(points) == 1
        assert "after step 0 of" in figure.locator("output").inner_text()
        slider.focus()
        for place in range(1, int(slider.get_attribute("max")) + 1):
            visit.page.keyboard.press("ArrowRight")
            assert figure.locator(".heatmaplayer image").count() == 1, place
            assert figure.locator(".heatmaplayer image").get_attribute("href"), place
        whole = visit.find(points)
        assert whole > 100
        visit.page.keyboard.press("Home")
        assert visit.find(points) == 1
        play.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_function(f"() => ({points})() > 3")
        assert figure.locator(".heatmaplayer image").get_attribute("href")


def test_a_part_of_a_figure_has_ticks_too(context, server):
    shown = "() => document.querySelectorAll('.lodo-plot')[1].querySelectorAll('.ytick').length"
    zoom = "(range) => Plotly.relayout(document.querySelectorAll('.lodo-plot')[1], { 'yaxis.range': range })"
    with Visit(context, server, "notebooks/rosenbrock") as visit:
        visit.read()
        whole = visit.find("() => document.querySelectorAll('.lodo-plot')[1].layout.yaxis.range.slice()")
        before = visit.find(shown)
        assert before >= 3
        visit.find(zoom, [whole[0], whole[0] + 0.05])  # between two ticks
        visit.page.wait_for_function(f"() => ({shown})() >= 3")
        visit.find(zoom, whole)
        visit.page.wait_for_function(f"before => ({shown})() === before", arg=before)


def test_tables_can_be_sorted(context, server):
    column = "() => [...document.querySelectorAll('.lodo-table')[0].querySelectorAll('tbody td:nth-child(3)')]"
    values = f"{column.replace('() =>', '() => (')}).map((cell) => Number(cell.dataset.value || 'NaN'))"
    with Visit(context, server, "notebooks/noisy_bowl") as visit:
        head = visit.page.locator(".lodo-table").first.locator("thead th").nth(2)
        head.get_by_role("button").focus()
        for key, order in (("Enter", 1), ("Space", -1)):
            visit.page.keyboard.press(key)
            assert head.get_attribute("aria-sort") == ("ascending" if order == 1 else "descending")
            found = [value for value in visit.find(values) if value == value]
            assert len(found) > 2
            assert found == sorted(found, reverse=order == -1)


def test_equations_are_typeset(context, server):
    with Visit(context, server, "book/algorithm") as visit:
        assert visit.page.locator("mjx-container svg").count() > 20
        assert visit.page.locator("mjx-merror").count() == 0


def test_search_finds_a_page(context, server):
    with Visit(context, server, "search") as visit:
        visit.page.goto(f"{server}/search.html?q=hypergradient")
        visit.page.wait_for_selector("#search-results li a", timeout=10_000)
        assert not visit.elsewhere


@pytest.mark.parametrize("query", ["memory", "NaN", "learning rate"])
def test_search_shows_the_guide_first(context, server, query):
    """What one asks in use, of which experiments and the reference speak too."""
    with Visit(context, server, "search") as visit:
        visit.page.goto(f"{server}/search.html?q={urllib.parse.quote(query)}")
        first = visit.page.locator("#search-results li a").first
        first.wait_for(timeout=10_000)
        page = urllib.parse.urlparse(first.get_attribute("href")).path
        assert page.startswith(("book/use/", "book/run.", "book/scale.")), page


def test_search_shows_what_it_names_before_the_guide(context, server):
    with Visit(context, server, "search") as visit:
        visit.page.goto(f"{server}/search.html?q=Rosenbrock")
        first = visit.page.locator("#search-results li a").first
        first.wait_for(timeout=10_000)
        assert first.get_attribute("href").startswith("notebooks/rosenbrock.html")
