"""Time the image-generation network's depthwise layers, arctangent, and one loss with its gradient.

    python -m benchmarks.depthwise                 layers and the whole network
    python -m benchmarks.depthwise --only layers --batch 32 --repeats 9

Every form is compiled first; then the forms take turns, so that a busy machine slows all of them alike.
Printed: the median, the spread (smallest to largest), and the ratio of medians to the first line. For one
core prefix the command with ``taskset -c 0`` (Linux).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.turns import Timed, take_turns
from lodo_experiments.data import ImageDataset, Split
from lodo_experiments.models import FORMS, AutoregressiveNetwork, arctan, depthwise
from lodo_experiments.models.depthwise import shifted_sum
from lodo_experiments.tasks.image_generation import image_generation


def show(title: str, calls: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Time them in turns and print a table."""
    samples = take_turns({name: Timed(call) for name, call in calls.items()}, repeats)
    print(f"\n{title} ({repeats} repeats)\n{'':<44}{'median ms':>10}{'smallest':>10}{'largest':>10}{'ratio':>8}")
    first = next(iter(samples.values())).median
    for name, sample in samples.items():
        times = 1e3 * sample.seconds
        numbers = f"{1e3 * sample.median:10.1f}{times.min():10.1f}{times.max():10.1f}{sample.median / first:8.2f}"
        print(f"{name:<44}{numbers}", flush=True)


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments)


def layers(batch: int, repeats: int, forms: list[str]) -> None:
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(batch, 28, 28, 40)), jnp.float32)
    last = jnp.transpose(x, (3, 1, 2, 0))
    kernel = jnp.asarray(random.normal(size=(3, 3, 40, 3)), jnp.float32)
    show(
        f"arctangent of {x.size:,} float32 numbers",
        {"polynomial": compiled(arctan, x), "jnp.arctan": compiled(jnp.arctan, x)},
        repeats,
    )
    forward: dict[str, Callable[[], Any]] = {}
    both: dict[str, Callable[[], Any]] = {}

    def add(name: str, function: Callable[..., Any], image: Any) -> None:
        def with_gradient(image: Any, kernel: Any) -> Any:
            y, pull = jax.vjp(function, image, kernel)
            return pull(y)

        forward[name] = compiled(function, image, kernel)
        both[name] = compiled(with_gradient, image, kernel)

    if "shifted" in forms:
        add("shifted, batch last (as in the network)", shifted_sum, last)
    for form in forms:
        add(f"{form}, channels last", lambda image, weights, form=form: depthwise(image, weights, form), x)
    title = f"3x3 depthwise layer 40 -> 120, {batch} pictures of 28x28, float32"
    show(f"{title}: value", forward, repeats)
    show(f"{title}: value and derivatives", both, repeats)


def whole_network(batch: int, repeats: int, forms: list[str], microbatches: list[int]) -> None:
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        return Split(random.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.zeros(count, np.uint8))

    dataset = ImageDataset("random", "1", 256, split(batch), split(1), split(1), "")
    calls: dict[str, Callable[[], Any]] = {}
    for form in forms:
        for size in microbatches:
            task = image_generation(dataset, batch, network=AutoregressiveNetwork(form=form), microbatch=size)
            params = jax.jit(task.init)(jax.random.key(0))
            drawn, _ = task.sample(task.data, (), jax.random.key(1))
            start = time.perf_counter()
            name = f"{form}, {size} images at once"
            calls[name] = compiled(jax.value_and_grad(task.loss), params, drawn)
            print(f"compiled {name}: {time.perf_counter() - start:.1f} s", flush=True)
    title = f"loss and gradient of the paper's network, {batch} images of 28x28, float32"
    show(title, calls, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("layers", "network"), help="default: both")
    parser.add_argument("--batch", type=int, default=256, help="images of the whole network's batch")
    parser.add_argument("--layer-batch", type=int, default=16, help="images of a single layer's batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=["shifted"], help="forms of the whole network (slow ones!)"
    )
    parser.add_argument("--layer-forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--microbatches", nargs="+", type=int, default=[16, 8, 32, 64, 256])
    options = parser.parse_args()
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{device.platform} ({device.device_kind}), {cores} cores, Python {platform.python_version()}, "
        f"jax {jax.__version__}, flax {flax.__version__}, numpy {np.__version__}"
    )
    if hasattr(os, "getloadavg"):
        print(f"load average before the start: {os.getloadavg()[0]:.1f}")
    if options.only != "network":
        layers(options.layer_batch, options.repeats, options.layer_forms)
    if options.only != "layers":
        whole_network(options.batch, options.repeats, options.forms, options.microbatches)


if __name__ == "__main__":
    main()
