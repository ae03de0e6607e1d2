"""Continuous integration and pre-commit: pinned, with minimal rights, and calling only what can be run at home."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


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
            for name, value in entry.items():
                line = line.replace(f"${{{{ matrix.{name} }}}}", value)
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


def test_there_is_a_workflow():
    assert [path.name for path in WORKFLOWS].count("ci.yml") == 1


def test_permissions_are_to_read_only(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {"contents": "read"}) == {"contents": "read"}, name


def test_every_job_has_a_time_limit_and_old_runs_are_cancelled(workflow):
    assert workflow["concurrency"]["cancel-in-progress"] == "true"
    for name, job in workflow["jobs"].items():
        assert 1 <= int(job["timeout-minutes"]) <= 60, name


def test_actions_are_pinned_by_commit_with_the_tag_beside(workflow, workflow_text):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    for action in used:
        assert PINNED.fullmatch(action), f"{action}: pin it by its full commit hash"
        lines = [line for line in workflow_text.splitlines() if action in line]
        assert all(re.search(r"# v\d+\.\d+\.\d+$", line) for line in lines), f"{action}: say its release"
    versions = {tuple(action.split("@")) for action in used}
    assert len(versions) == len({name for name, _ in versions}), "one action at two versions"


def test_checkout_leaves_no_token_behind(workflow):
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_nothing_of_an_outsider_reaches_a_shell(workflow):
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow["on"].keys()
    for step in steps(workflow):
        assert set(re.findall(r"\$\{\{\s*(\w+)", step.get("run", ""))) <= {"matrix"}


def test_every_command_is_a_make_target(workflow):
    targets = makefile_targets(ROOT / "Makefile")
    ran = commands(workflow)
    assert ran
    for command in ran:
        found = re.fullmatch(r"make ([\w-]+)", command)
        assert found, f"{command!r} is not one make target"
        assert found[1] in targets, f"make {found[1]}: no such target in the Makefile"


def test_the_legs_that_are_promised_are_run():
    workflow = yaml.load((ROOT / ".github/workflows/ci.yml").read_text(), Loader=yaml.BaseLoader)
    wanted = {"install", "lint", "typecheck", "book", "test", "test-oldest", "test-colab", "test-newest"}
    assert {command.removeprefix("make ") for command in commands(workflow)} == wanted


def test_a_book_that_was_not_built_fails_the_upload(workflow):
    uploads = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert uploads
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
