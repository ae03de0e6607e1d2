"""Continuous integration and pre-commit: pinned, with minimal rights, and calling only what can be run at home."""

import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lodo_experiments.config.parameters import PRESETS

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
#: What GitHub's own program does for a release, of files that are there: no code of the repository runs.
RELEASE = re.compile(r'gh release create "\$TAG" --verify-tag --title "\$TAG" [^;&|$`]*')
NOTICE = re.compile(r'echo "::notice title=[\w ]+::[^"$`\\]+"')


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow_text(request) -> str:
    return request.param.read_text(encoding="utf-8")


@pytest.fixture
def workflow(workflow_text) -> dict:
    # The base loader keeps every scalar a string, `on` too, which YAML 1.1 reads as true.
    return yaml.load(workflow_text, Loader=yaml.BaseLoader)


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow: dict) -> list[str]:
    """Every line that a workflow runs, once for each entry of its job's matrix."""
    found = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        entries = matrix.get("include", [{}])
        assert matrix.keys() <= {"include"}, "this test reads a matrix written as `include`"
        for step, entry in itertools.product(job["steps"], entries):
            line = step.get("run", "")
            for name, expression in step.get("env", {}).items():
                if matched := re.fullmatch(r"\$\{\{ matrix\.(\w+) \}\}", expression):
                    line = line.replace(f'"${name}"', entry[matched[1]]).replace(f"${name}", entry[matched[1]])
            found += [text for text in line.splitlines() if text.strip()]
    return found


def makefile_targets(makefile: Path) -> set[str]:
    """The explicit targets of a Makefile and of what it includes."""
    targets: set[str] = set()
    for line in makefile.read_text(encoding="utf-8").splitlines():
        if included := re.fullmatch(r"-?include\s+([\w./-]+)\s*", line):
            targets |= makefile_targets(makefile.parent / included[1])
        elif rule := re.match(r"([\w./-][\w./ -]*?)\s*::?(?![:=])", line):
            targets |= set(rule[1].split())
    return targets - {".PHONY"}


def read(name: str) -> dict:
    """A workflow by its file's name."""
    return yaml.load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def test_the_workflows_that_are_promised_are_there():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "gpu.yml", "release.yml", "weekly.yml"]


def uses(job: dict) -> set[str]:
    """The actions that a job uses, without their versions."""
    return {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}


def test_nothing_is_permitted_unless_a_job_says_so(workflow):
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, f"{name}: say what it needs"
        allowed = {"contents": "read"}
        if "actions/deploy-pages" in uses(job):
            allowed = {"pages": "write", "id-token": "write"}
        elif "pypa/gh-action-pypi-publish" in uses(job):
            allowed = {"id-token": "write"}
        elif any(RELEASE.fullmatch(step.get("run", "")) for step in job["steps"]):
            allowed = {"contents": "write"}
        elif "actions/configure-pages" in uses(job):
            allowed["pages"] = "read"
        assert job["permissions"].items() <= allowed.items(), name


def writes(job: dict) -> bool:
    return "write" in job["permissions"].values()


def test_a_job_that_may_write_executes_nothing_of_ours_and_only_after_a_push_and_all_checks(workflow):
    checks = {name for name, job in workflow["jobs"].items() if not writes(job)}
    publishers = {"actions/deploy-pages", "actions/download-artifact", "pypa/gh-action-pypi-publish"}
    for name, job in workflow["jobs"].items():
        if writes(job):
            assert uses(job) <= publishers, name
            assert all(RELEASE.fullmatch(step["run"]) for step in job["steps"] if "run" in step), name
            assert "github.event_name == 'push'" in job["if"], name
            assert set(job["needs"]) >= checks, f"{name}: after all the others"


