"""Executes the book's notebooks by papermill, each in its own process.

``python -m lodo_experiments.cli.execute --preset smoke`` leaves one executed notebook per source in
``_build/executed/smoke``. A notebook that was made from what is there now
(:func:`lodo_experiments.studies.notebooks.content`) is left alone. Otherwise it is executed under a name of its own and
takes its place only when papermill has finished without an exception: what stands there is always whole, and a failure
never replaces an older success.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lodo_experiments.cli import amounts
from lodo_experiments.cli.run import UNWRITTEN
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.results import records
from lodo_experiments.results.records import RecordError
from lodo_experiments.studies import notebooks
from lodo_experiments.studies.changes import changes_given
from lodo_experiments.utils import compilation_cache, outcome
from lodo_experiments.utils.atomic_files import open_atomically
from lodo_experiments.utils.kill_with_parent import with_parent

#: Seconds after which a notebook is given up, by preset; 0 is never.
TIMEOUTS = {"smoke": 15 * 60, "laptop": 6 * 3600, "desktop": 0, "paper": 0}

_KERNEL = "lodo-this-interpreter"
# Two kernels that start at once may choose the same port, and one then ends before its first cell: it is started again.
_NEVER_BEGAN = "Kernel died before replying to kernel_info"
_HEARTBEAT = 30.0  # seconds between signs of life of a notebook that runs
_GRACE = 10.0  # seconds that a notebook gets to end its kernel when it is stopped


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one notebook: ``status`` is ``"executed"``, ``"unchanged"`` or ``"failed"``."""

    name: str
    status: str
    seconds: float
    message: str = ""


