"""Notebooks: what they define is read, and what they do is never run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from autograder.errors import SubmissionError
from autograder.intake import Limits, Submission, read_submission


def write(folder: Path, *cells: str, version: int = 4, name: str = "submission.ipynb") -> Path:
    """Write a notebook with these code cells, a text cell before the first and after each."""
    text = {"cell_type": "markdown", "metadata": {}, "source": ["# class NotCode\n"]}
    parts: list[dict[str, Any]] = [text]
    for cell in cells:
        key = "source" if version == 4 else "input"
        lines = cell.splitlines(keepends=True)
        code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, key: lines}
        parts += [code | ({"prompt_number": 1, "language": "python", "collapsed": False} if version < 4 else {}), text]
    whole: dict[str, Any] = {"metadata": {}, "nbformat": version, "nbformat_minor": 0}
    whole |= {"cells": parts} if version == 4 else {"worksheets": [{"cells": parts, "metadata": {}}]}
    (folder / name).write_text(json.dumps(whole), encoding="utf-8")
    return folder / name


def defined(submission: Submission) -> dict[str, Any]:
    """Execute the generated source as the tolerant loader does not: nothing may raise."""
    names: dict[str, Any] = {"__name__": submission.module}
    exec(compile(submission.files[submission.main], submission.main, "exec"), names)  # noqa: S102  # our own cells
    return names


def read(folder: Path, *cells: str) -> tuple[dict[str, Any], Submission]:
    """Hand in a notebook with these code cells; returns what its source defines, and the submission."""
    submission = read_submission(write(folder, *cells))
    assert submission.tolerant
    assert len(submission.origin) == submission.source().count("\n")
    return defined(submission), submission


def refusal(folder: Path, *cells: str, limits: Limits | None = None) -> str:
    """Return the sentence with which a notebook is refused."""
    with pytest.raises(SubmissionError) as caught:
        read_submission(write(folder, *cells), limits=limits or Limits())
    return str(caught.value)


DEFINITION = "class Model:\n    size = 3\n"


@pytest.mark.parametrize("version", [3, 4])
def test_versions_of_the_format(tmp_path: Path, version: int) -> None:
    """Notebooks of the current and of the previous format are read."""
    submission = read_submission(write(tmp_path, "import math\n", DEFINITION, version=version))
    assert defined(submission)["Model"].size == 3
    assert submission.place(2) == "submission.ipynb, cell 2, line 1"


def test_invalid_ids_and_metadata_do_not_matter(tmp_path: Path) -> None:
    """A notebook is read whatever its ids, metadata, outputs and minor version."""
    path = write(tmp_path, DEFINITION)
    whole = json.loads(path.read_text())
    whole |= {"metadata": [1], "nbformat_minor": 99}
    for cell in whole["cells"]:
        cell |= {"id": "x y!" * 90, "metadata": "none"}
    whole["cells"] += [
        {"cell_type": "raw", "source": "class Raw: pass"},
        {"cell_type": "code", "source": "def f(): pass"},
    ]
    path.write_text("\ufeff" + json.dumps(whole), encoding="utf-8")
    names = defined(read_submission(path))
    assert {"Model", "f"} <= set(names)
    assert "Raw" not in names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        "null",
        "3",
        '{"cells": []',
        '{"cells": 3, "nbformat": 4}',
        '{"cells": [3], "nbformat": 4}',
        '{"cells": [{"cell_type": "code", "source": 3}], "nbformat": 4}',
        '{"cells": [], "nbformat": 4}',
        '{"cells": [], "nbformat": 9}',
        '{"cells": [], "nbformat": "x"}',
        '{"cells": [], "nbformat": [4]}',
        '{"worksheets": 3, "nbformat": 3}',
        '{"nbformat": 4, "x": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=range(18),
)
def test_what_is_no_notebook(tmp_path: Path, text: str) -> None:
    """Anything that is not a notebook is refused with one printable sentence."""
    (tmp_path / "submission.ipynb").write_text(text)
    with pytest.raises(SubmissionError, match=r"^submission\.ipynb ") as caught:
        read_submission(tmp_path)
    assert str(caught.value).isprintable()


def test_undecodable_notebook(tmp_path: Path) -> None:
    """A notebook that is not UTF-8 is refused."""
    (tmp_path / "submission.ipynb").write_bytes(b'{"cells": "\xff"}')
    with pytest.raises(SubmissionError, match="not a readable notebook"):
        read_submission(tmp_path)


def test_limits_on_a_notebook(tmp_path: Path) -> None:
    """Bytes, structure and code of a notebook are limited, each by its own measure."""
    assert "larger than 1 KiB" in refusal(tmp_path, "x = 1\n" * 300, limits=Limits(notebook_bytes=1024))
    assert "clear its outputs" in refusal(tmp_path, DEFINITION, limits=Limits(notebook_brackets=5))
    assert "code in submission.ipynb is larger" in refusal(tmp_path, DEFINITION * 50, limits=Limits(source_bytes=1024))


def test_work_is_never_run(tmp_path: Path) -> None:
    """Training, plots, prints, mounts, downloads and input are left out; what is defined around them stays."""
    names, submission = read(
        tmp_path,
        "!pip install -q torch\n%matplotlib inline\n%load_ext x\nimport math, os\nfrom functools import partial\n",
        "from math import (\n    sqrt,\n)\ndrive = os.path.join('a', 'b')\nfiles = !ls\nwhere = %pwd\n?math\nmath?\n",
        "input('your name: ')\nprint('x')\nraise SystemExit\n",
        "class Model:\n    rate = 0.5  # kept\n\nmodel = Model()\nmodel.rate = 3\nfor i in range(3):\n    print(i)\n",
        "with open('/nowhere') as f:\n    data = f.read()\nwhile True:\n    pass\nassert False\ndel math\n",
        "if __name__ == '__main__':\n    main = 3\n    raise SystemExit\n",
        "await thing()\nx = await it()\ny = get_ipython().run_line_magic('pwd', '')\nz = (w := 3)\n1 / 0; ok = 3; 1\n",
        "if print('x') is None:\n    tested = 3\n",
        "half = partial(sqrt, 4)\npair = [float(i) for i in range(2)]\nname: str = 'a' if half else 'b'\npair += [2]\n",
    )
    assert {"math", "os", "sqrt", "partial", "drive", "Model", "ok", "half", "pair", "name"} <= set(names)
    assert set(names) & {"files", "where", "model", "i", "data", "main", "x", "y", "z", "w", "tested"} == set()
    assert names["pair"] == [0.0, 1.0, 2]
    assert "# kept" in submission.source()


def test_harmless_calls_are_known_by_their_full_name(tmp_path: Path) -> None:
    """A right-hand side may call what only builds a value, whatever it is imported as, and nothing of the student's."""
    torch = (
        "import torch\nimport torch.nn as nn\nfrom torch import device as dev\nfrom torch.nn import CrossEntropyLoss\n"
    )
    kept = [
        "a = torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "b = dev('cpu')",
        "c = nn.CrossEntropyLoss()",
        "d = CrossEntropyLoss(reduction='sum')",
        "e = 'cuda' if torch.cuda.is_available() else 'cpu'",
        "f = torch.manual_seed(0)",
        "g = 'one two'.split()",
        "h = lambda x: print(x)",
        "i = nn.Sequential(nn.Linear(2, 2), nn.ReLU())",
        "j = k = (1, -2 ** 3, [1 < 2], {'x': a.type}, f'{a}')",
        "os.environ['X'] = '1'",
    ]
    dropped = [
        "n = device('cpu')",
        "o = torch.load('x')",
        "p = torch.hub.load('x', 'y')",
        "q = len([print(1)])",
        "r = sqrt(4)",
        "s = open('x')",
        "t = nn.functional.relu(a)",
        "u = exec('1')",
        "v = __import__('os')",
        "w = a.to('cuda')",
        "x = lambda y=print(1): y",
        "y = max(1, 2)",
    ]
    source = read_submission(
        write(tmp_path, torch, "import os\ndef sqrt(x): ...\ndef max(*x): ...\n" + "\n".join(kept + dropped))
    ).source()
    rows = source.split("\n")
    assert [row for row in kept if row not in rows] == []
    assert [row for row in dropped if row in rows] == []


