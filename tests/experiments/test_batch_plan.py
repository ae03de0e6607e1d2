"""The batch's plan: the whole matrix, tuning before report, and what of it is asked for."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lodo_experiments.cli import execute, run
from lodo_experiments.cli.batch import __main__ as batch
from lodo_experiments.cli.batch import costs, failures, finished_jobs, snakemake_engine, summary
from lodo_experiments.cli.batch.plan import Cost, Job, Options, jobs, parts
from lodo_experiments.cli.run import jax
from lodo_experiments.config import presets
from lodo_experiments.config.parameters import PRESETS
from lodo_experiments.results import records
from lodo_experiments.studies import registry
from lodo_experiments.studies.cost import BASE_MB, memory_mb
from lodo_experiments.studies.experiments import variants

CLOCKS = {"wall_seconds"}


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture
def options(root, tmp_path):
    def made(preset, **more):
        return Options(preset, notebooks=root / "notebooks", results_dir=str(tmp_path), **more)

    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_every_job_comes_after_those_it_needs_and_every_notebook_last(options, root, preset):
    before = set()
    for job in jobs(options(preset)):
        assert job.name not in before
        assert before.issuperset(job.needs), f"{job.name} comes before what it needs"
        before.add(job.name)
    assert {path.stem for path in (root / "notebooks").glob("*.ipynb")} == {
        name.removeprefix("notebook/") for name in before if name.startswith("notebook/")
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_the_matrix_holds_every_optimizer_and_every_seed_once(options, preset):
    for experiment in ("noisy_bowl", "rosenbrock", "image_generation", "image_classification"):
        chosen = registry.named(experiment).preset(preset)
        own = [job for job in jobs(options(preset)) if job.part == experiment]
        runs = [job for job in own if job.rule != "tune"]
        seeds = {name: sum(job.runs for job in runs if name in job.optimizers) for name in chosen.optimizers}
        if preset == "smoke":
            assert [job.name for job in own] == [experiment]
            assert set(own[0].optimizers) == set(chosen.optimizers)
            continue
        assert seeds == dict.fromkeys(chosen.optimizers, chosen.seeds)
        for name in chosen.optimizers:
            (tuning,) = [job for job in own if job.rule == "tune" and job.optimizers == (name,)]
            first = [job for job in runs if job.optimizers == (name,) and job.runs]
            assert all(tuning.name in job.needs for job in first), "tuning before report"
            apart = [seed for job in runs if job.optimizers == (name,) for seed in job.seeds]
            assert apart == (list(range(chosen.seeds)) if "image" in experiment else [])


def test_notebooks_come_after_the_parts_they_draw(options):
    for preset in PRESETS:
        by_name = {job.name: job for job in jobs(options(preset))}
        needs = {name: set(by_name[f"notebook/{name}"].needs) for name in ("ablations", "claims", "rosenbrock")}
        assert needs["claims"] == {name for name in by_name if not name.startswith("notebook/")}
        for name in presets.FIXED_ABLATIONS:
            assert {f"noisy_bowl/{name}", "noisy_bowl-parts"} & needs["ablations"]
        assert not [name for name in needs["rosenbrock"] if not name.startswith("rosenbrock")]


def test_knobs_are_turned_after_lodo_is_tuned(options):
    by_name = {job.name: job for job in jobs(options("laptop"))}
    assert "image_generation/LODO/tuning" in by_name["image_generation-ablations/LODO-depth-4/seeds-2-2"].needs
    small = {job.name: job for job in jobs(options("smoke"))}
    assert small["noisy_bowl-ablations"].needs == ("noisy_bowl-parts",)
    assert len(small["noisy_bowl-ablations"].optimizers) == 3 * len(variants.ABLATED_VALUES["smoke"])


def test_the_plan_holds_every_listed_record_once(tmp_path, options):
    """Of every experiment that trains; those that do not are a job each."""
    for preset in PRESETS:
        whole = jobs(options(preset))
        planned = [
            (folder, name)
            for part, members in parts(preset).items()
            for folder in {one.folder(preset) for one in members}
            for name in {name for job in whole if job.part == part for name in job.optimizers}
        ]
        trained = [spec for spec in registry.records(preset, tmp_path) if spec.role == "runs"]
        assert sorted(planned) == sorted((spec.experiment, spec.optimizer) for spec in trained)


def test_what_is_asked_for_brings_along_what_it_needs(options):
    def names(*only):
        return [job.name for job in jobs(options("paper", only=only))]

    assert names("rosenbrock/Adam") == ["rosenbrock/Adam/tuning", "rosenbrock/Adam"]
    assert names("noisy_bowl-authors", "rosenbrock/*/tuning")[0] == "noisy_bowl-authors/LODO"
    rosenbrock = names("rosenbrock")
    assert rosenbrock[-1] == "notebook/rosenbrock"
    assert "rosenbrock-defaults/LODO" in rosenbrock
    assert not [name for name in rosenbrock if "bowl" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "rosenbrok"], "no such notebook, part or job; did you mean .*rosenbrock"),
        (["--only", "xyz"], "`--dry-run` lists them all"),
        (["--cores", "0"], "--cores must be at least 1; got 0"),
        (["--minutes", "-1"], "--minutes must be from 0 to 1,000,000; got -1"),
        (["--minutes", "nan"], "--minutes must be from 0 to 1,000,000; got nan"),
        (["--timeout", "-1", "--dry-run"], "--timeout must be from 0 to 100,000,000; got -1"),
        (["--seeds", "-3"], "--seeds must be from 0 to 1,000; got -3"),
        (["--sweep", "noisy_bowl", "drift", "0", "--only", "rosenbrock"], "--only and --seeds-per-job do not go with"),
        (["--profile", "nowhere"], r"--profile nowhere: there is no config\.yaml in it"),
        (["--executor", "nope", "--dry-run"], "--executor nope: Snakemake has local.* here. Choose one of them"),
        (["--notebooks", "nowhere"], "There are no notebooks in nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_door(tmp_path, monkeypatch, root, capsys, arguments, message):
    monkeypatch.chdir(root)
    assert batch.main([*arguments, "--results-dir", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("executor: nope", r"--profile .*, executor: nope: Snakemake has local.* here\. Choose one of them"),
        ("executor: 'nope' # local", r"executor: nope: Snakemake has"),
        ("- executor", r"its config\.yaml has no options"),
        ("executor: [", r"its config\.yaml cannot be read"),
    ],
)
def test_a_profile_of_which_snakemake_makes_nothing_is_refused(tmp_path, monkeypatch, root, capsys, config, message):
    pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
    monkeypatch.chdir(root)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(config)
    given = ["--profile", str(tmp_path / "profile"), "--dry-run", "--results-dir", str(tmp_path / "results")]
    assert batch.main(given) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["run{1}", "run{job}", "run{", "run}"])
def test_braces_in_the_results_folder_are_refused_at_the_door(tmp_path, capsys, name):
    given = ["--preset", "smoke", "--results-dir", str(tmp_path / name / "results")]
    assert batch.main(given) == 2
    said = capsys.readouterr().err
    assert f"--results-dir: got {tmp_path / name / 'results'}; Snakemake takes" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_folders_of_any_other_name_are_taken_as_they_are(tmp_path, monkeypatch):
    """Of the records; and, braces included, of the programs."""
    pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
    programs = tmp_path / "clone {x}"
    supervisor, helper = programs / "cli" / "batch" / "job_supervisor.py", programs / "utils" / "kill_with_parent.py"
    package = Path(snakemake_engine.__file__).parents[2]
    for program in (supervisor, supervisor.with_name("failures.py"), helper):
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / program.relative_to(programs), program)
    # What is in the folder in which a batch is started comes before what is installed.
    (programs / "lodo_experiments").mkdir()
    (programs / "lodo_experiments" / "__init__.py").touch()
    (programs / "lodo_experiments" / "data.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.chdir(programs)
    options = Options("smoke", results_dir=str(tmp_path / "my runs: #1 [x] *"), data_dir="my data {y} $z")
    options.state.mkdir(parents=True)
    state = options.state
    name = snakemake_engine.write_plan([Job("data/it's", "data")], frozenset(), {}, options)
    plan = json.loads((state / "plan.json").read_text(encoding="utf-8"))
    plan |= {"supervisor": str(supervisor), "leash": str(helper)}
    (state / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    code = snakemake_engine.start(options).wait(timeout=120)
    assert code == 0, (state / "snakemake.log").read_text(encoding="utf-8")
    (attempt,) = snakemake_engine.attempts_so_far(state, ["data/it's"], name)["data/it's"]
    assert attempt["kind"] == failures.DONE
    data = ["--data-dir", str(programs / "my data {y} $z")]
    assert Path(attempt["log"]).read_text(encoding="utf-8") == f"{[*data, *['it' + chr(39) + 's', '--download']]}\n"


def test_the_snakefile_has_the_right_command_for_every_job(root, options):
    pytest.importorskip("snakemake", reason="a batch needs the extra `batch`")
    given = options("paper", download=True, seeds=3, seeds_per_job=2, data_dir="/data", timeout=7.0)
    given.state.mkdir(parents=True)
    wanted = {job.name: job for job in jobs(given)}
    snakemake_engine.write_plan(list(wanted.values()), frozenset(), {}, given)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "workflow" / "Snakefile"), "--dry-run"]
    command += ["--printshellcmds", "--directory", str(given.state), "--cores", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = set()
    for line in shown.splitlines():
        if " receipts/" not in line or "job_supervisor.py" not in line:
            continue
        words = shlex.split(line)
        start = next(i for i, word in enumerate(words) if word.startswith("receipts/"))
        job = wanted[words[start].removeprefix("receipts/").removesuffix(".done")]
        found.add(job.name)
        module, arguments = words[start + 3], words[start + 4 :]
        if job.rule == "notebook":
            asked = execute._arguments(arguments)
            assert (module, asked.only, asked.timeout) == ("lodo_experiments.cli.execute", [job.name[9:]], 7.0)
            assert (asked.preset, asked.seeds, asked.download, asked.data_dir) == ("paper", 3, True, "/data")
        elif job.rule == "data":
            assert (module, arguments) == (
                "lodo_experiments.data", ["--data-dir", "/data", job.dataset, "--download"]
            )  # fmt: skip
        else:
            asked = run._parser().parse_args(arguments)
            assert (module, asked.what, asked.variant) == ("lodo_experiments.cli.run", job.experiment, job.variant)
            assert (tuple(asked.only), tuple(asked.apart)) == (job.optimizers, job.seeds)
            assert (asked.tuning, asked.preset, asked.seeds) == (job.rule == "tune", "paper", 3)
            assert (asked.results_dir, asked.data_dir) == (str(given.folder), "/data")
    assert found == set(wanted)


def test_data_that_are_missing_are_told_before_anything_starts(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    asked = ["--preset", "laptop", "--only", "image_generation/LARS", "--results-dir", str(tmp_path / "results")]
    assert batch.main([*asked, "--data-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "mnist 3.0.1 is not prepared in" in told
    assert "--download lets it fetch the data, and --only leaves out what needs them (image_generation)." in told
    own = Options("laptop", ("image_generation/LARS",), data_dir=str(tmp_path), download=True, notebooks=None)
    assert [job.name for job in jobs(own)][:2] == ["data/mnist", "image_generation/LARS/tuning"]
    finished_jobs.check_data(jobs(own), own)


def test_a_dry_run_lists_the_jobs_with_what_is_known_of_their_cost(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    only = ["--only", "rosenbrock/Adam", "image_generation/LARS", "paper_and_code"]
    assert batch.main(["--preset", "paper", "--dry-run", *only, "--results-dir", str(tmp_path)]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(tmp_path.iterdir()) == []  # a dry run leaves nothing
    assert float(shown["rosenbrock/Adam"].split()[3]) > 0  # from the project's records
    # The laptop's images and network are others, so its records say nothing of the time here.
    assert shown["image_generation/LARS/seeds-0-0"].split()[3:5] == ["not", "known"]
    assert "500 MB" in shown["rosenbrock/Adam"]
    assert "to do" in shown["paper_and_code"]


def test_a_dry_run_tells_the_disk_space_that_is_needed_and_free(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Namespace(free=123e6))
    only = ["--only", "rosenbrock/Adam", "--no-notebooks", "--results-dir", str(tmp_path / "new")]
    assert batch.main(["--preset", "paper", "--dry-run", *only]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    stored = [root / "results" / "paper" / "rosenbrock" / f"Adam{end}.npz" for end in ("", "-tuning")]
    needed = sum(path.stat().st_size for path in stored) / 1e6
    assert last == f"Disk: about {needed:.1f} MB needed, 123 MB free in {tmp_path / 'new'}."
    assert batch.main(["--preset", "laptop", "--dry-run", *only[:1], "data/cifar10", "--download", *only[2:]]) == 0
    assert "Disk: about 340.1 MB needed, 123 MB free" in (told := capsys.readouterr().out)
    assert told.rstrip().endswith("This may not be enough.")


def test_the_news_tell_the_time_left(monkeypatch):
    monkeypatch.setattr(summary.time, "time", lambda: 1_000.0)
    expected = {"a": Cost(100.0), "b": Cost(300.0), "c": Cost(400.0), "d": Cost(), "e": Cost(50.0)}
    failed = [{"started": 900.0, "kind": failures.REFUSED, "message": "no"}]
    tried = {"a": [{"started": 900.0, "kind": failures.DONE, "seconds": 99.0}], "b": [{"started": 940.0}], "e": failed}
    told = {"b": 1, "e": 2}
    # Of b 240 s are left and of c 400, on two cores.
    head = "[1/5, about 05:20 left (and 1 that nothing is known of)]"
    lines = list(summary.news(tried, told, expected, 2))
    assert lines == [f"{head} started a", f"{head} done a (99.0 s)"]
    assert list(summary.news({"d": [{"started": 1.0}]}, {}, {"d": Cost()}, 1)) == [
        "[0/1, time left not known] started d"
    ]


def test_what_is_stored_is_done_and_what_is_damaged_is_refused(root, tmp_path, options):
    wanted = jobs(options("paper", only=("rosenbrock/Adam",)))
    assert not finished_jobs.find_finished(wanted, options("paper")).done
    folder = tmp_path / "paper" / "rosenbrock"
    folder.mkdir(parents=True)
    for name in ("Adam.npz", "Adam-tuning.npz"):
        (folder / name).write_bytes((root / "results" / "paper" / "rosenbrock" / name).read_bytes())
    assert finished_jobs.find_finished(wanted, options("paper")).done == {"rosenbrock/Adam/tuning", "rosenbrock/Adam"}
    more = options("paper", only=("rosenbrock/Adam",), seeds=9)
    assert finished_jobs.find_finished(jobs(more), more).done == {"rosenbrock/Adam/tuning"}
    path = folder / "Adam.npz"
    path.write_bytes(path.read_bytes()[:-200])
    found = finished_jobs.find_finished(wanted, options("paper"))
    assert found.done == {"rosenbrock/Adam/tuning"}
    assert "Adam.npz is damaged" in found.refused["rosenbrock/Adam"]


def test_time_is_scaled_from_other_presets_only_where_a_step_costs_the_same(root, options, tmp_path, monkeypatch):
    # The project's records but those of smoke, which are there once the notebooks were executed.
    for preset in ("laptop", "paper"):
        (tmp_path / preset).symlink_to(root / "results" / preset)
    monkeypatch.setenv("LODO_RESULTS", str(tmp_path))
    wanted = jobs(options("smoke", only=("noisy_bowl", "image_classification")))
    small = options("smoke")
    expected = costs.predict(wanted, small)
    assert expected["noisy_bowl"].seconds > costs.START
    assert expected["image_classification"].seconds is None
    assert expected["noisy_bowl"].memory_mb >= BASE_MB
    assert not expected["noisy_bowl"].measured
    benchmark = small.state / "benchmarks" / "noisy_bowl.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t260.05\n")
    assert costs.predict(wanted, small)["noisy_bowl"] == Cost(12.5, 260.05, True)


def test_memory_is_worked_out_from_the_number_of_parameters():
    """11,173,962 weights of the ResNet-18: its known size for ten classes."""
    resnet, frozen = (registry.named(name) for name in ("image_classification", "noisy_bowl_frozen"))
    assert resnet.parameters(resnet.preset("paper")) == 11_173_962
    assert frozen.parameters(frozen.preset("paper")) == 100
    # Adam: two moments, three copies of them and of what goes with them; one network at a time.
    adam = memory_mb(resnet, "paper", ["Adam"], 16)
    assert adam == BASE_MB + int(3 * 4 * 4 * 11_173_962 / 1e6)


def test_runs_made_apart_and_joined_are_what_one_run_makes(tmp_path):
    """Exactly, where the programs are of the same width: the seeds of an image experiment run one by one anyway."""

    def study(folder):
        with jax.enable_x64(True):
            built = registry.build("rosenbrock", "smoke", results_dir=str(tmp_path / folder), show=False)
        return replace(built.with_preset(schedule=(), seeds=3), setup=replace(built.setup, lanes=1))

    with jax.enable_x64(True):
        whole = study("whole").run("Adam")
        parts_ = study("parts")
        assert [r.provenance["seeds"] for r in parts_.run_seeds("Adam", [2])] == [[2]]
        assert [r.provenance["seeds"] for r in parts_.run_seeds("Adam", [0])] == [[0]]
        assert parts_.is_complete("Adam", seeds=[0, 2])
        assert not parts_.is_complete("Adam", seeds=[1])
        assert not parts_.is_complete("Adam")
        path = next((tmp_path / "parts").rglob("Adam-seeds-2-2.npz"))
        path.write_bytes(path.read_bytes()[:-99])
        with pytest.warns(UserWarning, match="is not used.*Its seeds are run again"):
            joined = parts_.run("Adam")
    assert joined.provenance["seeds"] == whole.provenance["seeds"] == [0, 1, 2]
    for name, array in whole.arrays.items():
        assert name in CLOCKS or np.array_equal(array, joined.arrays[name], equal_nan=True), name
    assert joined.values["settings"] == whole.values["settings"]
    assert not list((tmp_path / "parts").rglob("*-seeds-*")), "what was joined is not left behind"
    assert records.load(next((tmp_path / "parts").rglob("Adam.npz"))).digest() == joined.digest()


def test_fewer_lanes_are_said_in_the_provenance(tmp_path, monkeypatch):
    monkeypatch.setenv("LODO_LANES", "2")
    monkeypatch.setenv("LODO_RETRIED_AFTER", "out of memory")
    with jax.enable_x64(True):
        study = registry.build("rosenbrock", "smoke", results_dir=str(tmp_path), show=False)
        record = study.with_preset(schedule=(), seeds=3).run("Momentum")
    assert study.setup.lanes == 2
    assert record.provenance["lanes_at_most"] == 2
    assert record.provenance["retried_after"] == "out of memory"
    assert [part["seeds"] for part in record.provenance["parts"]] == [[0, 1], [2]]
    monkeypatch.setenv("LODO_LANES", "many")
    with pytest.raises(ValueError, match="LODO_LANES must be a positive integer, or unset; got 'many'"):
        registry.lanes_at_most()


def test_options_that_are_given_twice_are_added_up():
    asked = batch._parser().parse_args(["--only", "a", "b", "--only", "c", "--set", "d=1", "--set", "e=2"])
    assert (asked.only, asked.set) == (["a", "b", "c"], ["d=1", "e=2"])
    asked = run._parser().parse_args(["small", "--only", "a", "--only", "b", "--apart", "1", "--apart", "3"])
    assert (asked.only, asked.apart) == (["a", "b"], [1, 3])


def test_a_sweep_is_a_job_for_each_value():
    wanted = jobs(Options("smoke", sweep=("noisy_bowl", "drift", "0", "1", "1"), set=("steps=100",)))
    assert [job.name for job in wanted] == ["sweep/noisy_bowl/drift=0", "sweep/noisy_bowl/drift=1"]
    assert {job.rule for job in wanted} == {"sweep"}


@pytest.mark.parametrize(
    ("sweep", "given", "says"),
    [
        (("noisy_bowl", "drift"), (), "give a notebook, one of its parameters and values"),
        (("claims", "drift", "0"), (), "expected an experiment with a notebook"),
        (("noisy_bowl", "drfit", "0"), (), "did you mean 'drift'"),
        (("noisy_bowl", "drift", "-1"), (), "expected at least 0"),
        (("noisy_bowl", "drift", "1"), ("steps",), "expected NAME=VALUE"),
        (("noisy_bowl", "drift", "1"), ("seeds=3",), "--seeds"),
        (("noisy_bowl", "drift", "0", "1"), ("drift=2",), "drift=0: drift is given as 2 too"),
        (("noisy_bowl", "drift", "0"), ("steps=3", "steps=4"), "steps=4: steps is given as 3 too"),
        ((), ("steps=3",), "--set goes with --sweep"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_it_starts(sweep, given, says):
    with pytest.raises(ValueError, match=says):
        jobs(Options("smoke", sweep=sweep, set=given))
