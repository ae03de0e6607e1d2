"""The Makefile in folders of any name, moved, and with other programs than GNU's; nothing is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Stands for Python and uv: notes its arguments and environment, and makes what `python -m venv` makes.
STUB = """#!/bin/sh
echo "$0 $* [$VIRTUAL_ENV]" >> "{log}"
if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/uv; fi
exit 0
"""


@pytest.fixture
def clone(tmp_path):
    """A clone whose path has spaces, and whose Python is a stub."""
    folder = tmp_path / "My Documents (old)" / "lodo"
    folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    stub = folder.parent / "a python"
    stub.write_text(STUB.format(log=tmp_path / "log"), encoding="utf-8")
    stub.chmod(0o755)
    return folder


def make(folder: Path, *arguments: str, **environment: str) -> str:
    command = ["make", *arguments, f"PYTHON={folder.parent / 'a python'}"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def calls(tmp_path: Path) -> str:
    log = tmp_path / "log"
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    log.unlink(missing_ok=True)
    return text


def test_a_clone_in_a_folder_with_spaces_is_installed_once(clone, tmp_path):
    make(clone, "install")
    said = calls(tmp_path)
    assert f"uv pip install --quiet --require-hashes -r requirements.lock [{clone}/.venv]" in said
    make(clone, "install")
    assert calls(tmp_path) == ""
    make(clone, "install-gpu", "lock")
    assert calls(tmp_path).count(f"[{clone}/.venv]") == 3


@pytest.mark.parametrize("stamp", ["as this Makefile writes it", "empty, as older ones did"])
def test_a_clone_that_was_moved_is_installed_anew(clone, tmp_path, stamp):
    make(clone, "install")
    script = clone / ".venv" / "bin" / "jupyter-book"
    script.write_text(f'#!/bin/sh\n\'\'\'exec\' "{clone}/.venv/bin/python" "$0" "$@"\n', encoding="utf-8")
    if stamp.startswith("empty"):
        (clone / ".venv" / ".installed").write_text("", encoding="utf-8")
    calls(tmp_path)
    make(clone, "install")
    assert calls(tmp_path) == ""
    moved = clone.with_name("lodo 2")
    clone.rename(moved)
    said = make(moved, "install")
    assert f".venv was made in another folder than {moved}: installing it anew" in said
    assert f"[{moved}/.venv]" in calls(tmp_path)
    assert not (moved / ".venv" / "bin" / "jupyter-book").exists()
    make(moved, "install")
    assert calls(tmp_path) == ""


def test_an_environment_elsewhere_that_is_linked_to_is_left_alone(clone, tmp_path):
    make(clone, "install")
    (clone / ".venv").rename(tmp_path / ".venv")
    (tmp_path / ".venv" / ".installed").write_text("/somewhere/else\n", encoding="utf-8")
    (clone / ".venv").symlink_to(tmp_path / ".venv")
    calls(tmp_path)
    make(clone, "install")
    assert calls(tmp_path) == ""


def test_help_lists_every_verb_without_gnus_programs(clone, tmp_path):
    """BSD's sed writes a t for a tab."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sed", "gsed", "grep"):
        (programs / name).write_text("#!/bin/sh\necho not to be used; exit 1\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    said = make(clone, "help", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert re.search(r"^  make install +build \.venv from the hash-checked lock$", said, re.MULTILINE)
    assert re.search(r"^  make test-oldest test-colab test-newest +the library's tests", said, re.MULTILINE)
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert len(re.findall("^  make ", said, re.MULTILINE)) == sum(bool(re.match("[a-z].*## ", line)) for line in lines)


@pytest.mark.parametrize("verb", ["execute", "run", "bench", "batch", "ledger", "status"])
def test_records_are_kept_and_looked_for_where_it_is_said(clone, tmp_path, verb):
    make(clone, "install")
    calls(tmp_path)
    make(clone, verb, f"RESULTS_DIR={tmp_path}/my  results")
    assert f"--results-dir {tmp_path}/my  results" in calls(tmp_path)
    make(clone, verb)
    assert "--results-dir" not in calls(tmp_path)


def test_the_sites_address_reaches_the_build(clone):
    assert 'LODO_SITE="https://example.org/lodo"' in make(clone, "--dry-run", "html", "SITE=https://example.org/lodo")
    assert "LODO_SITE" not in make(clone, "--dry-run", "html", "SITE=")
    whole = make(clone, "--dry-run", "book", "SITE=https://example.org/lodo")
    assert whole.index("social.py") < whole.index("cli.execute"), "checked after the notebooks have run"


def test_every_path_in_a_recipe_is_quoted():
    unquoted = []
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        outside = re.sub(r'"[^"]*"', "", re.sub(r"\$\(if \$\(\w+\)", "", line))  # a condition is no argument
        if re.search(r"\$\((CURDIR|RESULTS_DIR|DATA_DIR|PROFILE|PYTHON)\)", outside) and "export" not in line:
            unquoted.append(line)
    assert not unquoted
