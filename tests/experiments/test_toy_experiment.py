"""One declaration, in one place, makes an experiment that is run, listed, planned for a batch, and shown."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lodo_experiments.cli import run, status
from lodo_experiments.cli.batch.plan import Options, jobs
from lodo_experiments.config.presets import Preset
from lodo_experiments.config.schedules import Generation
from lodo_experiments.report import pages
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiment import Experiment
from lodo_experiments.studies.setup import Setup
from lodo_experiments.tasks.base import Task


# The whole of what a new experiment takes: here, and its name in the registry.
def parabola(preset, data):
    task = Task(
        "parabola", (), init=lambda key: jnp.ones(3), init_data=lambda data, key: (),
        sample=lambda data, state, key: (jax.random.normal(key, (3,)), state),
        loss=lambda x, batch: ((x - 0.01 * batch) ** 2).sum(),
    )  # fmt: skip
    return Setup(task=task, chunk=10)


def amounts(name):
    schedule = (Generation(1.0, 10, 2),)
    return Preset(name=name, steps=20, seeds=2, optimizers=("LODO", "Adam"), schedule=schedule, measure_every=0)


TOY = Experiment(
    name="toy",
    presets={name: amounts(name) for name in ("smoke", "laptop", "paper")},
    setup=parabola,
    notebooks=("toy",),
)
# End of the toy.


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.EXPERIMENTS, "toy", TOY)


def test_it_is_run_listed_and_shown(tmp_path, monkeypatch, capsys):
    folder = str(tmp_path)
    specs = [spec for spec in registry.records("laptop", tmp_path) if spec.experiment == "toy"]
    assert [spec.name for spec in specs] == ["LODO-tuning", "LODO", "Adam-tuning", "Adam"]
    assert [spec.settings is None for spec in specs] == [False, True, False, True]  # runs depend on the tuning
    assert status.main(["--preset", "laptop", "--results-dir", folder]) == 0
    assert re.search(r"toy.*missing", capsys.readouterr().out)

    assert run.main(["toy", "--preset", "laptop", "--results-dir", folder]) == 0
    assert re.search(r"toy/Adam: .* \(2 runs, 0 diverged\); preset laptop", capsys.readouterr().out)
    for spec in registry.records("laptop", tmp_path):
        assert (tmp_path / spec.path).exists() == (spec.experiment == "toy")
        assert spec.experiment != "toy" or spec.settings is not None
    assert not list(registry.unknown_records(tmp_path))

    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *given: shown.extend(given))
    pages.show_all_hyperparameters(tmp_path, "all.csv")
    assert "toy laptop Adam" in " ".join(re.sub("<[^>]+>", " ", shown[0].data).split())


def test_it_is_planned(tmp_path):
    (tmp_path / "toy.ipynb").write_text("{}")
    found = {job.name: job for job in jobs(Options("paper", only=("toy",), notebooks=tmp_path))}
    assert list(found) == ["toy/LODO/tuning", "toy/LODO", "toy/Adam/tuning", "toy/Adam", "notebook/toy"]
    assert found["toy/Adam"].needs == ("toy/Adam/tuning",)
    assert set(found["notebook/toy"].needs) == set(found) - {"notebook/toy"}
    assert [job.rule for job in found.values()] == ["tune", "run", "tune", "run", "notebook"]
    assert {job.experiment for job in found.values() if job.optimizers} == {"toy"}
    assert ("toy", "") in {(part.experiment, part.variant) for part in run.plan("small", "paper")}


def test_it_takes_few_lines():
    source = Path(__file__).read_text(encoding="utf-8")
    lines = source.partition("# The whole of what")[2].partition("# End of the toy")[0].splitlines()
    assert len(lines) <= 40
