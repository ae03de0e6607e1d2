"""Small image data made on the spot, as arrays and as the original files of a data set of our own."""

import dataclasses
import gzip
import hashlib
import struct
from pathlib import Path

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from lodo_experiments.data import CATALOGUE, ImageDataset, RemoteFile, Source, Split

# Its place before jax 0.8.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

COUNTS = {"train": 12, "test": 5}


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def tiny_source(folder: Path) -> tuple[Source, dict[str, np.ndarray]]:
    """A catalogue entry like MNIST's, with 12 + 5 random images of 28×28 whose files lie in ``folder``."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    arrays, files = {}, []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = random.integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, COUNTS[split], dtype=np.uint8)
        arrays[split] = images
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content, name = idx_bytes(array), f"{prefix}-{kind}-ubyte.gz"
            (folder / name).write_bytes(content)
            files.append(RemoteFile(name, len(content), hashlib.sha256(content).hexdigest()))
    changes = {"counts": COUNTS, "validation": 3, "files": tuple(files), "mirrors": ()}
    return dataclasses.replace(CATALOGUE["mnist"], **changes), arrays


def tiny_dataset(levels: int = 5, side: int = 4, seed: int = 0) -> ImageDataset:
    random = np.random.default_rng(seed)

    def split(count: int) -> Split:
        images = random.integers(0, levels, (count, side, side), dtype=np.uint8)
        return Split(images, np.zeros(count, np.uint8))

    return ImageDataset("tiny", "1", levels, split(20), split(3), split(4), "none")


def random_params(network, side: int, seed: int = 0):
    """Parameters of the network's shapes, drawn by NumPy: nothing to compile."""
    pictures = jax.ShapeDtypeStruct((1, side, side, 5), network.param_dtype)
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype),
        jax.eval_shape(network.init, jax.random.key(0), pictures),
    )
