"""Compiled programs on disk: shared between processes, asked for, and told apart in records."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lodo_experiments.cli.execute import Executor
from lodo_experiments.report import figures
from lodo_experiments.results.records import Record
from lodo_experiments.studies.notebooks import content
from lodo_experiments.utils import compilation_cache
from lodo_experiments.utils.compilation_cache import VARIABLE

ROOT = Path(__file__).resolve().parents[2]

#: Compiles a few programs, says what it computed, and how many of them came from the cache.
PROGRAM = """
import jax, jax.numpy as jnp
before = jax.config.jax_compilation_cache_dir
import lodo
assert jax.config.jax_compilation_cache_dir == before, "import lodo turned a cache on"
from lodo_experiments.utils import compilation_cache
cache = compilation_cache.enable()
value = jax.jit(lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(5)))(jnp.linspace(0.0, 1.0, 25).reshape(5, 5))
print(float(value.sum()).hex(), compilation_cache.programs_loaded(), cache is not None, flush=True)
"""


def environment(folder):
    clean = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return clean | {VARIABLE: str(folder)}


def start(folder, program=PROGRAM):
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment(folder), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "persistent compilation cache" not in err
    value, loaded, on = out.split()
    return value, int(loaded), on == "True"


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/programs/*-cache")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that two processes at once have compiled into, and what they computed."""
    folder = tmp_path_factory.mktemp("compiled")
    both = [start(folder), start(folder)]
    (value, loaded, on), (other, _, _) = map(said, both)
    assert on
    assert value == other, loaded
    return folder, value


@pytest.mark.exhaustive
def test_the_next_process_loads_what_two_at_once_have_compiled(kept):
    folder, value = kept
    before = entries(folder)
    assert before
    again, loaded, _ = said(start(folder))
    assert again == value
    assert loaded >= len(before)
    assert entries(folder) == before
    # XLA compiles for the very processor.
    assert [path.name for path in folder.iterdir()] == [compilation_cache._machine()]


@pytest.mark.exhaustive
def test_without_a_folder_nothing_is_kept(tmp_path):
    _, loaded, on = said(start(""))
    assert not on
    assert not loaded


@pytest.mark.exhaustive
def test_what_a_killed_process_left_half_is_compiled_and_kept_by_the_next(kept, tmp_path):
    folder, value = shutil.copytree(kept[0], tmp_path / "copy"), kept[1]
    whole = entries(folder)
    (place,) = folder.glob("*/programs")
    # As if all of it were written since a process looked last.
    (place / "checked").unlink()
    halved = max(whole, key=lambda name: len(whole[name]))
    (place / halved).write_bytes(whole[halved][:-3])
    (place / "empty-cache").write_bytes(b"")
    again, loaded, _ = said(start(folder))
    assert again == value
    assert loaded == len(whole) - 1
    mended = entries(folder)
    assert mended.keys() == whole.keys()
    assert compilation_cache._whole(mended[halved])


def test_who_reads_an_entry_that_is_being_written_compiles_the_program(kept, tmp_path):
    # Halved after the process has looked through the folder.
    halve = "for path in cache.glob('*-cache'):\n    path.write_bytes(path.read_bytes()[:-3])\n"
    folder = shutil.copytree(kept[0], tmp_path / "copy")
    again, loaded, _ = said(start(folder, PROGRAM.replace("value =", f"{halve}value =")))
    assert (again, loaded) == (kept[1], 0)


WHOLE = compilation_cache.zlib.compress(b"a program")


def test_the_oldest_entries_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "LIMIT", 10 * len(WHOLE))
    for age in range(11):
        (tmp_path / f"{age}-cache").write_bytes(WHOLE)
        os.utime(tmp_path / f"{age}-cache", (1e9 - age, 1e9 - age))
    compilation_cache._tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == [f"{age}-cache" for age in range(5)]


def test_folder_is_the_variables_or_the_checkouts(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "somewhere")
    assert compilation_cache.default_folder() == Path("somewhere")
    monkeypatch.setenv(VARIABLE, "")
    assert compilation_cache.default_folder() is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.chdir(tmp_path)
    assert compilation_cache.default_folder() is None
    monkeypatch.chdir(ROOT / "lodo")
    assert compilation_cache.default_folder() == ROOT / "_build" / "compiled"


def test_fingerprint_does_not_depend_on_where_programs_are_kept(tmp_path, monkeypatch):
    source = tmp_path / "x.ipynb"
    source.write_text("{}", encoding="utf-8")
    base = content(source, {})
    for name in (VARIABLE, "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "7")
        assert content(source, {}) == base
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert content(source, {}) != base


def test_a_notebooks_kernel_shares_what_it_compiled(tmp_path, monkeypatch):
    import nbformat

    code = "import lodo_experiments, jax\njax.jit(lambda x: x * 2 + 1)(3.0).block_until_ready()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook["metadata"]["kernelspec"] = {"name": "x", "display_name": "x", "language": "python"}
    (tmp_path / "x.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    outcome = Executor(tmp_path / "out", {}).run(tmp_path / "x.ipynb")
    assert outcome.status == "executed", outcome.message
    assert any(name.startswith("jit__lambda") for name in entries(tmp_path / "cache"))


def test_a_page_says_how_many_programs_were_not_compiled():
    stated = {
        "command": "make book", "preset": "smoke", "device": "cpu", "platform": "Linux", "versions": {}, "seeds": [0],
        "wall_seconds": 1.0, "compile_seconds": 2.0, "date": "today", "commit": "unknown",
    }  # fmt: skip
    found = {"a": stated, "b": stated | {"programs_from_cache": 3}}
    page = figures.provenance_note({name: Record(name, {}, {}, own) for name, own in found.items()})
    assert "a: seeds 0; 1.0 s of training, 2.0 s of compilation; today" in page
    assert "b: seeds 0; 1.0 s of training, 2.0 s of compilation (3 programs from the cache); today" in page
