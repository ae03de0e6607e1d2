"""Records: what a run produced, in one small file that can be checked, and that says where it came from.

A record is a ``.npz`` file (arrays only, read with ``allow_pickle=False``) with one more entry: a JSON text that holds
the record's kind, its provenance, its scalars, and a SHA-256 digest over all of it and every array. NumPy alone has no
such digest, and a pickle would run what it holds.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lodo_experiments.utils.atomic_files import open_atomically

FORMAT = "lodo-record"
VERSION = 1
_HEADER = "__record__"
_PACKAGES = ("lodo", "jax", "jaxlib", "optax", "flax", "numpy")


class RecordError(RuntimeError):
    """A record that is missing, damaged, or no record of this project."""


class StorageError(RecordError):
    """A record that cannot be written: the disk is full, or its folder may not be written to."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> StorageError:
        """The error for a file that could not be written, with what to do about it."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "Make room there; then the same command goes on from what is kept."
        else:
            advice = "Choose a folder that can be written to: --results-dir, results_dir or LODO_RESULTS."
        return cls(f"{path} cannot be written: {error.strerror or error}. {advice}")


@dataclass(frozen=True)
class Record:
    """What a run produced."""

    kind: str  # what it is a record of, e.g. "noisy_bowl/LODO".
    arrays: Mapping[str, np.ndarray]  # named arrays of numbers, booleans or fixed-width text
    # named JSON values (hyperparameters, scores, seeds); floats may be nan or infinite
    values: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # see :func:`provenance`

    def digest(self, with_provenance: bool = True) -> str:
        """SHA-256 over names, types, shapes and bytes; without the provenance, over the results alone."""
        content: dict[str, Any] = {"kind": self.kind, "values": _plain(self.values)}
        if with_provenance:
            content["provenance"] = _plain(self.provenance)
        sha = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            sha.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
            sha.update(array.tobytes())
        return sha.hexdigest()


def provenance(
    command: str, *, preset: str, seeds: Any, wall_seconds: float, compile_seconds: float, **more: Any
) -> dict[str, Any]:
    """Where a result comes from: command, commit, device, versions, preset, seeds, times, date.

    Args:
      command: what a reader would type to compute it again.
      preset: smoke, laptop, desktop or paper.
      seeds: the runs' seeds, ints.
      wall_seconds: synchronised time of the runs, compilation left out.
      compile_seconds: time spent compiling, or loading what the compilation cache had.
      **more: further JSON values, such as a data set's fingerprint, or ``programs_from_cache``: how many programs were
        loaded instead of compiled, without which ``compile_seconds`` would say too little.
    """
    import jax

    device = jax.devices()[0]
    return {
        "command": command,
        "commit": commit(),
        "device": f"{device.platform}: {device.device_kind}, {os.cpu_count()} CPU cores",
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version_of(name) for name in _PACKAGES},
        "preset": preset,
        "seeds": _plain(seeds),
        "wall_seconds": round(float(wall_seconds), 3),
        "compile_seconds": round(float(compile_seconds), 3),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: _plain(value) for name, value in more.items()},
    }


def save(path: str | os.PathLike[str], record: Record, *, compress: bool = True) -> Path:
    """Write a record to a ``.npz`` file, whole or not at all, making its folder where needed.

    Large arrays of noise are written faster without ``compress``.

    Raises:
      TypeError: an array of objects, or a value that JSON cannot hold.
      ValueError: a path that does not end in ``.npz``.
      StorageError: the disk is full, or the folder may not be written to; what was there before is untouched.
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"A record's file name must end in .npz; got {target.name!r}.")
    for name, array in record.arrays.items():
        if name == _HEADER or not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise ValueError(f"A record's array cannot be named {name!r}; use letters, digits, '_', '.' and '-'.")
        if np.asarray(array).dtype.kind not in "biufUS":
            raise TypeError(
                f"Array {name!r} has dtype {np.asarray(array).dtype}; a record holds numbers, booleans and fixed-width "
                "text only."
            )
    record = Record(record.kind, {k: np.asarray(v) for k, v in record.arrays.items()}, record.values, record.provenance)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": record.kind,
        "values": _plain(record.values),
        "provenance": _plain(record.provenance),
        "arrays": sorted(record.arrays),
        "sha256": record.digest(),
    }
    entries: dict[str, Any] = {_HEADER: np.array(json.dumps(header, sort_keys=True)), **record.arrays}
    try:
        with open_atomically(target) as file:
            (np.savez_compressed if compress else np.savez)(file, **entries)
    except OSError as error:
        raise StorageError.of(target, error) from error
    return target


