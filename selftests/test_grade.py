"""The pipeline on submissions that misbehave: a full, valid report comes out whatever they do, and only what is at fault loses points."""

from pathlib import Path

import pytest

from autograder.report import Report
from selftests.conftest import ROOT, Grade

REFERENCE = (ROOT / "solutions" / "cnn" / "submission.py").read_text(encoding="utf-8")


def _with_forward(line: str, owner: str = "class FunctionalCNN") -> str:
    """The reference solution with one more line at the start of the forward of one class."""
    head, tail = REFERENCE.split(owner, 1)
    at = tail.index("def forward")
    end = tail.index(":\n", at) + 2
    return f"{head}{owner}{tail[:end]}        {line}\n{tail[end:]}"


def _grade_source(grade: Grade, folder: Path, source: str, **options: object) -> Report:
    path = folder / "submission.py"
    path.write_text(source, encoding="utf-8")
    return grade(path, **options)


def _points(report: Report) -> dict[str, tuple[float, float]]:
    parts: dict[str, tuple[float, float]] = {}
    for test in report.tests:
        given, most = parts.get(test.tags[0], (0.0, 0.0))
        parts[test.tags[0]] = given + test.score, most + test.max_score
    return parts


def _others_full(report: Report, *touched: str) -> bool:
    return all(given == most for part, (given, most) in _points(report).items() if part not in touched)


def test_a_loop_for_ever_costs_its_own_class(grade: Grade, tmp_path: Path) -> None:
    """An endless loop in one forward costs what calls it, keeps the other parts' points, and ends within a minute."""
    report = _grade_source(grade, tmp_path, _with_forward("while True: pass"))
    assert report.seconds < 60
    assert not report.ungraded
    assert _others_full(report, "functional_cnn", "weights", "training")
    assert "did not finish within" in next(test.output for test in report.tests if test.number == "2.1")
    assert _points(report)["functional_cnn"][0] > 0  # what needs no forward keeps its points


def test_memory_without_end_costs_its_own_class(grade: Grade, tmp_path: Path) -> None:
    """Allocating without end in one forward costs what calls it, and keeps the other parts' points."""
    line = "kept = []\n        while True: kept.append(torch.ones(1 << 20))"
    report = _grade_source(grade, tmp_path, _with_forward(line))
    assert report.seconds < 60
    assert not report.ungraded
    assert _others_full(report, "functional_cnn", "weights", "training")
    output = next(test.output for test in report.tests if test.number == "2.1")
    assert "memory" in output


@pytest.mark.parametrize(
    "line", ["import os; os._exit(0)", "raise SystemExit(0)", "import os; os.kill(os.getpid(), 9)"]
)
def test_an_exit_at_import_loses_all_with_a_reason(grade: Grade, tmp_path: Path, line: str) -> None:
    """A file that ends its process while it is imported scores 0 on every declared test, and says why first."""
    report = _grade_source(grade, tmp_path, f"{line}\n{REFERENCE}")
    assert report.score == 0
    assert report.max_score == 100
    assert not report.ungraded
    assert "mporting your file" in report.problems[0]


def test_an_exit_in_forward_is_told_as_one(grade: Grade, tmp_path: Path) -> None:
    """A process that exits inside forward is reported as exited, in the tests that called it."""
    report = _grade_source(grade, tmp_path, _with_forward("import os; os._exit(3)"))
    assert _others_full(report, "functional_cnn", "weights", "training")
    output = next(test.output for test in report.tests if test.number == "2.1")
    assert "exited with code 3" in output


def test_a_segmentation_fault_is_told_as_one(grade: Grade, tmp_path: Path) -> None:
    """A crash inside forward costs only the tests that called it."""
    report = _grade_source(grade, tmp_path, _with_forward("import ctypes; ctypes.string_at(0)"))
    assert _others_full(report, "functional_cnn", "weights", "training")
    output = next(test.output for test in report.tests if test.number == "2.1")
    assert "segmentation fault" in output.lower()