@pytest.mark.parametrize("magic", ["time", "capture", "timeit"])
def test_cell_magics_that_run_python(tmp_path: Path, magic: str) -> None:
    """What a cell under `%%time` and its like defines is kept, with its line numbers, also under two of them."""
    _, submission = read(tmp_path, f"\n%%{magic} out\n%%time\n" + DEFINITION)
    assert submission.place(1) == "submission.ipynb, cell 1, line 4"


@pytest.mark.parametrize("magic", ["bash", "writefile helper.py", "html", "javascript", "python", "script sh", "latex"])
def test_other_cell_magics(tmp_path: Path, magic: str) -> None:
    """Cells of other magics are left out, and the note names what is missing because of it."""
    names, submission = read(tmp_path, DEFINITION, f"%%{magic}\nclass Other:\n    pass\n")
    assert "Other" not in names
    assert any("cell 2" in note and "Other is missing" in note for note in submission.notes)


def test_definitions_with_magics_inside(tmp_path: Path) -> None:
    """A magic inside a function costs nothing until the function is called, and lines after it keep their numbers."""
    cell = "!ls \\\n  -l\ndef f():\n    %time 3\n    !ls \\\n      -l\n    return 1\n\ndef g():\n    return 2\n"
    names, submission = read(tmp_path, cell)
    assert names["g"]() == 2
    row = submission.source().split("\n").index("def g():")
    assert submission.place(row + 1) == "submission.ipynb, cell 1, line 9"
    row = submission.source().split("\n").index("    return 1")
    assert submission.place(row + 1) == "submission.ipynb, cell 1, line 7"


