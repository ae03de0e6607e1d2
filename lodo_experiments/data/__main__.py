"""``python -m lodo_experiments.data NAME [--download] [--data-dir DIR] [--source DIR] [--export DIR]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lodo_experiments.data import plain_files
from lodo_experiments.data.catalogue import CATALOGUE, DataError
from lodo_experiments.data.images import default_data_dir, load_images, names, read_splits


def main(arguments: Sequence[str] | None = None) -> int:
    """Load a data set and say what it is; the exit status is 0, or 1 where that fails (2: bad arguments)."""
    parser = argparse.ArgumentParser(
        prog="python -m lodo_experiments.data",
        description="Check that a data set is there, or fetch and prepare it. Downloads only with --download.",
    )
    parser.add_argument("name", choices=names(), help="the data set")
    parser.add_argument("--download", action="store_true", help="fetch and prepare it if it is not there")
    parser.add_argument("--data-dir", metavar="DIR", help="default: TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument(
        "--source", metavar="DIR", help="with --download: take the original files from this local folder"
    )
    parser.add_argument(
        "--export", metavar="DIR", help="write it there as plain files, for a machine without tensorflow-datasets"
    )
    options = parser.parse_args(arguments)
    if options.export is not None and options.name not in CATALOGUE:
        parser.error(f"{options.name} needs no export: it comes with scikit-learn")
    if options.source is not None and not options.download:
        parser.error("--source needs --download")
    try:
        dataset = load_images(options.name, data_dir=options.data_dir, download=options.download, source=options.source)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.export is not None:
        entry, where = CATALOGUE[options.name], Path(options.data_dir or default_data_dir()).expanduser()
        for path in plain_files.export(entry, read_splits(entry, where), Path(options.export).expanduser()):
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        return 0
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    print(f"{dataset.name} {dataset.version}, {dataset.levels} levels")
    for name, split in splits.items():
        print(f"  {name:<10} {split.images.shape[0]:>6,} images of {'x'.join(map(str, split.images.shape[1:]))}")
    print(f"  fingerprint {dataset.fingerprint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
