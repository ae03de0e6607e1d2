"""How long `import lodo` takes beyond importing jax and optax.

    python benchmarks/import_time.py [--repeats 15]

Each sample is a fresh interpreter run with `-X importtime`. Two scripts take turns, so that a load on the machine falls
on both: `import jax, optax` and `import jax, optax, lodo`. Printed are the medians of the whole runs, their difference
turn by turn, and what `-X importtime` itself gives as the cumulative time of lodo, which is the steadiest figure on a
busy machine. Files are in the operating system's cache after a first turn that is not counted.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time

BASE, WITH_LODO = "import jax, optax", "import jax, optax, lodo"


def sample(script: str) -> tuple[float, float]:
    """Milliseconds of one interpreter's run, and the cumulative import time of lodo in it (0 where it has none)."""
    start = time.perf_counter()
    ran = subprocess.run([sys.executable, "-X", "importtime", "-c", script], capture_output=True, text=True, check=True)
    elapsed = 1e3 * (time.perf_counter() - start)
    # Lines read "import time: <self, µs> | <cumulative, µs> | <module>", the module indented by its depth.
    rows = [line.split("|") for line in ran.stderr.splitlines() if line.startswith("import time:")]
    lodo = [int(row[1]) / 1e3 for row in rows if row[2].strip() == "lodo"]
    return elapsed, sum(lodo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="samples of each script (default 15)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error(f"--repeats must be at least 1; got {repeats}")
    sample(BASE), sample(WITH_LODO)
    pairs = [(sample(BASE), sample(WITH_LODO)) for _ in range(repeats)]
    base = [first[0] for first, _ in pairs]
    extended = [second[0] for _, second in pairs]
    cumulative = [second[1] for _, second in pairs]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, {repeats} samples of each")
    print(f"import jax, optax          {statistics.median(base):8.1f} ms")
    print(f"import jax, optax, lodo    {statistics.median(extended):8.1f} ms")
    differences = sorted(b - a for a, b in zip(base, extended))
    print(f"difference in a turn       {statistics.median(differences):8.1f} ms", end=" ")
    print(f"(median; the middle half from {differences[repeats // 4]:.1f} to {differences[-1 - repeats // 4]:.1f})")
    print(
        f"cumulative time of lodo    {statistics.median(cumulative):8.1f} ms (median; {min(cumulative):.1f} at least)"
    )


if __name__ == "__main__":
    main()