def test_a_release_publishes_what_was_tested_under_the_tag_of_its_version():
    workflow = read("release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert "make test" in [step.get("run") for step in jobs["test"]["steps"]]
    ran = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert ran == ["make install", "make release-notes", "make dist"]
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    (given,) = [step["with"] for step in jobs["build"]["steps"] if step.get("with", {}).get("name") == "distributions"]
    assert given["path"] == "_build/dist"
    assert jobs["announce"]["needs"] == ["test", "build", "publish"]


def test_the_published_book_is_the_one_that_was_tested():
    workflow = read("ci.yml")
    assert workflow["on"]["push"] == {"branches": ["main"]}
    job = workflow["jobs"]["lock"]
    (handed,) = [
        i for i, step in enumerate(job["steps"]) if step.get("uses", "").startswith("actions/upload-pages-artifact@")
    ]
    (tested,) = [i for i, step in enumerate(job["steps"]) if step.get("run") == "make test"]
    assert tested < handed
    assert "cancelled()" not in job["steps"][handed]["if"]
    assert job["steps"][handed]["if"] == workflow["jobs"]["pages"]["if"]
    # It says the address at which GitHub will show it.
    (asked,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/configure-pages@")]
    assert asked["if"] == job["steps"][handed]["if"]
    (build,) = [step for step in job["steps"] if step.get("run") == "make book"]
    assert build["env"] == {"SITE": f"${{{{ steps.{asked['id']}.outputs.base_url }}}}"}
    assert job["steps"].index(asked) < job["steps"].index(build)


def test_no_secret_is_named(workflow_text):
    # `gh`, which makes a release, has no other way to know who asks.
    text = re.sub(
        r"env:\n +GH_TOKEN: \$\{\{ github\.token \}\}\n(?=(?: +\w+: .*\n)* +run: gh release )", "", workflow_text
    )
    assert not re.search(r"\bsecrets\b|github\.token|GITHUB_TOKEN", text)


def test_every_job_has_a_time_limit(workflow):
    for name, job in workflow["jobs"].items():
        hosted = job["runs-on"] in ("ubuntu-latest", "${{ matrix.system }}")
        assert 1 <= int(job["timeout-minutes"]) <= (60 if hosted and name != "exhaustive" else 350), name
        limits = [int(step["timeout-minutes"]) for step in job["steps"] if "timeout-minutes" in step]
        assert all(limit < int(job["timeout-minutes"]) for limit in limits), f"{name}: nothing is left to keep results"


def test_a_newer_run_replaces_an_older_one_of_the_same_kind(workflow):
    assert "github.workflow" in workflow["concurrency"]["group"]
    # But nothing interrupts a publication.
    publishes = any(writes(job) and uses(job) for job in workflow["jobs"].values())
    assert workflow["concurrency"]["cancel-in-progress"] != ("true" if publishes else "false")


def test_actions_are_pinned_by_commit_with_the_tag_beside(workflow, workflow_text):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    for action in used:
        assert PINNED.fullmatch(action), f"{action}: pin it by its full commit hash"
        lines = [line for line in workflow_text.splitlines() if action in line]
        assert all(re.search(r"# v\d+\.\d+\.\d+$", line) for line in lines), f"{action}: say its release"


def test_an_action_has_one_version_and_one_release_in_all_workflows():
    found: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, pin in re.findall(r"uses: ([\w.-]+/[\w./-]+)@(.*)", path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(pin)
    assert found
    assert not {name: pins for name, pins in found.items() if len(pins) > 1}


def test_checkout_leaves_no_token_behind(workflow):
    jobs = workflow["jobs"].values()
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == sum(any("run" in step and "make" in step["run"] for step in job["steps"]) for job in jobs)
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_nothing_of_an_outsider_reaches_a_shell(workflow):
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow["on"].keys()
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), "hand it over by the environment"


def test_every_command_is_a_make_target_or_a_notice_or_a_release(workflow):
    targets = makefile_targets(ROOT / "Makefile")
    ran = commands(workflow)
    assert ran
    for command in ran:
        found = re.fullmatch(r"make (?:([\w-]+)|\"([\w-]+)\")", command)
        if not found:
            expected = NOTICE.fullmatch(command) or RELEASE.fullmatch(command)
            assert expected, f"{command!r} is neither one make target nor a notice nor a release"
        else:
            target = found[1] or found[2]
            assert target in targets, f"make {target}: no such target in the Makefile"


def test_every_variable_that_a_workflow_sets_is_one_that_the_makefile_reads(workflow):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for job in workflow["jobs"].values():
        for step in [job, *job["steps"]]:
            run = step.get("run", "make")
            for name in step.get("env", {}):
                read_by_gh = name.startswith("GH_") and run.startswith("gh ")
                assert f"$({name})" in makefile or f"${name}" in run or read_by_gh, f"{name}: nothing reads it"


def test_the_makefile_calls_only_what_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    modules = set(re.findall(r"-m (lodo[\w.]*)", makefile))
    files = set(re.findall(r"(?<![\w/.])((?:tools|tests|benchmarks|examples)/[\w/.-]+)", makefile))
    assert "lodo_experiments.cli.execute" in modules
    assert "tools/packages.sh" in files
    for module in modules:
        found = importlib.util.find_spec(module)
        assert found, f"{module}: no such module"
        if found.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), f"{module}: cannot be run by -m"
    assert not [name for name in files if not (ROOT / name).exists()]


def test_the_legs_that_are_promised_are_run():
    ran = {command.removeprefix("make ").strip('"') for command in commands(read("ci.yml"))}
    wanted = {"install", "packages", "lint", "lint-workflows", "typecheck", "book", "test", "test-slurm", "test-faults"}
    assert ran >= wanted | {"test-oldest", "test-colab", "test-newest", "test-system"}
    systems = read("ci.yml")["jobs"]["systems"]["strategy"]["matrix"]["include"]
    assert {entry["system"] for entry in systems} == {"macos-latest", "windows-latest"}


def test_local_ci_calls_what_is_there():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    ran = re.findall(r"^make ([\w-]+)", script, re.MULTILINE)
    assert ran == ["install", "test-slurm", "test"]
    assert set(ran) <= makefile_targets(ROOT / "Makefile")
    assert all((ROOT / called).exists() for called in re.findall(r"^(tools/\S+)", script, re.MULTILINE))
    checked = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_gpu_is_asked_for_on_a_label_weekly_and_on_demand():
    workflow = read("gpu.yml")
    assert workflow["on"].keys() == {"pull_request", "schedule", "workflow_dispatch"}
    assert workflow["on"]["pull_request"] == {"types": ["labeled"]}
    assert workflow["on"]["workflow_dispatch"]["inputs"]["preset"]["options"] == list(PRESETS)
    assert all("github.event.label.name == 'gpu'" in job["if"] for job in workflow["jobs"].values())


def test_without_a_runner_the_gpu_is_skipped_with_a_notice():
    jobs = read("gpu.yml")["jobs"]
    assert "vars.GPU_RUNNER == ''" in jobs["skipped"]["if"]
    assert NOTICE.fullmatch(jobs["skipped"]["steps"][0]["run"])
    assert "vars.GPU_RUNNER != ''" in jobs["notebooks"]["if"]
    assert jobs["notebooks"]["runs-on"] == "${{ vars.GPU_RUNNER }}"


def test_nothing_is_executed_before_the_gpu_is_there_and_its_records_are_kept():
    job = read("gpu.yml")["jobs"]["notebooks"]
    ran = [step["run"] for step in job["steps"] if "run" in step]
    assert ran == ["make install", "make install-gpu", "make gpu", "make execute"]
    (kept,) = [step for step in job["steps"] if step.get("with", {}).get("name") == "gpu-records"]
    assert kept["with"]["path"] == job["env"]["RESULTS_DIR"]
    assert "cancelled()" in kept["if"]


def test_zizmor_finds_nothing():
    zizmor = Path(sys.executable).with_name("zizmor")
    if not zizmor.exists():
        pytest.skip("zizmor is not installed here; it comes with the extra `dev`")
    command = [zizmor, "--offline", "--no-progress", "--pedantic", ROOT / ".github" / "workflows"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_actionlint_finds_nothing():
    actionlint = shutil.which("actionlint")
    if actionlint is None:
        pytest.skip("actionlint is not on the path")
    found = subprocess.run([actionlint, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_what_was_not_made_fails_the_upload(workflow):
    uploads = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert all(step["with"]["if-no-files-found"] == "error" for step in uploads)


def test_makefile_reader_knows_targets_from_assignments(tmp_path):
    (tmp_path / "more.mk").write_text("extra:\n\techo extra\n")
    (tmp_path / "Makefile").write_text(
        "A := b\nB ::= c\n.PHONY: one\none two: three ## help\n\tfour: five\ninclude more.mk\n# six: no\n"
    )
    assert makefile_targets(tmp_path / "Makefile") == {"one", "two", "extra"}


@pytest.mark.parametrize("action", ["actions/checkout@v5", "actions/checkout@08c6903", "actions/checkout"])
def test_an_action_that_is_not_pinned_would_be_noticed(action):
    assert not PINNED.fullmatch(action)


@pytest.mark.exhaustive
def test_pre_commit_downloads_nothing_and_uses_the_projects_tools():
    path = ROOT / ".pre-commit-config.yaml"
    checked = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for repository in yaml.safe_load(path.read_text(encoding="utf-8"))["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            program, *arguments = hook["entry"].split()
            assert hook["language"] == "system", hook["id"]
            assert program in {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"}, hook["id"]
            scripts = [argument for argument in arguments if argument.endswith(".py")]
            assert all((ROOT / script).is_file() for script in scripts), hook["id"]
