"""Tables that the experiments' pages show, each with its CSV file, and the provenance of their numbers.

Records of runs and of tuning come by the name of their optimizer, rows as :mod:`lodo_experiments.report.tables` has
them; ``filename`` is that of the CSV.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lodo_experiments.analysis import network_curvature, statistics
from lodo_experiments.analysis.claims import CLAIMS
from lodo_experiments.analysis.evidence import BUNDLED, Evidence, tuning_failure
from lodo_experiments.analysis.verdicts import judge
from lodo_experiments.config.paths import kept_folder
from lodo_experiments.report import curvature_figures, figures, plotly_html, tables
from lodo_experiments.results.records import Record
from lodo_experiments.studies import changes, registry, stored_results
from lodo_experiments.studies.runner import PartStudy, Study

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: The title of a table of runs whose tuning failed.
NO_COMPARISON = "No comparison: LODO's tuning failed"


def refuse_failed_tuning(runs: Mapping[str, Record]) -> bool:
    """Say that LODO's tuning failed, where it did: the runs then compare nothing. A page says so before it shows them.

    Returns:
      Whether it failed: then nothing may be ranked.
    """
    if failure := tuning_failure(runs):
        _say(f"**{failure}** So these numbers compare nothing: they tell of the tuning, not of LODO.")
    return bool(failure)


def show_scores(
    runs: Mapping[str, Record],
    filename: str,
    figure: go.Figure | None = None,
    description: str = "",
    *,
    refused: bool | None = None,
) -> None:
    """The table of scores, with a link that saves it as CSV, and above it the figure of the same runs.

    Where LODO's tuning failed the reason comes first, no score is marked as the best, and the table's title says that
    it compares nothing.

    Args:
      runs: optimizer → record of its runs.
      filename: of the CSV.
      figure: e.g. the losses by step; it is given here so that no figure stands above the reason.
      description: what the figure shows.
      refused: what :func:`refuse_failed_tuning` said of these runs, where the page has called it already.
    """
    failed = refuse_failed_tuning(runs) if refused is None else refused
    if figure is not None:
        plotly_html.show(figure, description)
    rows = tables.scores_table(runs)
    shown, forms = tables.scores_shown(rows)
    _show(rows, filename, tables.to_html(shown, forms, *_unless(failed, tables.SCORES_BEST)))


def show_hyperparameters(tuned: Mapping[str, Record], filename: str) -> None:
    """The tuned values (the paper's Table 6), with a link that saves them as CSV."""
    rows = tables.hyperparameter_table(tuned)
    _show(rows, filename, tables.to_html(tables.named_values(rows)))


def show_all_hyperparameters(folder: Path, filename: str) -> None:
    """The tuned values of every experiment, each optimizer's at the largest kept scale (the paper's Table 6)."""
    rows = []
    for experiment in (one.name for one in registry.EXPERIMENTS.values() if one.setup is not None):
        scales = [stored_results.load_all(folder, experiment, preset).tuning for preset in BUNDLED]
        for name in dict.fromkeys(name for scale in scales for name in scale):
            record = next(scale[name] for scale in scales if name in scale)
            (row,) = tables.hyperparameter_table({name: record})
            rows.append({"experiment": experiment, "preset": record.provenance["preset"], **row})
    if not rows:
        presets = " or ".join(f"`{preset}`" for preset in BUNDLED)
        _say(f"No optimizer has been tuned at {presets} in this results folder.")
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    shown = tables.named_values(rows, ("experiment", "preset", "optimizer", "trials"))
    _show([{column: row.get(column) for column in columns} for row in rows], filename, tables.to_html(shown))


def show_times(runs: Mapping[str, Record], target: float, filename: str) -> None:
    """How long each optimizer takes to a loss: medians over runs, by step, gradient and second; ∞ for a miss.

    The seconds are each record's own, and the records were made one after the other: no second is marked as the best.
    """
    units = {"steps": "step", "gradient evaluations": "gradient", "seconds, all runs": "second"}
    rows = []
    for name, record in runs.items():
        reached = int(np.isfinite(statistics.time_to_target(record, target)).sum())
        row: dict[str, Any] = {"optimizer": name, "runs that reach it": reached, "runs": len(record.arrays["scores"])}
        for heading, against in units.items():
            row[heading] = float(np.median(statistics.time_to_target(record, target, against)))
        rows.append(row)
    counted = dict.fromkeys(("steps", "gradient evaluations"), "low")
    _show(rows, filename, tables.to_html(rows, None, *_unless(bool(tuning_failure(runs)), counted)))


def show_paired(runs: Mapping[str, Record], reference: str, filename: str) -> None:
    """Each optimizer's score minus a reference's on the same seeds, with 95 % intervals over seeds.

    Where LODO's tuning failed there is no comparison: the reason stands in place of the table.
    """
    if refuse_failed_tuning(runs):
        return
    heading = f"mean difference to {reference}"
    rows: list[dict[str, Any]] = []
    shown = []
    for name, record in runs.items():
        if name != reference:
            difference = statistics.paired_difference(record, runs[reference])
            low, high = difference.interval
            pairs = len(difference.seeds)
            rows.append(
                {
                    "optimizer": name,
                    heading: difference.mean,
                    "95 % low": low,
                    "95 % high": high,
                    "lower in": difference.a_lower,
                    "pairs": pairs,
                    "pairs with divergence": pairs - difference.ended,
                }
            )
            said = pairs >= tables.INTERVAL_FROM and low < high
            shown.append(rows[-1] | ({} if said else {"95 % low": None, "95 % high": None}))
    told = {
        "optimizer": "{optimizer}",
        f"{heading}, 95 % interval": f"{{{heading}}}| [{{95 % low}}, {{95 % high}}]",
        "lower in": "{lower in} of {pairs} pairs",
    }
    if any(row["pairs with divergence"] for row in rows):
        told["pairs with divergence"] = "{pairs with divergence}"
    _show(rows, filename, tables.to_html(shown, told))


def show_rows(rows: list[dict[str, Any]], filename: str, best: Mapping[str, str] | None = None) -> None:
    """Any table, with a link that saves it as CSV; ``best`` is as ``tables.to_html`` has it."""
    _show(rows, filename, tables.to_html(rows, best=best))


def show_learned(record: Record, filename: str) -> None:
    """What LODO's G has learned of a network's Hessian: along the steepest eigenvectors, in numbers, and on the whole.

    Args:
      record: as :func:`~lodo_experiments.analysis.network_curvature.curvature_table` takes it.
      filename: of the table's CSV.
    """
    plotly_html.show(
        curvature_figures.gains_by_curvature(record),
        "What G is along the steepest directions of the network's loss, relative to its start, by their curvature, one "
        "symbol for each run.",
    )
    show_rows(network_curvature.by_quantity(network_curvature.curvature_table(record)), filename)
    plotly_html.show(
        curvature_figures.inverse_distribution(record),
        "Share of the eigenvalues of G that are at most a value, relative to the start, one line for each run.",
    )


def show_missing(expected: Mapping[str, tuple[Collection[str], Collection[str]]]) -> None:
    """Say in a line which records a page would show and are not there; nothing where all are.

    Args:
      expected: in words, which → (names of all of them, names of those that are there).
    """
    left = {words: [name for name in names if name not in found] for words, (names, found) in expected.items()}
    told = [f"{words}: {', '.join(names)}" for words, names in left.items() if names]
    if told:
        _say(f"*Not computed yet {'; '.join(told)}.*")


def show_claims(page: str, folder: Path) -> None:
    """The verdicts on the claims whose figures are on a page, as the records give them.

    Args:
      page: as :class:`~lodo_experiments.analysis.verdicts.Claim` has it.
      folder: the results folder; without records of the paper's scale, those that come with the project are judged.
    """
    evidence = Evidence(folder if (folder / "paper").is_dir() else kept_folder())
    found = {claim: judge(claim, evidence) for claim in CLAIMS if claim.page == page}
    rows = [
        {"claim": claim.statement, "section": claim.section, "verdict": one.verdict}
        | ({"why not": one.reason} if any(other.reason for other in found.values()) else {})
        for claim, one in found.items()
    ]
    show_rows(rows, f"{page}_claims.csv")


def show_changes(study: Study | PartStudy | registry.Page) -> None:
    """In what a run differs from its preset, and where its records are; nothing where it is the preset itself."""
    if not study.changes:
        return
    usual = registry.usual_preset(study)
    told = [
        f"`{name}` is {_code(value)} instead of {_code(getattr(usual, name))}" for name, value in study.changes.items()
    ]
    text = f"**Changed from the preset `{study.preset.name}`:** {'; '.join(told)}."
    if not isinstance(study, registry.Page):
        where = "are kept apart from the preset's" if study.is_apart else "lie with the preset's, as each is the same"
        text += f" Its records {where}."
    _say(text)


def show_unused_seeds(seeds: int, why: str) -> None:
    """That a page does not look at the number of runs that it was given, and why; nothing where none was given."""
    if seeds:
        _say(f"**`seeds` is {_code(seeds)}, which this page does not look at:** {why}.")


def _code(value: Any) -> str:
    return "as tuned, or the paper's" if value is None else f"`{changes.written(value) or 'none'}`"


def show_tried(tried: Mapping[str, Record], description: str, **drawing: Any) -> None:
    """The losses of :func:`~lodo_experiments.studies.try_out.train_each`, as a figure and a table."""
    if not tried:
        _say("*Not run: LODO_REDRAW says to compute nothing.*")
        return
    show_scores(tried, "tried.csv", figures.loss_curves(tried, **drawing), description)


def show_provenance(runs: Mapping[str, Record]) -> None:
    """Where the numbers come from: command, preset, device, versions; for each record seeds, times, commit, digest."""
    _say(figures.provenance_note(runs))


def _unless(failed: bool, best: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """What a table marks as the best, and its title: with a failed tuning it marks nothing, and says so."""
    return ({}, NO_COMPARISON) if failed else (best, "")


def _say(text: str) -> None:
    """Show Markdown."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def _show(rows: list[dict[str, Any]], filename: str, table: str) -> None:
    """A table as it is to be seen, and below it a link to all of its rows and digits."""
    from IPython.display import HTML, display

    display(HTML(tables.with_download(rows, filename, table)))
