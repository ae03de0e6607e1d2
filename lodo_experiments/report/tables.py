"""Tables of an experiment: rows of plain numbers, shown as Markdown and downloaded as CSV.

A table is a list of rows, and a row a dict from column to number, text or None (an empty cell). Numbers stay as they
are: CSV gets every digit, Markdown four significant ones. Python's csv writes them, not pandas, which would save three
lines and write nan and an empty cell alike.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
import string
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from lodo_experiments.analysis import statistics
from lodo_experiments.results.records import Record

#: A row: column → number, text, or None for an empty cell.
Row = Mapping[str, Any]

#: How :func:`scores_table` is shown in Markdown: heading → what its cells say, by column.
SCORES_SHOWN: Mapping[str, str] = {
    "optimizer": "{optimizer}",
    "runs": "{runs}",
    "diverged": "{diverged}",
    "mean ± standard deviation": "{mean} ± {std}",
    "median": "{median}",
    "IQM, 95 % interval": "{iqm} [{iqm_low}, {iqm_high}]",
    "test loss": "{test_loss} ± {test_loss_std}",
    "test loss not finite": "{test_diverged}",
    "steps per second": "{steps_per_second}",
    "gradients per second": "{gradients_per_second}",
}

# What Markdown (and MyST's mathematics) would take for markup; underscores only at the edge of a word.
_MARKUP = re.compile(r"[\\|*`<$\[\]]|(?<!\w)_|_(?!\w)")


def scores_table(found: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row an optimizer: how low its loss ended, how sure that is, how often it diverged, how fast it ran.

    Args:
      found: optimizer → record of its runs.

    Returns:
      Rows with "optimizer", "runs", "diverged"; "mean", "std" (of the runs that ended), "median", "iqm", "iqm_low",
      "iqm_high" (a diverged run counts as +inf; 95 % interval), as in
      :func:`lodo_experiments.analysis.statistics.summarise`; where any record has test losses, "test_loss" and
      "test_loss_std" over the runs whose test loss is finite, and "test_diverged", the number of the others;
      "steps_per_second" and "gradients_per_second", of all runs together.

    Raises:
      ValueError: no record at all, or one that is not of runs.

    >>> import numpy as np
    >>> values = {"steps_per_second": 100.0, "gradients_per_step": 2}
    >>> rows = scores_table({"A": Record("bowl/A", {"scores": np.array([1.0, 3.0])}, values)})
    >>> rows[0]["mean"], rows[0]["gradients_per_second"]
    (2.0, 200.0)
    """
    _refuse_nothing(found, "record")
    tested = any("test_loss" in record.arrays for record in found.values())
    rows = []
    for name, record in found.items():
        if "scores" not in record.arrays:
            raise ValueError(f"The record of {name} ({record.kind}) has no scores; give the record of its runs.")
        summary = statistics.summarise(record.arrays["scores"])
        row: dict[str, Any] = {
            "optimizer": name,
            "runs": summary.runs,
            "diverged": summary.diverged,
            "mean": summary.mean,
            "std": summary.std,
            "median": summary.median,
            "iqm": summary.iqm,
            "iqm_low": summary.iqm_interval[0],
            "iqm_high": summary.iqm_interval[1],
        }
        if tested:
            test = statistics.summarise(record.arrays["test_loss"]) if "test_loss" in record.arrays else None
            row["test_loss"] = test.mean if test else None
            row["test_loss_std"] = test.std if test else None
            row["test_diverged"] = test.diverged if test else None
        row["steps_per_second"] = record.values["steps_per_second"]
        row["gradients_per_second"] = record.values["steps_per_second"] * record.values["gradients_per_step"]
        rows.append(row)
    return rows


