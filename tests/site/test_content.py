"""What came out of the build: pages, links, figures, numbers."""

import ast
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import equations
import pytest
from pages import NOTEBOOKS, ROOT, page, pages_of, table_of_contents

import lodo
from lodo import diagnostics, operators, quasi_newton
from lodo_experiments.analysis import headline
from lodo_experiments.analysis.claims import CLAIMS, FILE

PREFIX = "application/papermill.record/text/plain"


@pytest.mark.parametrize("name", table_of_contents())
def test_every_page_of_the_contents_is_there(site, name):
    assert len(page(site / f"{name}.html").text) > 300


def test_contents_hold_every_notebook_and_every_prose_page():
    on_disk = {f"notebooks/{name}" for name in NOTEBOOKS} | {
        p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.glob("book/**/*.md")
    }
    assert set(table_of_contents()) == on_disk


def test_no_internal_link_is_broken(site):
    broken = []
    for path in pages_of(site):
        for link in page(path).links + page(path).loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            whole = target.is_file() and (
                not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in page(target).ids
            )
            # What two modules export Sphinx links under one of its names, and describes under the other.
            name = parts.fragment.rpartition(".")[2]
            in_source = path.relative_to(site).parts[0] == "_modules" and name and target.is_file()
            exported_twice = in_source and any(
                i.startswith("lodo.") and i.endswith(f".{name}") for i in page(target).ids
            )
            if not whole and not exported_twice:
                broken.append(f"{path.relative_to(site)} -> {link}")
    assert not broken


def test_no_page_loads_anything_from_elsewhere(site):
    for path in pages_of(site):
        elsewhere = [loaded for loaded in page(path).loaded if re.match(r"(?:https?:)?//", loaded)]
        assert not elsewhere, path.relative_to(site)
        assert not re.search(r"unpkg|jsdelivr|cdnjs", path.read_text(encoding="utf-8")), path.relative_to(site)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_experiment_page_has_figures_and_says_its_numbers(site, executed, name):
    found = page(site / "notebooks" / f"{name}.html")
    assert "lodo-figure" in found.classes
    notebook = json.loads((executed / f"{name}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    said = ["".join(one["data"]["text/markdown"]) for one in outputs if "lodo_said" in one.get("metadata", {})]
    # As far as they are plain text, which maths, code and emphasis are not.
    plain = [re.split(r"[$`*\\\[]", text)[0].strip() for text in said]
    by_tables = {
        "physics_informed",
        "problem_suites",
        "relative_lodo",
        "step_cost",
        "understanding",
    }  # or whose words begin with code
    assert any(len(text) > 20 for text in plain) or name in by_tables
    assert not [text for text in plain if text not in found.text.replace("’", "'")]


@pytest.mark.parametrize("name", table_of_contents())
def test_no_markup_is_left_unresolved(site, name):
    assert not re.search(r"\{(?:glue|cite|eq|py|test|math)[:}]|\{\{|:::", page(site / f"{name}.html").text)


def published(executed, name) -> dict[str, object]:
    """What a notebook published for the pages."""
    notebook = json.loads((executed / f"{name}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return {
        output["metadata"]["scrapbook"]["name"]: ast.literal_eval("".join(output["data"][PREFIX]))
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
    }


def test_introduction_has_the_numbers_of_the_papers_scale(site, executed):
    source = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    text = page(site / "book" / "index.html").text.replace("’", "'")
    stated = headline.numbers()
    quotes = re.findall(r"headline:numbers:(\w+):([^`]+)`", source)
    assert {"bowl_lodo", "bowl_rlodo", "bowl_online", "valley_lodo", "step_native_ms"} <= {key for key, _ in quotes}
    for key, form in quotes:
        assert format(stated[key], form) in text, key
    # What notebooks published at this preset is not quoted there, but for the ledger, which is of stored records.
    found = re.findall(r"notebooks/(\w+)\.ipynb::(\w+):([^`]+)`", source)
    assert {name for name, _, _ in found} == {"claims"}
    values = published(executed, "claims")
    for _, key, form in found:
        assert format(values[key], form) in text, key


def test_ledger_page_shows_the_stored_verdicts(site):
    text = " ".join(page(site / "notebooks" / "claims.html").text.replace("’", "'").split())
    rows = json.loads((ROOT / "results" / FILE).read_text(encoding="utf-8"))
    for row, claim in zip(rows, CLAIMS, strict=True):
        assert row["key"] == claim.key
        shown = re.findall(rf"{re.escape(claim.statement)}[ #¶]*([a-z ]+?) \(", text)
        assert shown == [row["verdict"]], claim.key


def test_algorithm_page_has_the_algorithm_and_numbered_equations(site):
    found = page(site / "book" / "algorithm.html")
    assert {"proof", "algorithm"} <= set(found.classes)
    assert "lodo-algorithm" in found.ids
    assert found.classes.count("eqno") >= 8


def reference(site):
    """The anchors of the API reference, all of its pages together."""
    return [name for path in (site / "book" / "api").glob("*.html") for name in page(path).ids]


@pytest.mark.parametrize("module", [lodo, operators, diagnostics, quasi_newton], ids=lambda m: m.__name__)
def test_reference_has_every_public_name(site, module):
    names = [name for name in module.__all__ if not name.startswith("_")]
    names = [name for name in names if not isinstance(getattr(module, name), type(lodo))]  # submodules
    assert not {f"{module.__name__}.{name}" for name in names} - set(reference(site))


def test_reference_and_source_pages_are_of_the_library_alone(site):
    names = [name for name in reference(site) if name.startswith("lodo")]
    assert "lodo.lodo" in names
    assert not [name for name in names if name.startswith("lodo_experiments")]
    sources = site / "_modules"
    assert (sources / "lodo" / "transform.html").is_file()
    assert {path.name for path in sources.iterdir()} == {"index.html", "lodo"}


def test_reference_links_back_to_the_equations_that_a_function_computes(site):
    computed = [link for link in equations.links(ROOT) if link.role.startswith("py:")]
    assert len(computed) > 5
    pages = [path.read_text(encoding="utf-8") for path in (site / "book" / "api").glob("*.html")]
    for link in computed:
        (text,) = [text for text in pages if f'id="{link.name}"' in text]
        entry = text.split(f'id="{link.name}"')[1].partition('<dt class="sig')[0]  # without its members'
        target = Path("..", Path(link.page).with_suffix(".html").name).as_posix()
        assert f'href="{target}#equation-{link.equation}"' in entry, link


def test_run_page_says_that_the_address_is_unknown(site, published_site):
    assert "public address was not known" in page(site / "book" / "run.html").text
    assert "public address was not known" not in page(published_site / "book" / "run.html").text