def test_indented_cell_and_prompts(tmp_path: Path) -> None:
    """A cell that is indented as a whole, or pasted with prompts, is read as IPython reads it."""
    names, _ = read(tmp_path, "    def f():\n        return 1\n", ">>> def g():\n...     return 2\n")
    assert (names["f"](), names["g"]()) == (1, 2)


def test_broken_cell_costs_itself_alone(tmp_path: Path) -> None:
    """A cell that Python cannot read is left out; the note names cell, line and what is missing because of it."""
    names, submission = read(
        tmp_path, DEFINITION, "!ls\nx = 1\nclass Broken:\n    def method(self:\n        pass\n", "def f(): pass"
    )
    assert {"Model", "f"} <= set(names)
    note = next(note for note in submission.notes if "cell 2" in note)
    assert "cell 2, line 4" in note
    assert "Broken and method are missing" in note


def test_nothing_defined(tmp_path: Path) -> None:
    """A notebook that defines nothing is refused, with the note that says why."""
    assert "defines no function or class" in refusal(tmp_path, "import torch\nx = 3\nprint(x)\n")
    message = refusal(tmp_path, "class Model(:\n    pass\n")
    assert "defines no function or class" in message
    assert "Model is missing" in message


def test_notebook_that_imports_its_definitions(tmp_path: Path) -> None:
    """A notebook may take everything from a helper that is handed in with it."""
    (tmp_path / "layers.py").write_text(DEFINITION)
    write(tmp_path, "from layers import Model\n")
    submission = read_submission(tmp_path)
    assert set(submission.files) == {"submission.py", "layers.py"}


def test_only_notebook_under_another_name(tmp_path: Path) -> None:
    """The only notebook is the main file, and places name it as the student does."""
    submission = read_submission(write(tmp_path, DEFINITION, name="my work.ipynb").parent)
    assert submission.main == "submission.py"
    assert submission.place(2) == "my work.ipynb, cell 1, line 2"
    assert submission.place(99) == "my work.ipynb"


def test_guarded_imports(tmp_path: Path) -> None:
    """Imports in `try` and `if` are kept as they stand; work among them is taken out, and they run."""
    names, submission = read(
        tmp_path,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nowhere import Thing\n",
        "try:\n    import no_such_module  # optional\n    HAS = True\nexcept ImportError:\n    HAS = False\n",
        "try:\n    import json\n    print('fine')\nexcept Exception:\n    !pip install json\n    import json\n",
        "import sys\nif sys.version_info > (3,):\n    flag = 'new'\n    print('new')\nelse:\n    flag = 'old'\n",
        "try:\n    from json import loads as f\nexcept ImportError:\n    def f(x):\n        return x\n",
        "try:\n    print('only work')\nfinally:\n    pass\n" + DEFINITION,
    )
    assert (names["HAS"], names["flag"], names["f"]("1")) == (False, "new", 1)
    source = submission.source()
    assert "import no_such_module  # optional" in source
    assert "print" not in source
    assert "get_ipython" not in source
    assert submission.place(source.split("\n").index("    flag = 'old'") + 1) == "submission.ipynb, cell 4, line 2"


def test_main_guard_hides_definitions(tmp_path: Path) -> None:
    """Nothing under `if __name__ == "__main__"` is kept, in either branch."""
    names, _ = read(tmp_path, DEFINITION, "if __name__ == '__main__':\n    def f(): pass\nelse:\n    def g(): pass\n")
    assert set(names) & {"f", "g"} == set()


