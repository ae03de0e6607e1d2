"""What is compared: LODO, its plain restatement, Adam, and other optimizers that learn curvature, where installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lodo
from benchmarks.speed.autodiff import arranged_product, lodo_by_autodiff
from lodo.operators import BlockPermutation
from lodo.operators._native import build
from lodo_experiments.analysis.step_times import (
    ARRANGED,
    AUTODIFF,
    CALL,
    COMPACT,
    NATIVE,
    NATIVE_ROLLED,
    OURS,
    RELATIVE,
    RELATIVE_NATIVE,
    ROLLED,
    SCAN,
)
from lodo_experiments.results.records import version_of

#: A rate at which θ hardly moves: what is timed stays finite, and does not depend on what is learned.
META_RATE = 1e-6


@dataclass(frozen=True)
class Form:
    """An optimizer as it is timed.

    Attributes:
      name: in the table.
      build: → transformation.
      matrix: whether its parameters are a near-square matrix of n entries instead of a vector.
      dtypes: in which it is measured.
      ways: one step a call, or many in a scan, or both.
      largest: n up to which it is measured.
      needs: the package that it comes from, where that is no dependency of the project.
      floored: the optimizer of ours whose whole state it keeps, so that the floor of that is under its step; or None.
      native: whether it needs the C++ kernels.
    """

    name: str
    build: Callable[[], optax.GradientTransformation]
    matrix: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")
    ways: tuple[str, ...] = (CALL, SCAN)
    largest: int = 10**6
    needs: str = ""
    floored: Callable[..., Any] | None = None
    native: bool = False

    def missing(self) -> str:
        """Why it cannot be measured here; empty where it can."""
        if self.needs and find_spec(self.needs) is None:
            return "not installed"
        if self.native:
            if jax.default_backend() != "cpu":
                return "for CPUs"
            try:
                build.find_compiler()
            except RuntimeError as error:
                return str(error)
        try:
            self.build()
        except ImportError:
            return f"installed, but cannot be imported beside optax {version_of('optax')}"
        return ""


def _kron() -> optax.GradientTransformation:
    from psgd_jax.kron import kron

    # Every step updates the preconditioner; the package's own schedule makes that rarer as a run goes on.
    return kron(learning_rate=1e-3, preconditioner_update_probability=1.0)


def _by(**arguments: str) -> optax.GradientTransformation:
    return lodo.lodo(meta_learning_rate=META_RATE, operator=BlockPermutation(**arguments))


def _relative(kernel: str = "xla") -> optax.GradientTransformation:
    return lodo.rlodo(META_RATE, operator=BlockPermutation(32, padding=False, kernel=kernel))


SINGLE = ("float32",)
FORMS = (
    Form(OURS, _by, floored=lodo.lodo),
    Form(ROLLED, lambda: _by(permutations="rolled"), dtypes=SINGLE, floored=lodo.lodo),
    Form(NATIVE, lambda: _by(kernel="native"), floored=lodo.lodo, native=True),
    Form(
        NATIVE_ROLLED,
        lambda: _by(kernel="native", permutations="rolled"),
        dtypes=SINGLE,
        ways=(SCAN,),
        floored=lodo.lodo,
        native=True,
    ),
    Form(COMPACT, lambda: lodo.lodo(meta_learning_rate=META_RATE, storage="compact"), dtypes=SINGLE, ways=(SCAN,)),
    Form(RELATIVE, _relative, dtypes=SINGLE, floored=lodo.rlodo),
    Form(RELATIVE_NATIVE, lambda: _relative("native"), dtypes=SINGLE, floored=lodo.rlodo, native=True),
    Form(AUTODIFF, lambda: lodo_by_autodiff(alpha=META_RATE), dtypes=SINGLE, ways=(SCAN,), largest=94_696),
    Form(ARRANGED, lambda: lodo_by_autodiff(alpha=META_RATE, product=arranged_product), dtypes=SINGLE, ways=(SCAN,)),
    Form("optax.adam", lambda: optax.adam(1e-3)),
    Form("optax.contrib.muon", lambda: optax.contrib.muon(1e-3), matrix=True, dtypes=SINGLE),
    Form("optax.lbfgs, no line search", lambda: optax.lbfgs(0.1, memory_size=10, linesearch=None), dtypes=SINGLE),
    Form("psgd_jax.kron", _kron, matrix=True, dtypes=SINGLE, needs="psgd_jax"),
)


def near_square(n: int) -> tuple[int, int]:
    """The factors of n that are nearest to each other.

    >>> near_square(94_696)
    (266, 356)
    """
    rows = next(r for r in range(int(n**0.5), 0, -1) if n % r == 0)
    return rows, n // rows


def make_step(form: Form) -> Callable[[Any, Any, Any], Any]:
    """(carry, base, scalar) → carry: one step of the optimizer on the gradient x + scalar · base.

    A carry is (parameters x, optimizer state). The gradient is that of a noisy bowl with H = I and costs two operations
    an entry, so that what is timed is the optimizer; the parameters move, so that nothing can be left out.
    """
    transformation = form.build()

    def step(carry: Any, base: Any, scalar: jax.Array) -> Any:
        x, state = carry
        update, state = transformation.update(x + scalar * base, state, x)
        return optax.apply_updates(x, update), state

    return step


def start(form: Form, n: int, dtype: Any) -> tuple[Any, jax.Array]:
    """The carry to start from, and the base gradient."""
    shape = near_square(n) if form.matrix else (n,)
    x = jnp.zeros(shape, dtype)
    state = jax.jit(form.build().init)(x)
    return (x, state), jax.random.normal(jax.random.key(1), shape, dtype)
