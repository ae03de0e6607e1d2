"""Compiled programs kept on disk: what one process has compiled, the next one loads.

JAX can keep compiled programs in a folder, but writes them in place: a process that is killed leaves half an entry that
is never mended, and another process may read one that is being written. Here each process has a folder of its own for
JAX to write to, and whole entries go from there to a shared folder, and back, by hard links::

    FOLDER/<machine>/programs/        whole entries, shared by all processes
    FOLDER/<machine>/processes/ID/    one running process's own; swept up once its lock is free

Nothing is kept unless asked for: ``import lodo`` changes no setting of JAX. The notebooks that ``make execute`` runs,
:mod:`lodo_experiments.cli.run` and the tests ask for it. An entry is machine code that JAX runs unseen, so the folder
is made for its owner alone, and must not be shared with anyone who is not trusted. To clear it, remove it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import os
import platform
import shutil
import sys
import uuid
import warnings
import zlib
from pathlib import Path

import jax

from lodo_experiments.utils.atomic_files import written

try:
    import fcntl
except ImportError:  # a system without these locks, such as Windows
    fcntl = None  # type: ignore[assignment]

#: The environment variable that names the folder; empty: no cache. It is meant for child processes too.
VARIABLE = "LODO_COMPILATION_CACHE"
#: Bytes of shared entries above which the oldest are removed, down to half of it.
LIMIT = 4 * 2**30

_SUFFIX = "-cache"  # JAX's own, of a whole entry
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_HIT = "/jax/compilation_cache/cache_hits"
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # XLA's own caches would put the path of the process's folder into every key.
    "jax_persistent_cache_enable_xla_caches": "none",
}


class Cache:
    """One process's part in a shared cache; see :func:`enable`.

    Args:
      folder: the machine's part of the cache, as :func:`enable` finds it.
    """

    def __init__(self, folder: Path):
        self.shared, processes = folder / "programs", folder / "processes"
        for made in (self.shared, processes):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(processes)
        self._process, self._closed = os.getpid(), False
        self.own, self._lock = _own(processes)
        _prune(self.shared)
        self.exchange()

    def exchange(self) -> tuple[int, int]:
        """Shares what this process has compiled since the last time, and takes what others have shared.

        Call it between pieces of work, when this process compiles nothing.

        Returns:
          How many entries were shared, and how many taken.
        """
        self.shared.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may have been cleared
        own, shared = _entries(self.own), _entries(self.shared)
        # A write that failed, on a full disk for one, leaves a part of an entry.
        given = [name for name in own - shared if _whole((self.own / name).read_bytes())]
        taken = shared - own
        for name in given:
            _place(self.own / name, self.shared / name)
        for name in taken:
            _place(self.shared / name, self.own / name)
        return len(given), len(taken)

    def close(self) -> None:
        """Shares what is new and removes the process's own folder; for its end. A second time it does nothing."""
        if self._closed or os.getpid() != self._process:  # a fork's end is not this process's
            return
        self._closed = True
        self.exchange()
        shutil.rmtree(self.own, ignore_errors=True)
        self.own.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._lock)


_cache: Cache | None = None
_loaded = 0