def test_future_imports_come_first(tmp_path: Path) -> None:
    """A future import is in force for the whole notebook, and an import written twice appears once."""
    names, submission = read(
        tmp_path,
        "import math\n",
        "def f(x: Later) -> Later: ...\nclass Later: ...\n",
        "from __future__ import annotations\nimport math\n",
    )
    assert names["f"].__annotations__ == {"x": "Later", "return": "Later"}
    assert submission.source().split("\n")[:2] == ["from __future__ import annotations", "import math"]
    assert submission.source().count("import math") == 1
    assert submission.source().index("def f") < submission.source().index("class Later")


@pytest.mark.parametrize(
    "cells",
    [
        ("class Child(Base):\n    pass\n", "class Base:\n    value = 3\n"),
        ("@double\nclass Child:\n    value = 1\n", "def double(kind):\n    kind.value = 3\n    return kind\n"),
        ("class Child:\n    value = base\n", "base = 3\n"),
        ("def make(value=base):\n    return value\nclass Child:\n    value = make()\n", "base = 3\n"),
        ("class Child:\n    value = make()\n", "def make():\n    return inner()\n", "def inner():\n    return 3\n"),
        ("class Child:\n    def method(self) -> Base: ...\n    value = 3\n", "class Base: pass\n"),
        ("class Child(Middle):\n    pass\n", "class Middle(Base):\n    pass\n", "class Base:\n    value = 3\n"),
        ("Child.value = base\n", "base = 3\n", "class Child: pass\n"),
        ("class Child:\n    value = sqrt(9)\n", "from math import sqrt\n"),
        ("class Child:\n    value = F\n", "F = 3\n", "class Child:\n    value = F\n"),
    ],
    ids=["base", "decorator", "attribute", "default", "call", "annotation", "chain", "patch", "import", "duplicate"],
)
def test_cells_out_of_order(tmp_path: Path, cells: tuple[str, ...]) -> None:
    """What a definition needs when it is run comes before it, whatever the order of the cells."""
    assert read(tmp_path, *cells)[0]["Child"].value == 3


def test_order_is_kept_where_it_works(tmp_path: Path) -> None:
    """Statements that run in cell order stay in cell order, functions that call each other too."""
    cells = ("b = 1\n", "def g():\n    return f()\n", "a = b\n", "def f():\n    return g()\n", "class C:\n    x = a\n")
    assert read(tmp_path, *cells)[1].source() == "".join(cells)


def test_definitions_that_need_each_other_stay(tmp_path: Path) -> None:
    """A cycle keeps its cell order, and costs the other definitions nothing."""
    cells = ("class A(B): pass\n", "class B(A): pass\n", "class D(C): pass\n", "class C: pass\n")
    source = read_submission(write(tmp_path, *cells)).source()
    assert source.index("class A") < source.index("class B")
    assert source.index("class C") < source.index("class D")


def test_last_definition_wins(tmp_path: Path) -> None:
    """Of a name defined twice the last definition counts, and the first is not run."""
    names, submission = read(
        tmp_path,
        "class A:\n    v = 1\n    1 / 0\nx = 1\ndef f(): return 1\n",
        "class A:\n    v = 2\n",
        "x = 2\n",
        "def f(): return 2\n",
    )
    assert (names["A"].v, names["x"], names["f"]()) == (2, 2, 2)
    assert "1 / 0" not in submission.source()


def test_redefinition_that_uses_the_former_one(tmp_path: Path) -> None:
    """A class that extends its former self, and a counter, keep what they build on."""
    names, _ = read(tmp_path, "class A:\n    v = 1\n", "class A(A):\n    w = 2\n", "n = 1\n", "n += 1\n", "n = n * 5\n")
    assert (names["A"].v, names["A"].w, names["n"]) == (1, 2, 10)


def test_helper_redefined_after_its_use(tmp_path: Path) -> None:
    """Each use between two definitions sees the one before it, as when the notebook is run from top to bottom."""
    names, _ = read(
        tmp_path,
        "class A: pass\nclass B: pass\n",
        "def forward(self):\n    return 'a'\n",
        "A.forward = forward\n",
        "def forward(self):\n    return 'b'\n",
        "B.forward = forward\n",
    )
    assert (names["A"]().forward(), names["B"]().forward()) == ("a", "b")


def test_late_definition_does_not_see_a_redefinition(tmp_path: Path) -> None:
    """A class that has to wait for a later cell still sees what held at its own place: a value, or an import."""
    cells = ("n = 1\n", "class C:\n    seen = (n, z, pi)\n", "n = 2\n", "pi = 3\n", "z = 3\nfrom math import pi\n")
    assert read(tmp_path, *cells)[0]["C"].seen == (1, 3, math.pi)


