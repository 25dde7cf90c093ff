"""Python sources: encodings as Python reads them, and syntax errors as sentences."""

import sys
import warnings
from pathlib import Path

import pytest

from autograder.errors import SubmissionError
from autograder.intake import Submission, read_submission


def read(folder: Path, data: bytes) -> Submission:
    """Hand in one file."""
    (folder / "submission.py").write_bytes(data)
    return read_submission(folder / "submission.py")


def refusal(folder: Path, data: bytes) -> str:
    """Return the sentence with which a source is refused."""
    with pytest.raises(SubmissionError) as caught:
        read(folder, data)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfx = 'a'\n", "x = 'a'\n"),
        (b"x = 'a'\r\ny = 'b'\r\n", "x = 'a'\ny = 'b'\n"),
        (b"x = 'a'\ry = 'b'\n", "x = 'a'\ny = 'b'\n"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", "# -*- coding: latin-1 -*-\nx = 'é'\n"),
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\x80'\n", None),
        ("x = '名'\n".encode(), "x = '名'\n"),
        (b"", ""),
    ],
)
def test_source_is_read_as_python_reads_it(tmp_path: Path, data: bytes, text: str | None) -> None:
    """A byte order mark, line ends and a coding line stay in the bytes, and the text is what Python sees."""
    submission = read(tmp_path, data)
    assert submission.files["submission.py"] == data
    assert submission.source() == text if text is not None else "€" in submission.source()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x = 1\ny = = 2\n", ["submission.py, line 2: ", "invalid syntax", "in `y = = 2`"]),
        (b"def f(:\n  pass\n", ["line 1", "in `def f(:`"]),
        (b"if True:\nx = 1\n", ["line 2", "expected an indented block"]),
        (b"if True:\n\tx = 1\n        y = 1\n", ["line 3", "tabs"]),
        (b"x = (1,\n", ["line 1", "never closed"]),
        (b"import torch\n!pip install torch\n", ["line 2", "notebook commands"]),
        (b"x = 1\n\0y = 2\n", ["line 2", "null byte"]),
        ("x = 1\n".encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
        ("x = 1\n".encode("utf-16-le"), ["line 1", "null byte"]),
        (b"x = 1\ny = '\xe9'\n", ["submission.py", "utf-8"]),
        (b"# coding: latin-17\nx = 1\n", ["latin-17"]),
        (b"# coding: hex\nx = 1\n", ["submission.py"]),
        (b"# coding: punycode\nx = 1\n", ["coding punycode", "save the file as UTF-8"]),
        (b"\x1b[31m = \xff\xfe\x00", ["null byte"]),
        (b"x = '\x1b[31m' = = \n", ["line 1"]),
        (b"x = = " + b"1 + " * 500, ["..."]),
    ],
)
def test_unreadable_source(tmp_path: Path, data: bytes, words: list[str]) -> None:
    """What Python cannot read is refused in one printable sentence with the file, the line and Python's own words."""
    message = refusal(tmp_path, data)
    assert [word for word in words if word not in message] == []


chain = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 reads chains of any length; compiling them fails, behind the wall"
)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "(" * 5000 + ")" * 5000,
        "-" * 200_000 + "1",
        pytest.param("a" + ".b" * 100_000, marks=chain),
        pytest.param("1" + "+1" * 100_000, marks=chain),
        "lambda:" * 30_000 + "0",
        "x = " + "9" * 100_000,
        "if x:\n" + "".join(" " * depth + "if x:\n" for depth in range(1, 400)) + " " * 400 + "pass",
    ],
    ids=["open", "closed", "minus", "dots", "sum", "lambda", "digits", "indents"],
)
def test_deep_source(tmp_path: Path, text: str) -> None:
    """Nesting and numbers beyond what Python can read are refused like any other syntax error."""
    assert refusal(tmp_path, text.encode()).startswith("submission.py")


def test_syntax_error_in_a_helper_is_a_note(tmp_path: Path) -> None:
    """A helper that Python cannot read costs the submission nothing until it is imported."""
    (tmp_path / "submission.py").write_bytes(b"x = 1\n")
    (tmp_path / "helper.py").write_bytes(b"x = 1\ndef\n")
    submission = read_submission(tmp_path)
    assert submission.files["helper.py"] == b"x = 1\ndef\n"
    assert any(note.startswith("helper.py, line 2: ") and "import" in note for note in submission.notes)


def test_python_warnings_stay_silent(tmp_path: Path) -> None:
    """A warning that Python gives while parsing, as for an invalid escape, is not the grader's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, b"x = '\\d'\ny = 1 is 1\nz = 0x1for x in y\n" if sys.version_info < (3, 13) else b"x = '\\d'\n")


def test_submission_is_not_run(tmp_path: Path) -> None:
    """Reading runs nothing of the source."""
    read(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode())
    assert not (tmp_path / "ran").exists()
