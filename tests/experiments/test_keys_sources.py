"""What a piece of source uses: names followed through imports, and nothing taken for unused that may be used."""

import pytest

from lodo_experiments.studies.provenance.sources import Sources

BASE = {
    "__init__.py": "from lodo.tools import area as size\nfrom lodo import tools\n",
    "tools.py": (
        "import functools\nimport numpy as np\nPI = 3\n"
        "TABLE = {'round': lambda r: PI * r, 'square': lambda r: side(r)}\n"
        "def area(r):\n    '''Of a circle.'''\n    return PI * r * r  # about\n"
        "def side(r):\n    return np.sqrt(r)\n"
        "def shadowed(PI):\n    return PI\n"
        "def unrelated():\n    return 1\n"
    ),
    "user.py": (
        "import lodo\nfrom lodo import tools\ndef f(r):\n    return lodo.size(r)\ndef g():\n    return tools.side(2)\n"
    ),
}


def used(name, **changed):
    return Sources({**BASE, **{f"{key}.py": text for key, text in changed.items()}}).used([name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lodo.user.f", {"lodo.user.f", "lodo.tools.area", "lodo.tools.PI"}),
        ("lodo.user.g", {"lodo.user.g", "lodo.tools.side"}),
        ("lodo.tools.shadowed", {"lodo.tools.shadowed"}),
        ("lodo.size", {"lodo.tools.area", "lodo.tools.PI"}),
    ],
)
def test_names_are_followed_to_where_they_are_defined(name, expected):
    assert set(used(name).code) == expected


def test_other_packages_are_named():
    assert used("lodo.user.g").packages == {"numpy"}
    assert used("lodo.user.f").packages == frozenset()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # about", "  # roughly", True),
        ("'''Of a circle.'''", "'''Of a disc.'''", True),
        ("PI * r * r", "( PI*r*r )", True),
        ("PI * r * r", "PI * r + r", False),
        ("PI = 3", "PI = 4", False),
        ("np.sqrt(r)", "np.cbrt(r)", True),
        ("    return 1\n", "    return 2\n", True),
    ],
)
def test_only_what_is_used_and_only_what_it_does_counts(old, new, same):
    text = BASE["tools.py"]
    assert old in text
    changed = used("lodo.user.f", tools=text.replace(old, new)).code
    assert (changed == used("lodo.user.f").code) is same


def test_what_an_import_stands_for_counts():
    elsewhere = {
        "other": "PI = 3\ndef area(r):\n    return PI * r * r\n",
        "__init__": "from lodo.other import area as size",
    }
    assert used("lodo.user.f", **elsewhere).code["lodo.user.f"] != used("lodo.user.f").code["lodo.user.f"]


@pytest.mark.parametrize(
    "text",
    [
        "from lodo import tools\ndef f():\n    return getattr(tools, 'si' + 'de')",
        "from lodo import tools\ndef f():\n    return vars(tools)",
        "from lodo.tools import *\ndef f():\n    return side(1)",
        "import importlib\ndef f():\n    return importlib.import_module('lodo.' + 'tools').side(1)",
        "import importlib\ndef f():\n    return importlib.import_module('lodo.tools').side(1)",
        "def f():\n    return eval('1')",
        "def f():\n    from lodo.tools import side\n    return side(1)",
        "def f():\n    from lodo import tools as t\n    return [t.side(r) for r in range(2)]",
        "from lodo import tools\nclass f:\n    def method(self):\n        return tools.side(1)",
        "from lodo import tools\nclass f(tools.side):\n    pass",
        "from lodo import tools\n@tools.side\ndef f():\n    pass",
        "from lodo import tools\ndef f(r=tools.side):\n    pass",
        "from lodo import tools\ndef f(r):\n    return [tools.side for tools in tools.side]",
        "from lodo.tools import side\nTABLE = [side]\ndef f(name):\n    return TABLE",
        "from lodo.tools import TABLE\ndef f(name):\n    return TABLE[name]",
        "from lodo import tools\ndef f():\n    pass\nf.then = tools.side",
        "from lodo import tools\nif tools:\n    tools.side()\ndef f():\n    pass",
        "from lodo.tools import side\ntry:\n    f = side\nexcept ImportError:\n    f = None\ndef g():\n    return f",
    ],
)
def test_when_in_doubt_it_is_used(text):
    name = "lodo.own.g" if "def g" in text else "lodo.own.f"
    before = used(name, own=text).code
    after = used(name, own=text, tools=BASE["tools.py"].replace("np.sqrt(r)", "np.cbrt(r)")).code
    assert before != after


def test_an_outside_package_imported_by_name_is_nothing_of_ours():
    found = used("lodo.own.f", own="import importlib\ndef f():\n    return importlib.import_module('zstandard').x")
    assert set(found.code) == {"lodo.own.f"}
    assert found.packages == {"zstandard"}


def test_what_hangs_itself_on_a_definition_counts_for_it():
    text = "import functools\n@functools.singledispatch\ndef f(x):\n    return 0\n"
    other = "from lodo.own import f\n@f.register(int)\ndef of_int(x):\n    return {}\n"
    first, second = (used("lodo.own.f", own=text, other=other.format(n)).code for n in (1, 2))
    assert first != second


def test_effects_of_an_import_reach_whoever_imports():
    own, setting = "from lodo import setting\ndef f():\n    return 1\n", "import numpy\nnumpy.seterr(all={})\n"
    first, second = (used("lodo.own.f", own=own, setting=setting.format(repr(n))).code for n in ("warn", "raise"))
    assert first != second


def test_tables_are_split_by_name():
    entries = Sources(BASE).entries("lodo.tools.TABLE")
    assert entries == {"round": "lodo.tools.TABLE['round']", "square": "lodo.tools.TABLE['square']"}
    assert set(used(entries["round"]).code) == {"lodo.tools.TABLE['round']", "lodo.tools.PI"}
    assert Sources(BASE).entries("lodo.tools.PI") == {}


def test_an_entry_point_that_is_not_there_is_refused():
    with pytest.raises(KeyError, match=r"lodo\.user\.h: there is no such definition"):
        used("lodo.user.h")
