"""A step's time at one n and dtype: one step a call and many inside a scan, all forms and the memory in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lodo
from benchmarks.speed.bandwidth import Bandwidth
from benchmarks.speed.forms import Form, make_step, start
from benchmarks.turns import Samples, Timed, take_turns
from lodo import diagnostics
from lodo_experiments.analysis.step_times import CALL, NATIVE, OURS, SCAN

Row = dict[str, Any]


@dataclass(frozen=True)
class Amount:
    """How much is measured at one n.

    Attributes:
      n: parameters.
      scan: steps inside one scan.
      calls: steps, one a call, in one sample.
      turns: samples of each.
      budget: seconds that one form's samples may take in all; a slower form takes part in fewer turns, at least two.
    """

    n: int
    scan: int
    calls: int
    turns: int
    budget: float


AMOUNTS = (
    Amount(100, 500, 50, 25, 8),
    Amount(10_000, 20, 10, 25, 8),
    Amount(94_696, 4, 2, 21, 15),
    Amount(1_000_000, 2, 1, 7, 20),
)
QUICK = (Amount(100, 5, 2, 3, 1),)

#: A form of which one sample takes longer than this, in seconds, is left out, and the table says so.
LONGEST_SAMPLE = 25.0


class Prepared:
    """One form at one n and dtype: compiled, with its carry; what it took to get there is in ``cost``."""

    def __init__(self, form: Form, amount: Amount, dtype: Any) -> None:
        self.form, self.amount = form, amount
        step = make_step(form)

        def many(carry: Any, base: Any, scalars: jax.Array) -> Any:
            return jax.lax.scan(lambda c, s: (step(c, base, s), None), carry, scalars)[0]

        shapes = jax.eval_shape(lambda: start(form, amount.n, dtype))
        scalars = 0.5 + np.random.default_rng(0).random(amount.scan)
        signs = np.where(np.arange(amount.scan) % 2, -1.0, 1.0)
        self._scalars = jnp.asarray(scalars * signs, dtype)
        self._programs, self.cost = {}, {}
        for way in form.ways:
            function, scalar = (step, self._scalars[0]) if way == CALL else (many, self._scalars)
            began = time.perf_counter()
            lowered = jax.jit(function, donate_argnums=0).lower(*shapes, scalar)
            traced = time.perf_counter()
            self._programs[way] = lowered.compile()
            compiled = time.perf_counter()
            memory = self._programs[way].memory_analysis()
            self.cost[way] = {
                "trace_seconds": traced - began,
                "compile_seconds": compiled - traced,
                "state_bytes": _bytes(shapes[0]),
                "temporary_bytes": None if memory is None else int(memory.temp_size_in_bytes),
                "peak_bytes": None if memory is None else _peak(memory),
            }

    @property
    def peak_bytes(self) -> int:
        """Of the larger program, as XLA counts them before anything is allocated."""
        return max(cost["peak_bytes"] or cost["state_bytes"] for cost in self.cost.values())

    def allocate(self, dtype: Any) -> None:
        """Make the carry, and run each program once."""
        began = time.perf_counter()
        self.carry, self._base = jax.block_until_ready(start(self.form, self.amount.n, dtype))
        seconds = {"start_seconds": time.perf_counter() - began}
        for way in self.form.ways:
            began = time.perf_counter()
            jax.block_until_ready(self._run(way))
            seconds["first_seconds"] = time.perf_counter() - began
            # The first run asks for memory that later ones find; where it takes long, that hardly matters.
            seconds["second_seconds"] = seconds["first_seconds"]
            if seconds["first_seconds"] < 1:
                began = time.perf_counter()
                jax.block_until_ready(self._run(way))
                seconds["second_seconds"] = time.perf_counter() - began
            self.cost[way] |= seconds

    @property
    def sample_seconds(self) -> float:
        """Of the slower way."""
        return max(cost["second_seconds"] * self._runs(way) for way, cost in self.cost.items())

    def _runs(self, way: str) -> int:
        """How many runs of its program one sample of a way is."""
        return self.amount.calls if way == CALL else 1

    def _run(self, way: str) -> Any:
        scalar = self._scalars[0] if way == CALL else self._scalars
        self.carry = self._programs[way](self.carry, self._base, scalar)
        return self.carry

    def timed(self) -> dict[str, Timed]:
        def calls() -> Any:
            for _ in range(self.amount.calls):
                self._run(CALL)
            return self.carry

        entries = {}
        for way in self.form.ways:
            call, steps = (calls, self.amount.calls) if way == CALL else (lambda: self._run(SCAN), self.amount.scan)
            sample = self.cost[way]["second_seconds"] * self._runs(way)
            turns = max(2, min(self.amount.turns, int(self.amount.budget / max(sample, 1e-9))))
            entries[f"{self.form.name}: {way}"] = Timed(call, steps, turns)
        return entries

    def check(self) -> None:
        """Refuse figures of a run that went wrong."""
        x = self.carry[0]
        if not bool(jnp.all(jnp.isfinite(x))):
            raise RuntimeError(f"{self.form.name} at n = {self.amount.n} ended at parameters that are not finite.")


def measure(forms: Sequence[Form], amount: Amount, dtype: Any, memory_limit: float, elements: int) -> list[Row]:
    """The rows of one n and dtype.

    Args:
      forms: what is compared.
      amount: how much.
      dtype: of parameters and state.
      memory_limit: bytes that all forms together may take.
      elements: float32 numbers in each of the arrays that measure the bandwidth.

    Returns:
      A row for each form and way, and one for each kernel of the bandwidth; for a form that is left out, one that
      says why.
    """
    rows: list[Row] = []
    about = {"n": amount.n, "dtype": jnp.dtype(dtype).name}
    ready: list[Prepared] = []
    bandwidth = Bandwidth(elements)
    # The bandwidth's three arrays live beside the states.
    taken = 3 * 4 * elements
    for form in (form for form in forms if about["dtype"] in form.dtypes):
        if reason := form.missing():
            rows.append({**about, "form": form.name, "left_out": reason})
            continue
        if amount.n > form.largest:
            rows.append({**about, "form": form.name, "left_out": f"measured up to n = {form.largest:,}, as it is slow"})
            continue
        prepared = Prepared(form, amount, dtype)
        if taken + prepared.peak_bytes > memory_limit:
            needed = f"needs {prepared.peak_bytes / 2**30:.1f} GiB beside the others'"
            rows.append({**about, "form": form.name, "left_out": needed, "ways": prepared.cost})
            if form.name == OURS:
                return rows  # there is nothing to compare the others with
            continue
        prepared.allocate(dtype)
        if form.name != OURS and prepared.sample_seconds > LONGEST_SAMPLE:
            reason = f"a sample took {prepared.sample_seconds:.0f} s"
            rows.append({**about, "form": form.name, "left_out": reason, "ways": prepared.cost})
            continue
        taken += prepared.peak_bytes
        ready.append(prepared)
    entries = dict(bandwidth.timed())
    for prepared in ready:
        entries |= prepared.timed()
    samples = take_turns(entries, amount.turns, warm_up=0)
    fastest = {name: Samples(samples[f"bandwidth: {name}"].seconds / count) for name, count in bandwidth.bytes.items()}
    best = min(fastest, key=lambda name: fastest[name].median)
    for name, per_byte in fastest.items():
        row = {**about, "kernel": name, "best": name == best, "bytes_per_second": 1 / per_byte.median}
        rows.append({**row, "low": 1 / per_byte.quartiles()[1], "high": 1 / per_byte.quartiles()[0]})
    shape = jax.ShapeDtypeStruct((amount.n,), dtype)
    traffic = diagnostics.step_traffic(shape)
    floors = {
        optimizer: Samples(fastest[best].seconds * diagnostics.step_traffic(shape, optimizer=optimizer).floor_bytes)
        for optimizer in {prepared.form.floored for prepared in ready}
        if optimizer is not None
    }
    for prepared in ready:
        prepared.check()
        for way in prepared.form.ways:
            of_this = samples[f"{prepared.form.name}: {way}"]
            row = {**about, "form": prepared.form.name, "way": way, **summary("seconds", of_this)}
            row |= summary("by_ours", of_this.ratio(samples[f"{OURS}: {way}"]))
            if native := samples.get(f"{NATIVE}: {way}"):
                row |= summary("by_native", of_this.ratio(native))
            if prepared.form.floored:
                row |= summary("by_floor", of_this.ratio(floors[prepared.form.floored]))
            if prepared.form.name == OURS:
                row |= {"floor_bytes": traffic.floor_bytes, **summary("floor_seconds", floors[lodo.lodo])}
                row |= {"index_bytes": traffic.indices, "activation_bytes": traffic.activations}
            rows.append({**row, **prepared.cost[way]})
    return rows


def summary(name: str, samples: Samples) -> Row:
    """Median, quartiles and how many, under the name and its suffixes."""
    low, high = samples.quartiles()
    count = int(np.isfinite(samples.seconds).sum())
    return {name: samples.median, f"{name}_low": low, f"{name}_high": high, f"{name}_samples": count}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _peak(memory: Any) -> int:
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    return int(arguments + outputs - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
