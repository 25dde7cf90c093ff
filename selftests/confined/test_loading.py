"""Importing a submission: as Python does, but for what is not installed; a failure is told in the student's lines."""

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autograder.confined import wire
from autograder.confined.loading import Loader, Missing, describe, load

Load = Callable[..., tuple[Any, Loader]]


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Load]:
    """Lay out files and import the main one; afterwards this process is as it was."""
    finders, modules = list(sys.meta_path), set(sys.modules)

    def submit(main: str | None = None, *, tolerant: bool = False, **files: str) -> tuple[types.ModuleType, Loader]:
        if main is not None:
            files["submission"] = main
        for name, source in files.items():
            path = tmp_path.joinpath(*name.split("__in__")[::-1]).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return load(str(tmp_path), "submission", tolerant=tolerant)

    yield submit
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_module_is_imported_as_python_would(submit: Load) -> None:
    """Docstring, names, file, name and dataclasses are what an import gives, and `__main__` is somebody else."""
    module, loader = submit(
        '"""What it is."""\n'
        "from dataclasses import dataclass, field\n"
        "import math\n"
        "ran_as_main = __name__ == '__main__'\n"
        "@dataclass\nclass Config:\n    p: float = 0.5\n    sizes: list[int] = field(default_factory=list)\n"
        "area = math.pi\n"
    )
    assert (module.__name__, module.__doc__, module.ran_as_main) == ("submission", "What it is.", False)
    assert module.Config(0.1) == module.Config(0.1, [])
    assert module.Config.__module__ == "submission"
    assert module.__file__.endswith("submission.py")
    assert sys.modules["submission"] is module
    assert (loader.missing, loader.raised) == ([], [])


def test_text_after_an_import_is_no_docstring(submit: Load) -> None:
    """A string that stands after an import, where statements are run anew, does not become the module's docstring."""
    assert submit('import math\n"""A remark."""\nx = 1\n')[0].__doc__ is None
    assert submit('"""First."""\nimport math\n"""A remark."""\n', tolerant=True)[0].__doc__ == "First."


USES = {
    "call": "absent.run()",
    "call of the thing": "absent()",
    "subclass": "class A(absent.Base): pass",
    "iterate": "for x in absent.things: pass",
    "with": "with absent.open(): pass",
    "with a thing": "with absent.lock: pass",
    "decorate": "@absent.jit\ndef f(): pass",
    "unpack": "a, b = absent.pair",
    "item of a call": "absent.load()['x']",
    "isinstance": "isinstance(1, absent.Thing)",
}


@pytest.mark.parametrize("name", USES)
def test_a_missing_import_fails_only_what_uses_it(submit: Load, name: str) -> None:
    """The import itself passes; a real use says what is missing, in a function when that is called."""
    body = USES[name].replace("\n", "\n    ")
    module, loader = submit(f"import absent\ndef use():\n    {body}\ndef other():\n    return 1\n")
    assert (module.other(), loader.missing) == (1, ["absent"])
    with pytest.raises(ModuleNotFoundError, match="`absent` is not installed in the grader") as caught:
        module.use()
    assert caught.value.name == "absent"


def test_a_missing_import_used_at_the_top_level_fails_the_import(submit: Load) -> None:
    """Where a top-level statement really uses what is missing, importing fails with that."""
    with pytest.raises(ModuleNotFoundError, match=r"`absent.pi` is used here"):
        submit("import absent\nx = absent.pi()\n")


def test_a_missing_import_may_be_named_where_nothing_is_asked_of_it(submit: Load) -> None:
    """Settings, attributes and annotations of what is missing pass: they ask for nothing."""
    module, _ = submit(
        "import absent as ab\n"
        "from absent.types import Array, Frame\n"
        "ab.rcParams['size'] = 3\n"
        "ab.quiet = True\n"
        "style = ab.style.dark\n"
        "def plot(frame: Frame | None = None, axes: 'ab.Axes' = None, x: Array[int] | int = 1) -> None | Frame:\n"
        "    return frame\n"
        "class Holder:\n    array: Array[int, float]\n    maybe: int | Array\n"
    )
    assert isinstance(module.style, Missing)
    assert module.plot(3) == 3


