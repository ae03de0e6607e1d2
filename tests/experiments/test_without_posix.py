"""Systems other than POSIX, imitated by hiding what Python lacks there: everything imports, and locks are held."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lodo.operators._native import build
from lodo_experiments.cli.batch import __main__ as batch
from lodo_experiments.cli.batch import failures
from lodo_experiments.utils import kill_with_parent

ROOT = Path(__file__).resolve().parents[2]
#: Run before anything else.
HIDE = """
import os, signal, sys
# Python's own subprocess, and packages that are not this project's, look at these when they are imported.
import subprocess, jax, multiprocessing.util, asyncio, filelock
sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["pwd"] = sys.modules["termios"] = None
for name in ("pwrite", "pread", "wait4", "fork", "killpg", "getuid", "geteuid", "setsid"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "setitimer", "alarm"):
    delattr(signal, name)
def kill(*_):
    raise AssertionError("os.kill ends a process on Windows")
os.kill = kill
"""


def run(program: str) -> str:
    environment = {**os.environ, "LODO_COMPILATION_CACHE": ""}
    command = [sys.executable, "-c", HIDE + program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_module_imports():
    program = """
import importlib, pkgutil, lodo, lodo_experiments
for package in (lodo, lodo_experiments):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""
    assert {
        "lodo_experiments.cli.batch.__main__",
        "lodo_experiments.cli.batch.job_supervisor",
        "lodo_experiments.results.locks",
    } <= set(run(program).split())


def test_locks_exclude_and_say_who_holds_them():
    program = """
import tempfile, time
from pathlib import Path
from lodo_experiments.results import locks
from lodo_experiments.cli.batch import batch_lock as holder
from lodo_experiments.utils.time_limit import OutOfTime
with tempfile.TemporaryDirectory() as folder:
    target = Path(folder, "a.npz")
    with locks.hold(target):
        assert locks.read_holder(target)["process"] == os.getpid()
        try:
            with locks.hold(target, until=time.monotonic() + 0.2):
                print("twice")
        except OutOfTime:
            print("once")
    with holder.acquire(Path(folder)):
        try:
            with holder.acquire(Path(folder)):
                print("twice")
        except holder.Held as error:
            print("once" if f"process {os.getpid()}" in str(error) else error)
"""
    assert run(program).split() == ["once", "once"]


def test_a_batch_says_at_once_what_it_needs(monkeypatch, capsys, tmp_path):
    given = ["--preset", "smoke", "--dry-run", "--results-dir", str(tmp_path)]
    assert batch.main(given) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "platform", "win32")
    assert batch.main(given) == 2
    said = capsys.readouterr().err
    assert "needs a POSIX system, such as Linux or macOS" in said
    assert "WSL" in said
    assert "lodo_experiments.cli.run" in said
    assert not list(tmp_path.iterdir())


def test_windows_is_not_sent_a_signal_to_ask_for_a_process(tmp_path):
    program = f"""
sys.platform = "win32"
from pathlib import Path
from lodo_experiments.utils import atomic_files
left = Path({str(tmp_path)!r}, f".a.npz.{{atomic_files.process_space()}}-1234-0123abcd.partial")
left.write_bytes(b"half")
assert atomic_files.remove_leftovers(left.parent) == []
os.utime(left, (1.0, 1.0))
assert atomic_files.remove_leftovers(left.parent) == [left]
"""
    run(program)


def test_where_no_process_becomes_another_a_command_has_no_leash(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert kill_with_parent.with_parent(["echo", "done"]) == ["echo", "done"]
    with pytest.raises(RuntimeError, match=r'kernel="native" is compiled on Linux and macOS.* kernel="xla"'):
        build.find_compiler()


def test_signals_are_told_by_number_where_python_has_no_name_for_them():
    assert failures.judge(-9, "").message == "ended by SIGKILL"
    assert [failures.judge(-number, "").kind for number in (1, 2, 9, 15)] == [failures.KILLED] * 4
