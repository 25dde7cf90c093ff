"""The house's walls: who may import whom, read from the sources; and what every module and selftest must have."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = {
    "autograder": 0,
    "report": 0,
    "errors": 0,
    "text": 0,
    "atomic": 0,
    "assignment": 1,
    "job": 1,
    "confined": 1,
    "sandbox": 2,
    "intake": 3,
    "suite": 3,
    "grade": 4,
    "ahead": 4,  # imports nothing of ours; session and __main__ both start workers with it
    "session": 5,
    "worker": 5,
    "bundle": 5,
    "batch": 5,
    "handout": 5,
    "validate": 5,
    "reporters": 5,
    "cli": 6,
    "__main__": 7,  # one line, which starts cli
}
"""The layer of each package and module right below `autograder`: design.md's table."""

WIRE = "autograder.confined.wire"
BECOMES_CONFINED = {"autograder.sandbox.zygote": {WIRE, "autograder.confined.server", "autograder.confined.optimizer"}}
"""Modules whose process becomes the confined one, with what they may import of that side."""

CONFINED_LIBRARIES = {"torch", "msgspec"} | set(sys.stdlib_module_names)
PICKLES = {"pickle", "_pickle", "cPickle", "pickletools", "shelve", "marshal", "dill", "cloudpickle", "joblib"}


def sources(folder: Path = ROOT / "autograder") -> dict[str, str]:
    """Every module of the package: import name to source; a package under its own name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, source: str, known: Mapping[str, str]) -> set[str]:
    """The modules that a module imports, wherever in it; of `from package import module`, the module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level:
                # A package's own `from .` starts at itself, a module's at the package it lies in.
                is_package = any(other.startswith(f"{name}.") for other in known)
                parts = name.split(".")[: len(name.split(".")) - node.level + is_package]
                package = ".".join([*parts, *([node.module] if node.module else [])])
            inner = {f"{package}.{alias.name}" for alias in node.names}
            found |= (inner & set(known)) or {package}
    return found


def room(name: str) -> str:
    """The package or module right below `autograder` that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def violations(modules: Mapping[str, str]) -> list[str]:
    """Every way in which these modules break the house's rules, in sentences."""
    found = []
    for name, source in modules.items():
        if room(name) not in LAYERS:
            found.append(f"{name} has no layer")
            continue
        wanted = imports(name, source, modules)
        found += [f"{name} imports {other}" for other in sorted(wanted) if not may_import(name, other)]
        found += [
            f"{name} line {node.lineno} has an assert"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Assert)
        ]
        found += [f"{name} imports {other}" for other in sorted(wanted) if other.split(".")[0] in PICKLES]
    return found + [f"cycle: {' > '.join(cycle)}" for cycle in cycles(modules)]


def may_import(name: str, other: str) -> bool:
    """Whether the rules let a module import another."""
    own, top = room(name), other.split(".", maxsplit=1)[0]
    if top != "autograder":
        return own != "confined" or top in CONFINED_LIBRARIES
    theirs = room(other)
    if theirs == "confined" and own not in ("confined", "reporters"):
        return other in BECOMES_CONFINED.get(name, {WIRE}) and LAYERS[own] > LAYERS["confined"]
    if own in ("confined", "reporters") and own != theirs:
        # Student code stands beside the one, so it sees no other room; the other only shows results.
        return own == "reporters" and LAYERS.get(theirs) == 0
    if own == "suite" and theirs == "sandbox":
        return False
    if own == theirs:
        return "." in name and other != name
    return LAYERS.get(theirs, 99) < LAYERS[own]


