"""The sample submissions: right ones get full marks, however unusual; wrong ones lose what they should, and nothing else."""

from pathlib import Path

import pytest

from autograder.report import Report
from selftests.conftest import Case, Grade, read_cases

WHEATS, CHAFFS = read_cases("wheats"), read_cases("chaffs")


def _submission(case: Case) -> Path:
    """The file handed in, or the folder where there are several."""
    files = [path for path in case.path.iterdir() if path.name != "expect.toml"]
    return files[0] if len(files) == 1 else case.path


def _lost(report: Report) -> set[str]:
    return {"/".join(test.tags) for test in report.tests if test.score < test.max_score}


def _told(report: Report) -> str:
    words = [*report.problems, *report.notes, *(test.output for test in report.tests)]
    return "\n".join(words).lower()


def test_there_are_enough_samples() -> None:
    """At least 12 unusual right answers and 30 wrong ones are kept."""
    assert len(WHEATS) >= 12
    assert len(CHAFFS) >= 30


@pytest.mark.parametrize("case", WHEATS, ids=lambda case: case.path.name)
def test_wheat(case: Case, grade: Grade, secret_seed: int) -> None:
    """A right answer gets every point, and every test holds a verdict."""
    report = grade(_submission(case), seed=secret_seed)
    assert not report.ungraded, report.ungraded
    assert _lost(report) == set(), [(test.id, test.output) for test in report.tests if test.score < test.max_score]
    assert report.score == report.max_score == 100


@pytest.mark.parametrize("case", CHAFFS, ids=lambda case: case.path.name)
def test_chaff(case: Case, grade: Grade, secret_seed: int) -> None:
    """A wrong answer loses points exactly where it is wrong, and the feedback names the cause."""
    report = grade(_submission(case), seed=secret_seed)
    every = {"/".join(test.tags) for test in report.tests}
    assert report.max_score == 100
    assert not report.ungraded, report.ungraded
    wanted = every if "*" in case.loses else set(case.loses)
    told = [(test.id, test.output) for test in report.tests if test.score < test.max_score]
    assert _lost(report) == wanted, told
    assert case.cause in _told(report), told
