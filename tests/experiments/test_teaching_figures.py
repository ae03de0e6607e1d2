"""What the page that teaches LODO draws of a run, with a slider and without one."""

import json
import re

import numpy as np
import pytest

from lodo.transform import lodo
from lodo_experiments.report import plotly_html, teaching_figures
from lodo_experiments.tasks.noisy_bowl import hessian
from lodo_experiments.utils.double_precision import double_precision


@pytest.fixture(scope="module")
def run():
    with double_precision():
        optimizer = lodo(0.5, momentum=0.0, depth=2)
        return teaching_figures.watch(hessian(4), optimizer, steps=90, seed=0)


def test_the_looks_are_from_the_first_step_to_the_last(run):
    assert run.steps[0] == 0
    assert run.moments[-1] == run.steps[-1] == 90
    assert len(run.products) == len(run.moments) == len(set(run.moments))
    assert 8 <= len(run.moments) <= 12
    # At the start G is α₀ I.
    np.testing.assert_allclose(run.products[0], np.diag(0.5 * run.eigenvalues), atol=1e-12)
    np.testing.assert_allclose(run.shares[0], 0.5 * run.eigenvalues)
    np.testing.assert_allclose(np.diagonal(run.products[-1]), run.shares[-1])


def test_one_heat_map_is_shown_at_each_stop(run):
    figure = teaching_figures.products(run)
    assert [trace.visible for trace in figure.data] == [True] + [False] * (len(run.moments) - 1)
    for place, (frame, step) in enumerate(zip(figure.frames, run.moments, strict=True)):
        assert frame.name == str(step)
        assert [trace.visible for trace in frame.data] == [other == place for other in range(len(run.moments))]
        np.testing.assert_allclose(figure.data[place].z, np.abs(run.products[place]), atol=1e-3)


def test_without_the_script_there_are_some_of_the_moments(run):
    page = plotly_html.to_html(
        teaching_figures.products(run), "G H.", still=teaching_figures.products_side_by_side(run)
    )
    assert f'data-stops="{",".join(map(str, run.moments))}"' in page
    assert f'data-moments="{",".join(map(str, range(len(run.moments))))}"' in page
    assert "data-paths" not in page
    titles = re.findall(r">(step [\d,]+)</text>", page)
    assert titles == [f"step {run.moments[teaching_figures.MOMENTS.index(look)]}" for look in teaching_figures.STILL]
    drawn = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert "sliders" not in drawn["layout"]
    assert len(drawn["data"]) == len(run.moments)
