"""A cold reader's path: run a notebook, change a parameter, see the figure change; nothing kept is touched."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lodo_experiments.config.presets import BOWL
from lodo_experiments.results import records

#: The README's command at a tiny size.
README = ["-p", "condition_number", "1e4", "-p", "optimizers", "LODO,Adam", "-p", "steps"]
TINY = ["-p", "size", "4", "-p", "schedule", "1:10:2", "-p", "measure_every", "20", "-p", "seeds", "1"]


def papermill(source: Path, executed: Path, *parameters: str) -> dict:
    """The executed notebook; plain papermill makes it, as a reader would call it."""
    command = [sys.executable, "-m", "papermill", source, executed, "--no-progress-bar", "-k", "python3", *parameters]
    done = subprocess.run(command, cwd=source.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(executed.read_text(encoding="utf-8"))


def outputs(notebook: dict, end: str) -> list[dict]:
    (cell,) = [cell for cell in notebook["cells"] if cell.get("id", "").endswith(end)]
    return cell["outputs"]


def markdown(shown: list[dict]) -> str:
    return "\n".join("".join(one.get("data", {}).get("text/markdown", "")) for one in shown)


@pytest.mark.slow
def test_papermill_runs_a_changed_bowl(root, tmp_path):
    results = tmp_path / "results"
    given = [*README, "60", *TINY, "-p", "results_dir", str(results)]
    notebook = papermill(root / "notebooks" / "noisy_bowl.ipynb", tmp_path / "out.ipynb", *given)
    told = markdown(outputs(notebook, "noisy-bowl-03"))
    assert "Changed from the preset `smoke`" in told
    assert "`condition_number` is `10000.0` instead of `1000.0`" in told
    assert f"`steps` is `60` instead of `{BOWL['smoke'].steps}`" in told
    table = "".join("".join(one.get("data", {}).get("text/html", "")) for one in outputs(notebook, "noisy-bowl-05a"))
    rows = [html.unescape(re.sub("<[^>]+>", "", row)) for row in re.findall(r"<tr><th[^>]*>(.*?)</t[hd]>", table)]
    assert rows[1:] == ["LODO", "Adam", "LODO, authors' values"]
    assert "After 60 steps LODO's loss is" in markdown(outputs(notebook, "noisy-bowl-17a"))
    assert "{glue:" not in json.dumps(notebook)
    # All that was made lies apart from what a preset would make.
    (apart,) = results.iterdir()
    assert apart.name == "changed"
    made = {path.stem: records.load(path) for path in results.rglob("noisy_bowl/*.npz")}
    assert made.keys() == {"LODO", "Adam", "LODO-tuning", "Adam-tuning"}
    assert made["LODO"].values["settings"]["condition_number"] == 1e4
    assert made["LODO"].values["steps"] == 60


@pytest.mark.exhaustive
def test_the_figure_changes_with_the_parameter(root, tmp_path):
    drawn = []
    for drift in ("1", "0.1"):
        given = ["-p", "drift", drift, "-p", "optimizers", "LODO", "-p", "steps", "60", *TINY]
        given += ["-p", "results_dir", str(tmp_path / "results")]
        notebook = papermill(root / "notebooks" / "noisy_bowl.ipynb", tmp_path / f"{drift}.ipynb", *given)
        (figure,) = (one["data"]["application/vnd.plotly.v1+json"] for one in outputs(notebook, "noisy-bowl-10"))
        drawn.append(next(trace for trace in figure["data"] if trace.get("name") == "LODO")["y"])
    assert drawn[0] != drawn[1]


@pytest.mark.exhaustive
def test_papermill_runs_a_changed_page_without_records(root, tmp_path):
    given = ["-p", "size", "4", "-p", "steps", "200", "-p", "momentum", "0.5", "-p", "depth", "2"]
    notebook = papermill(root / "notebooks" / "understanding.ipynb", tmp_path / "out.ipynb", *given)
    assert "`momentum` is `0.5` instead of `0.0`" in markdown(outputs(notebook, "understanding-03"))
    assert "Over the last 10 of 200 steps" in markdown(outputs(notebook, "understanding-19"))


@pytest.mark.exhaustive
def test_papermill_runs_a_changed_physics_informed_network(root, tmp_path):
    # A rate at which Adam diverges is a result too.
    given = [
        "-p",
        "steps",
        "30",
        "-p",
        "optimizers",
        "Adam,LODO",
        "-p",
        "adam_rates",
        "1e30",
        "-p",
        "lodo_rates",
        "1e-3",
    ]
    given += ["-p", "width", "5", "-p", "layers", "1", "-p", "points", "8", "-p", "frequency", "3", "-p", "seeds", "1"]
    notebook = papermill(root / "notebooks" / "physics_informed.ipynb", tmp_path / "out.ipynb", *given)
    assert "`frequency` is `3` instead of `5`" in markdown(outputs(notebook, "physics-informed-03"))
    said = markdown(outputs(notebook, "physics-informed-14"))
    assert "LODO is lowest" in said
    assert "untuned" not in said  # of rlodo, which does not run


@pytest.mark.exhaustive
def test_papermill_stops_at_a_bad_parameter(root, tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/noisy_bowl.ipynb", tmp_path / "out.ipynb", "-k", "python3"]
    given = ["-p", "conditon_number", "1e4", "-p", "optimizers", "LODO,adam"]
    done = subprocess.run([*command, *given], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "did you mean 'condition_number'" in done.stderr
    assert "did you mean 'Adam'" in done.stderr
