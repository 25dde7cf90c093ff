"""A session keeps a result whatever happens to its worker."""

import os
import signal
from pathlib import Path

import pytest

from autograder.errors import SuiteError, UsageError
from autograder.job import Job
from autograder.report import Report
from autograder.session import Session
from selftests.conftest import ROOT

SOLUTION = ROOT / "solutions" / "cnn" / "submission.py"


def _job(**changes: object) -> Job:
    settings = {"assignment": "cnn", "submission": str(SOLUTION), "seed": 1, "seconds": 300.0, **changes}
    return Job(**settings)  # type: ignore[arg-type]


def test_a_killed_worker_leaves_what_was_judged() -> None:
    """When the worker is killed midway, what it judged stays, and the rest is not graded and nobody's loss."""
    seen: list[Report] = []
    with Session() as session:

        def publish(report: Report) -> None:
            seen.append(report)
            if sum(test.outcome == "passed" for test in report.tests) == 5:
                os.kill(session._process.pid, signal.SIGKILL)

        report = session.grade(_job(), publish)
        folder = Path(session._folder)
        assert any(folder.iterdir())  # the worker could not remove what it had laid out
    assert not folder.exists()
    assert {test.outcome for test in seen[0].tests} == {"not_reached"}
    assert report.max_score == 100
    assert {test.outcome for test in report.tests} == {"passed", "not_graded"}
    assert "SIGKILL" in report.problems[0] or "signal 9" in report.problems[0]
    assert report.complete


def test_an_unknown_assignment_is_a_usage_error() -> None:
    """An assignment that does not exist is named, with those that do."""
    with Session() as session, pytest.raises(UsageError, match=r"no assignment 'rnn'.*cnn"):
        session.grade(_job(assignment="rnn"))


def test_points_that_do_not_add_up_are_the_suites_fault(tmp_path: Path) -> None:
    """A suite whose points differ from assignment.toml's is refused before any student code runs."""
    folder = tmp_path / "assignments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "assignment.toml").write_text('title = "Tiny"\npoints = 3\n')
    suite = tmp_path / "tests" / "tiny"
    suite.mkdir(parents=True)
    (suite / "test_tiny.py").write_text("def test_one(student):\n    '''One.'''\n    student.f()\n")
    marker = tmp_path / "ran"
    (tmp_path / "submission.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with Session() as session, pytest.raises(SuiteError, match=r"add up to 0.*says 3"):
        session.grade(_job(assignment=str(folder), submission=str(tmp_path / "submission.py")))
    assert not marker.exists()


def test_no_process_outlives_a_session() -> None:
    """Worker and zygote are gone when the session is left."""
    with Session() as session:
        session.grade(_job())
        worker = session._process.pid
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        assert children
    gone = [pid for pid in [worker, *map(int, children)] if _alive(pid)]
    assert gone == []


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
