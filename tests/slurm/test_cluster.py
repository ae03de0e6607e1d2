"""The SLURM that the tests start: it runs jobs, and nothing of it outlives the tests, however they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster as module
import pytest
from cluster import Cluster, ClusterError

HERE = Path(__file__).resolve().parent
#: Seconds after which something that should have happened is given up. No test asserts on how long anything took.
PATIENCE = 60
HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from cluster import Cluster
held = Cluster()
job = held.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 1000").strip()
while held.queue().get(job) != "RUNNING":
    time.sleep(0.1)
print(held.folder, held.pid, flush=True)
time.sleep(1000)
"""


def until(condition, what: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not so after {PATIENCE} s: {what}"
        time.sleep(0.1)


def submit(slurm: Cluster, script: str, log: Path, *options: str) -> str:
    """Submit a shell script; return its job's number."""
    return slurm.run("sbatch", "--parsable", f"--output={log}", *options, "--wrap", script).strip()


def living(folder: Path) -> list[int]:
    """The processes that belong to a cluster."""
    return [pid for pid in module._processes() if module._belongs(pid, folder)]


@pytest.fixture
def held(slurm):
    """A program that holds a cluster of its own with a job running: the program, the folder, the supervisor's id."""
    program = subprocess.Popen([sys.executable, "-c", HOLD, HERE], stdout=subprocess.PIPE, text=True)
    folder, pid = program.stdout.readline().split()
    yield program, Path(folder), int(pid)
    program.kill()
    program.communicate()


def test_a_job_runs_and_finds_the_cluster(slurm, tmp_path):
    job = submit(slurm, "srun --ntasks=1 squeue --noheader --format=%i", tmp_path / "log")
    until(lambda: job not in slurm.queue(), "the job has ended")
    assert (tmp_path / "log").read_text().split() == [job]
    assert [entry["JobState"] for entry in slurm.finished() if entry["JobId"] == job] == ["COMPLETED"]


def test_a_job_that_has_lost_slurms_variables_finds_the_cluster(slurm, tmp_path):
    job = submit(slurm, 'env -i PATH="$PATH" squeue --noheader --format=%i', tmp_path / "log")
    until(lambda: job not in slurm.queue(), "the job has ended")
    assert (tmp_path / "log").read_text().split() == [job]


def test_a_job_that_fails_is_told_apart(slurm, tmp_path):
    job = submit(slurm, "exit 3", tmp_path / "log")
    until(lambda: job not in slurm.queue(), "the job has ended")
    (entry,) = [entry for entry in slurm.finished() if entry["JobId"] == job]
    assert (entry["JobState"], entry["ExitCode"]) == ("FAILED", "3:0")


def test_a_cancelled_job_ends_with_all_that_it_started(slurm, tmp_path):
    job = submit(slurm, f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait", tmp_path / "log")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the job is at work")
    child = int((tmp_path / "pid").read_text())
    slurm.run("scancel", job)
    until(lambda: not module._stat(child), "the process that the job started is gone")
    until(lambda: job not in slurm.queue(), "the job has ended")
    assert [entry["JobState"] for entry in slurm.finished() if entry["JobId"] == job] == ["CANCELLED"]


def test_a_command_that_fails_says_why(slurm):
    with pytest.raises(ClusterError, match=r"scontrol show job 999999: exit status 1\n.*Invalid job id"):
        slurm.run("scontrol", "show", "job", "999999")


def test_daemons_listen_on_loopback_alone(slurm):
    ports = {
        line.split("=")[1]
        for line in (slurm.folder / "slurm.conf").read_text().splitlines()
        if line.startswith(("SlurmctldPort=", "SlurmdPort="))
    }
    # Of /proc/net/tcp: the local address, as hexadecimal address:port, of sockets that listen (state 0A).
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    heard = {str(int(row[1].split(":")[1], 16)): row[1].split(":")[0] for row in rows if row[3] == "0A"}
    assert {port: heard.get(port) for port in ports} == dict.fromkeys(ports, "0100007F")


def test_nothing_is_left_when_the_tests_are_killed(held):
    program, folder, _ = held
    assert len(living(folder)) >= 4  # munged, slurmctld, slurmd, the job
    program.send_signal(signal.SIGKILL)
    until(lambda: not living(folder) and not folder.exists(), "daemons, job and folder are gone")


def test_a_killed_supervisor_takes_the_daemons_along_and_the_next_one_sweeps_up(held):
    _, folder, supervisor = held
    os.kill(supervisor, signal.SIGKILL)
    with Cluster() as other:
        assert other.folder != folder
        until(lambda: not living(folder), "the daemons and the job are gone")
        assert not folder.exists()
        assert other.run("sinfo", "--noheader", "--format=%T").strip() == "idle"


def test_sweeping_leaves_a_running_cluster_alone(slurm):
    module.sweep()
    assert slurm.run("scontrol", "ping").strip().endswith("is UP")


def test_a_daemon_that_does_not_start_is_reported_with_its_log(slurm, monkeypatch, tmp_path):
    fake = tmp_path / "slurmctld"
    fake.write_text("#!/bin/sh\necho a reason; exit 4\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ClusterError, match=r"(?s)slurmctld: ended with exit status 4.*slurmctld\.out:\n  \| a reason"):
        Cluster()


def test_absent_programs_are_named(monkeypatch):
    monkeypatch.setattr(module, "PATH", "")
    with pytest.raises(ClusterError, match=r"munged, munge, slurmctld, slurmd, .*Debian: slurm-wlm, munge"):
        Cluster()