def test_deep_definition_is_kept(tmp_path: Path) -> None:
    """A function whose body is nested deeper than can be compared is kept as it stands."""
    assert read(tmp_path, "def f(x):\n    return " + "x + " * 1100 + "x\n")[0]["f"](1) == 1101


def test_failure_inside_ipython_costs_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever IPython raises on a cell, that cell alone is left out."""

    def fail(*_: object) -> None:
        raise RuntimeError("500 transformations")

    monkeypatch.setattr("IPython.core.inputtransformer2.TransformerManager.do_one_token_transform", fail)
    names, submission = read(tmp_path, "!ls\ndef f(): pass\n", DEFINITION)
    assert "f" not in names
    assert "500 transformations; the cell is left out, so f is missing" in submission.notes[0]


def test_decorated_patches_are_all_kept(tmp_path: Path) -> None:
    """A decorator that adds methods to classes is run for each, though the functions share a name."""
    names, _ = read(
        tmp_path,
        "def add_to(kind):\n    def wrap(f):\n        setattr(kind, f.__name__, f)\n        return f\n"
        "    return wrap\n",
        "class A: pass\nclass B: pass\n",
        "@add_to(A)\ndef forward(self):\n    return 'a'\n",
        "@add_to(B)\ndef forward(self):\n    return 'b'\n",
    )
    assert (names["A"]().forward(), names["B"]().forward()) == ("a", "b")


def test_lost_names_are_explained(tmp_path: Path) -> None:
    """What depends on work is left out too, and a definition that uses it is named in a note."""
    names, submission = read(
        tmp_path,
        "def load(): ...\ndata = load()\nsize = data\nhalf = size\nunused = load()\n",
        "def train(epochs):\n    return data\n",
        "def fine(data):\n    return data\n",
    )
    assert set(names) & {"data", "size", "half"} == set()
    (note,) = (note for note in submission.notes if "`data`" in note)
    assert "train uses it" in note
    assert not any("unused" in note for note in submission.notes)


def test_text_and_places_are_the_students(tmp_path: Path) -> None:
    """Generated lines are the student's own, comments, strings and line ends included, and each knows its place."""
    cell = (
        "# not kept\n@staticmethod  # why\n@(\n  staticmethod\n)\ndef f(x,  # é\n      y=1):\n    '''a\n\n  b'''\n"
        "    # inside\n"
        "    return x\n\n\na = \"é\"; b = (1,\n  2); c = 3  # c\r\nd = '\x0c\u2028'\n"
    )
    names, submission = read(tmp_path, "import math\n", cell)
    rows = submission.source().split("\n")
    original = cell.replace("\r\n", "\n").split("\n")
    assert rows[1:12] == original[1:12]
    assert rows[12:15] == ['a = "é"', "b = (1,", "  2)"]
    assert (names["a"], names["b"], names["c"], names["d"]) == ("é", (1, 2), 3, "\x0c\u2028")
    assert [submission.place(line) for line in (1, 2, 12)] == [
        "submission.ipynb, cell 1, line 1",
        "submission.ipynb, cell 2, line 2",
        "submission.ipynb, cell 2, line 12",
    ]
    assert submission.place(rows.index("c = 3") + 1) == "submission.ipynb, cell 2, line 16"


@pytest.mark.parametrize(
    "cell",
    [
        "(" * 5000,
        "x = " + "-" * 5000 + "1",
        "x = " + "1 + " * 800 + "1",
        "if x:\n    pass\n" + "elif x:\n    pass\n" * 400,
        "x = '\ud800'",
        "x = '\0'",
        "!" + "a" * 100_000 + " b ?",
        "%x\n" * 3000,
        "".join(f"a{index} = a{index + 1}\n" for index in range(3000)) + "a3000 = work()",
        "'''",
        "x = \\",
        "try:\n    print()\n    def f(x):\n        return " + "x + " * 1100 + "x\nexcept:\n    pass",
        "if x:\n    pass\n" + "elif x:\n    pass\n" * 1100,
        "@f\n" * 90 + "def f(): pass",
    ],
    ids=range(14),
)
def test_hostile_cells(tmp_path: Path, cell: str) -> None:
    """Whatever stands in one cell, the definitions in the others are read."""
    submission = read_submission(write(tmp_path, cell, DEFINITION))
    assert "class Model" in submission.source()
    assert " ".join(submission.notes).isprintable()


def test_notes_are_few(tmp_path: Path) -> None:
    """Many broken cells give a handful of notes and a count."""
    notes = read_submission(write(tmp_path, DEFINITION, *["x = = 1"] * 50)).notes
    assert len(notes) == 11
    assert "40 more" in notes[-1]
