"""How LODO scales: the largest problem that fits, and when several devices are faster than one, from benchmarks.

The model of a step on D devices, each with a memory of bandwidth W and a network of bandwidth w and latency λ:

    T_D = bytes(n) / (D W) + sent(n, D) / w + exchanges · λ,

bytes being the floor of :func:`lodo.diagnostics.step_traffic`, sent that of :func:`lodo.diagnostics.cost_table`, both
counted and not fitted. Computing and exchanging do not overlap, as each layer waits for the one before.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lodo.diagnostics import cost_table, step_traffic
from lodo.operators.sharded import exchanged_elements, sharded_hidden_size
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record

GIB = 2**30
#: As many parameters as int32 permutations can number at the default hidden size, less what rounding up takes.
LARGEST_N = 2**30 - 1024
#: Networks to work out the model for, bits a second, as their makers call them: inputs, not measurements.
NETWORKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11, "400 Gbit/s": 4e11}
DEVICES = (2, 8, 64)
#: Exchanges of a step at the default depth 16: up and down for the hypergradient and for the step, one at the end.
EXCHANGES = 4 * 16 + 1


def kind_of(part: str) -> str:
    """The kind of the record of a part: "largest", "traffic" or "network"."""
    return f"benchmarks/scale/{part}"


def path_of(results: Path, part: str) -> Path:
    """The file of a part's record."""
    return results / "benchmarks" / "scale" / f"{part}.npz"


def load_record(part: str) -> Record:
    """Load the record of a part.

    Raises:
      RecordError: it is missing, damaged or foreign.
    """
    return records.load(path_of(results_folder(), part), kind_of(part))


def largest_fitting(nbytes: int, devices: int = 1) -> int:
    """The largest n, to one in a thousand, whose state takes at most so many bytes on each device, by cost_table.

    It is never more than int32 permutations can number, which is about 10⁹ at the default hidden size.

    >>> largest_fitting(4 * 452_000) in range(995, 1005)
    True
    """
    n = 10**6
    for _ in range(4):
        n = min(max(1, int(n * nbytes / _state_bytes(n, devices))), LARGEST_N)
    return n


def step_seconds(n: int, devices: int, memory: float, network: float, latency: float) -> float:
    """T_D of the module's model.

    Args:
      n: number of parameters, in float32 at LODO's defaults.
      devices: D.
      memory: W, bytes a second of each device.
      network: w, bytes a second that each device can send.
      latency: λ, seconds an exchange.
    """
    alone = floor_bytes(n) / (devices * memory)
    return alone if devices == 1 else alone + sent_bytes(n, devices) / network + EXCHANGES * latency


def least_worthwhile(devices: int, memory: float, network: float, latency: float) -> int | None:
    """The smallest n, to a few percent, from which on D devices make a step faster than one; None: none up to 10⁸.

    >>> least_worthwhile(8, 1e10, 1e12, 0.0), least_worthwhile(8, 1e12, 1e6, 0.0)
    (1, None)
    """

    def faster(n: int) -> bool:
        shared = step_seconds(n, devices, memory, network, latency)
        return shared < step_seconds(n, 1, memory, network, latency)

    if not faster(10**8):
        return None
    low, high = 0, 10**8
    while high > 1.02 * low and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if faster(middle) else (middle, high)
    return high


def floor_bytes(n: int) -> int:
    """Bytes that a step moves between memory and cores, all devices together."""
    million = jax.ShapeDtypeStruct((10**6,), jnp.float32)
    return round(n * _floor_of(million) / 10**6)


def sent_bytes(n: int, devices: int) -> int:
    """Bytes that each device sends in a step, in float32 at the defaults."""
    hidden = sharded_hidden_size(n, 4, devices)
    return 4 * exchanged_elements(n, hidden, 4, 16, devices)


@functools.lru_cache(maxsize=8)
def _floor_of(params: Any) -> int:
    return step_traffic(params).floor_bytes


@functools.lru_cache(maxsize=512)
def _state_bytes(n: int, devices: int) -> int:
    return cost_table(jax.ShapeDtypeStruct((n,), jnp.float32), devices=devices).total_bytes