def enable(folder: str | os.PathLike[str] | None = None) -> Cache | None:
    """Lets this process load the programs that others have compiled, and keep its own for them.

    Call it before the first program is compiled. What is shared at the end of the process is what it compiled; a
    process that is killed shares nothing since its last :meth:`Cache.exchange`.

    Args:
      folder: where; None: as :func:`default_folder` says.

    Returns:
      The cache; None where there is none: no folder, no POSIX file locks (which is warned of), or JAX has been given
      a cache of the user's own (``JAX_COMPILATION_CACHE_DIR``), which is left as it is.

    Raises:
      ValueError: another folder than before.
      OSError: the folder cannot be made or written to.
    """
    global _cache
    chosen = default_folder() if folder is None else Path(folder)
    if chosen is None or (_cache is None and jax.config.values["jax_compilation_cache_dir"]):
        return None
    place = chosen.expanduser().resolve() / _machine()
    if _cache is not None:
        if _cache.shared.parent != place:
            raise ValueError(f"This process keeps its programs in {_cache.shared.parent} already; got {place}.")
        return _cache
    if fcntl is None:
        warnings.warn(
            f"No compiled programs are kept: that needs POSIX file locks, which {sys.platform} lacks. Set {VARIABLE}= "
            "(empty) to be told no more.",
            stacklevel=2,
        )
        return None
    _cache = Cache(place)
    for name, value in {"jax_compilation_cache_dir": str(_cache.own), **_SETTINGS}.items():
        jax.config.update(name, value)
    jax.monitoring.register_event_listener(_count)
    atexit.register(_cache.close)
    return _cache


def exchange() -> None:
    """:meth:`Cache.exchange` where this process has a cache; otherwise nothing."""
    if _cache is not None:
        _cache.exchange()


def loaded() -> int:
    """How many programs this process has loaded from its cache instead of compiling them."""
    return _loaded


def default_folder() -> Path | None:
    """Where the cache is: the folder that ``LODO_COMPILATION_CACHE`` names, else the checkout's ``_build/compiled``.

    Returns:
      The folder; None where the variable is empty, or where there is neither variable nor checkout.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given) if given else None
    if fcntl is None:
        return None
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents) if (folder / "lodo" / "_version.py").exists())
    checkout = next(checkouts, None)
    return None if checkout is None else checkout / "_build" / "compiled"


def _count(event: str, **_: str | int) -> None:
    global _loaded
    _loaded += event == _HIT


@functools.cache
def _machine() -> str:
    """A name for this kind of machine: XLA compiles for the very processor, and JAX's keys do not say all of it."""
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _entries(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as found:
            return {entry.name for entry in found if entry.name.endswith(_SUFFIX)}
    except FileNotFoundError:
        return set()


def _whole(entry: bytes) -> bool:
    """Whether an entry has an end: JAX compresses with zlib, or with Zstandard where that is installed."""
    try:
        if not entry.startswith(_ZSTANDARD):
            zlib.decompress(entry)
        elif sys.version_info >= (3, 14):
            from compression import zstd

            zstd.decompress(entry)
        else:
            importlib.import_module("zstandard").ZstdDecompressor().decompress(entry)
    except Exception:  # each of the three has an exception of its own
        return False
    return True


def _place(source: Path, target: Path) -> None:
    """The same file under another name, at once; does nothing where it is there already."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:  # pruned, or cleared, in the meantime
        return
    except OSError:  # a file system without hard links
        with written(target) as file:
            file.write(source.read_bytes())


def _own(processes: Path) -> tuple[Path, int]:
    """A new process's folder, and the lock that says that it is in use for as long as the process lives."""
    while True:
        own = processes / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        lock = os.open(own.with_suffix(".lock"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if own.with_suffix(".lock").exists():  # not swept up between the two
            own.mkdir(mode=0o700)
            return own, lock
        os.close(lock)


def _sweep(processes: Path) -> None:
    """Removes the folders of processes that have ended without doing so: what is in them may be half written."""
    for path in processes.glob("*.lock"):
        try:
            with open(path, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except OSError:  # it lives, or another process has swept it up
            continue


def _prune(shared: Path) -> None:
    """Removes the oldest entries where there are too many; processes that use them have links of their own."""
    with os.scandir(shared) as found:
        status = [(entry.path, entry.stat()) for entry in found if entry.name.endswith(_SUFFIX)]
    total = sum(entry.st_size for _, entry in status)
    if total <= LIMIT:
        return
    for path, entry in sorted(status, key=lambda one: one[1].st_mtime):
        Path(path).unlink(missing_ok=True)
        total -= entry.st_size
        if total <= LIMIT // 2:
            return
