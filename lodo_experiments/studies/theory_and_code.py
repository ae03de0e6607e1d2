"""What some notebooks compute beside the studies of optimizers: each as a whole, its records kept part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax

from lodo_experiments.config import paths, theory_presets
from lodo_experiments.results.records import Record
from lodo_experiments.studies import paper_and_code, paper_and_code_runs
from lodo_experiments.studies.theory.dynamics_study import DynamicsStudy
from lodo_experiments.studies.theory.representability_study import RepresentabilityStudy
from lodo_experiments.studies.theory.result_store import NotKept, Results


def _learning_dynamics(preset: str, seeds: int, results: Results) -> dict[str, Record]:
    chosen = theory_presets.preset_named(theory_presets.DYNAMICS, preset)
    return DynamicsStudy(chosen, seeds or chosen.seeds, results).all()


def _representability(preset: str, seeds: int, results: Results) -> dict[str, Record]:
    chosen = theory_presets.preset_named(theory_presets.REPRESENTABILITY, preset)
    return RepresentabilityStudy(chosen, seeds or chosen.seeds, results).all()


def _paper_and_code(preset: str, seeds: int, results: Results) -> dict[str, Record]:
    amounts = paper_and_code_runs.AMOUNTS[preset]
    chosen = replace(amounts, bowl_runs=seeds) if seeds else amounts
    bench = paper_and_code_runs.Bench(chosen, paper_and_code_runs.bowl_values(results.folder))
    numbers = list(range(chosen.runs))
    kept = results.kept("differences", paper_and_code.settings(bench), numbers, lambda: paper_and_code.measured(bench))
    return {"differences": kept}


#: Notebook → what computes its records: (preset, seeds, results) → part → record.
WHOLES: Mapping[str, Callable[[str, int, Results], dict[str, Record]]] = {
    "learning_dynamics": _learning_dynamics,
    "representability": _representability,
    "paper_and_code": _paper_and_code,
}


def computed(name: str, preset: str, *, seeds: int = 0, results_dir: str = "") -> dict[str, Record]:
    """The records of one of `WHOLES`, computed where they are missing. It needs ``jax_enable_x64``.

    Args:
      name: the notebook.
      preset: smoke, laptop or paper.
      seeds: its number of seeds; 0: the preset's.
      results_dir: folder of the records; empty: the default place.

    Returns:
      Part → record.
    """
    return WHOLES[name](preset, seeds, _results(name, preset, seeds, results_dir))


def answered(name: str, preset: str, *, seeds: int = 0, results_dir: str = "") -> bool:
    """Whether all of its records are stored, so that :func:`computed` would compute nothing.

    Raises:
      RecordError: a stored record is damaged, or of another question.

    >>> answered("representability", "smoke", results_dir="/nowhere")
    False
    """
    try:
        with jax.enable_x64(True):
            WHOLES[name](preset, seeds, replace(_results(name, preset, seeds, results_dir), look=True))
    except NotKept:
        return False
    return True


def _results(name: str, preset: str, seeds: int, results_dir: str) -> Results:
    command = f"papermill notebooks/{name}.ipynb out.ipynb -p preset {preset} -p seeds {seeds}"
    return Results(name, preset, paths.results_folder(results_dir), command)