def measurements() -> dict[str, float]:
    """Numbers for the prose: measurements, and what follows from them directly.

    Raises:
      RecordError: as :func:`load_record`.
    """
    largest, network = load_record("largest").values, load_record("network").values
    rows = network["rows"]
    ran = next(row for row in largest["rows"] if row["n"] == largest["largest"])
    alone = min(row["peak_bytes"] for row in largest["rows"] if row["ran"])
    state_limit = largest_fitting(largest["memory_bytes"] - alone)
    return {
        "largest": largest["largest"],
        "memory_gib": largest["memory_bytes"] / GIB,
        "predicted": state_limit,
        "share": largest["largest"] / state_limit,
        "peak_by_state": (ran["peak_bytes"] - alone) / ran["state_bytes"],
        "memory_gb": network["memory_bytes_per_second"] / 1e9,
        "gflops": network["flops_per_second"] / 1e9,
        "network_gb": _bandwidth(rows) / 1e9,
        "latency_ms": 1e3 * min(row["seconds"] for row in rows),
        "bytes_a_parameter": floor_bytes(10**6) / 10**6,
        "balance": floor_bytes(10**6) / 10**6 * network["flops_per_second"] / network["memory_bytes_per_second"] / 6,
    }


def traffic_table() -> list[dict[str, Any]]:
    """Exchanges of a compiled step, compared with what cost_table predicts."""
    shown = {
        "n": "n", "devices": "devices", "sent by each, bytes": "sent_bytes", "by cost_table": "by_cost_table",
        "largest exchange, numbers": "largest_elements", "θ, numbers": "theta_elements", "exchanges": "exchanges",
    }  # fmt: skip
    rows = load_record("traffic").values["rows"]
    return [{heading: row[entry] for heading, entry in shown.items()} for row in rows]


def largest_table() -> list[dict[str, Any]]:
    """Each size that was tried."""
    shown = {"state": "state_bytes", "temporaries of a step": "temporary_bytes", "peak of the process": "peak_bytes"}
    return [
        {"n": row["n"], "ran": "yes" if row["ran"] else "no"}
        | {f"{what}, GiB": row[entry] / GIB if entry in row else None for what, entry in shown.items()}
        | {"a step, s": row.get("step_seconds")}
        for row in sorted(load_record("largest").values["rows"], key=lambda row: row["n"])
    ]


def memory_table() -> list[dict[str, Any]]:
    """The largest n whose state fits, by cost_table, over devices of some memory each."""
    return [
        {"devices": devices, **{f"{size} GiB each": largest_fitting(size * GIB, devices) for size in (8, 80)}}
        for devices in (1, *DEVICES)
    ]


def worthwhile_table() -> list[dict[str, Any]]:
    """From which n on several devices are faster than one, and by how much at most: the module's model.

    Measured are the memory's bandwidth, and for loopback bandwidth and latency; the other networks are taken at their
    nominal bandwidth and at a latency of 20 µs an exchange.
    """
    network = load_record("network").values
    memory, rows = network["memory_bytes_per_second"], network["rows"]
    links = {"loopback, as measured": (_bandwidth(rows), min(row["seconds"] for row in rows))}
    links |= {name: (bits / 8, 20e-6) for name, bits in NETWORKS.items()}
    return [
        {
            "network": name, "devices": devices,
            "worthwhile from n =": least_worthwhile(devices, memory, *link) or "never",
            "speed-up at n = 10⁷": step_seconds(10**7, 1, memory, *link) / step_seconds(10**7, devices, memory, *link),
        }
        for name, link in links.items()
        for devices in DEVICES
    ]  # fmt: skip


def provenance_table() -> list[dict[str, Any]]:
    """Where the numbers come from."""
    found = {part: load_record(part).provenance for part in ("traffic", "network", "largest")}
    return [
        {
            "record": part, "device": one["device"], "jax": one["versions"]["jax"], "commit": one["commit"][:12],
            "date": one["date"], "others' load after it": one["load_after"],
        }
        for part, one in found.items()
    ]  # fmt: skip


def _bandwidth(rows: list[dict[str, Any]]) -> float:
    """Bytes a second that one process sends in the largest exchanges."""
    return float(max(row["sent_bytes"] / row["seconds"] for row in rows))
