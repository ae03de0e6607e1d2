"""A SLURM of one machine, for tests: munged, slurmctld and slurmd on loopback, in a folder of their own.

Nothing of the machine's own SLURM is read or written: configuration, keys, state and logs are in a temporary folder.
Programs find it by ``SLURM_CONF``, which slurmd hands on to jobs, and by a folder on the path: what removes SLURM's
variables before it calls ``srun``, as Snakemake's executor does, finds the ``srun`` there, which sets it again. Root is
not needed; jobs run as who starts it.

The daemons belong to a supervisor, which ends them and every job when its standard input closes, so also when the
tests are killed. If the supervisor itself is killed, the kernel ends the daemons, and the next start sweeps up what
is left. By hand::

    python tests/slurm/cluster.py     # says what to export; ends with Ctrl-D
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", *CLIENTS)
#: Debian keeps daemons where only root's path leads.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
PREFIX = "lodo-slurm-"
#: Seconds for the daemons to answer, and for them to end by themselves.
PATIENCE, GRACE = 60.0, 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

CONFIGURATION = """\
ClusterName=lodo
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
# Both daemons listen on loopback alone.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.log
MailProg=/bin/true
# Not by cgroups, the default: a container has none to give. Accounting, which needs a database, is off by default.
ProctrackType=proctrack/pgid
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
DefMemPerCPU=1024
# A job that does not heed SIGTERM is killed after so many seconds: SLURM's own number, more than the supervisor waits.
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes}
PartitionName=local Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(RuntimeError):
    """The cluster did not start, or a command to it failed."""


def missing() -> list[str]:
    """The programs of SLURM and munge that this machine lacks; empty where a cluster can be started."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


class Cluster:
    """A running cluster; a context manager, at whose end nothing of it is left.

    Args:
      cpus: How many CPUs it has to give; they need not exist.

    Attributes:
      environment: What a program needs beside its own environment to find the cluster.
      folder: Where configuration, state and logs are, until the end.

    Raises:
      ClusterError: a program is absent, or a daemon does not start; with the ends of the logs.
    """

    def __init__(self, cpus: int = 2):
        if absent := missing():
            raise ClusterError(
                f"not on this machine: {', '.join(absent)}. Install SLURM and munge (Debian: slurm-wlm, munge)."
            )
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(cpus)]
        # A session of its own: Ctrl-C is for the tests, which then close this end of the pipe.
        self._supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        if not line.startswith("ready "):
            _, error = self._supervisor.communicate()
            raise ClusterError(error.strip() or "the supervisor of the cluster ended without a word")
        self.folder = Path(line.removeprefix("ready ").rstrip("\n"))
        self.environment = _environment(self.folder)

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._supervisor.pid

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends jobs and daemons and removes the folder."""
        self._supervisor.communicate()

    def run(self, *command: str) -> str:
        """What a command to the cluster prints, such as ``run("scancel", "7")``.

        Raises:
          ClusterError: it failed; with what it said.
        """
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip()}")
        return done.stdout

    def queue(self) -> dict[str, str]:
        """The jobs that wait or run, and their states: ``{"7": "RUNNING"}``."""
        return dict(line.split() for line in self.run("squeue", "--noheader", "--format=%i %T").splitlines())

    def finished(self) -> list[dict[str, str]]:
        """The jobs that have ended, in that order, as SLURM noted them: ``JobId``, ``Name``, ``JobState``, …"""
        log = self.folder / "jobs.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines]