def test_a_missing_name_costs_its_own_part(grade: Grade, tmp_path: Path) -> None:
    """A name that is not defined is said first, with the likeliest one that is, and costs its own part only."""
    source = REFERENCE.replace("class FunctionalDropout", "class FunctionalDropOut")
    report = _grade_source(grade, tmp_path, source)
    line = next(i for i, text in enumerate(source.splitlines(), 1) if text.startswith("class FunctionalDropOut"))
    assert f"submission.py, line {line}" in report.problems[0]
    assert "`FunctionalDropout`" in report.problems[0]
    assert _others_full(report, "dropout")


def test_a_syntax_error_is_said_first_with_its_line(grade: Grade, tmp_path: Path) -> None:
    """A file with a syntax error scores 0 on all 54 declared tests, and the report opens with file and line."""
    report = _grade_source(grade, tmp_path, f"{REFERENCE}\ndef broken(:\n")
    assert report.score == 0
    assert report.max_score == 100
    assert len(report.tests) == 54
    assert f"line {len(REFERENCE.splitlines()) + 2}" in report.problems[0]


def test_an_exception_shows_the_students_lines_alone(grade: Grade, tmp_path: Path) -> None:
    """What a student's code raises is shown with the student's own line, and nothing of the grader's."""
    report = _grade_source(grade, tmp_path, _with_forward('raise ValueError("mine")'))
    output = next(test.output for test in report.tests if test.number == "2.1")
    assert 'raise ValueError("mine")' in output
    assert "ValueError: mine" in output
    assert "submission.py, line" in output
    assert "autograder" not in output.replace("autograder-", "")


def test_the_same_seed_gives_the_same_report(grade: Grade, tmp_path: Path) -> None:
    """Two runs with one seed agree in everything but time and the uid drawn for the submission."""
    source = _with_forward("images = torch.nn.functional.dropout(images)")

    def told(report: Report) -> list[tuple[object, ...]]:
        return [(test.id, test.score, test.outcome, test.output) for test in report.tests]

    first, second = (_grade_source(grade, tmp_path, source, seed=5) for _ in range(2))
    other = _grade_source(grade, tmp_path, source, seed=6)
    assert told(first) == told(second)
    assert told(first) != told(other)


def test_the_walls_that_stood_are_recorded(grade: Grade, tmp_path: Path) -> None:
    """Staff data names the walls that stood; a run with one wall less says so."""
    report = _grade_source(grade, tmp_path, REFERENCE)
    fewer = _grade_source(grade, tmp_path, REFERENCE, layers=("uid", "rlimits", "descriptors", "seccomp"))
    assert {"rlimits", "descriptors", "seccomp"} <= set(report.staff["walls"])
    assert "landlock" not in fewer.staff["walls"]
    assert fewer.score == 100


def test_without_any_wall_nothing_is_graded(grade: Grade, tmp_path: Path) -> None:
    """Where no wall stands the grader refuses, and no test loses points; --unsafe grades all the same."""
    report = _grade_source(grade, tmp_path, REFERENCE, layers=("rlimits", "descriptors"))
    assert len(report.ungraded) == len(report.tests)
    assert "No wall stands" in " ".join(report.problems)
    unsafe = _grade_source(grade, tmp_path, REFERENCE, layers=("rlimits", "descriptors"), unsafe=True)
    assert unsafe.score == 100


def test_time_that_runs_out_leaves_tests_not_reached(grade: Grade, tmp_path: Path) -> None:
    """A run whose time is up keeps what was judged and marks the rest as not reached, never as failed."""
    report = _grade_source(grade, tmp_path, REFERENCE, seconds=0.4)
    assert report.max_score == 100
    assert {test.outcome for test in report.tests} <= {"passed", "not_reached"}
    assert report.ungraded


def test_seeds_do_not_move_a_verdict(grade: Grade) -> None:
    """The reference gets full marks under ten different secret seeds."""
    path = ROOT / "solutions" / "cnn" / "submission.py"
    assert [grade(path, seed=seed).score for seed in range(100, 110)] == [100] * 10


def test_the_gpu_tests_say_which_device_it_was(grade: Grade) -> None:
    """Every test of the gpu aspect tells, passed or not, whether it ran on CUDA or on the simulated device."""
    report = grade(ROOT / "solutions" / "cnn" / "submission.py")
    outputs = [test.output for test in report.tests if test.tags[1] == "gpu"]
    assert len(outputs) == 5
    assert all("ran on a CUDA device" in output or "ran on a simulated CUDA device" in output for output in outputs)
