"""Layer 3: the pytest plugin that turns a hidden suite's run into results. `grade.py` registers it by hand; it is no entry point.

Collection declares every test with its points, before student code runs. Each test's verdict is then decided by whose fault its
failure is: the student's (points lost), or the suite's or the machine's (not graded).
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import msgspec
import pytest

from autograder.errors import AutograderError, MachineError, StudentError, SuiteError
from autograder.report import Leaderboard, TestResult, Visibility
from autograder.suite.check import Failure
from autograder.suite.proxy import Student
from autograder.text import escape

__all__ = ["GradePlugin"]

_Verdict = tuple[Literal["passed", "failed", "not_graded", "not_reached"], str]

class GradePlugin:
    """Declares the tests of one suite, runs them against one submission and keeps the results.

    Args:
        declared: Called once with every declared test, before the first one runs; its answer says whether to run them.
        judged: Called with each result as it comes.
        open_student: Makes the `student` fixture's object for the test of this id; the second function closes it.
        seed: Derives a test's secret seed from its id.
        deadline: `time.monotonic()` seconds after which no further test starts.
    """

    def __init__(
        self,
        declared: Callable[[tuple[TestResult, ...]], bool],
        judged: Callable[[TestResult], None],
        open_student: Callable[[str], tuple[Student, Callable[[], None]]],
        seed: Callable[[str], int],
        deadline: float,
    ) -> None:
        self._declared = declared
        self._judged = judged
        self._open_student = open_student
        self._seed = seed
        self._deadline = deadline
        self._tests: dict[str, TestResult] = {}
        self._verdicts: dict[str, _Verdict] = {}
        self._started = 0.0
        self.leaderboard: list[Leaderboard] = []
        self.collection_errors: list[str] = []
        self.failure: AutograderError | None = None

    # ---- fixtures

    @pytest.fixture
    def student(self, request: pytest.FixtureRequest) -> Iterator[Student]:
        """The student's module, on the other side of the wall."""
        student, close = self._open_student(_id(request.node))
        yield student
        close()

    @pytest.fixture
    def seed(self, request: pytest.FixtureRequest) -> int:
        """This test's secret seed; never cross the wall with it."""
        return self._seed(_id(request.node))

    @pytest.fixture
    def set_score(self) -> None:
        """Named by gradescope-utils' `partial_credit`, whose wrapper puts its own function in this place."""

    @pytest.fixture
    def set_leaderboard_value(self) -> None:
        """Named by gradescope-utils' `leaderboard`, whose wrapper puts its own function in this place."""

    # ---- collection

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected: a suite that does not import."""
        if report.failed:
            self.collection_errors.append(f"{report.nodeid}: {str(report.longrepr).strip().splitlines()[-1]}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Declare every test, in the order of the suite's numbers."""
        if self.collection_errors:
            return
        session.items.sort(key=lambda item: _order(_mark(item, "__number__", "")))
        try:
            self._tests = {_id(item): _declare(item) for item in session.items}
            if not self._declared(tuple(self._tests.values())):
                session.items.clear()
        except AutograderError as error:
            # pytest would swallow it into its own report
            self.failure = error
            session.items.clear()

    # ---- running

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Forget what an earlier case of the same function left on it."""
        self._started = time.monotonic()
        if self._started > self._deadline:
            raise _NotReachedError
        for function in _layers(item):
            for attribute in ("__score__", "__leaderboard_value__"):
                if attribute in vars(function):
                    delattr(function, attribute)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Any:  # pytest's own hook returns a TestReport through the generator
        """Decide a verdict from each phase; the first that is not a pass stands."""
        report: pytest.TestReport = yield
        test = _id(item)
        verdict = _verdict(item, call, report)
        if verdict is not None and self._verdicts.get(test, ("passed", ""))[0] == "passed":
            self._verdicts[test] = verdict
        if report.when == "teardown":
            self._finish(item, test)
        return report

    def _finish(self, item: pytest.Item, test: str) -> None:
        outcome, output = self._verdicts.get(test, ("not_graded", "the test did not run"))
        declared = self._tests[test]
        score = declared.max_score if outcome == "passed" else 0.0
        partial = next((vars(f)["__score__"] for f in _layers(item) if "__score__" in vars(f)), None)
        uses_partial = any("set_score" in f.__code__.co_varnames for f in _layers(item) if hasattr(f, "__code__"))
        if outcome == "passed" and partial is not None:
            try:
                score = float(partial)
            except (TypeError, ValueError):
                score = math.nan
            if not math.isfinite(score):
                outcome, score, output = "not_graded", 0.0, f"the suite gave {partial!r} as this test's score"
            elif score < declared.max_score:
                outcome = "failed"
        elif outcome == "passed" and uses_partial and _takes_score(item):
            outcome, score, output = "not_graded", 0.0, "the suite gave no score for this test"
        if outcome == "not_graded":
            output = escape(output[:1].upper() + output[1:])
        hidden = next((vars(f)["__hide_errors__"] for f in _layers(item) if "__hide_errors__" in vars(f)), None)
        staff: dict[str, Any] = {}
        if outcome == "failed" and hidden is not None:
            staff["hidden_output"], output = output, str(hidden)
        self._leaderboard(item)
        result = msgspec.structs.replace(
            declared,
            score=score,
            outcome=outcome,
            output=output,
            seconds=round(time.monotonic() - self._started, 4),
            staff=staff,
        )
        self._judged(result)

    def _leaderboard(self, item: pytest.Item) -> None:
        for function in _layers(item):
            if "__leaderboard_value__" in vars(function):
                name, order = function.__leaderboard_column__, function.__leaderboard_sort_order__
                self.leaderboard.append(Leaderboard(name=name, value=function.__leaderboard_value__, order=order))
                return


class _NotReachedError(Exception):
    """The run's own time is up."""


