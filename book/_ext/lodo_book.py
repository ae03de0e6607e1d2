"""The book's Sphinx extension: executed notebooks, figures, links to tests, and nothing loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))

import badges
import computed
import equations
import launch
import social
import source_links

from lodo_experiments.report import style
from lodo_experiments.report.plotly_html import MARK
from lodo_experiments.studies import notebooks
from lodo_experiments.studies.notebooks import stored_hash

LOGGER = logging.getLogger(__name__)
NOTEBOOKS = "notebooks"


def root_of(source: Path) -> Path:
    """The repository's folder: the book's source folder, or the one above it of a page that is built alone.

    Raises:
      ExtensionError: the page is of no such repository.
    """
    for folder in (source, *source.parents):
        if (folder / "_config.yml").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    raise ExtensionError(f"{source}: neither it nor a folder above it has the book's _config.yml and pyproject.toml.")


def repository_address(root: Path) -> str:
    """The project's public address: ``[tool.lodo] repository``, or ``LODO_REPOSITORY`` where it is set."""
    given = os.environ.get("LODO_REPOSITORY")
    if given is None:
        given = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lodo"]["repository"]
    return str(given).strip().rstrip("/").removesuffix(".git")


def revision(root: Path) -> str:
    """The branch, tag or commit whose notebooks the buttons open: ``[tool.lodo] revision``."""
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lodo"]["revision"])


def executed_path(app: Sphinx, docname: str) -> Path:
    """Where the executed notebook of a page lies."""
    return Path(app.config.lodo_root, app.config.lodo_executed, app.config.lodo_preset, f"{Path(docname).name}.ipynb")


def problem(executed: Path) -> str:
    """What is wrong with an executed notebook; empty where nothing is."""
    if not executed.exists():
        return "was not executed"
    if not stored_hash(executed):
        return "is no notebook that papermill finished (it has no record of its execution)"
    outputs = [
        output
        for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]
    errors = [output for output in outputs if output.get("output_type") == "error"]
    if errors:
        return f"failed with {errors[0].get('ename')}: {errors[0].get('evalue')}"
    data = [output.get("data", {}) for output in outputs]
    if not any(MARK in "".join(d.get("text/html", "")) or any(k.startswith("image/") for k in d) for d in data):
        return "has no figure"
    return ""


def configure(app: Sphinx, config: Any) -> None:
    """Sets what depends on the repository's folder, and on its address, which is kept in pyproject.toml alone."""
    root = root_of(Path(app.srcdir))
    config.lodo_root = str(root)
    # For all that the pages call: the records are the book's own, wherever the build is started.
    os.environ.setdefault("LODO_RESULTS", str(root / "results"))
    if root != Path(app.srcdir):  # a page alone: what _config.yml names lies in the repository's folder
        config.html_static_path = [str(root / path) for path in config.html_static_path]
        config.bibtex_bibfiles = [str(root / path) for path in config.bibtex_bibfiles]
        config.html_logo, config.html_favicon = str(root / config.html_logo), str(root / config.html_favicon)
    # Sphinx opens it from the folder in which the build is started.
    config.html_search_scorer = str(Path(__file__).parent / "scorer.js")
    address = repository_address(root)
    config.lodo_repository = address
    config.lodo_preset = os.environ.get("LODO_PRESET", "smoke")
    config.lodo_executed = os.environ.get("LODO_EXECUTED", config.lodo_executed)
    config.lodo_branch = revision(root)
    config.html_baseurl = social.site_address()
    config.html_theme_options.update(launch.theme_options(address, config.lodo_branch))
    config.myst_substitutions = {**config.myst_substitutions, "repository": address, "preset": config.lodo_preset}
    app.tags.add("address_known" if address else "address_unknown")
    if not address:
        LOGGER.info(
            "The project's public address is not known ([tool.lodo] repository in pyproject.toml is empty): "
            "the book is built without launch buttons. `make address URL=...` sets it."
        )


def clean_notebook(app: Sphinx, docname: str) -> Path | None:
    """The clean notebook whose page this is; None where it is another page."""
    source = Path(app.env.doc2path(docname))
    return source if source.parent == Path(app.config.lodo_root, NOTEBOOKS) and source.suffix == ".ipynb" else None


