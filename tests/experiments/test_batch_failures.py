"""Failures told apart, with real processes that really fail, and what Snakemake and the supervisor make of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lodo_experiments.cli.batch import failures, job_supervisor, snakemake_engine, summary
from lodo_experiments.cli.batch.plan import Job, Options
from lodo_experiments.utils import kill_with_parent

SUPERVISOR = Path(job_supervisor.__file__)
LEASH = Path(kill_with_parent.__file__).parent

#: Kills itself at the first try, and is done at the second.
ONCE = """
import os, pathlib, signal
mark = pathlib.Path("mark")
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
#: Asks for more memory than a process may have, unless fewer lanes are asked for.
HUNGRY = """
import os, resource
resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
lanes = int(os.environ.get("LODO_LANES", 32))
print("lanes", lanes, os.environ.get("LODO_RETRIED_AFTER"))
bytearray(10**8 * lanes)
"""


@pytest.fixture
def state(tmp_path):
    """Writes a plan of one job, and its script, into a batch's folder."""

    def planned(script, **more):
        plan = {"batch": "b1", "until": None, "cwd": str(tmp_path), "jobs": {"a/job": {"lanes": 32}}}
        (tmp_path / "plan.json").write_text(json.dumps(plan | more))
        (tmp_path / "job.py").write_text(script)
        return tmp_path

    return planned


def begun(folder):
    """Starts the supervisor as Snakemake does."""
    command = [sys.executable, "-S", "-E", str(SUPERVISOR), "receipts/a/job.done", sys.executable, "job.py"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def once(folder):
    """One try; returns the supervisor's exit code and the attempts so far."""
    process = begun(folder)
    _, said = process.communicate()
    assert "Traceback" not in said, said
    return process.returncode, attempts_in(folder)


def attempts_in(folder):
    batch = json.loads((folder / "plan.json").read_text())["batch"]
    return failures.attempts(folder / "status" / batch / "a" / "job.jsonl")


def supervised(folder):
    """As often as Snakemake tries; it stops at the first success."""
    for _ in range(1 + max(failures.RETRIES.values())):
        code, attempts = once(folder)
        if code == 0:
            break
    return code, attempts


def running(folder):
    """A supervisor whose job is at work."""
    process = begun(folder)
    while failures.state(attempts_in(folder)) != "running":
        time.sleep(0.02)
    time.sleep(0.2)
    return process


def kinds(attempts):
    return [attempt["kind"] for attempt in attempts]


def test_what_is_done_leaves_a_receipt(state):
    folder = state("print('made')")
    code, attempts = supervised(folder)
    assert (code, failures.state(attempts), kinds(attempts)) == (0, "done", [failures.DONE])
    assert (folder / "receipts" / "a" / "job.done").exists()
    assert Path(attempts[0]["log"]).read_text() == "made\n"


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("import sys; print('no such optimizer'); sys.exit(2)", failures.REFUSED, "no such optimizer"),
        ("raise OSError(28, 'No space left on device')", failures.UNWRITTEN, "No space left on device"),
        ("import sys; print('a.npz: File too large.'); sys.exit(74)", failures.UNWRITTEN, "too large"),
        ("print('on the way'); 1 / 0", failures.ERROR, "ZeroDivisionError: division by zero"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", failures.ERROR, "ended by SIGSEGV"),
    ],
)  # fmt: skip
def test_what_another_try_cannot_help_is_not_tried_again(state, script, kind, message):
    folder = state(script)
    code, attempts = supervised(folder)
    assert (code, failures.state(attempts), kinds(attempts)) == (1, "failed", [kind])
    assert message in attempts[0]["message"]
    assert not (folder / "receipts").exists()


#: Runs that diverge: what the real runner says of them, whose log may say anything.
DIVERGING = """
import numpy as np
from lodo_experiments.cli import run
from lodo_experiments.results.records import Record
for kind, scores in (("bowl/BFGS", [np.nan, np.inf]), ("bowl/Adam", [1.0, np.nan]), ("bowl/LODO", [1.0, 2.0])):
    run._describe_and_tell(Record(kind, {"scores": np.array(scores)}))
run._describe_and_tell(Record("bowl/LODO/tuning", {}))
"""


