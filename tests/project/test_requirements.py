"""pyproject.toml, requirements.lock, constraints.txt and environment.yml say the same, and Colab satisfies it."""

import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def direct_requirements(project: dict) -> list[Requirement]:
    """What pyproject.toml asks for, in the core and in every extra, without its references to itself."""
    texts = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        texts += extra
    return [r for r in map(Requirement, texts) if r.name != project["project"]["name"]]


def read_lock(text: str) -> list[tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes; anything else in the file is refused."""
    locked: list[tuple[Requirement, list[str]]] = []
    for line in text.splitlines():
        if found := re.fullmatch(r"    --hash=(sha256:[0-9a-f]{64})(?: \\)?", line):
            locked[-1][1].append(found[1])
        elif found := re.fullmatch(r"(\S+==[^\\]+?) \\", line):
            locked.append((Requirement(found[1]), []))
        else:
            raise ValueError(f"neither a pinned requirement nor a hash: {line!r}")
    return locked


@pytest.fixture(scope="module")
def lock_text(root) -> str:
    return (root / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def environment(root) -> dict:
    return yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))


def test_lock_has_every_direct_requirement_at_a_version_that_is_allowed(project, lock_text):
    versions: dict[str, list[str]] = {}
    for requirement, _ in read_lock(lock_text):
        pins = [specifier.version for specifier in requirement.specifier]
        assert len(pins) == 1, f"{requirement}: not one pin"
        versions.setdefault(canonicalize_name(requirement.name), []).append(pins[0])
    for requirement in direct_requirements(project):
        locked = versions.get(canonicalize_name(requirement.name))
        assert locked, f"{requirement.name} is in pyproject.toml and not in requirements.lock: run make lock"
        for version in locked:
            assert requirement.specifier.contains(version), f"{requirement} excludes the locked {version}"


def test_lock_has_a_hash_for_each_requirement_and_nothing_else(lock_text):
    for requirement, hashes in read_lock(lock_text):
        assert hashes, f"{requirement} has no hash"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.invalid",
        "numpy @ https://index.invalid/numpy.whl \\",
        "-e .",
        "numpy>=2.0 \\",
        "    --hash=md5:0123",
    ],
)
def test_a_lock_with_an_address_or_without_a_pin_would_be_noticed(line):
    with pytest.raises(ValueError, match="neither a pinned requirement nor a hash"):
        read_lock(line)


def test_colab_runtime_satisfies_every_requirement_that_it_has(project, tools):
    runtime = tools["test_versions"].COLAB_RUNTIME
    wanted = {requirement.name: requirement for requirement in direct_requirements(project)}
    assert runtime.keys() <= wanted.keys(), "Colab's list names a package that pyproject.toml does not ask for"
    for name, version in runtime.items():
        assert wanted[name].specifier.contains(version), f"{wanted[name]} would replace Colab's {name} {version}"
    for version in ("3.11", "3.12", "3.13"):
        assert SpecifierSet(project["project"]["requires-python"]).contains(version)


def test_no_requirement_is_pinned(project):
    for requirement in direct_requirements(project):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{requirement}: has no lower bound"
        assert operators <= {">=", "<"}, f"{requirement}: a range, not a pin"


def test_library_itself_needs_jax_optax_and_numpy_only(project):
    names = {Requirement(text).name for text in project["project"]["dependencies"]}
    assert names == {"jax", "jaxlib", "optax", "numpy"}


def test_all_extra_has_every_other_extra_but_the_one_for_gpus(project):
    extras = project["project"]["optional-dependencies"]
    reached, pending = set(), ["all"]
    while pending:
        extra = pending.pop()
        if extra not in reached:
            reached.add(extra)
            own = [r for r in map(Requirement, extras[extra]) if r.name == project["project"]["name"]]
            pending += [name for requirement in own for name in requirement.extras]
    assert reached == extras.keys() - {"cuda"}


def test_lock_for_gpus_adds_to_the_other_and_changes_nothing(root, lock_text):
    main = {str(requirement) for requirement, _ in read_lock(lock_text)}
    names = {requirement.name for requirement, _ in read_lock(lock_text)}
    locked = read_lock((root / "requirements-cuda.lock").read_text(encoding="utf-8"))
    assert all(hashes for _, hashes in locked)
    assert {str(requirement) for requirement, _ in locked if requirement.name in names} <= main, "run make lock"
    (jax,) = {
        r.specifier for r, _ in locked if r.name == "jax" and r.marker.evaluate({"python_full_version": "3.11.0"})
    }
    plugin = [r for r, _ in locked if r.name == "jax-cuda12-plugin" and r.specifier == jax]
    assert plugin, "the plugin is not at JAX's version"


def test_constraints_are_the_lock_without_hashes(root, lock_text, tools):
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    constrained = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    assert constrained == [requirement for requirement, _ in read_lock(lock_text)]
    assert text == tools["constraints"].constraints(lock_text), "run python tools/constraints.py"


def test_environment_yml_agrees_with_pyproject(root, project, environment):
    assert environment["name"] == project["project"]["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert "://" not in (root / "environment.yml").read_text(encoding="utf-8")
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [entry.partition("=")[0] for entry in conda] == ["python", "pip"]
    python = conda[0].partition("=")[2]
    assert SpecifierSet(project["project"]["requires-python"]).contains(python)
    assert f"Programming Language :: Python :: {python}" in project["project"]["classifiers"]
    assert [entry.split()[0] for entry in pip] == ["-c", "-e"]
    assert (root / pip[0].split()[1]).is_file()
    editable = re.fullmatch(r"-e \.\[(\w+)\]", pip[1])
    assert editable, pip[1]
    assert editable[1] in project["project"]["optional-dependencies"]


def test_oldest_and_colab_legs_ask_for_what_they_say(project, tools):
    requirements = tools["test_versions"].requirements
    oldest = [Requirement(text) for text in requirements("oldest", project)]
    core = [Requirement(text) for text in project["project"]["dependencies"]]
    assert oldest[: len(core)] == core
    assert [r.name for r in oldest[len(core) :]] == ["flax", "pytest", "hypothesis"]
    colab = {r.name: r.specifier for r in map(Requirement, requirements("colab", project))}
    assert str(colab["jax"]) == "==0.7.2"
    assert colab["numpy"].contains("2.0.2")
    assert not colab["numpy"].contains("2.1.0")
