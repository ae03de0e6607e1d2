"""What pages show of records: tables with every row, links with the whole table, ablations in order."""

import html
import re
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.analysis import statistics
from lodo_experiments.analysis.claims import CLAIMS
from lodo_experiments.analysis.evidence import Evidence
from lodo_experiments.analysis.verdicts import judge
from lodo_experiments.report import figures, pages, tables
from lodo_experiments.results.records import Record
from lodo_experiments.studies import stored_results

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as text."""
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda thing: seen.append(thing.data))
    return seen


@pytest.fixture(scope="module")
def bowl():
    return stored_results.load_all(RESULTS, "noisy_bowl", "paper")


def csv_of(link):
    """The table behind a download link."""
    address = re.search(r'href="data:text/csv[^,]*,([^"]*)"', link).group(1)
    return urllib.parse.unquote(html.unescape(address))


def test_scores_are_shown_and_can_be_saved(bowl, shown):
    pages.show_scores(bowl.runs, "scores.csv")
    (table,) = shown
    assert table.count("<tr>") == len(bowl.runs) + 1
    assert "scores.csv" in table
    assert table.index("</table>") < table.index("scores.csv")
    assert csv_of(table) == tables.to_csv(tables.scores_table(bowl.runs))


def test_differences_are_to_the_reference(bowl, shown):
    pages.show_paired(bowl.runs, "LODO", "paired.csv")
    rows = csv_of(shown[0]).splitlines()
    assert len(rows) == len(bowl.runs)  # a heading, and all but the reference
    adam = next(row for row in rows if row.startswith("Adam,")).split(",")
    expected = statistics.paired_difference(bowl.runs["Adam"], bowl.runs["LODO"])
    assert float(adam[1]) == expected.mean
    assert (float(adam[2]), float(adam[3])) == expected.interval


def test_a_failed_tuning_is_said_and_compares_nothing(shown):
    found = {name: runs_of(f"bowl/{name}", value) for name, value in (("LODO", 2.0), ("LODO-No-Momentum", 1.0))}
    pages.show_paired(found, "LODO", "paired.csv")
    (only,) = shown
    assert "Tuning failed: LODO-No-Momentum" in only
    assert "<table" not in only
    shown.clear()
    found["LODO-No-Momentum"], found["LODO"] = found["LODO"], found["LODO-No-Momentum"]
    pages.show_paired(found, "LODO", "paired.csv")
    assert "<table" in shown[0]


def test_a_failed_tuning_ranks_nothing(shown, monkeypatch):
    monkeypatch.setattr("lodo_experiments.report.plotly_html.show", lambda figure, words: shown.append(words))
    found = {name: runs_of(f"bowl/{name}", value) for name, value in (("LODO", 2.0), ("LODO-No-Momentum", 1.0))}
    pages.show_scores(found, "scores.csv", object(), "a figure")
    reason, figure, table = shown
    assert "Tuning failed: LODO-No-Momentum" in reason
    assert figure == "a figure"
    assert f"<caption>{html.escape(pages.NO_COMPARISON)}</caption>" in table
    assert "best" not in table
    shown.clear()
    pages.show_scores(found, "scores.csv", refused=pages.refuse_failed_tuning(found))
    assert len(shown) == 2  # the reason once
    assert "best" not in shown[1]
    shown.clear()
    found["LODO-No-Momentum"], found["LODO"] = found["LODO"], found["LODO-No-Momentum"]
    pages.show_scores(found, "scores.csv", object(), "a figure")
    assert shown[0] == "a figure"
    assert "best" in shown[1]
    assert "<caption>" not in shown[1]


def test_no_speed_of_runs_made_one_after_the_other_is_the_best(bowl, shown):
    fast = {name: bowl.runs[name] for name in ("LODO", "Adam")}
    pages.show_scores(fast, "scores.csv")
    pages.show_times(fast, 1e9, "times.csv")
    for table in shown:
        rows = re.findall("<tr>(.*?)</tr>", table)[1:]
        assert any("best" in row for row in rows)
        assert not [row for row in rows if "best" in re.findall("<td[^>]*>", row)[-1]]  # the column of speeds or times


def test_few_pairs_have_no_interval(bowl, shown):
    few = {name: runs_of(f"bowl/{name}", value) for name, value in (("LODO", 1.0), ("Adam", 2.0))}
    pages.show_paired(few, "LODO", "paired.csv")
    assert "[" not in shown[0].split("</table>")[0]
    shown.clear()
    pages.show_paired(bowl.runs, "LODO", "paired.csv")
    assert shown[0].split("</table>")[0].count("[") == len(bowl.runs) - 1


def test_times_are_medians_and_misses_are_infinite(bowl, shown):
    pages.show_times(bowl.runs, 1e-3, "times.csv")
    assert {row.split(",")[3] for row in csv_of(shown[0]).splitlines()[1:]} == {"inf"}
    shown.clear()
    pages.show_times({"Adam": bowl.runs["Adam"]}, 1e9, "times.csv")
    first = bowl.runs["Adam"].arrays["curve_steps"][0]
    assert csv_of(shown[0]).splitlines()[1].startswith(f"Adam,8,8,{float(first)!r}")


def test_all_tuned_values_are_of_the_largest_scale(shown):
    pages.show_all_hyperparameters(RESULTS, "all.csv")
    rows = csv_of(shown[0]).splitlines()
    assert any(row.startswith("noisy_bowl,paper,LODO,") for row in rows)
    assert any(row.startswith("image_generation,desktop,LARS,") for row in rows)
    assert any(row.startswith("image_generation,laptop,LODO-No-Momentum,") for row in rows)
    assert len({tuple(row.split(",")[:3:2]) for row in rows}) == len(rows)  # one row an optimizer


def test_a_folder_without_tuned_values_says_so(shown, tmp_path):
    pages.show_all_hyperparameters(tmp_path, "all.csv")
    (only,) = shown
    assert "No optimizer has been tuned at `paper` or `desktop` or `laptop`" in only


def test_what_is_not_there_is_said_in_a_line(shown):
    pages.show_missing({"of the list": (("LODO", "Adam"), {"LODO": 1}), "of others": (("Yogi",), ["Yogi"])})
    pages.show_missing({"of the list": (("LODO",), {"LODO": 1})})
    (only,) = shown
    assert only == "*Not computed yet of the list: Adam.*"


def test_a_pages_claims_are_judged_from_the_records(shown, tmp_path):
    pages.show_claims("rosenbrock", RESULTS)
    pages.show_claims("rosenbrock", tmp_path)  # without records of its own: the project's
    about = [claim for claim in CLAIMS if claim.page == "rosenbrock"]
    assert len(about) > 1
    for table in shown:
        assert table.count("<tr>") == len(about) + 1
        for claim in about:
            assert f"<td>{judge(claim, Evidence(RESULTS)).verdict}</td>" in table


def runs_of(kind, value):
    arrays = {"scores": np.array([value, value + 0.1]), "diverged_at": np.array([-1, -1])}
    values = {"hyperparameters": {"momentum": value / 10}, "steps_per_second": 1.0, "gradients_per_step": 1}
    return Record(kind, arrays, values, {"preset": "laptop", "seeds": [0, 1]})


def test_ablations_lie_in_order_of_what_they_change():
    names = ["LODO-depth-8", "LODO-depth-0", "LODO-beta-7", "LODO-beta-0", "LODO-block-9", "LODO-block-2"]
    found = {name: runs_of(f"bowl/{name}", float(index + 1)) for index, name in enumerate(names)}
    drawn = figures.ablation_curves(found)
    means = [trace for trace in drawn.data if trace.mode == "lines+markers"]
    assert [trace.x for trace in means] == [(0.4, 0.3), (0.0, 8.0), (2.0, 9.0)]  # β, N, k
    assert means[1].y[0] == pytest.approx(2.05)  # of depth 0


def test_diverged_runs_are_marked():
    lost = runs_of("bowl/LODO-depth-0", 1.0)
    lost.arrays["scores"][0], lost.arrays["diverged_at"][0] = np.nan, 3
    drawn = figures.ablation_curves({"LODO-depth-0": lost})
    assert len(drawn.layout.shapes) == 1
    rows = figures.score_intervals({"LODO": lost}, "loss")
    assert "LODO (1 of 2 diverged)" in str(rows.to_dict())


def test_score_intervals_show_every_run(bowl):
    near = {name: bowl.runs[name] for name in ("LODO", "Adam")}
    drawn = figures.score_intervals(near, "loss", floor=7.4)
    points = [trace for trace in drawn.data if trace.marker.symbol == "circle-open"]
    assert [len(trace.x) for trace in points] == [8, 8]
    middles = [trace for trace in drawn.data if trace.error_x.array is not None]
    assert middles[0].x[0] == statistics.summarise(near["LODO"].arrays["scores"]).mean
    assert middles[0].error_x.array[0] > 0
    (few,) = [
        t for t in figures.score_intervals({"LODO": runs_of("a", 1.0)}, "loss").data if t.error_x.array is not None
    ]
    assert few.error_x.array[0] == few.error_x.arrayminus[0] == 0  # of two runs no interval is told