class Executor:
    """Executes notebooks with one set of parameters.

    Args:
      output: The folder for the executed notebooks; ``output/logs`` gets what they printed.
      parameters: What papermill injects into every notebook.
      timeout: Seconds allowed for one notebook, start of the kernel included; 0 for no limit.
    """

    def __init__(self, output: Path, parameters: dict[str, Any], timeout: float = 0.0):
        self.output = output
        self.parameters = parameters
        self.timeout = timeout
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = threading.Event()

    def run(self, source: Path) -> Outcome:
        """Executes one notebook unless what is there is still true.

        Returns:
          The outcome. A failure is an outcome too, with a message that holds the end of the log and its place, or says
          what cannot be read.

        Raises:
          OSError: the folder cannot be written to.
        """
        started = time.monotonic()
        try:
            return self._run(source, started)
        except (notebooks.NotebookError, RecordError) as error:
            return Outcome(source.stem, "failed", time.monotonic() - started, f"{type(error).__name__}: {error}")

    def _run(self, source: Path, started: float) -> Outcome:
        name = source.stem
        target = self.output / source.name
        content = notebooks.content(source, self.parameters)
        if notebooks.stored_hash(target) == notebooks.digest(content):
            return Outcome(name, "unchanged", time.monotonic() - started)
        (self.output / "logs").mkdir(parents=True, exist_ok=True)
        log = self.output / "logs" / f"{name}.log"
        partial = self.output / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial.ipynb"
        try:
            problem = self._papermill(source, partial, log)
            if problem and _NEVER_BEGAN in log.read_text(encoding="utf-8", errors="replace"):
                problem = self._papermill(source, partial, log)
            if problem:
                return Outcome(name, "failed", time.monotonic() - started, f"{problem}\n{_tail(log)}")
            # The records are those that it left, some of which it may have made; everything else as it was at the
            # start.
            made = {**content, "records": notebooks.content(source, self.parameters)["records"]}
            _seal(partial, target, made, self.parameters, notebooks.made_by(source, self.parameters))
            return Outcome(name, "executed", time.monotonic() - started)
        finally:
            if partial.exists():
                # What a failed run had computed helps to find out why; it is no executed notebook, so it goes by.
                os.replace(partial, log.with_suffix(".failed.ipynb"))

    def stop(self) -> None:
        """Ends the notebooks that run, and their kernels with them; those that wait will not start."""
        self._stopped.set()
        for process in list(self._running.values()):
            _end(process)

    def _papermill(self, source: Path, partial: Path, log: Path) -> str:
        """Runs papermill; returns what went wrong, or nothing."""
        if self._stopped.is_set():
            return "not started: the run was stopped"
        command = [sys.executable, "-m", "papermill", _literal(source), _literal(partial), "-k", _KERNEL]
        # YAML, of which JSON is a part, keeps the types that `-p` would guess.
        command += ["--cwd", str(source.parent), "-y", json.dumps(self.parameters), "--log-output", "--no-progress-bar"]
        with _kernel_folder() as folder, log.open("wb") as sink:
            environment = os.environ | {
                "JUPYTER_PATH": str(folder),
                # Start-up files and settings of the person who runs this are no part of the book.
                "IPYTHONDIR": str(folder / "ipython"),
                "JUPYTER_CONFIG_DIR": str(folder / "config"),
                "LODO_BOOK": "1",
                # Its path is no setting of JAX's in the environment, so the fingerprint does not depend on it.
                compilation_cache.VARIABLE: str(compilation_cache.default_folder() or ""),
                "PYTHONUNBUFFERED": "1",
            }
            # On a leash: papermill ends with this process, and its kernel with papermill.
            process = subprocess.Popen(
                with_parent(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
            )
            self._running[source.stem] = process
            try:
                problem = self._wait(process, source.stem)
            finally:
                _end(process)
                self._running.pop(source.stem)
        return "stopped before it was done" if self._stopped.is_set() else problem

    def _wait(self, process: subprocess.Popen[bytes], name: str) -> str:
        started = time.monotonic()
        end = started + self.timeout if self.timeout else math.inf
        while (left := end - time.monotonic()) > 0:
            try:
                code = process.wait(timeout=min(_HEARTBEAT, left))
            except subprocess.TimeoutExpired:
                if left > _HEARTBEAT:
                    print(f"  {name}: still running after {time.monotonic() - started:.0f} s", flush=True)
                continue
            # papermill's exception is the judge: after a killed kernel the file calls every cell completed.
            if code < 0 and not self._stopped.is_set():
                outcome.tell(failure="killed", message=f"papermill ended by signal {-code}")
            return "" if code == 0 else f"papermill ended with exit code {code}"
        message = f"gave up after {self.timeout:.0f} s (--timeout)"
        outcome.tell(failure="timeout", message=message)
        return message


def _seal(
    partial: Path, target: Path, content: dict[str, Any], parameters: dict[str, Any], origin: dict[str, Any]
) -> None:
    """Notes in an executed notebook what it was made from, and moves it into its place."""
    notebook = json.loads(partial.read_text(encoding="utf-8"))
    # The kernel's name means nothing to anyone who downloads the notebook from the book.
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook["metadata"]["lodo"] = {
        "fingerprint": notebooks.digest(content),
        "parameters": parameters,
        "content": content,
        "made": origin,
        "commit": records.commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    for path_key in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(path_key, None)
    with open_atomically(target) as file:
        file.write(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    partial.unlink()


@contextmanager
def _kernel_folder() -> Iterator[Path]:
    """A temporary folder with one kernel in it: this very interpreter, whatever kernels a user has installed."""
    with tempfile.TemporaryDirectory(prefix="lodo-kernel-") as name:
        folder = Path(name) / "kernels" / _KERNEL
        folder.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        specification = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")
        yield Path(name)


def _literal(path: Path) -> str:
    """A path for papermill, which puts parameters in place of braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops papermill; its kernel is stopped by it, or follows within a second because its parent is gone."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, lines: int = 25) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"  | {line}" for line in text[-lines:]] + [f"  the whole log: {log}"])


def execute(sources: Sequence[Path], executor: Executor, jobs: int = 2) -> list[Outcome]:
    """Executes notebooks, some at a time, and says what becomes of each.

    Returns:
      The outcomes in the order of ``sources``.
    """

    def one(source: Path) -> Outcome:
        found = executor.run(source)
        print(f"  {found.name}: {found.status} ({found.seconds:.1f} s)", flush=True)
        if found.message:
            print(found.message, file=sys.stderr, flush=True)
        return found

    with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(one, source) for source in sources]
        try:
            return [future.result() for future in futures]
        except BaseException:  # an interrupt above all: kernels must not outlive it
            executor.stop()
            raise


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.cli.execute", description="Execute the book's notebooks by papermill."
    )
    add = parser.add_argument
    add("--notebooks", type=Path, default=Path("notebooks"), help="folder of the clean notebooks")
    add("--output", type=Path, default=Path("_build/executed"), help="a folder per preset goes here")
    add("--preset", choices=PRESETS, default="smoke", help="how much to compute")
    add("--only", action="append", default=[], metavar="NAME", help="this notebook alone (repeatable)")
    add("--jobs", type=int, default=2, help="notebooks at a time")
    add(
        "--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE",
        help="other values of the notebook's parameters; what comes out is kept apart, in PRESET/changed",
    )  # fmt: skip
    add("--seeds", type=int, default=0, help="runs for each optimizer; 0: the preset's number")
    add("--data-dir", default="", help="folder of the data sets")
    add("--download", action="store_true", help="allow missing data sets to be downloaded")
    add("--results-dir", default="", help="folder of the run records")
    add("--redraw", action="store_true", help="draw from records alone; refuse to compute any")
    add("--timeout", type=float, default=None, help="seconds for each notebook; 0: no limit")
    options = parser.parse_args(argv)
    try:
        amounts.check(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
      0; 1 where a notebook failed, 2 where the request is refused, 74 where the folder cannot be written to, 130 where
      it was stopped.
    """
    options = _arguments(argv)
    sources = sorted(options.notebooks.glob("*.ipynb"))
    names = [source.stem for source in sources]
    unknown = [name for name in options.only if name not in names]
    if unknown or not sources:
        found = ", ".join(names) or "nothing"
        print(f"no notebook {', '.join(unknown)} in {options.notebooks}: found {found}", file=sys.stderr)
        return 2
    if options.redraw:
        os.environ["LODO_REDRAW"] = "1"  # for the kernels too
    try:
        changes = changes_given(options.set)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    given = notebooks.parameters(options.preset, options.seeds, options.data_dir, options.download, options.results_dir)
    timeout = TIMEOUTS[options.preset] if options.timeout is None else options.timeout
    folder = notebooks.output_folder(options.output, options.preset, changes)
    executor = Executor(folder.resolve(), given | changes, timeout)
    chosen = [source.resolve() for source in sources if not options.only or source.stem in options.only]
    print(f"notebooks at preset {options.preset!r} into {folder}", flush=True)
    # A polite stop (a batch system's, or `kill`) is to end the kernels as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = execute(chosen, executor, options.jobs)
    except KeyboardInterrupt:
        print("stopped; notebooks that were done are kept", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{folder} cannot be worked in: {error}. Make room there, or name another by --output.", file=sys.stderr)
        return UNWRITTEN
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
