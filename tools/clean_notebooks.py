"""Strip notebooks of what running them leaves behind: outputs, execution counts, passing metadata.

Notebooks are stored clean; the executed ones are made by papermill and never committed.

    python tools/clean_notebooks.py FILE...           clean the files in place
    python tools/clean_notebooks.py --check FILE...   name the files that are not clean (exit status 1)
"""

import argparse
import sys
from pathlib import Path

import nbformat
from constraints import write_atomically

# Enough for Jupyter, Colab and papermill to choose a kernel.
NOTEBOOK_METADATA = ("kernelspec", "language_info")
# `tags` marks papermill's parameters cell and what the book hides; all else is one run's or one editor's.
CELL_METADATA = ("tags", "mystnb")


def read(path: Path) -> nbformat.NotebookNode:
    """Read and validate a notebook.

    Raises:
        ValueError: The file is no valid notebook of format 4.
    """
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
    except (nbformat.ValidationError, nbformat.reader.NotJSONError) as error:
        raise ValueError(f"{path}: not a valid notebook: {str(error).splitlines()[0]}") from error
    if notebook.nbformat != 4:
        raise ValueError(f"{path}: notebook format {notebook.nbformat}, expected 4; save it again in Jupyter")
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as it should be stored; its source, cell ids and tags are unchanged."""
    result = nbformat.from_dict(notebook)
    result.metadata = {key: notebook.metadata[key] for key in NOTEBOOK_METADATA if key in notebook.metadata}
    if "language_info" in result.metadata:
        result.metadata["language_info"] = {"name": "python"}
    for cell in result.cells:
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return nbformat.from_dict(result)


def main() -> int:
    """Run the command line; return its exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--check", action="store_true", help="change nothing, only name what is not clean")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    unclean = 0
    for path in arguments.files:
        try:
            notebook = read(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        wanted = clean(notebook)
        if notebook == wanted:
            continue
        unclean += 1
        if arguments.check:
            print(f"{path}: not stored clean; run: python tools/clean_notebooks.py {path}", file=sys.stderr)
        else:
            write_atomically(path, nbformat.writes(wanted).rstrip("\n") + "\n")
            print(f"{path}: cleaned")
    return 1 if arguments.check and unclean else 0


if __name__ == "__main__":
    sys.exit(main())
