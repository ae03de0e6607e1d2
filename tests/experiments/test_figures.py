"""Figures: one colour for an optimizer, axes from the data, and a static picture that shows what the figure has."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from lodo_experiments.optimizers.names import OTHERS, RELATIVE, UNTUNED
from lodo_experiments.optimizers.peers import PEERS
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.report import axes, figures, plotly_html, static_svg, style
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="module")
def bowl():
    return stored_results.load_all(RESULTS, "noisy_bowl", "paper").runs


def runs_of(curve, **arrays):
    curve = np.asarray(curve, dtype=float)
    steps = np.arange(1, curve.shape[1] + 1)
    values = {"steps": int(steps[-1]), "gradients_per_step": 1}
    return Record("bowl/A", {"curve": curve, "curve_steps": steps, **arrays}, values)


# The one table of colours


#: The page's background in either theme.
BACKGROUNDS = {"light": "#ffffff", "dark": "#14191d"}


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("theme", "background"), BACKGROUNDS.items())
def test_every_colour_stands_out(theme, background):
    colours = {name: line.colour for name, line in style.OPTIMIZERS.items()} | {c: c for c in style.COLOURS}
    faint = {name: contrast(colour, background) for name, colour in colours.items()}
    assert not {name: ratio for name, ratio in faint.items() if ratio < 3}


def test_backgrounds_are_the_books():
    sheet = (RESULTS.parent / "book" / "_static" / "lodo.css").read_text(encoding="utf-8")
    dark = re.search(r'data-theme="dark"\] \{(.*?)\}', sheet, re.DOTALL).group(1)
    assert f"--pst-color-background: {BACKGROUNDS['dark']};" in dark
    light = re.search(r'data-theme="light"\] \{(.*?)\}', sheet, re.DOTALL).group(1)
    assert "--pst-color-background" not in light  # the theme's own, white


def test_no_two_optimizers_are_drawn_alike():
    lines = list(style.OPTIMIZERS.values())
    assert len(set(lines)) == len(lines)
    assert {line.dash for line in lines} <= set(style.DASHES)


def compared_names():
    """Every optimizer's name in the paper's tasks, the problem suites, and the benchmark of steps."""
    asked = {"BFGS-same-sample", "L-BFGS-100", "Whitening", "LODO-Dense", RELATIVE.name, UNTUNED.name}
    rows = records.load(RESULTS / "benchmarks" / "speed" / "steps.npz").values["rows"]
    return {*OPTIMIZERS, *asked, *PEERS, *OTHERS, *(row["form"] for row in rows if "form" in row)}


def test_every_optimizer_that_is_compared_has_its_line():
    """Some had none, and so another one in each figure."""
    tabled = {(line.colour, line.dash) for line in style.OPTIMIZERS.values()}
    drawn = {name: tuple(style.line_of(name).values()) for name in compared_names()}
    assert not {name for name, line in drawn.items() if line not in tabled}


@pytest.mark.parametrize(
    "names",
    [("rlodo", "lodo.rlodo"), ("Kron", "psgd_jax.kron"), ("Online scaling", "Online-scaling"), ("LODO", "lodo.lodo")],
)
def test_two_names_of_one_optimizer_are_drawn_alike(names):
    company = sorted(compared_names())
    assert style.line_of(names[0], company) == style.line_of(names[1], company)


def test_the_suites_optimizers_are_drawn_apart():
    assert len({tuple(style.line_of(name).values()) for name in PEERS}) == len(PEERS)


def test_an_optimizer_is_drawn_alike_in_any_company():
    for names in itertools.combinations(style.OPTIMIZERS, 2):
        assert style.line_of(names[0], names) == style.line_of(names[0], names[::-1]) == style.line_of(names[0])
    assert style.line_of("optax.adam") == style.line_of("Adam")


def test_a_readers_own_optimizers_are_drawn_as_no_other():
    names = ["LODO", "mine", "Adam", "another"]
    lines = [tuple(style.line_of(name, names).values()) for name in names]
    assert len(set(lines)) == 4


def test_style_sheet_has_every_optimizer():
    sheet = style.style_sheet()
    assert "--lodo-series-lodo: #0072B2;" in sheet
    assert all(f"{style.variable(name)}: {line.colour};" in sheet for name, line in style.OPTIMIZERS.items())


# Axes


def test_axes_begin_and_end_with_the_data():
    """The axis went to 300 where the data end at 20."""
    runs = {"LODO": runs_of([[20.0, 12, 9]] * 8), "BFGS": runs_of([[1e9, 1e12, 1e12]] * 8)}
    figure = plotly_html.specification_of(figures.loss_curves(runs, floor=7.5, floor_name="Newton", ceiling=300))
    low, high = (10**end for end in figure["layout"]["yaxis"]["range"])
    assert 6.5 < low < 7.5
    assert 20 <= high < 26
    texts = [annotation["text"] for annotation in figure["layout"]["annotations"]]
    assert texts == ["Newton", "above: BFGS"]
    # An annotation on a logarithmic axis stands at the logarithm.
    assert figure["layout"]["annotations"][0]["y"] == pytest.approx(np.log10(7.5), rel=1e-4)


def test_without_a_ceiling_nothing_leaves_the_picture():
    figure = figures.loss_curves({"LODO": runs_of([[1e5, 1, 0.1]] * 2), "Adam": runs_of([[2.0, 1, 1]] * 2)})
    assert 10 ** figure.layout.yaxis.range[1] > 1e5
    assert not [a for a in figure.layout.annotations if a.text.startswith("above")]


@pytest.mark.parametrize(
    ("low", "high"), [(7.3, 21), (0.9, 1.1), (1e-9, 1e3), (3, 400), (1e-4, 2e-3), (9.99, 10.01), (1e-30, 1e30)]
)
def test_logarithmic_ticks_are_few_round_and_told_apart(low, high):
    found = axes.log_ticks(low, high, 6)
    assert 3 <= len(found) <= 12
    assert all(low * (1 - 1e-9) <= value <= high * (1 + 1e-9) for value in found)
    texts = [axes.label(value) for value in found]
    assert len(set(texts)) == len(texts)


def test_ticks_do_not_run_into_each_other():
    figure = go.Figure(go.Scatter(x=[2.5e-4, 2e-3], y=[1, 2], mode="lines"))
    figure.update_xaxes(type="log")
    axis = plotly_html.specification_of(figure)["layout"]["xaxis"]
    places = np.log10(axis["tickvals"])
    pixels = (places - axis["range"][0]) / (axis["range"][1] - axis["range"][0]) * 600
    widths = [axes.text_width(text) for text in axis["ticktext"]]
    assert all(b - a > (v + w) / 2 for a, b, v, w in zip(pixels, pixels[1:], widths, widths[1:]))
    assert len(places) >= 3


def test_losses_that_blow_up_have_a_picture_too():
    figure = go.Figure(go.Scatter(x=[1, 2, 3, 4], y=[1e-300, 1.0, 1e308, np.inf]))
    figure.update_layout(yaxis_type="log")
    assert "<path" in plotly_html.to_html(figure, "A run that blows up.")


def test_panels_that_share_an_axis_share_its_range():
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    figure.add_scatter(x=[0, 1], y=[0, 1], row=1, col=1)
    figure.add_scatter(x=[0, 1], y=[5, 9], row=1, col=2)
    layout = plotly_html.specification_of(figure)["layout"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"]
    assert layout["yaxis"]["range"][1] > 9


# Bands


def test_many_runs_are_a_band_of_their_middle_half():
    generator = np.random.default_rng(0)
    curve = np.exp(generator.normal(size=(8, 40)))
    band, mean = figures.loss_curves({"LODO": runs_of(curve)}).data
    assert mean.y == pytest.approx(curve.mean(axis=0))
    assert band.y[:40] == pytest.approx(np.quantile(curve, 0.75, axis=0))
    assert band.y[40:][::-1] == pytest.approx(np.quantile(curve, 0.25, axis=0))
    few, _ = figures.loss_curves({"LODO": runs_of(curve[:3])}).data
    assert few.y[:40] == pytest.approx(curve[:3].max(axis=0))


def test_measured_runs_are_lines_until_there_are_many():
    values = np.arange(60.0).reshape(6, 10)
    record = runs_of([[1.0]] * 6, **{"measured_steps": np.arange(10), "measured.error": values})
    assert len(figures.measured_curve({"LODO": record}, "error", "error").data) == 2
    record.arrays["measured.error"] = values[:5]
    assert len(figures.measured_curve({"LODO": record}, "error", "error").data) == 5


def test_rarer_measurements_stand_at_their_own_steps():
    """Some were measured at every other of the steps that the record has, and were drawn at the first half of them."""
    record = runs_of([[1.0]], **{"measured_steps": np.arange(0, 301, 30), "measured.error": np.ones((1, 6))})
    (line,) = figures.measured_curve({"LODO": record}, "error", "error").data
    assert list(line.x) == [0, 60, 120, 180, 240, 300]
    record.arrays["measured.error"] = np.ones((1, 3))  # at every fourth or at every fifth
    with pytest.raises(ValueError, match="3 measurements at 11 measured steps"):
        figures.measured_curve({"LODO": record}, "error", "error")


def test_long_curves_are_averaged_and_not_cut():
    curve = np.linspace(2, 1, 10_000)[None]
    (mean,) = figures.loss_curves({"LODO": runs_of(curve)}).data
    assert len(mean.x) == len(mean.y) == 160
    assert np.mean(mean.y) == pytest.approx(1.5)
    assert mean.x[0] == pytest.approx(np.arange(1, 63.5).mean(), rel=0.02)
    assert (np.diff(mean.x) > 0).all()


def test_the_legend_lists_curves_as_they_lie():
    names = {"LODO": 1.0, "Adam": 3.0, "Yogi": 2.0}
    figure = figures.loss_curves({name: runs_of([[5.0, end]]) for name, end in names.items()})
    assert [trace.name for trace in figure.data] == ["Adam", "Yogi", "LODO"]


def test_curves_that_end_apart_are_named_there():
    ends = {"LODO": 1.0, "Adam": 3.0, "Yogi": 2.0}
    apart = figures.loss_curves({name: runs_of([[5.0, end]]) for name, end in ends.items()})
    named = {annotation.text: 10**annotation.y for annotation in apart.layout.annotations}
    assert named == pytest.approx(ends)
    specification = plotly_html.specification_of(apart)
    assert "legend" not in specification["layout"]
    assert axes.legend_names(specification) == []
    together = figures.loss_curves({name: runs_of([[5.0, end]]) for name, end in {**ends, "LARS": 2.01}.items()})
    assert not together.layout.annotations
    assert len(axes.legend_names(plotly_html.specification_of(together))) == 4


# The static picture

SVG = "{http://www.w3.org/2000/svg}"


def picture(figure):
    return ElementTree.fromstring(static_svg.draw(plotly_html.specification_of(figure)))


def test_lines_go_through_their_points():
    figure = go.Figure(go.Scatter(x=[0, 1, 2, 3], y=[0, 1, None, 2], mode="lines", line={"color": "#0072B2"}))
    specification = plotly_html.specification_of(figure)
    root = ElementTree.fromstring(static_svg.draw(specification))
    (line,) = [path for path in root.iter(f"{SVG}path") if path.get("stroke") == "#0072B2"]
    margin, layout = specification["layout"]["margin"], specification["layout"]
    width = static_svg.WIDTH - margin["l"] - margin["r"]
    height = layout["height"] - margin["t"] - margin["b"]
    low, high = layout["yaxis"]["range"]

    def at(x, y):
        across = margin["l"] + x / 3 * width
        return f"{round(10 * across) / 10:g} {round(10 * (margin['t'] + (high - y) / (high - low) * height)) / 10:g}"

    moves = line.get("d").split("M")[1:]
    assert len(moves) == 2  # broken where a value is missing
    assert moves[0].split("l")[0] == at(0, 0)
    assert moves[1] == at(3, 2)


def test_bars_stand_side_by_side_and_begin_at_nothing():
    figure = go.Figure([go.Bar(x=["a"], y=[1.0], name="one"), go.Bar(x=["a"], y=[2.0], name="two")])
    bars = [r for r in picture(figure).iter(f"{SVG}rect") if float(r.get("height")) > 12]
    low, high = bars
    assert float(high.get("height")) == pytest.approx(2 * float(low.get("height")), abs=0.3)
    ends = [float(bar.get("y")) + float(bar.get("height")) for bar in bars]
    assert ends[0] == pytest.approx(ends[1], abs=0.3)
    assert float(high.get("x")) == pytest.approx(float(low.get("x")) + float(low.get("width")), abs=0.3)


def test_heat_maps_have_their_rows_where_the_axis_says():
    import base64
    import io

    from PIL import Image

    def pixels(figure):
        (image,) = picture(figure).iter(f"{SVG}image")
        data = image.get("href").removeprefix("data:image/png;base64,")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))[..., 0]

    figure = go.Figure(go.Heatmap(z=[[0, 0], [1, 1]], colorscale="Greys_r", showscale=False))
    assert pixels(figure).tolist() == [[255, 255], [0, 0]]  # the first row at the bottom
    figure.update_yaxes(autorange="reversed")
    assert pixels(figure).tolist() == [[0, 0], [255, 255]]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="got traces of pie"):
        plotly_html.to_html(go.Figure(go.Pie(values=[1])), "A pie.")


def test_texts_of_figures_are_texts():
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], name='<b>&"', showlegend=True))
    figure.update_layout(xaxis_title="a < b")
    texts = {text.text for text in picture(figure).iter(f"{SVG}text")}
    assert {'<b>&"', "a < b"} <= texts


def test_paths_are_given_once_and_not_for_every_step():
    path = {f"measured.{axis}": np.linspace([-0.5], [1.0], 200).T.copy() for axis in "xy"}
    page = plotly_html.to_html(figures.trajectories({"LODO": runs_of([[1.0] * 200], **path)}), "A path.")
    text = page.split('<script type="application/json">')[1].split("</script>")[0]
    specification = json.loads(text)
    assert "frames" not in specification
    assert not {"sliders", "updatemenus", "meta"} & set(specification["layout"])
    assert 'data-stops="0,1,2,3,5,8,10,20' in page
    assert 'data-paths="1"' in page


def test_in_a_notebook_a_step_does_not_drop_the_landscape():
    path = {f"measured.{axis}": np.linspace([-0.5], [1.0], 20).T.copy() for axis in "xy"}
    figure = figures.trajectories({"LODO": runs_of([[1.0] * 20], **path)})
    moves = [step.args[1]["frame"]["redraw"] for step in figure.layout.sliders[0].steps]
    moves += [button.args[1]["frame"]["redraw"] for button in figure.layout.updatemenus[0].buttons]
    assert moves
    assert all(moves)
