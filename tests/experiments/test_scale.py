"""The model of a step on several devices, and what the page shows of the records."""

import math
from pathlib import Path

import computed
import jax
import jax.numpy as jnp
import pytest
from sphinx.errors import ExtensionError

from lodo.diagnostics import cost_table, step_traffic
from lodo_experiments.analysis import scaling

ROOT = Path(__file__).resolve().parents[2]


def vector(n):
    return jax.ShapeDtypeStruct((n,), jnp.float32)


@pytest.mark.parametrize(("n", "devices"), [(5_000, 2), (40_000, 8)])
def test_the_model_counts_what_the_library_counts(n, devices):
    """Equation `scale-sent` of book/scale.md."""
    assert scaling.sent_bytes(n, devices) == cost_table(vector(n), devices=devices).exchanged_bytes
    assert scaling.floor_bytes(n) == pytest.approx(step_traffic(vector(n)).floor_bytes, rel=1e-2)
    # Three vectors of 2 n numbers up and down 16 layers, of which (D − 1)/D leave a device; its share of the step, to
    # everyone; and a surplus that falls with n.
    least = 4 * (6 * 16 * 2 * n / devices * (devices - 1) / devices + n / devices * (devices - 1))
    assert least < scaling.sent_bytes(n, devices) < 2 * least
    assert scaling.sent_bytes(10**8, devices) < 1.01 * least * 10**8 / n


def test_a_step_by_the_model():
    n, devices, memory, network, latency = 10**6, 4, 1e10, 1e9, 1e-4
    alone = scaling.floor_bytes(n) / memory
    assert scaling.step_seconds(n, 1, memory, network, latency) == alone
    expected = alone / devices + scaling.sent_bytes(n, devices) / network + 65 * latency
    assert scaling.step_seconds(n, devices, memory, network, latency) == pytest.approx(expected)


def test_worthwhile_is_where_the_two_times_cross():
    devices, memory, network, latency = 8, 1e10, 1e10, 1e-3
    n = scaling.least_worthwhile(devices, memory, network, latency)
    arguments = (memory, network, latency)
    assert scaling.step_seconds(n, devices, *arguments) < scaling.step_seconds(n, 1, *arguments)
    less = math.floor(0.95 * n)
    assert scaling.step_seconds(less, devices, *arguments) > scaling.step_seconds(less, 1, *arguments)


def test_predicted_is_what_cost_table_says_fits():
    n = scaling.largest_fitting(2**28, 2)
    assert cost_table(vector(n), devices=2).total_bytes == pytest.approx(2**28, rel=2e-3)
    assert scaling.largest_fitting(2**60) == scaling.LARGEST_N


@pytest.fixture
def records_here(monkeypatch):
    monkeypatch.setenv("LODO_RESULTS", str(ROOT / "results"))


def test_compiled_programs_exchanged_what_is_counted(records_here):
    for row in scaling.load_record("traffic").values["rows"]:
        # In the program there are also reductions of a number or two.
        assert row["sent_bytes"] == pytest.approx(scaling.sent_bytes(row["n"], row["devices"]), abs=64)
        assert row["largest_elements"] < row["theta_elements"] / 40


@pytest.mark.skipif(
    not all(scaling.path_of(ROOT / "results", part).exists() for part in ("network", "largest")),
    reason="benchmarks.exchange and benchmarks.largest have left no records here; the page waits for them",
)
def test_the_page_can_be_computed(records_here):
    largest = scaling.load_record("largest").values
    ran = [row["n"] for row in largest["rows"] if row["ran"]]
    failed = [row["n"] for row in largest["rows"] if not row["ran"]]
    assert max(ran) == largest["largest"] < min(failed)
    page = (ROOT / "book" / "scale.md").read_text(encoding="utf-8")
    for reference in page.split("{computed}`")[1:]:
        assert computed.value(reference.split("`")[0])
    for reference in page.split("{computed-table} ")[1:]:
        assert computed.called(reference.split()[0])


@pytest.mark.parametrize("reference", ["lodo_experiments.analysis.scaling:nothing:n:d", "lodo.nowhere:f:n:d"])
def test_what_a_page_cannot_compute_ends_the_build(reference):
    with pytest.raises(ExtensionError, match="Expected module:function"):
        computed.value(reference)
