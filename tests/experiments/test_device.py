"""The door of a GPU job: the device is named, and another than the one required is refused."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lodo_experiments.cli import device


def test_the_device_is_named():
    line = device.devices()
    assert line.startswith(f"{jax.default_backend()}: {jax.device_count()} × ")
    assert line.endswith(f"jax {jax.__version__}")


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(capsys):
    assert device.main(["--require", "gpu"]) == 1
    said = capsys.readouterr()
    assert "A gpu is required" in said.err
    assert "install-gpu" in said.err
    assert not said.out


def test_a_device_that_computes_wrongly_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(jnp, "matmul", lambda a, b, precision: a @ b + 1)
    assert device.main([]) == 1
    assert "wrongly" in capsys.readouterr().err


def test_a_platform_that_does_not_start_is_one_line_and_a_failure():
    done = subprocess.run(
        [sys.executable, "-m", "lodo_experiments.cli.device"],
        env=os.environ | {"JAX_PLATFORMS": "tpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tpu" in done.stderr
