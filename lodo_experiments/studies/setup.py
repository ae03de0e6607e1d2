"""What an experiment computes: a training's task and how its runs are prepared, or parts that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lodo_experiments.results.training_run import Run
from lodo_experiments.tasks.base import Task


class DataOptions(NamedTuple):
    """Where data sets are, and whether a missing one may be downloaded."""

    data_dir: str = ""  # folder of the data sets; empty: the default place
    download: bool = False  # whether a missing data set may be downloaded


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What training needs beside its preset."""

    task: Task  # what to minimize
    # (task, run) → arrays to store with the runs, such as samples from the trained models
    after: Callable[[Task, Run], Mapping[str, np.ndarray]] | None = None
    # optimizer states of all runs, as they start → those to start from instead
    prepare: Callable[[Any], Any] | None = None
    # further facts for the provenance, such as the data set's fingerprint, ``dataset_sha256``
    facts: Mapping[str, Any] = field(default_factory=dict)
    lanes: int = 0  # how many seeds or trials to run side by side in one program; 0: all
    memory: int = 0  # bytes that the programs may take, which bounds the lanes further; 0: no bound
    chunk: int = 100  # steps between two reports of progress
    tuning_seed: int = 0  # of the search for hyperparameters


class Computed(NamedTuple):
    """What the computation of a part returns."""

    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any]
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Part:
    """One record of an experiment that trains nothing by itself."""

    settings: Mapping[str, Any]  # JSON values that decide its numbers
    seeds: Sequence[int]  # of its random draws
    compute: Callable[[], Computed]  # computes it
    # the record's values → some of its arrays computed alone, in single precision, for a replay of a part that takes
    # long; None: the whole part is computed again
    beginning: Callable[[Mapping[str, Any]], Computed] | None = None