def serve(cpus: int) -> int:
    """The supervisor: starts a cluster, says ``ready FOLDER``, and ends it when standard input closes."""
    # Jobs detach from slurmd; as a subreaper this process stays their ancestor and can end them.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    (folder / "supervisor").write_text(f"{os.getpid()} {_started(os.getpid())}", encoding="utf-8")
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder, cpus)
        _start(folder, daemons)
        print(f"ready {folder}", flush=True)
        while not select.select([0], [], [], 0.05)[0] or os.read(0, 4096):
            _reap(daemons)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        _stop(daemons)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def sweep() -> None:
    """Removes what a killed supervisor left: jobs that still run, and its folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            pid, started = (folder / "supervisor").read_text(encoding="utf-8").split()
            ours = folder.stat().st_uid == os.getuid()
        except (OSError, ValueError):
            continue  # it is being made or removed, or is nothing of ours
        if ours and _started(int(pid)) != started:
            for process in _processes():
                if _belongs(process, folder):
                    _kill(process)
            shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        controller_port, node_port = one.getsockname()[1], other.getsockname()[1]
    text = CONFIGURATION.format(
        folder=folder, host=socket.gethostname().split(".")[0], user=_user(), cpus=cpus,
        controller_port=controller_port, node_port=node_port,
        megabytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    # slurmd looks for cgroups although nothing here uses them; from 23.02 on, and not before, that can be said.
    said = subprocess.run(["slurmd", "-V"], env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=True)
    if tuple(int(number) for number in re.findall(r"\d+", said.stdout)[:2]) >= (23, 2):
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
    (folder / "bin").mkdir()
    for program in CLIENTS:
        script = f"#!/bin/sh\nSLURM_CONF='{folder}/slurm.conf' exec '{shutil.which(program, path=PATH)}' \"$@\"\n"
        (folder / "bin" / program).write_text(script, encoding="utf-8")
        (folder / "bin" / program).chmod(0o755)


def _environment(folder: Path) -> dict[str, str]:
    return {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{PATH}"}


def _start(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Starts the daemons, each when the one before it answers."""
    configuration = str(folder / "slurm.conf")
    environment = os.environ | _environment(folder)
    parent = os.getpid()

    def child() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as log:
            daemons.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=child
                )
            )

    def wait(what: str, *question: str, answer: str = "") -> None:
        until = time.monotonic() + PATIENCE
        while True:
            ended = next((daemon for daemon in daemons if daemon.poll() is not None), None)
            if ended is None:
                asked = subprocess.run(question, env=environment, capture_output=True, text=True, check=False)
                if asked.returncode == 0 and answer in asked.stdout:
                    return
            if ended is not None or time.monotonic() > until:
                reason = f"ended with exit status {ended.returncode}" if ended else f"not ready after {PATIENCE:.0f} s"
                raise ClusterError(f"{what}: {reason}\n{_logs(folder)}")
            time.sleep(0.1)

    places = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    # --force: a temporary folder may be writable by a group; the key is readable by nobody else all the same.
    start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places.values())
    wait("munged", "munge", "--no-input", f"--socket={folder}/munge.socket")
    start("slurmctld", "-D", "-c", "-f", configuration)
    wait("slurmctld", "scontrol", "ping", answer="is UP")
    start("slurmd", "-D", "-f", configuration, "-N", socket.gethostname().split(".")[0])
    wait("slurmd", "sinfo", "--noheader", "--format=%T", answer="idle")


def _reap(daemons: list[subprocess.Popen[bytes]]) -> None:
    """Lets go of the processes that ended here as orphans: SLURM takes a job for alive until its zombies are gone.

    Raises:
      ClusterError: a daemon has ended.
    """
    if ended := next((daemon for daemon in daemons if daemon.poll() is not None), None):
        raise ClusterError(f"{ended.args[0]} ended with exit status {ended.returncode}")
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _stop(daemons: list[subprocess.Popen[bytes]]) -> None:
    """Ends the daemons, the last one first, then whatever they left."""
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    until = time.monotonic() + GRACE
    while (left := _descendants(os.getpid())) and time.monotonic() < until:
        for process in left:
            _kill(process)
        time.sleep(0.05)
        _reap([])


def _logs(folder: Path, lines: int = 8) -> str:
    found = []
    for log in sorted([*folder.glob("*.out"), *folder.glob("*.log")]):
        if text := log.read_text(encoding="utf-8", errors="replace").splitlines():
            found += [f"{log.name}:", *(f"  | {line}" for line in text[-lines:])]
    return "\n".join(found)


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, which may hold spaces; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str:
    """When a process started, in clock ticks; with its id this names it for good. Empty where there is none alive."""
    return stat[19] if (stat := _stat(pid)) and stat[0] != "Z" else ""


def _descendants(pid: int) -> list[int]:
    parents = {process: int(stat[1]) for process in _processes() if (stat := _stat(process))}
    found = [pid]
    for ancestor in found:
        found += [process for process, parent in parents.items() if parent == ancestor]
    return found[1:]


def _belongs(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"SLURM_CONF={folder}/slurm.conf".encode() in environment


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def main() -> int:
    """The command line; returns the exit status."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(int(sys.argv[2]))
    try:
        with Cluster() as cluster:
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']} PATH={cluster.folder / 'bin'}:$PATH")
            print("It ends with Ctrl-D or Ctrl-C.")
            sys.stdin.read()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
