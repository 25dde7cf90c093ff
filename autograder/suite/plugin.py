"""Layer 3: the pytest plugin that turns a hidden suite's run into results. `grade.py` registers it by hand.

Collection declares every test with its points, before student code runs. Each test's verdict is then decided by whose
fault its failure is: the student's (points lost), or the suite's or the machine's (not graded).
"""

import inspect
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import msgspec
import pytest

from autograder.errors import AutograderError, MachineError, StudentError, StudentStopped, SuiteError
from autograder.report import Leaderboard, TestResult, Visibility
from autograder.suite.check import Failure
from autograder.suite.lane import Lane
from autograder.suite.proxy import Student
from autograder.text import escape

__all__ = ["GradePlugin"]

_WORTH_A_LANE = 8
"""Tests in a suite from which on a second lane saves more than starting it costs."""

_Verdict = tuple[Literal["passed", "failed", "not_graded", "not_reached"], str]

_NO_TIME = "The time for the whole run was used up before this test."


class GradePlugin:
    """Declares the tests of one suite, runs them against one submission and keeps the results.

    Args:
        declared: Called once with every declared test, before the first one runs; its answer says whether to run them.
        judged: Called with each result as it comes.
        open_student: Makes the `student` fixture's object for the test of this id; the second function closes it.
        seed: Derives a test's secret seed from its id.
        deadline: `time.monotonic()` seconds after which no further test starts.
        second_lane: Called in a forked copy of this process before it judges half of the tests, and gives what is to be called after
            them; None where there is to be one lane.
    """

    def __init__(
        self,
        declared: Callable[[tuple[TestResult, ...]], bool],
        judged: Callable[[TestResult], None],
        open_student: Callable[[str], tuple[Student, Callable[[], None]]],
        seed: Callable[[str], int],
        deadline: float,
        second_lane: Callable[[], Callable[[], None]] | None = None,
    ) -> None:
        self._declared = declared
        self._judged = judged
        self._open_student = open_student
        self._seed = seed
        self._deadline = deadline
        self._second_lane = second_lane
        self._lane: Lane | None = None
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
        request.node.user_properties += [("note", note) for note in getattr(student, "notes", ())]

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
        elif report.skipped:
            # its tests would vanish, and their points with them
            self.collection_errors.append(f"{report.nodeid} skips itself as a whole; mark its tests instead")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Declare every test, in the order of the suite's numbers."""
        if self.collection_errors:
            return
        session.items.sort(key=lambda item: _order(_mark(item, "__number__", "")))
        try:
            if not session.items:
                raise SuiteError(f"The hidden suite in {session.path} holds no test; add a test_*.py that does.")
            self._tests = {_id(item): _declare(item) for item in session.items}
            if not self._declared(tuple(self._tests.values())):
                session.items.clear()
        except AutograderError as error:
            # pytest would swallow it into its own report
            self.failure = error
            session.items.clear()

    # ---- running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Give every other test to a second lane, and leave the rest to pytest's own loop."""
        if self._second_lane is None or len(session.items) < _WORTH_A_LANE:
            return
        theirs, session.items[:] = session.items[1::2], session.items[::2]
        self._lane = Lane(lambda *send: self._judge_in_lane(theirs, *send))

    def _judge_in_lane(
        self, items: list[pytest.Item], send: Callable[[TestResult], None], enter: Callable[[Leaderboard], None]
    ) -> None:
        if self._second_lane is None:
            return
        leave = self._second_lane()
        try:
            self._judged, self._lane, self.leaderboard = send, None, []
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            for entry in self.leaderboard:
                enter(entry)
        finally:
            leave()

    def _hear_lane(self, deadline: float | None = None) -> None:
        for heard in self._lane.results(deadline) if self._lane is not None else ():
            if isinstance(heard, Leaderboard):
                self.leaderboard.append(heard)
            else:
                self._judged(heard)

    def pytest_sessionfinish(self) -> None:
        """Wait for what the second lane still judges; a test that it leaves without a verdict stays not reached."""
        if self._lane is not None:
            # each test ends at its own deadline; this only bounds a lane that hangs for a reason of its own
            self._hear_lane(max(time.monotonic(), self._deadline) + 60.0)
            self._lane.end()
            self._lane = None

    @pytest.hookimpl(tryfirst=True)
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
        verdict = _verdict(call, report)
        if self._cut_short(call):
            verdict = "not_reached", _NO_TIME
        if verdict is not None and self._verdicts.get(test, ("passed", ""))[0] == "passed":
            self._verdicts[test] = verdict
        if report.when == "teardown":
            self._finish(item, test)
        return report

    def _cut_short(self, call: pytest.CallInfo[None]) -> bool:
        """Whether the run's own deadline, and no limit of the test, is what ended a call to student code."""
        error = call.excinfo.value if call.excinfo is not None else None
        return isinstance(error, StudentStopped) and error.timed_out and time.monotonic() >= self._deadline

    def _finish(self, item: pytest.Item, test: str) -> None:
        outcome, output = self._verdicts.get(test, ("not_graded", "the test did not run"))
        declared = self._tests[test]
        score = declared.max_score if outcome == "passed" else 0.0
        if outcome in ("passed", "failed") and _is_partial(item):
            given = _score(item)
            if given is None and outcome == "passed":
                outcome, score, output = "not_graded", 0.0, "the suite gave no score for this test"
            elif given is not None and not (math.isfinite(given) and given >= 0):
                outcome, score, output = "not_graded", 0.0, f"the suite gave {given} as this test's score"
            elif given is not None:
                # what a test gave before it failed stays, as in gradescope-utils
                score, outcome = given, outcome if given >= declared.max_score else "failed"
        # pytest's own `record_property("note", …)`: what a student is to read whether or not the test passed
        notes = [str(value) for name, value in item.user_properties if name == "note"]
        output = "\n\n".join([*([output] if output else []), *(notes if outcome in ("passed", "failed") else [])])
        if outcome == "not_graded":
            output = escape(output[:1].upper() + output[1:])
        hidden = next((vars(f)["__hide_errors__"] for f in _layers(item) if "__hide_errors__" in vars(f)), None)
        staff: dict[str, Any] = {}
        if outcome == "failed" and hidden is not None:
            staff["hidden_output"], output = output, str(hidden)
        self._leaderboard(item, staff)
        result = msgspec.structs.replace(
            declared,
            score=score,
            outcome=outcome,
            output=output,
            seconds=round(time.monotonic() - self._started, 4),
            staff=staff,
        )
        self._judged(result)
        self._hear_lane()

    def _leaderboard(self, item: pytest.Item, staff: dict[str, Any]) -> None:
        value = _left(item, "__leaderboard_value__")
        if value is None:
            return
        name, order = str(_mark(item, "__leaderboard_column__", "")), _mark(item, "__leaderboard_sort_order__", "desc")
        if not isinstance(value, str):
            value = _number(value)
            if not math.isfinite(value):
                staff["leaderboard"] = f"{name} is left out: its value is not a finite number"
                return
        self.leaderboard.append(Leaderboard(name=name, value=value, order=order))


