# Where the library is missing, as on Colab: install it, with its records, and leave the runtime's own JAX as it is.
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile

_REPOSITORY = ""  # the project's public address; `make address` writes it
_NEEDED = [
    "lodo",
    "lodo_experiments",
    "flax",
    "filelock",
    "nbformat",
    "optax",
    "plotly",
    "sklearn",
    "tensorflow_datasets",
    "tqdm",
]
_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    if not _REPOSITORY:
        raise RuntimeError(
            f"Not installed here: {', '.join(_missing)}; and this notebook does not know the project's public address. "
            "In a clone of the project run `pip install -e '.[notebooks]'`, then restart the kernel and begin again."
        )
    _kept = [d for d in ("jax", "jaxlib", "flax", "numpy") if importlib.util.find_spec(d)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as _file:
        _file.writelines(f"{name}=={importlib.metadata.version(name)}\n" for name in _kept)
    print(f"Installing lodo from {_REPOSITORY}; this takes a minute or so.", flush=True)
    _pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-color", "--constraint", _file.name]
    _done = subprocess.run([*_pip, f"lodo[experiments] @ git+{_REPOSITORY}"], capture_output=True, text=True)
    if _done.returncode:
        raise RuntimeError(
            f"pip could not install lodo from {_REPOSITORY} (exit status {_done.returncode}); nothing below can run.\n"
            f"{_done.stderr[-2000:]}\nCheck the address and the network, then run this cell again."
        )
    importlib.invalidate_caches()
