"""Layer 5: Report -> Gradescope's results.json, the last step of a graded submission on the platform."""

import functools
import json
import textwrap
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from autograder.atomic import write_atomic
from autograder.errors import MachineError
from autograder.report import Report, TestResult
from autograder.text import clean, elide, escape, fence, plain

__all__ = ["to_gradescope", "validate", "write_results"]

# The platform cuts every output in the middle at 100,000 characters; these stay well below, escapes included.
_TEST_OUTPUT = 20_000
_TOP_OUTPUT = 50_000
_STAFF_TEXT = 20_000
_STAFF_DATA = 90_000
_PARAGRAPH = 4_000
_LINE = 500
# Past this a number is taken for a mistake, and sums of such numbers could overflow.
_LARGEST = 1e9
# How far staff data is followed: it may hold what a submission produced.
_DEPTH = 8
_ITEMS = 500
_NAMED = 10

_NOT_GRADED = (
    "This test could not be judged. That is **not your submission's fault**, and no verdict on your work: it shows 0 "
    "points until the course staff, who have the details, look at it."
)
_NOT_REACHED = (
    "The run ended before this test was judged, so it holds no verdict yet. If you still see this when grading is "
    "over, ask the course staff."
)
_PREFIX = {"not_graded": "[not graded] ", "not_reached": "[not reached] "}
_EXPLANATION = {"not_graded": _NOT_GRADED, "not_reached": _NOT_REACHED}


def to_gradescope(report: Report) -> dict[str, Any]:
    """Maps a report to the content of results.json.

    Whatever the report holds, the result is valid: text is cleaned and cut, numbers are finite, and a test whose points
    are not a number becomes "not graded" with the reason in its `extra_data`.

    Args:
        report: A report, complete or so far.

    Returns:
        A dictionary of JSON types that `validate` accepts. Points and times are in points and seconds.
    """
    tests = [_usable(test) for test in report.tests]
    results: dict[str, Any] = {
        "score": round(sum(_points(test) for test in tests), 6),
        "execution_time": round(max(_finite(report.seconds) or 0.0, 0.0), 3),
        "output": _summary(report, tests),
        "output_format": "md",
        "test_output_format": "md",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [_test(test) for test in tests],
        "extra_data": _staff_data(
            {
                **report.staff,
                "assignment": report.assignment,
                "complete": report.complete,
                "printed": report.printed,
                "problems": report.problems,
                "notes": report.notes,
                "ungraded": [test.id for test in tests if test.outcome in _PREFIX],
            }
        ),
    }
    if report.leaderboard:
        results["leaderboard"] = [
            {"name": _line(entry.name), "value": _value(entry.value), "order": entry.order}
            for entry in report.leaderboard
        ]
    return results


def validate(results: object) -> None:
    """Checks the content of a results.json against `gradescope.schema.json`.

    Args:
        results: What json would dump.

    Raises:
        ValueError: It is not valid; the sentence says where and why.
    """
    _encode(results)


def write_results(report: Report, path: Path) -> None:
    """Writes a report as results.json, whole or not at all, readable by its owner alone.

    A report that cannot be turned into valid results must not lose the marks: then the sum of the points and the reason
    are written, before the error is raised.

    Args:
        report: A report, complete or so far.
        path: The results.json to replace; its folder must exist.

    Raises:
        MachineError: The report could not be written in full, or not at all.
    """
    try:
        data = _encode(to_gradescope(report))
    except Exception as error:
        _write(path, json.dumps(_minimal(report, error), allow_nan=False).encode())
        raise MachineError(
            f"The report on {report.assignment} could not be written as valid results ({type(error).__name__}: "
            f"{error}); {path} holds its total alone: report this as a bug of the autograder."
        ) from error
    _write(path, data)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise MachineError(
            f"The results could not be written to {path} ({error.strerror or error}); make its folder writable "
            "and free some space."
        ) from error


def _encode(results: object) -> bytes:
    """Returns results as the bytes of a results.json; a ValueError says why they cannot be one."""
    # The encoder goes first: it alone refuses NaN and Infinity, which a schema takes for numbers.
    data = json.dumps(results, allow_nan=False, ensure_ascii=False, indent=1).encode()
    _check()(results)
    return data


@functools.cache
def _check() -> Callable[[object], object]:
    # fastjsonschema (nbformat brings it) compiles the schema: 40 ms once and 0.5 ms a report, where jsonschema took
    # 170 ms and 10 ms; a report is written after every test. On first use, since a cold start has better to do.
    import fastjsonschema  # noqa: PLC0415

    schema = json.loads(resources.files("autograder.reporters").joinpath("gradescope.schema.json").read_text("utf-8"))
    check: Callable[[object], object] = fastjsonschema.compile(schema, use_default=False)
    return check


