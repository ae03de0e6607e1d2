"""What a step exchanges between devices, and how fast: from compiled programs, and between two processes on loopback.

    python -m benchmarks.exchange             stores results/benchmarks/scale/{traffic,network}.npz
    python -m benchmarks.exchange --print     measure and print only

Bandwidth and latency are the best of several runs: a machine that is busy with something else only takes from them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lodo_experiments.analysis import scaling
from lodo_experiments.config.paths import results_folder
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.utils import environment as fingerprint

SIZES = (1_000, 10_000)
DEVICES = (2, 4, 8)
#: Numbers that a process sends in one exchange: from what is all latency to what is all bandwidth.
MESSAGES = (2, 2**10, 2**14, 2**17, 2**20)
REPEATS = 60


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exchange", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--print", action="store_true", help="store nothing")
    parser.add_argument("--only", choices=("traffic", "network"), help="default: both")
    parser.add_argument("--results-dir", default="", help="folder of the records; default: results")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        kind, *rest = options.inside
        print(json.dumps(traffic() if kind == "traffic" else network(*rest)))
        return 0
    for part in [options.only] if options.only else ["traffic", "network"]:
        began = time.perf_counter()
        if part == "traffic":
            (values,) = started([["traffic"]], XLA_FLAGS=f"--xla_force_host_platform_device_count={max(DEVICES)}")
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{probe.getsockname()[1]}"
            values, _ = started([["network", address, str(number)] for number in range(2)])
        print(json.dumps(values, indent=1))
        stated = records.provenance(
            "python -m benchmarks.exchange",
            preset="bench",
            seeds=[0],
            wall_seconds=time.perf_counter() - began,
            compile_seconds=0.0,
            library=fingerprint.library(),
            load_after=round(os.getloadavg()[0], 2),
        )
        if not options.print:
            path = scaling.path_of(results_folder(options.results_dir), part)
            print(records.save(path, Record(scaling.kind_of(part), {}, values, stated)))
    return 0


def started(commands: list[list[str]], **environment: str) -> list[dict[str, Any]]:
    """What processes print that run at the same time."""
    root = Path(__file__).resolve().parents[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.exchange", "--inside", *command],
            cwd=root,
            env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        printed = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise SystemExit("A process of the benchmark failed; its error is above.")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def traffic() -> dict[str, Any]:
    """Bytes that each device sends in a step: counted in the compiled program, and as cost_table says."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import lodo

    rows = []
    for devices in DEVICES:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("blocks",))
        optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh))
        for n in SIZES:
            params = jax.ShapeDtypeStruct((n,), jnp.float32)
            state = jax.eval_shape(optimizer.init, params)
            where = lodo.sharding.shardings(state, mesh)
            replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            step = jax.jit(optimizer.update, in_shardings=(replicated, where)).lower(params, state).compile()
            found = lodo.diagnostics.collectives(step)
            rows.append(
                {
                    "n": n,
                    "devices": devices,
                    # Of what a device has after an exchange its own share, 1/D, was not sent.
                    "sent_bytes": sum(one.nbytes * one.times for one in found) * (devices - 1) // devices,
                    "largest_elements": found[0].elements,
                    "theta_elements": int(state.theta.size),
                    "exchanges": sum(one.times for one in found),
                    "by_cost_table": lodo.diagnostics.cost_table(params, devices=devices).exchanged_bytes,
                }
            )
    return {"rows": rows}


def network(address: str, number: str) -> dict[str, Any]:
    """Exchanges between two processes, the memory's bandwidth and the cores' arithmetic in each, and steps of both."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(number))
    mesh = Mesh(np.array(jax.devices()), ("blocks",))

    def exchange(v: Any) -> Any:
        return jax.lax.all_to_all(v, "blocks", split_axis=0, concat_axis=0, tiled=True)

    spec = PartitionSpec("blocks")
    program = jax.jit(jax.shard_map(exchange, mesh=mesh, in_specs=spec, out_specs=spec))
    rows = []
    for sent in MESSAGES:
        # Half of what a process has goes to the other.
        host = np.zeros(4 * sent, np.float32)
        array = jax.make_array_from_callback(
            host.shape, NamedSharding(mesh, spec), lambda index, host=host: host[index]
        )
        rows.append({"sent_bytes": 4 * sent, "seconds": best(lambda array=array: program(array))})
    # On a core each: what a process can move and compute while the other does the same.
    # In place, as LODO's passes are: a new array each time would measure the system's handing out of pages.
    a = jnp.zeros(2**24, jnp.float32)
    scaled = jax.jit(lambda x: 0.5 * x + 1.0, donate_argnums=0)

    def once() -> jax.Array:
        nonlocal a
        a = scaled(a)
        return a

    stream = best(once)
    square = jnp.ones((1024, 1024), jnp.float32)
    multiplied = jax.jit(lambda x: x @ x)
    product = best(lambda: multiplied(square))
    return {
        "rows": rows,
        "memory_bytes_per_second": 2 * a.nbytes / stream,
        "flops_per_second": 2 * 1024**3 / product,
        "processes": 2,
    }


def best(call: Any) -> float:
    """The least seconds of several calls, of so many in every process, as they may have to meet."""
    import jax

    jax.block_until_ready(call())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