@pytest.mark.parametrize(
    ("line", "names", "missing"),
    [
        ("import absent", {"absent": "absent"}, ["absent"]),
        ("import absent.deep", {"absent": "absent"}, ["absent.deep"]),
        ("import absent.deep as d", {"d": "absent.deep"}, ["absent.deep"]),
        ("import absent as a, math, gone.b as g", {"a": "absent", "g": "gone.b"}, ["absent", "gone.b"]),
        ("from absent import y", {"y": "absent.y"}, ["absent"]),
        ("from absent import y as z, w", {"z": "absent.y", "w": "absent.w"}, ["absent"]),
        ("from absent.deep import y as z", {"z": "absent.deep.y"}, ["absent.deep"]),
        ("from absent import *", {}, ["absent"]),
        ("import absent\nimport absent.deep\nfrom absent import y", {"y": "absent.y"}, ["absent", "absent.deep"]),
    ],
)
def test_a_missing_import_binds_what_the_statement_would(
    submit: Load, line: str, names: dict[str, str], missing: list[str]
) -> None:
    """Each form of import leaves stand-ins under the names that it would have bound, and what is there is real."""
    module, loader = submit(line + "\n")
    stands = {name: thing for name, thing in vars(module).items() if isinstance(thing, Missing)}
    for name, full in names.items():
        with pytest.raises(ModuleNotFoundError, match=f"`{full}` is used"):
            stands[name]()
    assert "absent" in stands or set(stands) == set(names)
    assert loader.missing == missing
    if "math" in line:
        assert module.math.pi > 3


def test_a_missing_part_does_not_take_the_whole_away(submit: Load) -> None:
    """`import json.absent` leaves `json`, which is there, as it was."""
    module, loader = submit("import json\nimport json.absent\nx = json.dumps([1])\n")
    assert (module.x, loader.missing) == ("[1]", ["json.absent"])


def test_student_code_that_handles_a_missing_import_sees_the_error(submit: Load) -> None:
    """`try: import … except ImportError` takes its own way out, and nothing is reported missing."""
    module, loader = submit("try:\n    import absent\nexcept ImportError:\n    absent = None\n")
    assert (module.absent, loader.missing) == (None, [])


def test_a_name_that_an_installed_module_lacks_is_an_error(submit: Load) -> None:
    """`from math import nothing` is the student's mistake, not something missing here."""
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        submit("from math import nothing\n")


def test_a_module_not_found_error_of_a_helpers_own_is_not_hidden(submit: Load) -> None:
    """An import that fails for another reason than its own module's absence fails."""
    with pytest.raises(ModuleNotFoundError, match="made up"):
        submit("import helper\n", helper="raise ModuleNotFoundError('made up', name='other')\n")


def test_helpers_import_with_missing_imports_of_their_own(submit: Load) -> None:
    """Modules beside the main one import each other, and what they miss is reported once."""
    module, loader = submit(
        "import absent\nfrom helper import twice\nimport helper as h\nx = twice(3)\n",
        helper="from other import two\nimport absent, gone\ndef twice(n):\n    return two * n\n",
        other="two = 2\n",
    )
    assert (module.x, module.h.two, loader.missing) == (6, 2, ["absent", "gone"])


def test_packages_import_relatively(submit: Load) -> None:
    """Relative imports work in a package, in one without `__init__.py`, and a missing one inside is a real error."""
    module, _ = submit(
        "from pack.a import x\nfrom plain.c import z\n",
        __init____in__pack="",
        a__in__pack="from .b import y\nfrom . import b\nx = y + b.y\n",
        b__in__pack="y = 1\n",
        c__in__plain="from .d import w as z\n",
        d__in__plain="w = 5\n",
    )
    assert (module.x, module.z) == (2, 5)
    with pytest.raises(ModuleNotFoundError, match=r"pack\.nothing"):
        submit("from pack import e\n", e__in__pack="from . import b\nfrom .nothing import q\n")


