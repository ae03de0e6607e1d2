"""What the page on monitoring says of its three runs holds of them."""

import json
import re

import numpy as np
import pytest

from lodo_experiments.report import monitoring


@pytest.mark.slow
def test_the_runs_are_as_the_page_describes_them():
    healthy, small, large = (monitoring.watch()[name] for name in monitoring.RUNS)
    assert 50 < healthy.largest[-1] < 150
    assert 0.5 < healthy.smallest[-1] < 2
    assert small.largest[0] < 0.01
    assert 1 < small.largest[-1] < 0.2 * healthy.largest[-1]
    assert np.median(small.loss) > 3 * np.median(healthy.loss)
    assert np.median(large.largest[-10:]) < 0.1  # chaotic: digits depend on the compiler
    assert np.median(large.loss[-10:]) > 50 * large.loss[0]


@pytest.mark.slow
def test_the_figure_has_both_ends_of_the_spectrum():
    drawn = json.loads(re.search(r'<script type="application/json">(.*?)</script>', monitoring.eigenvalues(), re.S)[1])
    names = [trace["name"] for trace in drawn["data"]]
    assert names == [f"{run}, {which}" for run in monitoring.RUNS for which in ("largest", "smallest")]
