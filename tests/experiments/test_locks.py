"""Locks on results: one writer at a time, nobody waits for the dead, and nothing depends on it but work saved."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lodo_experiments.results import locks
from lodo_experiments.results.records import StorageError
from lodo_experiments.utils import atomic_files
from lodo_experiments.utils.time_limit import OutOfTime

# What a holder does, without loading the library, which takes seconds; tests/faults has real ones.
HOLD = """
import fcntl, json, os, sys, time
path, place = sys.argv[1:]
os.makedirs(os.path.dirname(path))
file = open(path, "w")
fcntl.flock(file, fcntl.LOCK_EX)
with open(path.removesuffix("lock") + "note", "w") as note:
    json.dump({"process": os.getpid(), "host": "here", "place": place, "since": "2026-01-02T03:04:05+00:00"}, note)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "smoke" / "bowl" / "LODO.npz"


@pytest.fixture
def other(target):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(locks.lock_of(target)), atomic_files.process_space()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_who_waits_is_told_for_whom_and_does_not_wait_for_the_dead(target, other, capfd):
    assert locks.read_holder(target)["process"] == other.pid
    with pytest.raises(OutOfTime, match=r"LODO\.npz is being made by another process"), locks.hold(target, until=1.0):
        pass
    assert f"Process {other.pid} (since 2" in capfd.readouterr().err
    entered = threading.Event()

    def wait():
        with locks.hold(target):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.3)
    other.send_signal(signal.SIGKILL)
    assert entered.wait(60)
    waiting.join()
    said = capfd.readouterr().err
    assert f"Process {other.pid} (since 2" in said
    assert "waiting for it" in said
    assert f"which was making {target}, is no more; going on from what it kept" in said
    assert not locks.lock_of(target).exists()


def test_threads_take_turns(target):
    inside, most = [], []

    def work():
        with locks.hold(target):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert locks.read_holder(target) == {}


def test_an_error_inside_frees_it(target):
    with pytest.raises(KeyboardInterrupt), locks.hold(target):
        raise KeyboardInterrupt
    with locks.hold(target, until=1.0):
        pass


def test_a_holder_elsewhere_is_named_with_its_host(target, other, capfd):
    path = locks.lock_of(target).with_suffix(".note")
    path.write_text(json.dumps({**locks.read_holder(target), "place": "0" * 8, "host": "node17"}), encoding="utf-8")
    with pytest.raises(OutOfTime), locks.hold(target, until=1.0):
        pass
    assert f"Process {other.pid} on node17 (since" in capfd.readouterr().err
    path.write_text("[not what it was", encoding="utf-8")
    with pytest.raises(OutOfTime), locks.hold(target, until=1.0):
        pass
    assert "Another process is making" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "why"), [(errno.ENOLCK, "No locks available"), (errno.ENOSYS, "none that end with their holder")]
)
def test_without_locks_in_the_file_system_work_goes_on_with_a_warning(target, monkeypatch, number, why):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    # Nor does anybody keep others out who is killed there.
    with pytest.warns(UserWarning, match=rf"has no locks .{why}"), locks.hold(target), locks.hold(target, until=-1.0):
        pass
    assert list(locks.lock_of(target).parent.iterdir()) == []


def test_where_nothing_can_be_written_it_is_said_before_anything_is_computed(target, monkeypatch):
    target.parent.parent.mkdir(parents=True)
    target.parent.write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(StorageError, match=r"LODO\.npz cannot be written: .*--results-dir"), locks.hold(target):
        pass
    target.parent.unlink()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.Path, "write_text", full)
    with pytest.raises(StorageError, match=r"No space left on device\. Make room"), locks.hold(target):
        pass


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(target, other):
    folder = target.parent
    here = atomic_files.process_space()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        "dead": f".LODO.npz.{here}-{gone.pid}-0123abcd.partial",
        "other result": f".Adam.npz.{here}-{gone.pid}-0123abcd.partial",
        "alive": f".LODO.npz.{here}-{other.pid}-0123abcd.partial",
        "number taken again": f".LODO.npz.{here}-{os.getpid()}-0123abcd.partial",
        "elsewhere": f".LODO.npz.00000000-{gone.pid}-0123abcd.partial",
        "elsewhere, forgotten": f".LODO.npz.00000000-{gone.pid}-0123abce.partial",
        "not ours": ".LODO.npz.partial",
    }
    for name in names.values():
        (folder / name).write_bytes(b"half")
    os.utime(folder / names["elsewhere, forgotten"], (1.0, 1.0))
    with atomic_files.temporary_path(target) as mine:
        mine.mkdir()
        (mine / "inside").write_bytes(b"half")
        assert {path.name for path in atomic_files.remove_leftovers(folder, "LODO.npz")} == {
            names[name] for name in ("dead", "number taken again", "elsewhere, forgotten")
        }
        assert (mine / "inside").exists()
    assert not mine.exists()
    assert atomic_files.remove_leftovers(folder) == [folder / names["other result"]]
    assert {path.name for path in folder.glob(".*partial*")} >= {names["alive"], names["elsewhere"], names["not ours"]}


def test_what_is_kept_on_the_way_goes_with_the_result_unless_somebody_is_at_it(target, other):
    removed = []
    locks.remove_if_unused(target, lambda: removed.append(1))
    assert not removed
    other.kill()
    other.wait()
    locks.remove_if_unused(target, lambda: removed.append(1))
    assert removed
