"""Each numbered equation of the book has its function and its test, and those say which equation they are about."""

import ast
import re

import equations
import pytest
import source_links


@pytest.fixture(scope="module")
def links(root):
    return equations.links(root)


def test_every_numbered_equation_has_a_function_and_a_test(root, links):
    lacking = [
        f"{page}: {label} has no {what}; name it after **{verb} by**, and {{eq}}`{label}` after its name"
        for page, text in equations.pages(root).items()
        for label in equations.numbered(text)
        for what, verb in (("function", "Computed"), ("test", "Checked"))
        if not any(link.equation == label and link.page == page and verb.lower() in link.verb.lower() for link in links)
    ]
    assert not lacking, "\n".join(lacking)
    assert len(links) > 60
    assert not [link for link in links if link.equation not in equations.numbered(equations.pages(root)[link.page])]


def defined(root, reference) -> ast.AST:
    """The definition that ``file.py::name`` names."""
    file, _, name = reference.partition("::")
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    return next(node for node in ast.walk(tree) if getattr(node, "name", None) == name)


def test_functions_and_tests_say_their_equations(root, links):
    """Those without an entry in the reference, which is ended with its equations when the book is built."""
    wanted: dict[str, dict[str, set[str]]] = {}
    for link in links:
        if not link.role.startswith("py:"):
            file = link.name if link.role == "test" else source_links.in_file(root, link.name)
            wanted.setdefault(file, {}).setdefault(link.page, set()).add(link.equation)
    wrong = []
    for reference, named in wanted.items():
        said = " ".join((ast.get_docstring(defined(root, reference)) or "").split())
        found = {
            page: set(re.findall(r"`([^`]+)`", labels))
            for labels, page in re.findall(r"Equations? ((?:`[\w-]+`(?:, )?)+) of (book/[\w/]+\.md)\.", said)
        }
        if found != named:
            wrong.append(f"{reference}: {' '.join(equations.sentence(*one) for one in sorted(named.items()))}")
    assert not wrong, "these docstrings do not say what the pages do:\n" + "\n".join(wrong)


def test_equations_belong_to_the_names_before_them():
    text = (
        "**Computed by** {source}`a.b` (in parts), {py:func}`c` ({eq}`x`, {eq}`y`) and {source}`d`, not {test}`z`.\n"
        "**Computed and checked by** {test}`t::u` {eq}`z`. **Measured** {test}`v` {eq}`x`\n\n{test}`w` {eq}`x`"
    )
    found = [(link.name, link.equation, link.verb) for link in equations.links_of("book/p.md", text)]
    computed = [(name, label, "Computed") for label in "xy" for name in ("a.b", "c")]
    assert found == [*computed, ("t::u", "z", "Computed and checked")]
