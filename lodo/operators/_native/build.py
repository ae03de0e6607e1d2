"""Compile the C++ kernels once on each machine, and tell XLA where they are.

The compiler is the one that the environment variable ``CXX`` names, or else the first of c++, g++ and clang++ that
there is. What it makes is kept in the user's cache folder (``$XDG_CACHE_HOME``, or ``~/.cache``), under a name that
changes with whatever it depends on: the source, the options, the compiler, the processor's instructions and JAX's
headers. Machines that differ can share the folder.

Where there is no compiler and none can be installed, PyPI has one: ``pip install ziglang``, and
``CXX="python -m ziglang c++"``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jaxlib
import jaxlib.version

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("layers.cc", "passes.h"))
DTYPES = ("float32", "float64")
INSTEAD = 'or use kernel="xla", which needs no compiler.'
#: Seconds; it takes about six.
LONGEST_COMPILATION = 300


def target(name: str, dtype: Any) -> str:
    """The name under which XLA finds a kernel for a dtype, the kernels having been compiled and loaded.

    Raises:
      TypeError: a dtype for which there is none.
      RuntimeError: no CPU, no compiler, or one that fails; a cache folder that cannot be written.
    """
    width = jax.numpy.dtype(dtype).name
    if width not in DTYPES:
        raise TypeError(f'kernel="native" computes in {" or ".join(DTYPES)}; got θ in {width}. Use kernel="xla".')
    if jax.default_backend() != "cpu":
        raise RuntimeError(
            f'kernel="native" is for CPUs; JAX\'s default here is {jax.default_backend()}. Use kernel="xla", or start '
            "Python with JAX_PLATFORMS=cpu."
        )
    full = f"lodo_{name}_{width}"
    _register(full)
    return full


@functools.cache
def _register(name: str) -> None:
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(_library(), name)), platform="cpu")


@functools.cache
def _library() -> ctypes.CDLL:
    path = compile_library()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"The compiled kernels cannot be loaded: {error}. Delete {path} to compile anew.") from error


def compile_library() -> Path:
    """The compiled kernels' file, which is made if there is none.

    Raises:
      RuntimeError: no compiler, one that fails, or a folder that cannot be written.
    """
    compiler = find_compiler()
    options = _options()
    path = cache_folder() / f"layers-{_key(compiler, options)}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".so.unfinished")
    except OSError as error:
        raise RuntimeError(
            f"The kernels' folder cannot be written: {error}. Set XDG_CACHE_HOME to a folder of yours, {INSTEAD}"
        ) from error
    os.close(handle)
    try:
        _compile([*compiler, *options, str(SOURCE), "-o", unfinished])
        # Another process may have been as far by now; its file is the same.
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
    return path


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``lodo`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lodo"


def find_compiler() -> list[str]:
    """The C++ compiler's command.

    Raises:
      RuntimeError: there is none, or none of the name in ``CXX``, or this is Windows.
    """
    if sys.platform == "win32":
        raise RuntimeError(
            f'kernel="native" is compiled on Linux and macOS; this system is Windows. Use WSL, {INSTEAD}'
        )
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise RuntimeError(
                f'kernel="native" is compiled with the compiler that CXX names, {named[0]!r}, which is not found. Set '
                f"CXX to another one, {INSTEAD}"
            )
        return named
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise RuntimeError(
        'kernel="native" is compiled on first use and needs a C++ compiler; none of c++, g++ and clang++ is on the '
        "path. Install one (Debian: apt install g++; macOS: xcode-select --install; conda: conda install "
        f"cxx-compiler), set CXX to one, {INSTEAD}"
    )


def _options() -> list[str]:
    # The processor's own instructions; a square root need not set errno, without which it is vectorized.
    own = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    usual = ["-std=c++17", "-O3", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread"]
    return [*usual, own, "-isystem", jax.ffi.include_dir()]


def _key(compiler: list[str], options: list[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [
        SOURCE.read_text(),
        HEADER.read_text(),
        *compiler,
        version,
        *options,
        jaxlib.version.__version__,
        _processor(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What ``native`` depends on, as far as it can be read: the processor's name and the instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_COMPILATION, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(
            f"The kernels' compilation took longer than {LONGEST_COMPILATION} s: {shlex.join(command)}. Set CXX to "
            f"another compiler, {INSTEAD}"
        ) from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RuntimeError(
            f"The kernels could not be compiled: {shlex.join(command)} ended with status {done.returncode}:\n{last}\n"
            f"Set CXX to another compiler, {INSTEAD}"
        )
