"""Tables of an experiment: rows of plain numbers, shown as HTML and downloaded as CSV.

A table is a list of rows, and a row a dict from column to number, text or None (an empty cell). Numbers stay as they
are: CSV gets every digit, what is shown three significant ones. Python's csv writes them, not pandas, which would save
three lines and write nan and an empty cell alike.
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

#: How :func:`scores_table` is shown: heading → what its cells say, by column. What stands behind a "|" is left out
#: where there is nothing to say.
SCORES_SHOWN: Mapping[str, str] = {
    "optimizer": "{optimizer}",
    "runs": "{runs}",
    "diverged": "{diverged}",
    "mean ± standard deviation": "{mean}| ± {std}",
    "95 % interval over seeds": "[{low}, {high}]",
    "median": "{median}",
    "test loss": "{test_loss}| ± {test_loss_std}",
    "test loss not finite": "{test_diverged}",
    "steps per second": "{steps_per_second}",
    "gradients per second": "{gradients_per_second}",
}

#: Which value of a column of :func:`scores_table` is the best: "low" or "high". No speed is: the runs were made one
#: after the other, on a machine that may have been busy. The benchmark of steps takes turns.
SCORES_BEST: Mapping[str, str] = {
    "mean": "low",
    "median": "low",
    "test_loss": "low",
}

#: Fewer runs than these have no interval that says anything.
INTERVAL_FROM = 4


def scores_table(found: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row an optimizer: how low its loss ended, how sure that is, how often it diverged, how fast it ran.

    Args:
      found: optimizer → record of its runs.

    Returns:
      Rows with "optimizer", "runs", "diverged"; "mean", "std", "low" and "high" (of the runs that ended; 95 % interval
      over seeds) and "median" (a diverged run counts as +inf), as in
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
            "low": summary.interval[0],
            "high": summary.interval[1],
            "median": summary.median,
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


def scores_shown(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of :func:`scores_table` without what says nothing, and how to show them.

    A spread of runs that do not differ and an interval of fewer than :data:`INTERVAL_FROM` runs are left out; so are
    columns of divergence where none diverged, and of gradients where each step has one.

    >>> row = {"optimizer": "A", "runs": 3, "diverged": 0, "mean": 2.0, "std": 0.0, "median": 2.0}
    >>> cells(*scores_shown([{**row, "low": 1.0, "high": 3.0}]))[1]
    ['A', '3', '2', '', '2']
    """
    idle = {name for name in ("diverged", "test_diverged") if not any(row.get(name) for row in rows)}
    if all(row.get("gradients_per_second") == row.get("steps_per_second") for row in rows):
        idle.add("gradients_per_second")
    left = [{name: value for name, value in row.items() if name not in idle} for row in rows]
    for row in left:
        for middle, spread in (("mean", "std"), ("test_loss", "test_loss_std")):
            if row.get(spread) is not None and not _differ(row[middle], row[spread]):
                row[spread] = None
        if row["runs"] < INTERVAL_FROM or not _differ(row["mean"], row["high"] - row["low"]):
            row["low"] = row["high"] = None
    return left, dict(SCORES_SHOWN)


def _differ(value: float, spread: float) -> bool:
    """Whether runs about a value differ by more than the rounding of their mean."""
    return bool(spread > 1e-12 * abs(value))


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
    >>> cells(hyperparameter_table({"A": rate, "B": damped}))
    [['optimizer', 'rate', 'damping', 'trials'], ['A', '0.1', '', '4'], ['B', '', '1', '0']]
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


def named_values(rows: Sequence[Row], kept: Sequence[str] = ("optimizer", "trials")) -> list[dict[str, Any]]:
    """Rows of :func:`hyperparameter_table` with the values of each named in one cell, as few have the same names.

    >>> row = {"optimizer": "A", "rate": 0.1, "b2": 0.9999964, "damping": None, "trials": 4}
    >>> named_values([row])[0]["tuned values"].replace("\u00a0", " ")
    'rate = 0.1, b2 = 0.9999964'
    """
    shown = []
    for row in rows:
        named = {name: value for name, value in row.items() if name not in kept and value is not None}
        values = [f"{name}\u00a0=\u00a0{_near_one(value)}" for name, value in named.items()]
        first = {name: row[name] for name in kept if name != "trials"}
        shown.append({**first, "tuned values": ", ".join(values), "trials": row["trials"]})
    return shown


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


def cells(rows: Sequence[Row], shown: Mapping[str, str] | None = None) -> list[list[str]]:
    """What a table says: headings, then the rows, numbers with three significant digits ("—" for nan, "∞" for inf).

    Args:
      rows: see the module.
      shown: heading → what a cell says, with columns in braces, as in :data:`SCORES_SHOWN`; a heading whose columns no
        row has is left out, a cell is empty where its row lacks any of the columns before the first "|", and what
        stands behind a "|" is left out where its row lacks any of its columns. None: each column as it is.

    Raises:
      TypeError: a cell that is no number, text or None.
      ValueError: no rows, or nothing of ``shown`` is in them.

    >>> rows = [{"name": "a", "mean": 8.86318, "std": 0.043}, {"name": "c", "mean": 1e-7, "std": None}]
    >>> cells(rows, {"name": "{name}", "mean ± std": "{mean}| ± {std}", "loss": "{loss}"})
    [['name', 'mean ± std'], ['a', '8.86 ± 0.043'], ['c', '1e-07']]
    """
    table = _Shown(rows, shown)
    return [list(table.heads), *([table.cell(row, head) for head in table.heads] for row in rows)]