def cycles(modules: Mapping[str, str]) -> Iterator[list[str]]:
    """Modules that import each other in a circle, each circle once."""
    graph = {name: sorted(imports(name, source, modules) & set(modules)) for name, source in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[list[str]]:
        if name in path:
            yield [*path[path.index(name) :], name]
        elif name not in done:
            for other in graph[name]:
                yield from visit(other, [*path, name])
            done.add(name)

    for name in graph:
        yield from visit(name, [])


def public(source: str) -> set[str]:
    """The public names that a module's top level defines; what a decorator registers elsewhere is not meant by name."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            registered = any(
                isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) for call in node.decorator_list
            )
            names |= set() if registered else {node.name}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def declared(source: str) -> set[str] | None:
    """What a module's `__all__` holds; None where it has none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return None


# ---- the house itself


def test_no_module_breaks_the_rules() -> None:
    """Each module imports only what its layer and side may, asserts nothing, never pickles, and is in no circle."""
    assert violations(sources()) == []


@pytest.mark.parametrize("name", sources())
def test_all_is_what_is_public(name: str) -> None:
    """A module's `__all__` names everything public that it defines, and only what can be imported from it."""
    source = sources()[name]
    names = declared(source)
    if names is None:
        assert public(source) == set()
        return
    assert public(source) - names == set()
    module = importlib.import_module(name)
    assert [missing for missing in names if not hasattr(module, missing)] == []


def without_sentence(source: str) -> list[str]:
    """The test functions whose docstring is not one sentence."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not re.fullmatch(r"(?:[^.]|\.(?! [A-Z]))+\.", " ".join((ast.get_docstring(node) or "").split()))
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "selftests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_each_selftest_says_what_it_guards(path: Path) -> None:
    """Every test function in here has a docstring of one sentence."""
    assert without_sentence(path.read_text(encoding="utf-8")) == []


# ---- the checker, on invented houses


def house(**modules: str) -> dict[str, str]:
    """A house of these modules, `__` standing for a dot, with the packages that they lie in."""
    named = {"autograder": ""}
    for name, source in modules.items():
        full = f"autograder.{name.replace('__', '.')}"
        named.setdefault(full.rsplit(".", 1)[0], "")
        named[full] = source
    return named


RIGHT = {
    "a lower layer": house(
        grade="from autograder.report import Report\nimport autograder.suite.run", report="", suite__run=""
    ),
    "a sibling": house(suite__run="from autograder.suite import plugin", suite__plugin=""),
    "a sibling, relatively": house(suite__run="from . import plugin\nfrom .plugin import x", suite__plugin=""),
    "the wire": house(suite__proxy="from autograder.confined import wire", confined__wire="import msgspec"),
    "the zygote": house(
        sandbox__zygote="from autograder.confined import server, wire",
        confined__server="import torch.nn",
        confined__wire="",
    ),
    "the root": house(cli="from autograder import __version__"),
    "a library": house(suite__run="import pytest", cli="import rich.console"),
    "a reporter": house(reporters__html="from autograder.report import Report\nimport jinja2", report=""),
}
WRONG = {
    "a higher layer": (house(errors="import autograder.grade", grade=""), "errors imports autograder.grade"),
    "a higher layer, late": (
        house(errors="def f():\n    from autograder import grade", grade=""),
        "errors imports autograder.grade",
    ),
    "a higher layer, relatively": (house(suite__run="from .. import cli", cli=""), "suite.run imports autograder.cli"),
    "another room of its layer": (
        house(suite__run="from autograder.intake.read import x", intake__read=""),
        "suite.run imports autograder.intake.read",
    ),
    "another module of its layer": (
        house(session="import autograder.worker", worker=""),
        "session imports autograder.worker",
    ),
    "suite to sandbox": (
        house(suite__proxy="from autograder.sandbox import launch", sandbox__launch=""),
        "suite.proxy imports autograder.sandbox.launch",
    ),
    "the server, from the trusted side": (
        house(grade="from autograder.confined import server", confined__server=""),
        "grade imports autograder.confined.server",
    ),
    "the whole of the confined side": (
        house(grade="import autograder.confined", confined__server=""),
        "grade imports autograder.confined",
    ),
    "verbs, from the zygote": (
        house(sandbox__zygote="from autograder.confined.verbs import x", confined__verbs=""),
        "sandbox.zygote imports autograder.confined.verbs",
    ),
    "confined to the grader": (
        house(confined__server="from autograder.errors import x", errors=""),
        "confined.server imports autograder.errors",
    ),
    "confined to a library": (house(confined__server="import numpy"), "confined.server imports numpy"),
    "a reporter that grades": (
        house(reporters__html="from autograder.grade import grade", grade=""),
        "reporters.html imports autograder.grade",
    ),
    "a reporter on the wire": (
        house(reporters__html="from autograder.confined import wire", confined__wire=""),
        "reporters.html imports autograder.confined.wire",
    ),
    "a reporter that reads assignments": (
        house(reporters__html="import autograder.assignment", assignment=""),
        "reporters.html imports autograder.assignment",
    ),
    "a cycle": (
        house(
            suite__a="from autograder.suite import b", suite__b="from . import c", suite__c="import autograder.suite.a"
        ),
        "cycle: autograder.suite.a > autograder.suite.b > autograder.suite.c > autograder.suite.a",
    ),
    "an assert": (house(grade="def f(x):\n    assert x"), "grade line 2 has an assert"),
    "pickle": (house(grade="import pickle"), "grade imports pickle"),
    "pickle, late and by name": (house(cli="def f():\n    from pickle import loads"), "cli imports pickle"),
    "a kind of pickle": (house(confined__server="import marshal"), "confined.server imports marshal"),
    "a room nobody planned": (house(helpers=""), "helpers has no layer"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_checker_lets_right_houses_stand(name: str) -> None:
    """An invented house that keeps the rules has no violation."""
    assert violations(RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_the_checker_finds_each_violation(name: str) -> None:
    """An invented house that breaks one rule has that violation, and no other."""
    modules, told = WRONG[name]
    assert violations(modules) == [f"autograder.{told}" if not told.startswith("cycle") else told]


def test_the_checker_knows_what_is_public() -> None:
    """Public are the functions, classes and values that a module defines, not its imports, commands or private names."""
    source = (
        "import os\nfrom a import b\n__all__ = ['f']\nX = 1\ny: int = 2\np, q = 1, 2\n_Z = 3\n"
        "def f(): pass\nclass C: pass\ndef _g(): pass\n@app.command()\ndef main(): pass\n@cache\ndef k(): pass\n"
    )
    assert public(source) == {"X", "y", "p", "q", "f", "C", "k"}
    assert declared(source) == {"f"}
    assert declared("x = 1") is None


def test_the_checker_knows_a_sentence() -> None:
    """One sentence ends in its only full stop, may hold `a.b` and 0.5, and may be broken over lines."""
    good = ["It is.", "It holds `a.b`, 0.5 and e.g. this.", "It is\n    long."]
    bad = ["", "It is", "It is. So it is.", "It is.\n\nMore."]
    for text in good:
        assert without_sentence(f'def test_it():\n    """{text}"""') == []
    for text in bad:
        assert without_sentence(f'def test_it():\n    """{text}"""\n    pass') == ["test_it"]
    assert without_sentence("class TestA:\n    def test_it(self): pass\ndef helper(): pass") == ["test_it"]