def refuse_bad_notebooks(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Ends the build unless every notebook that is a page was executed, did not fail, and shows something."""
    bad = []
    for source in filter(None, (clean_notebook(app, docname) for docname in sorted(env.found_docs))):
        executed = executed_path(app, source.stem)
        if complaint := problem(executed):
            bad.append(f"{NOTEBOOKS}/{source.name} {complaint}; looked at {executed}")
            continue
        state, changed = notebooks.state_of(source, executed)
        if changed:
            LOGGER.info(f"{source.name}: {', '.join(changed)} {state} since it was executed.")
    if bad:
        lines = "\n  ".join(bad)
        raise ExtensionError(
            f"executed notebooks at preset {app.config.lodo_preset!r}:\n  {lines}\n"
            f"Run `make book`, or `python -m lodo_experiments.cli.execute --preset {app.config.lodo_preset}`."
        )


def swap_in_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Renders the executed notebook in place of the clean one that the table of contents names."""
    clean = clean_notebook(app, docname)
    if clean is not None:
        executed = executed_path(app, docname)
        app.env.note_dependency(str(executed))
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            # What papermill put in repeats the cell above it; the notebook prints what it ran with.
            if "injected-parameters" in cell["metadata"].get("tags", []):
                cell["metadata"]["tags"].append("remove-cell")
        badges.with_badge(notebook, badges.badge(clean, executed, Path(app.config.lodo_root, "results")))
        source[0] = json.dumps(notebook)


def without_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leaves out the scripts of sphinx-thebe, which Jupyter Book loads always and which refer to a CDN."""
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s} {getattr(s, 'attributes', '')}".lower()]


def entries_of_lists(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Makes the references in a list its items: docutils gives them a role that no list may hold."""
    if "citation-list" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def lists_of_parameters(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Makes the lines of a long signature plain boxes: Sphinx makes them a list of descriptions without terms."""

    def boxes(found: re.Match[str]) -> str:
        lines = found[1].replace("<dd>", "<div>").replace("</dd>", "</div>")
        return f'<div class="lodo-parameters">{lines}</div>'

    if "<dl>" in context.get("body", ""):
        context["body"] = re.sub(r"<dl>\s*((?:<dd>(?:(?!</?d[dlt]>).)*</dd>\s*)+)</dl>", boxes, context["body"])


def copy_scripts(app: Sphinx, error: Exception | None) -> None:
    """Copies plotly and MathJax out of their Python packages into the site."""
    if error is not None or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static")
    for package, inside, name in (
        ("plotly", "package_data/plotly.min.js", "plotly.min.js"),
        ("sphinx-mathjax-offline", "static/mathjax/tex-svg-full.js", "mathjax/tex-svg-full.js"),
    ):
        specification = importlib.util.find_spec(package)
        if specification is None or specification.origin is None:
            raise ExtensionError(f"the package {package} is missing; install this project's `book` extra.")
        source, copy = Path(specification.origin).parent / inside, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, copy)


def write_style_sheet(app: Sphinx, error: Exception | None) -> None:
    """Writes the colours of figures into the site, for what is drawn in its pages."""
    if error is None and app.builder.format == "html":
        Path(app.outdir, "_static", "series.css").write_text(style.style_sheet(), encoding="utf-8")


def light_without_scripts(app: Sphinx, error: Exception | None) -> None:
    """Writes the light theme into the pages: they say "auto", for which there are no colours until a script has run."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            if ' data-theme="auto">' in text:
                page.write_text(text.replace(' data-theme="auto">', ' data-theme="light">', 1), encoding="utf-8")


def skip_field_numbers(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, of which Python says their number alone; the signature lists them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls to load the extension."""
    app.add_config_value("lodo_root", "", "")
    app.add_config_value("lodo_repository", "", "env")
    app.add_config_value("lodo_preset", "", "env")
    app.add_config_value("lodo_branch", "main", "env")
    app.add_config_value("lodo_executed", "_build/executed", "env")
    app.connect("config-inited", configure, priority=100)
    app.connect("env-before-read-docs", refuse_bad_notebooks)
    app.connect("source-read", swap_in_executed)
    app.connect("autodoc-skip-member", skip_field_numbers)
    app.connect("autodoc-process-docstring", equations.end_with_equations, priority=900)  # after napoleon
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("html-page-context", entries_of_lists)
    app.connect("html-page-context", lists_of_parameters)
    app.connect("html-page-context", social.add_tags)
    app.connect("build-finished", copy_scripts)
    app.connect("build-finished", write_style_sheet)
    app.connect("build-finished", light_without_scripts)
    app.connect("build-finished", social.write_card)
    app.add_directive("status", badges.StatusTable)
    app.add_directive("computed-table", computed.ComputedTable)
    app.add_directive("computed-html", computed.ComputedHtml)
    app.add_role("computed", computed.Computed())
    app.add_role("source", source_links.SourceRole())
    app.add_role("test", source_links.TestRole())
    app.add_js_file("figures.js", loading_method="defer")
    app.add_js_file("bowl.js", loading_method="defer")
    app.add_js_file("reading.js", loading_method="defer")
    app.add_css_file("series.css")
    app.add_css_file("lodo.css")
    # Raised where pages get something else from here: a build that goes on from an older one reads all of them anew.
    return {"env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