def load(path: str | os.PathLike[str], kind: str | None = None) -> Record:
    """Read a record and check every byte of it, and that it is one of that kind; None takes any.

    Raises:
      RecordError: missing, truncated, changed, foreign, of another version, or of another kind; the message names the
        file and says how to get it anew.
    """
    source = Path(path)
    again = "Remove it and run the notebook or batch that makes it again."
    try:
        # Not np.load: that reads other files than archives too.
        with open(source, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as stored:
            header = json.loads(str(stored[_HEADER][()])) if _HEADER in stored.files else None
            arrays = {name: stored[name] for name in stored.files if name != _HEADER}
    except FileNotFoundError:
        raise RecordError(f"There is no record {source}. Run the notebook or batch that makes it.") from None
    # RuntimeError: zipfile's, for an entry whose flags call it encrypted.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{source} is damaged or no record: {error}. {again}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RecordError(f"{source} is no record of this project. {again}")
    if header.get("version") != VERSION:
        raise RecordError(f"{source} has format version {header.get('version')!r}; this code reads {VERSION}. {again}")
    try:
        record = Record(header["kind"], arrays, _revive(header["values"]), _revive(header["provenance"]))
        intact = record.digest() == header["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{source} has an incomplete header: {error!r}. {again}") from error
    if not intact:
        raise RecordError(f"{source} was changed after it was written: its checksum does not match. {again}")
    if kind is not None and record.kind != kind:
        raise RecordError(f"{source} is a record of {record.kind!r}; expected {kind!r}. {again}")
    return record


def refuse_when_redrawing(path: Path) -> None:
    """Refuses to compute a record where the environment says by LODO_REDRAW to draw from those there are.

    Raises:
      RecordError: LODO_REDRAW is set.
    """
    if os.environ.get("LODO_REDRAW"):
        raise RecordError(
            f"{path} is not there, answers another question (at smoke), or holds too few runs, and LODO_REDRAW says to "
            "compute nothing. Choose a preset whose records are all there (`make status` says which are), or unset it."
        )


def describe(record: Record) -> str:
    """One line for people: what it is, its score where it has one, and where it comes from.

    >>> describe(Record("bowl/LODO", {"scores": np.array([1.0, 3.0])}, {}, {"preset": "smoke", "commit": "unknown"}))
    'bowl/LODO: 2 ± 1.4 (2 runs, 0 diverged); preset smoke, commit unknown'
    """
    score = ""
    if "scores" in record.arrays:
        finite = record.arrays["scores"][np.isfinite(record.arrays["scores"])]
        spread = f" ± {finite.std(ddof=1):.2g}" if len(finite) > 1 else ""
        runs = len(record.arrays["scores"])
        score = f": {finite.mean():.4g}{spread}" if len(finite) else ": no run ended"
        score += f" ({runs} runs, {runs - len(finite)} diverged)"
    origin = [f"{record.provenance[name]}" for name in ("device", "date") if name in record.provenance]
    commit = str(record.provenance.get("commit", "unknown"))[:12]
    return f"{record.kind}{score}; " + ", ".join(
        [f"preset {record.provenance.get('preset', 'unknown')}", *origin, f"commit {commit}"]
    )


def main(arguments: list[str] | None = None) -> int:
    """``python -m lodo_experiments.results.records FILE…``: check records and say what they hold.

    Returns:
      0, or 1 where any of them is refused.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.results.records", description="Check and show records."
    )
    parser.add_argument("file", nargs="+", type=Path, help="a record, or a folder of them")
    refused = 0
    for given in parser.parse_args(arguments).file:
        for path in sorted(given.rglob("*.npz")) if given.is_dir() else [given]:
            try:
                print(describe(load(path)))
            except RecordError as error:
                print(f"refused: {error}", file=sys.stderr)
                refused += 1
    return 1 if refused else 0


def _plain(value: Any) -> Any:
    """A JSON value; floats that JSON lacks become {"float": "nan"} and the like."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A record's value cannot be a {type(value).__name__}: {value!r}. Use numbers, texts and lists.")


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {name: _revive(entry) for name, entry in value.items()}
    return [_revive(entry) for entry in value] if isinstance(value, list) else value


def version_of(package: str) -> str:
    """An installed package's version, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The checkout's commit, "+changes" where files differ from it, or "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown"
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", "lodo", "lodo_experiments") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
