"""Keeps what the theory's notebooks compute: one record for each part, computed once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lodo_experiments.results import locks, records
from lodo_experiments.results.records import Record, RecordError
from lodo_experiments.studies.run_records import is_current
from lodo_experiments.utils import compilation_cache, environment


class Computed(NamedTuple):
    """What a part's computation hands over."""

    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any]
    compile_seconds: float = 0.0


class NotKept(LookupError):
    """A record is not there, and the results are only to be looked at."""


@dataclass(frozen=True)
class Results:
    """Where the records of a notebook are, and what they were asked for.

    Attributes:
      experiment: name of the notebook, e.g. "learning_dynamics".
      preset: smoke, laptop or paper.
      folder: where the records are: ``folder/preset/experiment/part.npz``.
      command: what a reader would type to compute them again.
      look: whether to compute nothing, and to raise :class:`NotKept` instead.
    """

    experiment: str
    preset: str
    folder: Path
    command: str
    look: bool = False

    def kept(self, part: str, settings: Mapping[str, Any], seeds: list[int], compute: Callable[[], Computed]) -> Record:
        """The stored record of a part where it answers the same question, else a new one, stored.

        At the preset ``smoke`` a record of other code is computed again. The others are kept where their settings are
        the same; ``make replay`` says whether today's code still computes the same numbers.

        Args:
          part: name of the part.
          settings: JSON values that decide its numbers.
          seeds: the seeds of its random draws.
          compute: does it.

        Returns:
          The record as it was stored.

        Raises:
          RecordError: a record that is damaged, foreign, or made with other settings (except at ``smoke``).
          NotKept: it would have to be computed, and the results are only to be looked at.
        """
        path = self.folder / self.preset / self.experiment / f"{part}.npz"
        kind, wanted = f"{self.experiment}/{part}", json.loads(json.dumps(settings))
        record = self._answer(path, kind, wanted)
        if record is not None:
            return record
        if self.look:
            raise NotKept(f"{path} is not there, or was made by other code.")
        records.refuse_when_redrawing(path)
        with locks.held(path):
            record = self._answer(path, kind, wanted)  # another process may have made it while this one waited
            return record if record is not None else self._made(path, kind, settings, seeds, compute)

    def _answer(self, path: Path, kind: str, wanted: Mapping[str, Any]) -> Record | None:
        """The stored record where it answers the same question; None where it is to be computed."""
        if not path.exists():
            return None
        record = records.load(path, kind)
        same = record.values.get("settings") == wanted
        if same and (self.preset != "smoke" or is_current(record)):
            return record
        if self.preset != "smoke" and not os.environ.get("LODO_RECOMPUTE"):
            raise RecordError(
                f"{path} was made with the settings {record.values.get('settings')}; asked for are {wanted}. Use "
                "another results folder, or set LODO_RECOMPUTE=1 to replace it."
            )
        return None

    def _made(
        self, path: Path, kind: str, settings: Mapping[str, Any], seeds: list[int], compute: Callable[[], Computed]
    ) -> Record:
        environment.library()  # read now: the files may be edited while it computes
        started, loaded = time.perf_counter(), compilation_cache.loaded()
        found = compute()
        stated = records.provenance(
            self.command,
            preset=self.preset,
            seeds=seeds,
            wall_seconds=time.perf_counter() - started - found.compile_seconds,
            compile_seconds=found.compile_seconds,
            programs_from_cache=compilation_cache.loaded() - loaded,
            library=environment.library(),
        )
        records.save(path, Record(kind, found.arrays, {**found.values, "settings": settings}, stated))
        return records.load(path, kind)

    def stored(self, preset: str) -> dict[str, Record]:
        """What the results folder holds of a preset, by part, nothing computed; empty where there is nothing.

        Raises:
          RecordError: a record that is damaged or foreign.
        """
        folder = self.folder / preset / self.experiment
        return {
            path.stem: records.load(path, f"{self.experiment}/{path.stem}") for path in sorted(folder.glob("*.npz"))
        }


def require_double_precision() -> None:
    """Refuses to go on without 64-bit types.

    Raises:
      RuntimeError: JAX is in 32-bit mode.
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise RuntimeError(
            "The theory's checks need double precision, and JAX is in 32-bit mode. Call "
            'jax.config.update("jax_enable_x64", True) before any array is made.'
        )
