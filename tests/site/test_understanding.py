"""The bowl to play with: the browser computes what Python does, and sliders change it; and what G H becomes."""

import pytest

from lodo_experiments.report import bowl, teaching_figures

PAGE = "notebooks/understanding"


@pytest.fixture(scope="module")
def page(browser, server):
    page = browser.new_page()
    page.goto(f"{server}/{PAGE}.html", wait_until="load")
    page.wait_for_selector(".lodo-bowl.live")
    yield page
    page.close()


def final(page):
    """Where LODO ends, seen from the minimum."""
    return [float(entry) for entry in page.locator(".lodo-bowl").get_attribute("data-final").split()]


def move(page, name, value):
    page.eval_on_selector(
        f".lodo-bowl [name={name}]",
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def test_the_browser_computes_what_python_does(page):
    assert final(page) == pytest.approx(bowl.simulate().offsets["LODO"][-1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "settings"),
    [
        ("alpha0", -0.5, {"alpha0": 10**-0.5}),
        ("alpha", -2.5, {"alpha": 10**-2.5}),
        ("beta", 0.5, {"beta": 0.5}),
        ("alpha", -4.5, {"alpha": 0.0}),
    ],
)
def test_a_slider_changes_the_run(page, name, value, settings):
    start = bowl.SLIDERS[name][-1]
    before = final(page)
    move(page, name, value)
    after = final(page)
    move(page, name, start)
    assert after != before
    assert after == pytest.approx(bowl.simulate(**settings).offsets["LODO"][-1], rel=1e-6)
    assert final(page) == before


def test_without_learning_it_is_gradient_descent():
    run = bowl.simulate(alpha=0.0)
    assert run.offsets["LODO"] == pytest.approx(run.offsets["Gradient descent"])


def test_the_keyboard_moves_time_and_play_runs(page):
    step = page.locator(".lodo-bowl [name=at]")
    step.focus()
    step.press("Home")
    assert page.locator("[data-out=at]").inner_text().startswith("0 of")
    ellipse = page.locator(".lodo-bowl .learned")
    assert ellipse.get_attribute("rx") == ellipse.get_attribute("ry") == "1.000"
    button = page.locator(".lodo-bowl").get_by_role("button", name="Play")
    button.press("Enter")
    page.wait_for_function("() => Number(document.querySelector('.lodo-bowl [name=at]').value) > 40")
    page.locator(".lodo-bowl").get_by_role("button", name="Pause").press("Enter")
    assert ellipse.get_attribute("rx") != ellipse.get_attribute("ry")


def test_a_divergent_run_says_so(page):
    move(page, "alpha0", 1.0)
    assert "LODO diverged at step" in page.locator(".lodo-bowl [data-out=said]").inner_text()
    move(page, "alpha0", bowl.SLIDERS["alpha0"][-1])
    assert not page.locator(".lodo-bowl [data-out=said]").inner_text()


def test_the_keyboard_moves_the_heat_map_and_play_runs(page):
    figure = page.locator(".lodo-figure[data-moments]")
    figure.scroll_into_view_if_needed()
    page.wait_for_selector(".lodo-figure[data-moments].drawn")
    shown = "() => document.querySelector('[data-moments] .lodo-plot').data.map((one) => one.visible).indexOf(true)"
    slider, last = figure.locator("input[type=range]"), len(figure.get_attribute("data-stops").split(",")) - 1
    assert page.evaluate(shown) == 0
    slider.focus()
    slider.press("ArrowRight")
    assert page.evaluate(shown) == 1
    slider.press("End")
    assert page.evaluate(shown) == last
    assert figure.locator(".heatmaplayer image").count() == 1
    figure.get_by_role("button", name="Play").press("Enter")
    page.wait_for_function(f"() => ({shown})() === 1")
    figure.get_by_role("button", name="Pause").press("Enter")
    slider.press("Home")
    assert "after step 0 of" in figure.locator("output").inner_text()


def test_without_script_there_is_a_picture(browser, server):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server}/{PAGE}.html")
    assert page.locator(".lodo-bowl svg.paths polyline").count() == len(bowl.CLASSES)
    assert page.locator(".lodo-bowl .controls").is_hidden()
    moments = page.locator(".lodo-figure[data-moments]")
    assert moments.locator(".lodo-static text").count() == len(teaching_figures.STILL)
    assert moments.locator(".lodo-steps").count() == 0
    context.close()