def to_html(
    rows: Sequence[Row],
    shown: Mapping[str, str] | None = None,
    best: Mapping[str, str] | None = None,
    title: str = "",
    *,
    divergence_counted: bool = False,
) -> str:
    """Rows as an HTML table, which the book's script lets readers sort; the first column names the rows.

    Args:
      rows: see the module.
      shown: see :func:`cells`.
      best: column → "low" or "high": which of its values is the best, and is marked. A row with diverged runs is
        never marked, as a mean over the others flatters it.
      title: the table's caption; empty: none.
      divergence_counted: whether these values count a diverged run as the worst, so that such a row may be marked.

    Raises:
      TypeError: a cell that is no number, text or None.
      ValueError: no rows, or nothing of ``shown`` is in them.

    >>> table = to_html([{"name": "a", "loss": 2.0}, {"name": "<b>", "loss": 1.0}], best={"loss": "low"})
    >>> '<td class="number best" data-value="1.0"><b>1</b></td>' in table, "&lt;b&gt;" in table
    (True, True)
    """
    table, best = _Shown(rows, shown), best or {}
    eligible = [row for row in rows if divergence_counted or not row.get("diverged")]
    found = {head: _best(eligible, used[0], best[used[0]]) for head, used in table.heads.items() if used[0] in best}
    marked = {head: _short(head, value) for head, value in found.items() if value is not None}
    lines = []
    for row in rows:
        cells = []
        for place, head in enumerate(table.heads):
            text, value = html.escape(table.cell(row, head)), row.get(table.heads[head][0])
            is_best = head in marked and text != "" and text.split(" ")[0] == marked[head]
            is_best = is_best and any(row is one for one in eligible)
            text = f"<b>{text}</b>" if is_best else text
            kinds = " ".join(["number"] * table.is_number(head) + ["best"] * is_best)
            attributes = f' class="{kinds}"' if kinds else ""
            attributes += f' data-value="{_sorted_by(value)}"' if table.is_number(head) else ""
            opened, closed = ('th scope="row"', "th") if place == 0 else ("td", "td")
            cells.append(f"<{opened}{attributes}>{text}</{closed}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    aligned = {head: ' class="number"' if table.is_number(head) else "" for head in table.heads}
    heads = "".join(f'<th scope="col"{aligned[head]}>{html.escape(head)}</th>' for head in table.heads)
    body = "".join(lines)
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    inside = f"{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="lodo-table"><table>{inside}</table></div>'


class _Shown:
    """What the cells of a table say."""

    def __init__(self, rows: Sequence[Row], shown: Mapping[str, str] | None) -> None:
        _refuse_nothing(rows, "row")
        self.columns = _columns(rows)
        self.forms = shown
        if shown is None:
            self.heads = {column: [column] for column in self.columns}
        else:
            used = {head: _fields(form) for head, form in shown.items()}
            self.heads = {head: fields for head, fields in used.items() if set(fields) & set(self.columns)}
            if not self.heads:
                raise ValueError(f"Nothing of {', '.join(shown)} is in the rows; they have {', '.join(self.columns)}.")
        self.texts = {column for column in self.columns if any(isinstance(row.get(column), str) for row in rows)}

    def is_number(self, head: str) -> bool:
        """Whether a column is of numbers."""
        return set(self.heads[head]) <= set(self.columns) - self.texts

    def cell(self, row: Row, head: str) -> str:
        """The text of a cell."""
        if self.forms is None:
            return "" if row.get(head) is None else _short(head, row[head])
        said = []
        for segment in self.forms[head].split("|"):
            fields = _fields(segment)
            if any(row.get(column) is None for column in fields):
                break
            said.append(segment.format_map({column: _short(column, row[column]) for column in fields}))
        return "".join(said)


def _near_one(value: Any) -> str:
    """A hyperparameter; just below 1, where the distance from 1 is what matters, with two digits of that."""
    plain = _plain("", value)
    if isinstance(plain, float) and 0.9 < plain < 1:
        return f"{plain:.{1 - math.floor(math.log10(1 - plain))}f}".rstrip("0")
    return _short("", plain)


def _fields(form: str) -> list[str]:
    """The columns that a form names."""
    return [name for _, name, _, _ in string.Formatter().parse(form) if name]


def _best(rows: Sequence[Row], column: str, direction: str) -> float | None:
    """The best value of a column; None where there are fewer than two to choose from."""
    if direction not in ("low", "high"):
        raise ValueError(f'The best of column {column!r} must be "low" or "high"; got {direction!r}.')
    values = [row[column] for row in rows if row.get(column) is not None]
    values = [float(value) for value in values if not isinstance(value, str) and math.isfinite(value)]
    if len(values) < 2:
        return None
    return min(values) if direction == "low" else max(values)


def _sorted_by(value: Any) -> str:
    """What a browser sorts a cell by: a number of JavaScript's, or nothing."""
    plain = _plain("", value)
    if plain is None or (isinstance(plain, float) and math.isnan(plain)):
        return ""
    return repr(plain).replace("inf", "Infinity") if isinstance(plain, float) else str(float(plain))


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


def with_download(rows: Sequence[Row], filename: str, table: str) -> str:
    """A table's HTML, and below it a link to all of its rows and digits as CSV; see :func:`download`."""
    cue = '<span class="lodo-table-cue">Scroll the table for more. </span>'
    return f'{table}<p class="lodo-table-note">{cue}{download(rows, filename).data}</p>'


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
        return " ".join(plain.split())
    if not isinstance(plain, float):
        return str(plain)
    if math.isnan(plain):
        return "—"
    if math.isinf(plain):
        return "∞" if plain > 0 else "-∞"
    # Three digits, but 214000 instead of 2.14e+05: most rates and times are below a million.
    return f"{float(f'{plain:.3g}'):.6g}"
