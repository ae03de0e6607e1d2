"""LODO over several devices: eight and two virtual ones, two real processes, and one."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo.diagnostics.collectives import Collective, _read
from lodo.operators._routes import capacity

ROOT = Path(__file__).resolve().parents[2]


def environment(**more):
    """Without what this process tells XLA, and with the library of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_", "PYTEST_"))}
    # One thread for the work within an operation: on two cores eight devices that wait for each other in threads took
    # twice the time, and once never ended.
    return {**kept, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "NPROC": "1", **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "which"),
    # Virtual devices wait for each other: the more there are, the slower it is on a machine of few cores.
    [
        ("on_eight_devices.py", 8, "not exhaustive"), ("on_meshes.py", 2, "not exhaustive"),
        pytest.param("on_eight_devices.py", 8, "exhaustive", marks=pytest.mark.exhaustive),
        pytest.param("on_meshes.py", 4, "", marks=pytest.mark.exhaustive),
    ],
)  # fmt: skip
def test_on_several_devices(name, devices, which):
    file = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", which, file]
    # Unoptimized code is compiled faster; what is exchanged is decided before.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    if jax.__version_info__ >= (0, 10):  # an older one may not know the flag, and ends at a flag that it does not know
        # XLA aborts the process when one of its devices, which are threads, is later than that. By default it is 40 s.
        flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    ran = subprocess.run(command, cwd=ROOT, env=environment(XLA_FLAGS=flags), capture_output=True, text=True)
    assert ran.returncode == 0, f"ended with {ran.returncode}\n{ran.stdout}{ran.stderr}"
    # Not vacuously: the tests of the file ran, all of them.
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    if which != "exhaustive":
        assert int(passed[1]) >= file.read_text(encoding="utf-8").count("\ndef test_")
    assert "skipped" not in ran.stdout


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one():
    """The example of the book, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, ROOT / "examples" / "many_processes.py", address, "2"]
    started = [
        subprocess.Popen(
            [*command, str(number)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    try:
        printed = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed, strict=True):
        assert process.returncode == 0, errors
    for number, (output, _) in enumerate(printed):
        held = re.search(rf"process {number} holds ([\d,]+) of the ([\d,]+) bytes", output)
        assert held is not None, output
        part, whole = (int(text.replace(",", "")) for text in held.groups())
        assert part * 2 == whole == 16 * 2008 * 4 * 4
    losses = [float(text) for text in re.findall(r"loss (\S+)", printed[0][0])]
    np.testing.assert_allclose(losses, losses_alone(2008), rtol=1e-3)
    assert losses[-1] < 0.5 * losses[0]


def losses_alone(hidden):
    """What the example prints, on one device without sharding."""
    optimizer = lodo.lodo(0.5, hidden_size=hidden)
    curvature = jnp.linspace(0.1, 1.0, 1000, dtype=jnp.float32)

    def step(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(lambda x: 0.5 * jnp.sum(curvature * x**2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    params = jnp.ones(1000, jnp.float32)
    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=41))((params, optimizer.init(params)))
    return losses[::10]


def test_on_one_device_it_is_the_same_optimizer():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("blocks",))
    form = lodo.operators.ShardedBlockPermutation(mesh, depth=3)
    params = jnp.linspace(0.0, 1.0, 10)
    one, many = lodo.lodo(depth=3), lodo.lodo(operator=form)
    alone, together = one.init(params), lodo.sharding.initialize(many, params, mesh)
    for _ in range(2):
        expected, alone = one.update(params, alone)
        step, together = many.update(params, together)
        np.testing.assert_allclose(step, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("hidden", "devices"), [(4096, 8), (4096, 2), (960, 16), (64, 8)])
def test_pairs_have_room_for_what_they_exchange(hidden, devices):
    room, own, worst = capacity(hidden, devices, 16), hidden // devices, 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        source = rng.permutation(hidden).reshape(devices, own) // own
        worst = max(worst, max(np.bincount(row, minlength=devices).max() for row in source))
    assert worst <= room <= own
    # Not wastefully: the surplus over the mean is in proportion to its root.
    assert room <= own / devices + 12 * np.sqrt(own / devices) + 40


def test_room_approaches_what_is_needed():
    assert capacity(2 * 10**7, 8, 16) < 1.02 * 2 * 10**7 / 64


PROGRAM = """HloModule jit_f, entry_computation_layout={()->f32[]}

%body.1 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %gathered = f32[2,8]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  ROOT %tuple = (s32[], f32[4]{0}) tuple(%i, %y)
}

%cond.1 (arg: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[] {
  %loop = (s32[], f32[4]{0}) while(%init), condition=%cond.1, body=%body.1, backend_config={TRIPS}
  %pieces = (bf16[3]{0}, bf16[3]{0}) all-to-all(%a, %b), replica_groups={{0,1}}
  %begun = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %done = f32[8]{0} all-gather-done(%begun)
  ROOT %sum = f32[] all-reduce(%c), to_apply=%add
}
"""


def test_exchanges_are_read_from_a_program():
    assert _read(PROGRAM.replace("{TRIPS}", '{"known_trip_count":{"n":"5"}}')) == [
        Collective("all-gather", 16, 64, 5),
        Collective("all-to-all", 6, 12, 1),
        Collective("all-gather", 8, 32, 1),
        Collective("all-reduce", 1, 4, 1),
    ]
    with pytest.raises(ValueError, match="does not know how often"):
        _read(PROGRAM.replace("{TRIPS}", "{}"))
