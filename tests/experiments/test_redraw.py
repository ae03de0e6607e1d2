"""Every figure from published records alone: the notebooks' cells run with training forbidden and taken away."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import pytest

from lodo_experiments.report import axes, plotly_html, static_svg, style
from lodo_experiments.results import records
from lodo_experiments.studies import registry

ROOT = Path(__file__).resolve().parents[2]

#: Notebook → preset whose records are published in full; the two on images read their data set too.
PUBLISHED = {
    "noisy_bowl": "paper",
    "rosenbrock": "paper",
    "relative_lodo": "paper",
    "ablations": "laptop",
    "learning_dynamics": "laptop",
    "representability": "laptop",
    "claims": "smoke",
}


@pytest.fixture
def no_training(monkeypatch):
    """Nothing that trains or simulates can be called."""
    for name in (
        "runner.train", "runner.tune", "experiments.noisy_bowl.train", "experiments.rlodo_bowl.train",
        "theory.dynamics.simulate", "theory.operator_fits.fit", "theory.representability.exact_rank",
    ):  # fmt: skip
        monkeypatch.setattr(f"lodo_experiments.studies.{name}", None)
    monkeypatch.setattr("lodo_experiments.training.loop.compile_piece", None)
    monkeypatch.setenv("LODO_REDRAW", "1")
    monkeypatch.setenv("LODO_BOOK", "1")
    before = jax.config.read("jax_enable_x64")
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(("name", "preset"), PUBLISHED.items())
def test_figures_are_drawn_without_training(name, preset, no_training, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "lodo_experiments.report.plotly_html.show",
        lambda figure, text: drawn.append((plotly_html.specification_of(figure), plotly_html.to_html(figure, text))),
    )
    monkeypatch.setattr("IPython.display.display", lambda *shown, **how: None)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # Those within a loop or a condition are of other presets, which may have no records.
    wanted = sum(len(re.findall(r"^plotly_html\.show\(", source, re.MULTILINE)) for source in sources)
    namespace = {"__name__": "notebook"}
    for place, source in enumerate(sources[1:]):  # the first installs the library
        exec(compile(source, f"{name}, cell {place}", "exec"), namespace)
        if place == 0:
            namespace |= {"preset": preset, "results_dir": str(ROOT / "results")}
    assert len(drawn) >= wanted > 0
    for specification, page in drawn:
        assert len(page) < 200_000, page[-200:]
        check_lines(specification)
        check_texts(page)


def check_lines(specification):
    """Each optimizer's colour is its own, whatever figure it is in."""
    for trace in specification["data"]:
        name, line = trace.get("name"), trace.get("line") or {}
        if name in style.OPTIMIZERS and "color" in line:
            assert {"color": line["color"], "dash": line.get("dash", "solid")} == style.line_of(name), name


def check_texts(page):
    """No text of the static picture is cut off, and no entry of the legend lies on the panels."""
    root = ElementTree.fromstring(re.search(r"<svg class=.lodo-static.*</svg>", page, re.DOTALL).group())
    height = float(root.get("height"))
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        assert 0 < y < height, text.text
        if "rotate" in text.get("transform", ""):
            continue
        width = axes.text_width(text.text or "")
        left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
        assert left >= -4, text.text
        assert left + width <= static_svg.WIDTH + 4, text.text


def test_what_is_missing_is_refused_and_not_computed(no_training, tmp_path):
    valley = registry.outline("rosenbrock", "paper", results_dir=str(tmp_path))
    with pytest.raises(
        records.RecordError, match=r"LODO-tuning\.npz is not there.*LODO_REDRAW says to compute nothing"
    ):
        valley.run("LODO")
    with pytest.raises(records.RecordError, match=r"fits\.npz is not there"):
        registry.build_parts("representability", "paper", results_dir=str(tmp_path)).record("fits")
    assert not list(tmp_path.rglob("*.npz"))