def hyperparameter_table(tuned: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row an optimizer, one column a hyperparameter (the paper's Table 6), and the trials of the tuning.

    Args:
      tuned: optimizer → record of its tuning.

    Returns:
      Rows with "optimizer", every hyperparameter that any of them has (None where it has none of that name), and
      "trials" (0: taken as given, not tuned).

    Raises:
      ValueError: no record at all, or one that is not of a tuning.

    >>> import numpy as np
    >>> rate = Record("bowl/A/tuning", {"seed": np.arange(4)}, {"hyperparameters": {"rate": 0.1}})
    >>> damped = Record("bowl/B/tuning", {}, {"hyperparameters": {"damping": 1.0}})
    >>> print(to_markdown(hyperparameter_table({"A": rate, "B": damped})))
    | optimizer | rate | damping | trials |
    |---|---:|---:|---:|
    | A | 0.1 |  | 4 |
    | B |  | 1 | 0 |
    """
    _refuse_nothing(tuned, "record")
    for name, record in tuned.items():
        if "hyperparameters" not in record.values:
            raise ValueError(
                f"The record of {name} ({record.kind}) has no hyperparameters; give the one of its tuning."
            )
        if "scores" in record.arrays:
            raise ValueError(f"The record of {name} ({record.kind}) is one of runs; give the one of its tuning.")
    names = _columns([record.values["hyperparameters"] for record in tuned.values()])
    return [
        {
            "optimizer": name,
            **{column: record.values["hyperparameters"].get(column) for column in names},
            "trials": len(record.arrays.get("seed", ())),
        }
        for name, record in tuned.items()
    ]


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV (RFC 4180: commas, CRLF, quotes doubled), with every digit of every number.

    Columns come in the order in which they are first met; a cell that a row lacks is empty.

    Raises:
      TypeError: a cell that is no number, text or None.
      ValueError: no rows.

    >>> to_csv([{"name": "a, b", "x": 0.1, "n": 3}, {"name": None, "x": float("inf")}])
    'name,x,n\\r\\n"a, b",0.1,3\\r\\n,inf,\\r\\n'
    """
    _refuse_nothing(rows, "row")
    columns = _columns(rows)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_full(column, row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def to_markdown(rows: Sequence[Row], shown: Mapping[str, str] | None = None) -> str:
    """Rows as a Markdown table, numbers with four significant digits ("—" for nan, "∞" for inf).

    Args:
      rows: see the module.
      shown: heading → what a cell says, with columns in braces, as in :data:`SCORES_SHOWN`; a heading whose columns no
        row has is left out, and a cell is empty where its row lacks any of them. None: each column as it is.

    Raises:
      TypeError: a cell that is no number, text or None.
      ValueError: no rows, or nothing of ``shown`` is in them.

    >>> rows = [{"name": "a|b", "mean": 8.86318, "std": 0.043}, {"name": "c", "mean": 1e-7, "std": None}]
    >>> print(to_markdown(rows))
    | name | mean | std |
    |---|---:|---:|
    | a\\|b | 8.863 | 0.043 |
    | c | 1e-07 |  |
    >>> print(to_markdown(rows, {"mean ± std": "{mean} ± {std}", "loss": "{loss}"}))
    | mean ± std |
    |---:|
    | 8.863 ± 0.043 |
    |  |
    """
    _refuse_nothing(rows, "row")
    present = _columns(rows)
    if shown is None:
        parts = {column: [column] for column in present}
    else:
        parts = {head: [p for _, p, _, _ in string.Formatter().parse(form) if p] for head, form in shown.items()}
        parts = {head: used for head, used in parts.items() if set(used) & set(present)}
        if not parts:
            raise ValueError(f"Nothing of {', '.join(shown)} is in the rows; they have {', '.join(present)}.")

    def cell(row: Row, head: str) -> str:
        used = {column: row.get(column) for column in parts[head]}
        if any(value is None for value in used.values()):
            return ""
        texts = {column: _short(column, value) for column, value in used.items()}
        return shown[head].format_map(texts) if shown else texts[head]

    numeric = {column for column in present if not any(isinstance(row.get(column), str) for row in rows)}
    lines = [
        "| " + " | ".join(_escaped(head) for head in parts) + " |",
        "|" + "|".join("---:" if numeric.issuperset(used) else "---" for used in parts.values()) + "|",
        *("| " + " | ".join(cell(row, head) for head in parts) + " |" for row in rows),
    ]
    return "\n".join(lines)


def download(rows: Sequence[Row], filename: str) -> Any:
    """A link that downloads the rows as CSV, to be shown in a notebook or a page.

    The data are in the link itself (a ``data:`` address), so it needs neither a server nor a network.

    Args:
      rows: see the module.
      filename: what the file will be called; a plain name that ends in ``.csv``.

    Returns:
      An ``IPython.display.HTML``.

    Raises:
      ValueError: no rows, or a name that is a path or does not end in ``.csv``.

    >>> download([{"a": 1}], "scores.csv").data
    '<a download="scores.csv" href="data:text/csv;charset=utf-8,a%0D%0A1%0D%0A">Download as CSV (scores.csv)</a>'
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]*\.csv", filename):
        raise ValueError(f"filename must be a plain name that ends in .csv, such as 'scores.csv'; got {filename!r}.")
    from IPython.display import HTML

    address = "data:text/csv;charset=utf-8," + urllib.parse.quote(to_csv(rows), safe="")
    name = html.escape(filename)
    return HTML(f'<a download="{name}" href="{address}">Download as CSV ({name})</a>')


def _refuse_nothing(given: Any, what: str) -> None:
    if not given:
        raise ValueError(f"A table needs at least one {what}; got none.")


def _columns(rows: Any) -> list[str]:
    """Every column, in the order in which they are first met."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _plain(column: str, value: Any) -> str | int | float | bool | None:
    """A cell as a Python value; NumPy's and JAX's scalars become Python's."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"A cell must be a number, a text or None; column {column!r} has {value!r}.")


def _full(column: str, value: Any) -> str:
    plain = _plain(column, value)
    return "" if plain is None else plain if isinstance(plain, str) else repr(plain)


def _short(column: str, value: Any) -> str:
    plain = _plain(column, value)
    if isinstance(plain, str):
        return _escaped(plain)
    if not isinstance(plain, float):
        return str(plain)
    if math.isnan(plain):
        return "—"
    if math.isinf(plain):
        return "∞" if plain > 0 else "-∞"
    # Four digits, but 214000 instead of 2.14e+05: most rates and times are below a million.
    return f"{float(f'{plain:.4g}'):.6g}"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", re.sub(r"\s+", " ", text))  # a line break would end the row