def test_future_annotations_hold_in_every_part_of_a_file(submit: Load) -> None:
    """A future import at the top is honoured after later imports, and in no other file."""
    module, _ = submit(
        '"""Doc."""\nfrom __future__ import annotations\nimport math\nimport helper\n'
        "def f(x: NotDefined | None) -> Nor[This]:\n    return x\n",
        helper="def g(x: int): pass\n",
    )
    assert module.f.__annotations__ == {"x": "NotDefined | None", "return": "Nor[This]"}
    assert module.helper.g.__annotations__ == {"x": int}
    with pytest.raises(NameError):
        submit("import math\ndef f(x: NotDefined): pass\n")


def test_this_projects_own_future_imports_do_not_reach_a_submission(submit: Load) -> None:
    """A file without future imports is compiled without any."""
    assert submit("def f(x: int): pass\n")[0].f.__annotations__ == {"x": int}


def test_loading_stops_at_what_raises(submit: Load) -> None:
    """A file that raises is not imported, and the error is the student's own."""
    with pytest.raises(ZeroDivisionError):
        submit("a = 1\n1 / 0\nb = 2\n")
    assert "submission" not in sys.modules


def test_a_notebook_goes_on_after_what_raises(submit: Load, tmp_path: Path) -> None:
    """Loaded tolerantly, each statement that raises is noted with its line, and the ones after it run."""
    module, loader = submit("a = 1\n1 / 0\nb = 2\nimport absent\nc = absent.x()\nd = nope\ne = 3\n", tolerant=True)
    assert (module.a, module.b, module.e, loader.missing) == (1, 2, 3, ["absent"])
    assert [(error.kind, error.lines) for error in loader.raised] == [
        ("ZeroDivisionError", [("submission.py", 2, "<module>")]),
        ("ModuleNotFoundError", [("submission.py", 5, "<module>")]),
        ("NameError", [("submission.py", 6, "<module>")]),
    ]


def test_only_the_notebook_itself_is_loaded_tolerantly(submit: Load) -> None:
    """A helper that raises fails its import, which the notebook then goes on from."""
    module, loader = submit("import helper\nx = 1\n", tolerant=True, helper="y = 1\n1 / 0\nz = 2\n")
    assert (module.x, "helper" in sys.modules, [error.kind for error in loader.raised]) == (
        1,
        False,
        ["ZeroDivisionError"],
    )


def test_loading_again_gives_fresh_modules(submit: Load, tmp_path: Path) -> None:
    """A second load runs the main file, helpers and modules of plain folders anew, and leaves one finder."""
    files = {"helper": "things = []\n", "c__in__plain": "things = []\n"}
    first, _ = submit(
        "import helper\nfrom plain import c\nfirst = not helper.things\nhelper.things.append(1)\n", **files
    )
    first.c.things.append(1)
    second, _ = load(str(tmp_path), "submission", tolerant=False)
    assert second is not first
    assert second.first
    assert second.c.things == []
    assert sum(isinstance(finder, Loader) for finder in sys.meta_path) == 1


def test_only_the_submissions_own_files_are_found(submit: Load) -> None:
    """Python's and the grader's own modules import as ever, with the student's finder first in line."""
    module, _ = submit("import json, colorsys\nx = json.__file__\n", json="y = 1\n")
    assert "submission" not in module.x
    assert not hasattr(module.json, "y")
    assert module.colorsys.__file__.startswith(sys.base_prefix)


def test_a_helper_comes_before_a_library_of_its_name(submit: Load) -> None:
    """A student's file named as a library module that nothing imported yet is the one imported, as beside a script."""
    assert "this" not in sys.modules
    assert submit("import this\n", this="x = 1\n")[0].this.x == 1