def _minimal(report: Report, error: Exception) -> dict[str, Any]:
    # Built from as little as can be: whatever broke the full results may be in any field.
    points = [(_line(repr(test.id)), _finite(test.score)) for test in report.tests]
    return {
        "score": round(sum(score or 0.0 for _, score in points), 6),
        "output": "The autograder could not write the full results: a fault of its own, not of your submission. "
        "The course staff can see the details.",
        "stdout_visibility": "hidden",
        "extra_data": {
            "error": elide(ascii(error), _STAFF_TEXT),
            "tests": [{"id": name, "score": score} for name, score in points],
        },
    }


def _usable(test: TestResult) -> TestResult:
    """Gives a test finite points; one that had none is not graded, and says why to staff."""
    score, max_score = _finite(test.score), _finite(test.max_score)
    if score is not None and max_score is not None and max_score >= 0:
        return test
    import msgspec.structs  # noqa: PLC0415  # only a fault of the suite comes here

    return msgspec.structs.replace(
        test,
        score=0.0,
        max_score=max(max_score or 0.0, 0.0),
        outcome="not_graded",
        staff={**test.staff, "points_refused": f"score {test.score!r} of {test.max_score!r}"},
    )


def _points(test: TestResult) -> float:
    return 0.0 if test.outcome in _PREFIX else float(test.score)


def _test(test: TestResult) -> dict[str, Any]:
    return {
        "score": _points(test),
        "max_score": float(test.max_score),
        "status": "passed" if test.outcome == "passed" else "failed",
        "name": _PREFIX.get(test.outcome, "") + _line(test.name),
        "number": _line(test.number),
        "output": _test_output(test),
        "output_format": "md",
        "tags": [_line(tag) for tag in test.tags],
        "visibility": test.visibility,
        "extra_data": _staff_data(
            {**test.staff, "id": test.id, "outcome": test.outcome, "seconds": round(_finite(test.seconds) or 0.0, 3)}
        ),
    }


def _test_output(test: TestResult) -> str:
    explanation = _EXPLANATION.get(test.outcome, "")
    said = _capped(test.output, _TEST_OUTPUT)
    return "\n\n".join(part for part in (explanation, said) if part)


def _capped(markdown: str, limit: int) -> str:
    """Returns Markdown that fits; too long a one as a code block, since a cut could let loose what a block enclosed."""
    return clean(markdown) if len(markdown) <= limit else fence(elide(markdown, limit))


def _summary(report: Report, tests: list[TestResult]) -> str:
    """Returns the Markdown above the tests: problems, then what was not graded, then notes."""
    paragraphs = [_paragraph("Problem", problem) for problem in report.problems]
    # A test that students may not see must not show here either.
    ungraded = [test for test in tests if test.outcome in _PREFIX and test.visibility == "visible"]
    if ungraded:
        lines = [f"- {escape(_line(f'{test.number} {test.name}'))}" for test in ungraded[:_NAMED]]
        if len(ungraded) > _NAMED:
            lines.append(f"- and {len(ungraded) - _NAMED} more")
        why = "not your submission's fault" if report.complete else "the run has not ended, or it ended too early"
        paragraphs.append(f"**Not graded** ({why}; the course staff can see the details):\n\n" + "\n".join(lines))
    paragraphs.extend(_paragraph("Note", note) for note in report.notes)
    return _capped("\n\n".join(paragraphs), _TOP_OUTPUT)


def _paragraph(label: str, said: str) -> str:
    """Returns one problem or note; its further lines, such as where an import failed, as a code block."""
    # These sentences come with or without Markdown; whichever it was, students read it as it was meant.
    first, _, rest = plain(elide(said, _PARAGRAPH)).strip().partition("\n")
    block = textwrap.dedent(rest).strip("\n")
    return f"**{label}:** {escape(first)}" + (f"\n\n{fence(block)}" if block.strip() else "")


def _finite(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever a suite put there; what is no number ends below
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST else None  # no NaN passes this comparison


def _value(value: float | str) -> float | str:
    """Returns a leaderboard value that JSON can hold; text stays text, though it may look like a number."""
    if isinstance(value, str):
        return _line(value)
    number = _finite(value)
    return _line(str(value)) if number is None else number


def _line(text: str) -> str:
    return elide(" ".join(clean(elide(text, 4 * _LINE)).split()), _LINE)


def _staff_data(data: dict[str, Any]) -> dict[str, Any]:
    """Returns staff data as a JSON object; too much of it as the two ends of its JSON."""
    kept = {_line(str(key)): _plain(value, _DEPTH) for key, value in data.items()}
    encoded = json.dumps(kept)
    return kept if len(encoded) <= _STAFF_DATA else {"cut": elide(encoded, _STAFF_DATA)}


def _plain(value: object, depth: int) -> Any:
    """Returns staff data as JSON types; what JSON cannot hold becomes its `repr`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if _finite(value) is not None else _line(repr(value)[: 2 * _LINE])
    if isinstance(value, str):
        return clean(elide(value, _STAFF_TEXT))
    if depth and isinstance(value, dict):
        return {_line(str(key)): _plain(item, depth - 1) for key, item in list(value.items())[:_ITEMS]}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth - 1) for item in list(value)[:_ITEMS]]
    return clean(elide(repr(value), _STAFF_TEXT))
