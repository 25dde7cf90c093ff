"""The terminal report: student text is shown as it is, in any width, and the total comes last."""

import io
import math

import msgspec
import pytest
from rich.console import Console

from autograder.report import Outcome, Report, TestResult
from autograder.reporters.terminal import render
from autograder.text import fence


def result(part: str, aspect: str, outcome: Outcome = "passed", **changes: object) -> TestResult:
    """One test of a part and an aspect, worth 4 points."""
    plain = TestResult(
        id=f"test_{part}.py::test_{aspect}",
        name=f"the {aspect} of {part}",
        score=4.0 if outcome == "passed" else 0.0,
        max_score=4.0,
        outcome=outcome,
        tags=(part, aspect),
    )
    return msgspec.structs.replace(plain, **changes)


def shown(report: Report, width: int = 100, *, verbose: bool = False, terminal: bool = False) -> str:
    """What `render` prints."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    render(report, console, verbose=verbose)
    return file.getvalue()


REPORT = Report(
    assignment="cnn",
    tests=(
        result("module_cnn", "shape"),
        result(
            "module_cnn", "values", "failed", number="1.2", score=1.5, output=f"Expected:\n\n{fence('a [red]b[/red]')}"
        ),
        result("blocks", "shape", "not_graded"),
    ),
    problems=("Cell [3] was left out.",),
    notes=("`matplotlib` is not here.",),
    printed="epoch [1/3]",
    seconds=2.0,
    staff={"seed": 7},
)


@pytest.mark.parametrize("width", [20, 40, 100])
def test_problems_come_first_and_the_total_last(width: int) -> None:
    """In any width: problems, the table, the failures, notes, and the total on the last line."""
    output = shown(REPORT, width)
    words = ["Cell", "part", "failed", "Note", "1 test not", "Total"]
    assert sorted(words, key=output.index) == words
    assert output.rstrip().splitlines()[-1] == "Total 5.5 of 12"
    assert all(len(line) <= width for line in output.splitlines())


def test_the_table_counts_by_part() -> None:
    """Each part has its tests passed, its points, and the mark of its worst outcome in each aspect."""
    rows = [line.split() for line in shown(REPORT).splitlines()]
    assert ["part", "tests", "points", "shape", "values"] in rows
    assert ["module_cnn", "1/2", "5.5/8", "✓", "✗"] in rows
    assert ["blocks", "0/1", "0/4", "?"] in rows


def test_markup_and_control_characters_are_shown_as_text() -> None:
    """Brackets that look like rich's markup stay, and no escape sequence of the student's reaches the terminal."""
    hostile = "[bold]x[/bold] [/] \x1b]0;title\x07\x1b[2J\x00 \ud800 [link=file:///etc]y[/link]"
    report = Report(
        assignment="cnn",
        tests=(
            result(hostile, hostile, "failed", name=hostile, number=hostile, output=hostile, staff={hostile: hostile}),
        ),
        problems=(hostile,),
        notes=(hostile,),
        printed=hostile,
        staff={hostile: hostile},
    )
    for terminal in (False, True):
        output = shown(report, 200, verbose=True, terminal=terminal)
        output.encode()
        assert output.count("[bold]x[/bold]") >= 9
        assert output.count("[link=file:///etc]y[/link]") >= 9
        assert "\x1b]" not in output
        assert "\x1b[2J" not in output
        assert "\x00" not in output


def test_no_colours_where_there_is_no_terminal() -> None:
    """A pipe gets no escape sequence; a terminal gets a bold total."""
    assert "\x1b" not in shown(REPORT, verbose=True)
    assert "\x1b[1mTotal 5.5 of 12" in shown(REPORT, terminal=True)


def test_verbose_adds_passes_and_staff_data() -> None:
    """Passes, node ids, what was printed and the seed show with verbose alone."""
    for words in ("the shape of module_cnn", "test_module_cnn.py::test_shape", "epoch [1/3]", "seed: 7"):
        assert words not in shown(REPORT)
        assert words in shown(REPORT, verbose=True)
    assert "a [red]b[/red]" in shown(REPORT)


def test_odd_reports_render() -> None:
    """No tests at all, tests without tags, NaN points, and 10 MB of output are all shown."""
    assert shown(Report(assignment="cnn", tests=(), complete=False)).splitlines()[0].endswith("not finished")
    odd = TestResult(id="x", name="", max_score=math.nan, outcome="failed", output="z" * 10_000_000)
    output = shown(Report(assignment="cnn", tests=(odd,)))
    assert "characters left out" in output
    assert len(output) < 60_000


def test_one_reason_for_all_is_said_once() -> None:
    """Where every test failed for the one reason that stands on top, they are not listed one by one, but with --verbose they are."""
    tests = tuple(result("blocks", aspect, "failed", output="could not be run") for aspect in ("shape", "values"))
    report = Report(assignment="cnn", tests=tests, problems=("submission.py, line 3: invalid syntax.",))
    assert "could not be run" not in shown(report)
    assert "line 3: invalid syntax" in shown(report)
    assert shown(report, verbose=True).count("could not be run") == 2