def _id(node: Any) -> str:
    return str(node.nodeid)


def _function(item: pytest.Item) -> Any:
    return getattr(item, "obj", None)


def _layers(item: pytest.Item) -> list[Any]:
    """The test function and what its decorators wrapped, outermost first: gradescope-utils' marks may lie on any of them."""
    function, layers = _function(item), []
    function = getattr(function, "__func__", function)
    while function is not None:
        layers.append(function)
        function = getattr(function, "__wrapped__", None)
    return layers


def _takes_score(item: pytest.Item) -> bool:
    return "set_score" in getattr(item, "fixturenames", ())


def _mark(item: pytest.Item, attribute: str, default: Any) -> Any:
    return next((getattr(function, attribute) for function in _layers(item) if hasattr(function, attribute)), default)


def _order(number: str) -> tuple[Any, ...]:
    """Sort key for "1.10" after "1.9"; tests without a number come last, in their own order."""
    return (not number, [int(part) if part.isdigit() else -1 for part in re.split(r"\D+", str(number))])


def _declare(item: pytest.Item) -> TestResult:
    documentation = (_layers(item)[-1].__doc__ or "").strip()
    name = documentation.splitlines()[0].strip() if documentation else item.name
    case = getattr(getattr(item, "callspec", None), "id", "")
    weight = _mark(item, "__weight__", 0)
    visibility = _mark(item, "__visibility__", "visible")
    if visibility not in get_args(Visibility):
        raise SuiteError(f"{item.nodeid} has visibility {visibility!r}; use one of {', '.join(get_args(Visibility))}.")
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise SuiteError(f"{item.nodeid} has weight {weight!r}; use a finite number that is not negative.")
    return TestResult(
        id=_id(item),
        name=f"{name} [{case}]" if case and documentation else name,
        number=str(_mark(item, "__number__", "")),
        max_score=float(weight),
        tags=tuple(str(tag) for tag in _mark(item, "__tags__", ())),
        visibility=visibility,
    )


def _verdict(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> _Verdict | None:
    """What one phase of a test says; None where it says nothing."""
    expected_failure = hasattr(report, "wasxfail")
    if expected_failure:
        return "passed", f"Expected to fail: {escape(str(report.wasxfail))}." if report.skipped else ""
    if call.excinfo is None:
        # a strict xfail that passed is reported as failed without an exception
        if report.failed:
            return "failed", escape(str(report.longrepr))
        return ("passed", "") if report.when == "call" else None
    error = call.excinfo.value
    if isinstance(error, pytest.skip.Exception):
        return "not_graded", f"this test was skipped: {error.msg}"
    if isinstance(error, _NotReachedError):
        return "not_reached", "The time for the whole run was used up before this test."
    if isinstance(error, Failure | StudentError):
        return "failed", str(error)
    if report.when == "call" and isinstance(error, AssertionError):
        # a plain assert: its own words if the suite gave any, never the suite's source
        words = str(error).split("\nassert ", maxsplit=1)[0].strip()
        return "failed", escape("" if words.startswith("assert ") else words) or "This check did not hold."
    if isinstance(error, MachineError):
        return "not_graded", str(error)
    return "not_graded", f"the test itself failed ({type(error).__name__}: {str(error)[:300]})"