def test_no_bytecode_is_written(submit: Load, tmp_path: Path) -> None:
    """Importing leaves nothing in the submission's folder."""
    submit("import helper\n", helper="x = 1\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["helper.py", "submission.py"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_source_is_decoded_as_python_decodes_it(submit: Load, tmp_path: Path, encoding: str) -> None:
    """A byte order mark and a coding line are honoured."""
    line = "# -*- coding: latin-1 -*-\r\n" if encoding == "latin-1" else ""
    (tmp_path / "submission.py").write_bytes(f"{line}x = 'é'\r\n".encode(encoding))
    assert submit()[0].x == "é"


# ---- what an exception is told as


def failure(submit: Load, source: str, folder: Path, **files: str) -> wire.Raised:
    """What calling `go` in that source is told as."""
    module, _ = submit(source, **files)
    try:
        module.go()
    except BaseException as error:  # noqa: BLE001  # student code raises anything
        told = describe(error, str(folder))
        assert wire.decode(wire.encode(told), wire.Reply) == told
        return told
    pytest.fail("it did not raise")


def test_only_the_students_own_frames_are_told(submit: Load, tmp_path: Path) -> None:
    """The lines are the student's, outermost first, helpers' included, and none of the grader's or a library's."""
    told = failure(
        submit,
        "import json\nfrom helper import read\ndef go():\n    return read(json)\n",
        tmp_path,
        helper="def read(json):\n    return json.loads('{')\n",
    )
    assert told.lines == [("submission.py", 4, "go"), ("helper.py", 2, "read")]
    assert (told.kind, told.missing) == ("JSONDecodeError", "")
    assert "autograder" not in str(told)
    assert "json/" not in str(told)


def test_a_syntax_error_is_told_with_its_line(submit: Load, tmp_path: Path) -> None:
    """A file that Python cannot read is told by file and line, though no frame of it ever ran."""
    told = failure(submit, "def go():\n    import helper\n", tmp_path, helper="x = 1\ny = (\n")
    assert told.kind == "SyntaxError"
    assert told.lines == [("submission.py", 2, "go"), ("helper.py", 2, "<module>")]


def test_endless_recursion_is_told_in_a_few_lines(submit: Load, tmp_path: Path) -> None:
    """A thousand frames are told as six, the first two and the last four."""
    told = failure(submit, "def go():\n    return deeper(0)\ndef deeper(n):\n    return deeper(n + 1)\n", tmp_path)
    assert told.kind == "RecursionError"
    assert told.lines == [("submission.py", 2, "go")] + [("submission.py", 4, "deeper")] * 5


HOSTILE = {
    "raises in __str__": "class E(Exception):\n    def __str__(self): raise ValueError('no')",
    "exits in __str__": "class E(Exception):\n    def __str__(self): raise SystemExit",
    "endless __str__": "class E(Exception):\n    def __str__(self): return str(self)",
    "no text from __str__": "class E(Exception):\n    def __str__(self): return 3",
    "huge text": "class E(Exception):\n    def __str__(self): return 'x' * 50_000_000",
    "not Unicode": "class E(Exception):\n    def __str__(self): return '\\ud800'",
    "a text of its own": (
        "class S(str):\n    def encode(self, *a): return 3\nclass E(Exception):\n    def __str__(self): return S('x')"
    ),
    "huge name": "E = type('E' * 10_000_000, (Exception,), {})",
    "name from a metaclass": "class M(type):\n    __name__ = property(id)\nclass E(Exception, metaclass=M): pass",
    "odd syntax error": "class E(SyntaxError):\n    filename = 5\n    lineno = 'x'",
    "odd missing module": "class E(ModuleNotFoundError):\n    name = 5",
    "missing module that raises": "class E(ModuleNotFoundError):\n    name = property(lambda self: 1 / 0)",
    "no Exception": "class E(BaseException): pass",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exception_that_misbehaves_is_told_all_the_same(submit: Load, tmp_path: Path, name: str) -> None:
    """An exception's own code may raise, lie or return a huge text: a short, well-formed description comes of it."""
    told = failure(submit, f"{HOSTILE[name]}\ndef go():\n    raise E\n", tmp_path)
    assert len(told.kind) <= 200
    assert len(told.message) <= 2000


def test_a_missing_module_is_named(submit: Load, tmp_path: Path) -> None:
    """What fails for a module that is not installed says which."""
    assert failure(submit, "import absent.deep\ndef go():\n    absent.deep.f()\n", tmp_path).missing == "absent"
