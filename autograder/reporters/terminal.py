"""Layer 5: Report -> what a person reads in a terminal, a log or a pipe."""

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autograder.report import Report, TestResult
from autograder.text import clean, elide, plain

__all__ = ["render"]

_OUTPUT = 20_000
_LINE = 500
_STYLE = {"passed": "green", "failed": "red", "not_graded": "yellow", "not_reached": "yellow"}
_MARK = {"passed": "✓", "failed": "✗", "not_graded": "?", "not_reached": "?"}
_WORD = {"passed": "passed", "failed": "failed", "not_graded": "not graded", "not_reached": "not reached"}
# A column of marks for each aspect takes this much beside the four columns that are always there.
_ASPECT_WIDTH = 3
_FIXED_WIDTH = 50


def render(report: Report, console: Console, verbose: bool = False) -> None:
    """Prints a report: problems, a table by part, what failed and why, notes, and the total last.

    Text from the submission is never read as rich markup, and control characters do not reach the terminal.

    Args:
        report: A report, complete or so far.
        console: Where to print; colours and width are its own.
        verbose: Also list what passed, what the submission printed, and the data for staff.
    """
    console.print(Text(f"{_line(report.assignment)}: {_seconds(report)}", style="bold"))
    for problem in report.problems:
        console.print(Text(plain(_block(problem)), style="bold red"))
    if report.tests:
        console.print(_table(report, console))
    # where all have one reason, as after a syntax error, the problems above have said it
    alike = bool(report.problems) and len({(test.outcome, test.output) for test in report.tests}) == 1
    for test in report.tests:
        if verbose or (test.outcome != "passed" and not alike):
            console.print(Group(*_test(test, verbose)))
    if verbose:
        _print_staff(report, console)
    for note in report.notes:
        console.print(Text(f"Note: {plain(_block(note))}", style="dim"))
    if report.ungraded:
        console.print(Text(f"{_count(len(report.ungraded), 'test')} not graded", style="yellow"))
    console.print(Text(f"Total {report.score:g} of {report.max_score:g}", style="bold"))


def _table(report: Report, console: Console) -> Table:
    """Returns tests and points by part (the first tag), with a mark for each aspect (the second) where they fit."""
    aspects = list(dict.fromkeys(_tag(test, 1) for test in report.tests if _tag(test, 1)))
    width = _FIXED_WIDTH + sum(max(len(aspect), 1) + _ASPECT_WIDTH for aspect in aspects)
    if width > console.width:
        aspects = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part")
    table.add_column("tests", justify="right")
    table.add_column("points", justify="right")
    for aspect in aspects:
        table.add_column(Text(aspect), justify="center")
    for part in dict.fromkeys(_tag(test, 0) for test in report.tests):
        tests = [test for test in report.tests if _tag(test, 0) == part]
        passed = sum(test.outcome == "passed" for test in tests)
        points = f"{sum(test.score for test in tests):g}/{sum(test.max_score for test in tests):g}"
        marks = [_aspect_mark([test for test in tests if _tag(test, 1) == aspect]) for aspect in aspects]
        table.add_row(Text(part or "other"), f"{passed}/{len(tests)}", points, *marks)
    return table


def _aspect_mark(tests: list[TestResult]) -> Text:
    """Returns the mark of the worst outcome among a cell's tests."""
    for outcome in ("failed", "not_graded", "not_reached", "passed"):
        if any(test.outcome == outcome for test in tests):
            return Text(_MARK[outcome], style=_STYLE[outcome])
    return Text("")


def _test(test: TestResult, verbose: bool) -> Iterator[RenderableType]:
    yield Text.assemble(
        (f"{_WORD[test.outcome]:<11} ", _STYLE[test.outcome]),
        (f"{_line(test.number)} " if test.number else "", "bold"),
        (_line(test.name), "bold"),
        f"  ({test.score:g} of {test.max_score:g})",
    )
    if test.output.strip():
        yield Padding(Text(plain(elide(test.output, _OUTPUT))), (0, 0, 0, 2), expand=False)
    if verbose:
        yield Text(f"  {_line(test.id)}  {test.seconds:.2f} s", style="dim")
        for key, value in test.staff.items():
            yield Text(f"  {_line(str(key))}: {_block(str(value))}", style="dim")


def _print_staff(report: Report, console: Console) -> None:
    if report.printed:
        console.print(Text("Printed while it was imported:", style="dim"))
        console.print(Text(_block(report.printed), style="dim"))
    for key, value in report.staff.items():
        console.print(Text(f"{_line(str(key))}: {_block(str(value))}", style="dim"))


def _seconds(report: Report) -> str:
    progress = "" if report.complete else ", not finished"
    return f"{_count(len(report.tests), 'test')} in {report.seconds:.1f} s{progress}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tag(test: TestResult, position: int) -> str:
    return _line(test.tags[position]) if len(test.tags) > position else ""


def _line(text: str) -> str:
    return " ".join(clean(elide(text, _LINE)).split())


def _block(text: str) -> str:
    return clean(elide(text, _OUTPUT)).rstrip()
