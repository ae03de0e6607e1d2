"""Whether what a record or an executed notebook was made from has changed since, and what of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodo_experiments.results.records import Record
from lodo_experiments.studies.provenance import history, keys
from lodo_experiments.studies.provenance.sources import Sources

FRESH, STALE, UNKNOWN = "fresh", "stale", "not known"

#: Entries of a notebook's key that are one number, or one for each name → how to say that they changed.
_SAID = {
    "parameters": "parameter ",
    "versions": "",
    "flags": "",
    "records": "records of ",
    "data": "data set ",
}


@dataclass(frozen=True)
class Verdict:
    """Whether a result is still what the project would compute now.

    Attributes:
      state: "fresh"; "stale"; "not known", where what it was made from cannot be told.
      reasons: what changed, a phrase each; for "not known" why.
      note: how it is known, where that is not by the result's own key.
    """

    state: str
    reasons: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        return self.state + (f": {'; '.join(self.reasons)}" if self.reasons else "")

    def short(self, shown: int = 3) -> str:
        """As text, with so many reasons at most.

        >>> Verdict("stale", ("a changed", "b changed", "c changed")).short(1)
        'stale: a changed; and 2 more'
        """
        more = len(self.reasons) - shown
        some = (*self.reasons[:shown], *([f"and {more} more"] if more > 0 else []))
        return str(Verdict(self.state, some))


def verdict(
    record: Record,
    *,
    settings: Mapping[str, Any] | None = None,
    dataset: str = "",
    sources: Sources | None = None,
) -> Verdict:
    """Whether a record is still valid: its code, versions, settings and data against those of now.

    A record that was made before keys were kept is compared by the commit that its provenance names, where this
    checkout's history has that commit: the definitions that compute it now against the same ones there. A device is no
    part of this: what was made on a GPU is not stale on a laptop.

    Args:
      record: as loaded.
      settings: what its settings would be if it were made now; None: not compared.
      dataset: SHA-256 of its data set as it is now; empty: not compared.
      sources: the library; None: the one that is running.

    Returns:
      The verdict. A record that was made in several parts is as stale as its stalest.
    """
    sources = sources or keys.library_sources()
    stated = record.provenance
    made = zip(stated.get("parts") or [stated], keys.keys_of_parts(stated), strict=True)
    parts = [_of_part(record.kind, part, key, sources) for part, key in made]
    reasons = list(dict.fromkeys(reason for part in parts if part.state == STALE for reason in part.reasons))
    if settings is not None:
        stored = record.values.get("settings") or {}
        reasons += keys.value_changes("", _plain(stored), _plain(settings), ignored=("seeds",))
    if dataset and stated.get("dataset_sha256", dataset) != dataset:
        reasons.append("the data set changed")
    note = "; ".join(dict.fromkeys(part.note for part in parts if part.note))
    if reasons:
        return Verdict(STALE, tuple(reasons), note)
    unknown = tuple(dict.fromkeys(reason for part in parts if part.state == UNKNOWN for reason in part.reasons))
    return Verdict(UNKNOWN, unknown, note) if unknown else Verdict(FRESH, (), note)


def _of_part(kind: str, stated: Mapping[str, Any], key: Mapping[str, Any] | None, sources: Sources) -> Verdict:
    used = keys.record_code(kind, sources)
    now = keys.versions_of(used)
    if key is not None:
        reasons = keys.code_changes(key["code"], used.code) + keys.value_changes("", key["versions"], now)
        return Verdict(STALE, tuple(reasons)) if reasons else Verdict(FRESH)

    commit = str(stated.get("commit", "unknown"))
    note = f"made before keys were kept; commit {commit[:12]}{'+changes' if '+' in commit else ''}"
    versions = stated.get("versions", {})
    reasons = keys.value_changes("", {name: versions.get(name, "absent") for name in now}, now)
    since = _changes_since(commit, kind, sources)
    if since is not None:
        reasons = [*since, *reasons]
    if reasons:
        return Verdict(STALE, tuple(reasons), note)
    if since is None:
        return Verdict(UNKNOWN, (_why_unknown(commit),), note)
    return Verdict(FRESH, (), note)


@functools.lru_cache(maxsize=4096)
def _changes_since(commit: str, kind: str, sources: Sources) -> tuple[str, ...] | None:
    """How the code that computes a kind of record has changed since a commit; None where that cannot be known."""
    then = None if "+" in commit or commit == "unknown" else history.sources_at(commit)
    if then is None:
        return None
    # Only what computes it now is looked up there: what it used then and no longer does has left a change in its user.
    code = keys.record_code(kind, sources).code
    there = {name: then.definition(name).digest for name in code if then.has(name)}
    return tuple(keys.code_changes(there, code))


def _why_unknown(commit: str) -> str:
    if "+" in commit:
        return "it was made from changes that had not been committed"
    if commit == "unknown":
        return "it was made outside of a checkout"
    return "its commit is not in this folder's history"


def page_verdict(source: Path, executed: Path, sources: Sources | None = None) -> Verdict:
    """Whether an executed notebook is still what executing it now would give.

    Args:
      source: the clean notebook.
      executed: the executed one.
      sources: the library; None: the one that is running.
    """
    try:
        stated = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["lodo"]
        key, parameters = stated.get("key"), stated["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return Verdict(UNKNOWN, ("there is no executed notebook",))
    if key is None:
        return Verdict(UNKNOWN, ("it was executed before keys were kept",))
    reasons = page_changes(key, keys.notebook_key(source, parameters, sources))
    return Verdict(STALE, tuple(reasons)) if reasons else Verdict(FRESH)


def page_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two keys of a notebook differ, a phrase for each difference.

    >>> page_changes({"notebook": "1", "code": {}}, {"notebook": "2", "code": {}, "records": {"rosenbrock": "1"}})
    ['the notebook itself changed', 'records of rosenbrock are new']
    """
    found = ["the notebook itself changed"] if then.get("notebook") != now.get("notebook") else []
    found += keys.code_changes(then.get("code", {}), now.get("code", {}))
    for name, said in _SAID.items():
        before, after = then.get(name, {}), now.get(name, {})
        if name in ("records", "data"):
            for entry in sorted({*before, *after}):
                if before.get(entry) != after.get(entry):
                    how = "are new" if entry not in before else "are gone" if entry not in after else "changed"
                    found.append(f"{said}{entry} {how}")
        else:
            found += keys.value_changes(said, before, after)
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
