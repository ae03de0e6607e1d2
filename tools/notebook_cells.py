"""Write the cells that all notebooks have from where they are declared: the first code cell, and the parameters.

    python tools/notebook_cells.py            write them
    python tools/notebook_cells.py --check    change nothing, only see whether they are as declared

The first code cell is tools/notebook_install.py with the project's address. The parameters are those of the
declaration that the cell of `parameters.check(...)` names: `parameters.NotebookParameters`, or
`registry.parameters_of(EXPERIMENT)`.
"""

import argparse
import dataclasses
import json
import re
import sys
import types
import typing
from pathlib import Path

from lodo_experiments.config import parameters
from lodo_experiments.studies import registry

ROOT = Path(__file__).resolve().parent.parent
CHECK = re.compile(
    r"parameters\.check\((?:parameters\.NotebookParameters|registry\.parameters_of\(\"(\w+)\"\)), globals\(\)\)"
)
ADDRESS = re.compile(r'^(_REPOSITORY = ")([^"]*)(")', re.MULTILINE)
PRESETS_OWN = "# None: as the preset has it. What is given differs from the preset"
APART = ", and its records are kept apart"


def type_of(kind: object) -> str:
    """A type as a notebook writes it.

    >>> type_of(tuple[str, ...] | None)
    'str | list | None'
    """
    if isinstance(kind, types.UnionType):
        return " | ".join(type_of(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "str | list"
    return "None" if kind is type(None) else kind.__name__


#: The book folds the parameters, which papermill finds by the first tag.
FOLDED = {
    "mystnb": {"code_prompt_hide": "Parameters", "code_prompt_show": "Parameters, each of which can be changed"},
    "tags": ["parameters", "hide-input"],
}


def parameters_cell(experiment: str) -> str:
    """The cell tagged ``parameters``: one annotated, commented assignment for each.

    Args:
      experiment: whose notebook it is, or a page of `registry.PAGE_PRESETS`; empty: a notebook that has only the
        parameters that all have.
    """
    declaration = registry.parameters_of(experiment) if experiment else parameters.NotebookParameters
    hints, common = typing.get_type_hints(declaration), dataclasses.fields(parameters.NotebookParameters)
    lines = []
    for place, field in enumerate(dataclasses.fields(declaration)):
        rules = field.metadata
        words = rules["about"]
        if place < len(common) and rules["choices"]:
            words += f": {', '.join(rules['choices'][:-1])} or {rules['choices'][-1]}"
        elif rules.get("choices") and field.name != "optimizers":
            words += f": {', '.join(rules['choices'])}"
        elif field.name == "optimizers":
            words += ', such as "LODO,Adam"'
        if place == len(common):
            lines.append(f"{PRESETS_OWN}{'' if experiment in registry.PAGE_PRESETS else APART}.")
        value = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        lines.append(f"{field.name}: {type_of(hints[field.name])} = {value}  # {words or 'of the preset'}")
    return "\n".join(lines)


def written(path: Path) -> str:
    """A notebook's text with those cells as they are declared.

    Raises:
      ValueError: it has no cell that checks parameters, or none that is tagged ``parameters``.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [match for cell in code if (match := CHECK.search("".join(cell["source"])))]
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    if len(found) != 1 or len(tagged) != 1:
        raise ValueError(
            f"{path}: expected one cell tagged 'parameters' and one that checks them; see CONTRIBUTING.md."
        )
    address = ADDRESS.search("".join(code[0]["source"]))
    install = (ROOT / "tools" / "notebook_install.py").read_text(encoding="utf-8").rstrip("\n")
    install = ADDRESS.sub(lambda own: f"{own[1]}{address[2] if address else ''}{own[3]}", install)
    for cell, text in ((code[0], install), (tagged[0], parameters_cell(found[0][1] or ""))):
        cell["source"] = text.splitlines(keepends=True)
    tagged[0]["metadata"] |= FOLDED
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, only see whether they are as declared")
    options = parser.parse_args()
    wrong = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if (text := written(path)) != path.read_text(encoding="utf-8"):
            wrong.append(path.relative_to(ROOT))
            if not options.check:
                path.write_text(text, encoding="utf-8")
    for path in wrong:
        print(f"{path}: {'not as declared; run python tools/notebook_cells.py' if options.check else 'written'}")
    return 1 if wrong and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
