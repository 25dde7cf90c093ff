"""assignment.toml: read, defaulted, and refused with a sentence."""

from pathlib import Path

import pytest

from autograder.assignment import read_assignment
from autograder.errors import SuiteError, UsageError
from selftests.conftest import ROOT


def _write(folder: Path, text: str) -> str:
    (folder / "assignment.toml").write_text(text, encoding="utf-8")
    return str(folder)


def test_cnn_is_found_by_name_and_by_folder() -> None:
    """The flagship assignment is found both ways, with its suite and solution beside it."""
    by_name, by_folder = read_assignment("cnn"), read_assignment(str(ROOT / "assignments" / "cnn"))
    assert by_name == by_folder
    assert by_name.points == 100
    assert len(by_name.names) == 9
    assert (by_name.suite / "test_module_cnn.py").is_file()
    assert (by_name.solution / "submission.py").is_file()


def test_limits_default_one_by_one(tmp_path: Path) -> None:
    """A limit that is given changes that one and no other."""
    read = read_assignment(_write(tmp_path, 'title = "T"\npoints = 1\n[limits]\ntest_seconds = 3\n'))
    assert read.limits.test_seconds == 3
    assert read.limits.memory_mb == 384


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("title = ", "Invalid value"),
        ('title = "T"', "points"),
        ('title = "T"\npoints = "many"', "points"),
        ('title = "T"\npoints = 1\npionts = 2', "pionts"),
        ('title = "T"\npoints = 1\n[limits]\nmemory = 2', "memory"),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path: Path, text: str, word: str) -> None:
    """A file that cannot be used is refused by path and by what is wrong in it."""
    with pytest.raises(SuiteError, match=word) as caught:
        read_assignment(_write(tmp_path, text))
    assert "assignment.toml" in str(caught.value)


def test_an_unknown_name_lists_those_known() -> None:
    """A name that no assignment has is answered with those that exist."""
    with pytest.raises(UsageError, match="known here: cnn"):
        read_assignment("cnm")
