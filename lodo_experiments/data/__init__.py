"""Image data: scikit-learn's bundled digits, and MNIST and CIFAR-10 through tensorflow-datasets.

Nothing is downloaded unless it is asked for. From the command line::

    python -m lodo_experiments.data mnist --download
"""

from lodo_experiments.data.block_means import shrink
from lodo_experiments.data.catalogue import CATALOGUE, DataError, RemoteFile, Source
from lodo_experiments.data.images import ImageDataset, Split, fingerprint, load_images

__all__ = [
    "CATALOGUE",
    "DataError",
    "ImageDataset",
    "RemoteFile",
    "Source",
    "Split",
    "fingerprint",
    "load_images",
    "shrink",
]