class _NotReachedError(Exception):
    """The run's own time is up."""


def _id(node: Any) -> str:
    return str(node.nodeid)


def _function(item: pytest.Item) -> Any:
    return getattr(item, "obj", None)


def _layers(item: pytest.Item) -> list[Any]:
    """The test function and what its decorators wrapped, outermost first: a mark may lie on any of them."""
    function, layers = _function(item), []
    function = getattr(function, "__func__", function)
    while function is not None:
        layers.append(function)
        function = getattr(function, "__wrapped__", None)
    return layers


def _left(item: pytest.Item, attribute: str) -> Any:
    """What a run of the test left on one of its layers; None where it left nothing."""
    return next((vars(function)[attribute] for function in _layers(item) if attribute in vars(function)), None)


def _is_partial(item: pytest.Item) -> bool:
    # `partial_credit`'s wrapper closes over the `set_score` that it hands to the test
    codes = [function.__code__ for function in _layers(item) if hasattr(function, "__code__")]
    return "set_score" in getattr(item, "fixturenames", ()) or any("set_score" in code.co_freevars for code in codes)


def _score(item: pytest.Item) -> float | None:
    score = _left(item, "__score__")
    return None if score is None else _number(score)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several values
        return math.nan


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
    if inspect.iscoroutinefunction(_layers(item)[-1]):
        raise SuiteError(f"{item.nodeid} is an `async def`, which pytest does not run; write it as a plain function.")
    order = _mark(item, "__leaderboard_sort_order__", "desc")
    if order not in ("asc", "desc"):
        raise SuiteError(f"{item.nodeid} has a leaderboard in the order {order!r}; use 'asc' or 'desc'.")
    return TestResult(
        id=_id(item),
        name=f"{name} [{case}]" if case and documentation else name,
        number=str(_mark(item, "__number__", "")),
        max_score=float(weight),
        tags=tuple(str(tag) for tag in _mark(item, "__tags__", ())),
        visibility=visibility,
    )


def _verdict(call: pytest.CallInfo[None], report: pytest.TestReport) -> _Verdict | None:
    """What one phase of a test says; None where it says nothing."""
    error = call.excinfo.value if call.excinfo is not None else None
    if hasattr(report, "wasxfail") and not isinstance(error, MachineError | SuiteError):
        return "passed", f"Expected to fail: {escape(str(report.wasxfail))}." if report.skipped else ""
    if error is not None:
        return _blame(error, report.when or "")
    if report.failed:
        # a strict xfail that passed is reported as failed without an exception
        return "failed", escape(str(report.longrepr))
    return ("passed", "") if report.when == "call" else None


def _blame(error: BaseException, phase: str) -> _Verdict:
    """The verdict on a phase that raised, by whose fault that is."""
    if isinstance(error, pytest.skip.Exception):
        return "not_graded", f"this test was skipped: {error.msg}"
    if isinstance(error, _NotReachedError):
        return "not_reached", _NO_TIME
    if isinstance(error, Failure | StudentError):
        return "failed", str(error)
    if phase == "call" and (isinstance(error, AssertionError) or _is_fail(error)):
        # a plain assert: its own words if the suite gave any, never the suite's source
        words = str(error).split("\nassert ", maxsplit=1)[0].strip()
        return "failed", escape("" if words.startswith("assert ") else words) or "This check did not hold."
    if isinstance(error, MachineError):
        return "not_graded", str(error)
    return "not_graded", f"the test itself failed ({type(error).__name__}: {str(error)[:300]})"


def _is_fail(error: BaseException) -> bool:
    """Whether the suite said `pytest.fail` or `pytest.raises`, and not pytest-timeout, whose backstop is our own."""
    return isinstance(error, pytest.fail.Exception) and not str(error).endswith("from pytest-timeout.")
