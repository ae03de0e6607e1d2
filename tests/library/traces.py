"""Parity traces: recordings of the authors' released code, read where they are present.

The recordings are no part of this repository.  They are looked for in the folder that the environment
variable ``LODO_PARITY_DIR`` names, else in ``../shared/reference/parity`` beside the repository.  Where
neither is there, the tests that need them are skipped, with the reason.  A folder that is there but lacks
a file is an error.

    trace = traces.load("adam_active_quad_n7")      # skips the test when there are no recordings
    trace["x"], trace.number("hp_lr"), trace.loss(x, t), trace.gradient(x, t)
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ENVIRONMENT_VARIABLE = "LODO_PARITY_DIR"
# The classes of the released code that learn during optimization; every other recording is a baseline's.
LODO_FAMILY = ("lodo", "lodosgd", "diagonal", "global", "residuals8")


def folder() -> Path | None:
    """The folder of recordings, or None where there is none."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_dir():
            raise FileNotFoundError(f"{ENVIRONMENT_VARIABLE}={named} is not a folder; correct it or unset it")
        return path
    path = Path(__file__).resolve().parents[3] / "shared" / "reference" / "parity"
    return path if path.is_dir() else None


def required_folder() -> Path:
    """The folder of recordings; skips the calling test where there is none."""
    path = folder()
    if path is None:
        pytest.skip(
            "no parity recordings: ../shared/reference/parity is absent and "
            f"{ENVIRONMENT_VARIABLE} is not set, so nothing was compared with the released code"
        )
    return path


def available() -> list[str]:
    """Names of all recordings present (skips where there is no folder)."""
    return sorted(path.stem for path in required_folder().glob("*.npz"))


def is_lodo_family(name: str) -> bool:
    """Whether a recording is of LODO or an ablation of it (else: of a baseline)."""
    return name.split("_")[0] in LODO_FAMILY


@dataclass(frozen=True)
class Trace(Mapping[str, np.ndarray]):
    """One recording: its arrays by key, and the problem it was recorded on."""

    name: str
    arrays: dict[str, np.ndarray]

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise KeyError(f"{self.name} has no {key!r}; it has {sorted(self.arrays)}")
        return self.arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def number(self, key: str) -> float:
        """A scalar entry as a Python float."""
        return float(self[key])

    def integer(self, key: str) -> int:
        """A scalar entry as a Python int."""
        return int(self[key])

    def family(self, prefix: str) -> list[np.ndarray]:
        """Entries ``prefix0``, ``prefix1``, ... in order (e.g. ``weights_init_``)."""
        out = []
        while f"{prefix}{len(out)}" in self.arrays:
            out.append(self.arrays[f"{prefix}{len(out)}"])
        if not out:
            raise KeyError(f"{self.name} has no entries {prefix}0, {prefix}1, ...")
        return out

    @property
    def is_rosenbrock(self) -> bool:
        """Whether it was recorded on Rosenbrock's function (else: on moving quadratics)."""
        return "H" not in self.arrays

    @property
    def batches(self) -> np.ndarray:
        """The batch (row of `centres`) at which evaluation e was made. [E]"""
        if "new_batch" in self.arrays:
            return np.cumsum(self["new_batch"]) - 1
        return np.arange(len(self["x"]))

    def loss(self, x, t):
        """l_t(x), for numpy and JAX arrays alike; t numbers the batches (rows of `centres`)."""
        if self.is_rosenbrock:
            return 0.01 * (1.0 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2
        d = x - self["centres"][t]
        return 0.5 * d @ (self["H"] @ d)

    def gradient(self, x: np.ndarray, t) -> np.ndarray:
        """The gradient of l_t at x in closed form (numpy)."""
        if self.is_rosenbrock:
            r = x[1] - x[0] ** 2
            return np.array([-0.02 * (1.0 - x[0]) - 4.0 * x[0] * r, 2.0 * r])
        return self.hessian @ (x - self["centres"][t])

    @property
    def hessian(self) -> np.ndarray:
        """The quadratics' Hessian, symmetric to the last bit. [n, n]"""
        return 0.5 * (self["H"] + self["H"].T)


def load(name: str) -> Trace:
    """Reads one recording; skips the calling test where there are none at all."""
    path = required_folder() / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though its folder is there")
    with np.load(path, allow_pickle=False) as stored:
        return Trace(name, {key: stored[key] for key in stored.files})


def relative_error(actual, desired) -> float:
    """max |actual − desired| / max |desired|: the error relative to the largest entry."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    if actual.shape != desired.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {desired.shape}")
    return float(np.max(np.abs(actual - desired)) / np.max(np.abs(desired)))
