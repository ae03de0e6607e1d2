"""Compiled programs kept on disk by JAX: what one process has compiled, the next one loads.

Nothing is kept unless asked for: ``import lodo`` changes no setting of JAX. The notebooks that ``make execute`` runs,
:mod:`lodo_experiments.cli.run` and the tests ask for it. An entry is machine code that JAX runs unseen, so the folder
is made for its owner alone, and must not be shared with anyone who is not trusted. To clear it, remove it.

JAX (0.7.2 to 0.10.2) writes an entry in place, and once. Who reads it meanwhile compiles the program too; one whose
writer was killed would stay half for ever, so :func:`enable` removes those. JAX's own limit of size is no use for the
same reason: where a writer was killed before it noted the time, all later writes fail.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import warnings
import zlib
from pathlib import Path

import jax

#: The environment variable that names the folder; empty: no cache. It is meant for child processes too.
VARIABLE = "LODO_COMPILATION_CACHE"
#: Bytes of entries above which :func:`enable` removes the oldest, down to half of it.
LIMIT = 4 * 2**30

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_HIT = "/jax/compilation_cache/cache_hits"
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # XLA's own caches would put the folder's path into every key.
    "jax_persistent_cache_enable_xla_caches": "none",
}

_enabled: Path | None = None
_loaded = 0


def enable(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Lets this process load the programs that others have compiled, and keep its own for them.

    Call it before the first program is compiled.

    Args:
      folder: where; None: as :func:`default_folder` says.

    Returns:
      The folder in it for this kind of machine; None where there is no cache: no folder, or JAX has been given a cache
      of the user's own (``JAX_COMPILATION_CACHE_DIR``), which is left as it is.

    Raises:
      ValueError: another folder than before.
      OSError: the folder cannot be made or written to.
    """
    global _enabled
    chosen = default_folder() if folder is None else Path(folder)
    if chosen is None or (_enabled is None and jax.config.values["jax_compilation_cache_dir"]):
        return None
    place = chosen.expanduser().resolve() / _machine() / "programs"
    if _enabled is not None:
        if _enabled != place:
            raise ValueError(f"This process keeps its programs in {_enabled} already; got {place}.")
        return place
    for made in (place.parent, place):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tidy(place)
    for name, value in {"jax_compilation_cache_dir": str(place), **_SETTINGS}.items():
        jax.config.update(name, value)
    jax.monitoring.register_event_listener(_count)
    # Said of an entry that another process is writing: the program is compiled, and that is all.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    _enabled = place
    return place


def programs_loaded() -> int:
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


def _tidy(folder: Path) -> None:
    """Removes entries that are half, of those written since the last time, and the oldest where there are too many."""
    checked = folder / "checked"
    since = checked.stat().st_mtime - 60.0 if checked.exists() else 0.0
    checked.touch()  # first: what is written from now on is for the next time
    entries, total = [], 0
    for path in folder.glob("*-cache"):
        try:
            found = path.stat()
            if found.st_mtime >= since and not _whole(path.read_bytes()):
                path.unlink()
                continue
        except OSError:  # removed by another process, or in use on Windows
            continue
        entries.append((found.st_mtime, found.st_size, path))
        total += found.st_size
    left = LIMIT // 2 if total > LIMIT else total
    for _, size, path in sorted(entries):
        if total <= left:
            return
        path.unlink(missing_ok=True)
        total -= size


def _whole(entry: bytes) -> bool:
    """Whether an entry has an end, where JAX compressed it by zlib; those in Zstandard are not judged."""
    with contextlib.suppress(zlib.error):
        return entry.startswith(_ZSTANDARD) or bool(zlib.decompress(entry))
    return False
