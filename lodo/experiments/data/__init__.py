"""Image data of the experiments: scikit-learn's bundled digits, and MNIST through tensorflow-datasets.

Nothing is downloaded unless it is asked for. From the command line::

    python -m lodo.experiments.data mnist --download
"""

from lodo.experiments.data.catalogue import CATALOGUE, DataError, RemoteFile, Source
from lodo.experiments.data.images import ImageDataset, Split, fingerprint, load_images

__all__ = [
    "CATALOGUE",
    "DataError",
    "ImageDataset",
    "RemoteFile",
    "Source",
    "Split",
    "fingerprint",
    "load_images",
]