def test_runs_that_diverged_are_told_beside_the_log(state):
    code, attempts = supervised(state(DIVERGING))
    assert code == 0
    text, _ = summary.summary([Job("a/job", "run")], frozenset(), {}, {"a/job": attempts})
    told = re.findall("diverged, which is a result: (.*)", text)
    assert told == ["2 of 2 runs of bowl/BFGS", "1 of 2 runs of bowl/Adam"]
    assert Path(attempts[0]["log"]).read_text() == ""


def test_a_killed_process_is_tried_again(state):
    code, attempts = supervised(state(ONCE))
    assert (code, kinds(attempts)) == (0, [failures.KILLED, failures.DONE])
    assert attempts[0]["message"] == "ended by SIGKILL"
    assert len({attempt["log"] for attempt in attempts}) == 2


def test_one_that_is_always_killed_is_given_up(state):
    code, attempts = supervised(state("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    assert (code, failures.state(attempts), kinds(attempts)) == (1, "failed", [failures.KILLED] * 3)


def test_want_of_memory_is_tried_once_more_with_a_quarter_of_the_lanes(state):
    code, attempts = supervised(state(HUNGRY))
    assert (code, kinds(attempts)) == (0, [failures.OUT_OF_MEMORY, failures.DONE])
    assert [attempt["lanes"] for attempt in attempts] == [0, 8]
    assert Path(attempts[1]["log"]).read_text() == "lanes 8 out of memory\n"
    assert "MemoryError" in attempts[0]["message"]


def test_want_of_memory_twice_is_a_failure(state):
    code, attempts = supervised(state("raise MemoryError('never enough')"))
    assert (code, failures.state(attempts), kinds(attempts)) == (1, "failed", [failures.OUT_OF_MEMORY] * 2)


#: Each data set's name, as the stand-in for the module that fetches it gets it, what it does, and the attempts at it.
TOGETHER = {
    "fine": ("print('fetched')", [failures.DONE]),
    "killed": (ONCE, [failures.KILLED, failures.DONE]),
    "hungry": (HUNGRY, [failures.OUT_OF_MEMORY, failures.DONE]),
    "refused": ("import sys; print('no such data'); sys.exit(2)", [failures.REFUSED]),
    "broken": ("open('record', 'w').write('whole'); 1 / 0", [failures.ERROR]),
}


def test_snakemake_tries_again_what_that_can_help_and_goes_on_without_the_rest(tmp_path, monkeypatch):
    pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
    scripts = {name: script for name, (script, _) in TOGETHER.items()}
    stand_in = tmp_path / "lodo_experiments" / "data.py"
    stand_in.parent.mkdir()
    (stand_in.parent / "__init__.py").touch()
    stand_in.write_text(f"import sys\nexec({scripts!r}[sys.argv[1]])")
    monkeypatch.chdir(tmp_path)
    names = [f"data/{name}" for name in TOGETHER]
    wanted = [*(Job(name, "data", lanes=32) for name in names), Job("theory", "study", ("data/broken",))]
    options = Options("smoke", results_dir=str(tmp_path / "results"), cores=2)
    (state := options.state).mkdir(parents=True)
    batch = snakemake_engine.write_plan(wanted, frozenset(), {}, options)
    assert snakemake_engine.start(options).wait(timeout=240) == 1
    tried = snakemake_engine.attempts_so_far(state, [job.name for job in wanted], batch)
    assert {name: kinds(attempts) for name, attempts in tried.items()} == {
        f"data/{name}": expected for name, (_, expected) in TOGETHER.items()
    }, (state / "snakemake.log").read_text()
    assert [attempt["lanes"] for attempt in tried["data/hungry"]] == [0, 8]
    assert (tmp_path / "record").read_text() == "whole"  # what a failed job has made is not Snakemake's to remove
    text, code = summary.summary(wanted, frozenset(), {}, tried)
    assert code == 1
    assert "failed data/refused: refused: no such data" in text
    assert "skipped theory: it needs data/broken" in text
    assert text.endswith("3 done now, 0 done before, 2 retried, 1 skipped, 2 failed.")


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="on a leash, as Linux has it, jobs end with Snakemake")
def test_after_snakemake_is_killed_its_job_ends_and_the_next_one_makes_it(tmp_path, monkeypatch):
    pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
    stand_in = tmp_path / "lodo_experiments" / "data.py"
    stand_in.parent.mkdir()
    (stand_in.parent / "__init__.py").touch()
    stand_in.write_text("import os, pathlib, time; pathlib.Path('job').write_text(str(os.getpid())); time.sleep(600)")
    monkeypatch.chdir(tmp_path)
    options = Options("smoke", results_dir=str(tmp_path / "results"))
    options.state.mkdir(parents=True)
    job = Job("data/a", "data")

    def started():
        return snakemake_engine.write_plan([job], frozenset(), {}, options), snakemake_engine.start(options)

    _, process = started()
    while not (tmp_path / "job").exists() or not (tmp_path / "job").read_text():
        assert process.poll() is None, (options.state / "snakemake.log").read_text()
        time.sleep(0.05)
    process.kill()
    process.wait()
    while Path(f"/proc/{(tmp_path / 'job').read_text()}").exists():
        time.sleep(0.05)
    assert not list(options.state.rglob("*.done"))
    stand_in.write_text("print('made')")
    batch, process = started()
    assert process.wait(timeout=240) == 0, (options.state / "snakemake.log").read_text()
    assert kinds(snakemake_engine.attempts_so_far(options.state, ["data/a"], batch)["data/a"]) == [failures.DONE]


def test_a_process_that_the_system_killed_for_memory_is_told_from_one_that_somebody_killed():
    assert failures.judge(-9, "", killed_for_memory=True).kind == failures.OUT_OF_MEMORY
    assert failures.judge(-15, "", killed_for_memory=True).kind == failures.KILLED
    assert failures.judge(137, "").kind == failures.KILLED  # a shell says 128 + 9
    assert failures.memory_kills() >= 0


def test_time_that_is_over_is_no_failure(state):
    code, attempts = once(state("import sys; print('stopped after 20 of 60 steps, all saved.'); sys.exit(75)"))
    assert (code, failures.state(attempts), kinds(attempts)) == (75, "waiting", [failures.AGAIN])
    folder = state("print('never run')", until=time.time() - 1, batch="b2")
    assert once(folder) == (75, [])
    assert (folder / "status" / "b2" / "a" / "job.jsonl").exists()


def test_an_attempt_whose_supervisor_was_killed_counts_as_killed(state):
    folder = state("import time; time.sleep(60)")
    supervisor = running(folder)
    supervisor.kill()
    supervisor.wait()
    assert kinds(failures.attempts(folder / "status" / "b1" / "a" / "job.jsonl", over=True)) == [failures.KILLED]
    state("pass")
    code, attempts = supervised(folder)
    assert (code, kinds(attempts)) == (0, [failures.KILLED, failures.DONE])
    assert attempts[0]["message"] == "ended with its supervisor"


def test_a_job_of_a_killed_batch_that_ends_late_says_nothing_of_the_next_batchs(state, tmp_path):
    gate = tmp_path / "gate"
    orphan = running(state(f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"))
    folder = state("print('the next one')", batch="b2")
    code, before = supervised(folder)
    assert (code, kinds(before)) == (0, [failures.DONE])
    gate.touch()
    assert orphan.wait() == 0
    assert attempts_in(folder) == before


def test_a_polite_stop_is_passed_on(state):
    folder = state("import time; time.sleep(60)")
    supervisor = running(folder)
    supervisor.terminate()
    assert supervisor.wait() == 143
    assert kinds(attempts_in(folder)) == [failures.STOPPED]
    assert failures.state(attempts_in(folder)) == "waiting"


@pytest.mark.skipif(sys.platform != "linux", reason="a leash is Linux's")
def test_a_leashed_process_ends_with_its_parent(tmp_path):
    script = (
        f"import subprocess, sys; sys.path.insert(0, {str(LEASH)!r}); from kill_with_parent import with_parent\n"
        "child = subprocess.Popen(with_parent(['sleep', '60'])); print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)  # for the leash to be on
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child lives on")


def test_a_command_whose_parent_is_gone_before_it_starts_does_not_start(tmp_path):
    command = kill_with_parent.with_parent([sys.executable, "-c", "print('started')"])
    command[4] = "1"  # not this process
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == (("", 137) if sys.platform == "linux" else ("started\n", 0))


# Each notebook's one cell, what `execute` is told, and the verdict.
NOTEBOOKS = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", [], failures.KILLED),
    "slow": ("import time; time.sleep(600)", ["--timeout", "5"], failures.TIMEOUT),
    "wrong": ("class RecordError(Exception): pass\nraise RecordError('it is damaged')", [], failures.REFUSED),
}  # fmt: skip


@pytest.mark.exhaustive
def test_notebooks_that_fail_are_told_apart(tmp_path):
    running = {}
    for name, (cell, given, _) in NOTEBOOKS.items():
        parameters = nbformat.v4.new_code_cell("preset = 'smoke'", metadata={"tags": ["parameters"]})
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(cell)], metadata=metadata)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        command = [sys.executable, "-m", "lodo_experiments.cli.execute", "--notebooks", str(tmp_path), "--only", name]
        command += ["--output", str(tmp_path / "out"), *given]
        environment = os.environ | {"LODO_OUTCOME": str(tmp_path / f"{name}.jsonl")}
        running[name] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
    for name, process in running.items():
        text, _ = process.communicate()
        events = tmp_path / f"{name}.jsonl"
        told = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        verdict = failures.judge(process.returncode, text, told=told)
        assert verdict.kind == NOTEBOOKS[name][2], f"{name}: {verdict}\n{text}"
        assert not (tmp_path / "out" / "smoke" / f"{name}.ipynb").exists()


def test_the_summary_tells_what_became_of_each_job_and_where_the_log_is(tmp_path):
    log = tmp_path / "b.log"
    log.write_text("\n".join(f"line {i}" for i in range(20)))
    tries = [
        {"kind": "killed", "message": "ended by SIGKILL"},
        {"kind": "error", "message": "ValueError: x", "log": str(log)},
    ]
    diverged = {"record": "bowl/BFGS", "runs": 2, "diverged": 2}
    first = {"kind": "killed", "message": "its kernel died"}
    tried = {
        "a": [first, {"kind": "done", "message": "", "log": "a.log", "told": [diverged]}],
        "b": tries,
    }
    jobs = [("a",), ("b",), ("c", "b"), ("d", "c"), ("e",), ("f",)]
    wanted = [Job(name, "run", tuple(needs)) for name, *needs in jobs]
    text, code = summary.summary(wanted, frozenset({"e"}), {"f": "f.npz is damaged"}, tried)
    assert code == 1
    assert "retried a after killed: its kernel died" in text
    assert "diverged, which is a result: 2 of 2 runs of bowl/BFGS\nskipped" in text
    assert "skipped c: it needs b\nskipped d: it needs c" in text
    assert re.search(
        rf"failed b: error: ValueError: x\n  \| line 12\n.*  \| line 19\n  the whole log: {log}", text, re.S
    )
    assert "failed f: refused: f.npz is damaged" in text
    assert text.endswith("1 done now, 1 done before, 2 retried, 2 skipped, 2 failed.")
    assert summary.summary([Job("e", "run")], frozenset({"e"}), {}, {})[1] == 0
    open_ = summary.summary([Job("a", "run"), Job("e", "run")], frozenset({"e"}), {}, {})
    assert open_[1] == 75
    assert "not done a: the same command goes on with it" in open_[0]
