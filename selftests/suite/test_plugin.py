"""The plugin on small suites: what is declared, whose fault each end is, and that no point ever vanishes."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from autograder.errors import MachineError, StudentError, StudentStopped, SuiteError
from autograder.report import Leaderboard, TestResult
from autograder.suite.plugin import GradePlugin
from autograder.suite.run import run_suite

HEAD = """
import functools, math, unittest
import pytest
from gradescope_utils.autograder_utils.decorators import (
    hide_errors, leaderboard, number, partial_credit, tags, visibility, weight)
from autograder.errors import MachineError, StudentError, SuiteError
from autograder.suite import check

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper
"""


class FakeStudent:
    """In the place of the proxy: has one good function and one for each way to go wrong."""

    def one(self) -> int:
        """Give 1."""
        return 1

    def wrong(self) -> None:
        """Raise what the proxy raises for student code."""
        raise StudentError("Your code raised ValueError.")

    def hang(self) -> None:
        """Run into a limit."""
        raise StudentStopped("Your code did not finish.", timed_out=True)

    def machine(self) -> None:
        """Fail as the machine does."""
        raise MachineError("The disk is full.")


@dataclass
class Run:
    """What one run of a suite came to."""

    declared: tuple[TestResult, ...] = ()
    judged: list[TestResult] = field(default_factory=list)
    leaderboard: list[Leaderboard] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> TestResult:
        (found,) = [test for test in self.judged if test.id.split("::", 1)[1] == name]
        return found

    @property
    def outcomes(self) -> dict[str, tuple[str, float]]:
        """Outcome and score by the test's name in its file."""
        return {test.id.split("::", 1)[1]: (test.outcome, test.score) for test in self.judged}


_NUMBERS = itertools.count()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Run a suite made of these files; every declared test must be judged once, with its declared points."""

    def run(source: str = "", *, seconds: float = 1000.0, go_on: bool = True, **files: str) -> Run:
        folder = tmp_path / f"suite_{next(_NUMBERS)}"
        folder.mkdir()
        if source:
            files["test_suite"] = source
        for name, text in files.items():
            (folder / f"{name}.py").write_text(HEAD + text, encoding="utf-8")
        result = Run()

        def declared(tests: tuple[TestResult, ...]) -> bool:
            assert result.declared == ()
            result.declared = tests
            return go_on

        def open_student(test: str) -> Any:
            result.opened.append(test)
            return FakeStudent(), lambda: result.closed.append(test)

        plugin = GradePlugin(declared, result.judged.append, open_student, len, time.monotonic() + seconds)
        run_suite(folder, plugin, 60.0)
        result.leaderboard = plugin.leaderboard
        assert result.opened == result.closed
        if go_on:
            assert [test.id for test in result.judged] == [test.id for test in result.declared]
            assert [test.max_score for test in result.judged] == [test.max_score for test in result.declared]
        return result

    return run


RunSuite = Callable[..., Run]


# ---- declaring


def test_tests_are_declared_with_all_their_marks(run: RunSuite) -> None:
    """Name, points, number, tags and visibility are known before the first test runs, and none is reached yet."""
    suite = run(
        '''
@weight(4)
@number("1.3")
@tags("module_cnn", "shape")
@visibility("after_published")
def test_shape(student):
    """A batch of N images gives N rows.

    More for those who read the source.
    """

def test_plain():
    pass
''',
        go_on=False,
    )
    shape, plain = suite.declared
    assert shape == TestResult(
        id="test_suite.py::test_shape",
        name="A batch of N images gives N rows.",
        number="1.3",
        max_score=4.0,
        tags=("module_cnn", "shape"),
        visibility="after_published",
    )
    assert plain == TestResult(id="test_suite.py::test_plain", name="test_plain", max_score=0.0)
    assert suite.judged == []


def test_parametrised_cases_are_tests_of_their_own(run: RunSuite) -> None:
    """Each case has the function's points, and the case's id in its name, whether or not it has a docstring."""
    suite = run(
        '''
@weight(2)
@pytest.mark.parametrize("n", [1, 3], ids=["one", "three"])
def test_told(n):
    """Any batch size works."""
    assert n == 1

@weight(1)
@pytest.mark.parametrize("n", [5])
def test_untold(n):
    pass
'''
    )
    assert [test.name for test in suite.declared] == [
        "Any batch size works. [one]",
        "Any batch size works. [three]",
        "test_untold[5]",
    ]
    assert suite.outcomes == {
        "test_told[one]": ("passed", 2.0),
        "test_told[three]": ("failed", 0.0),
        "test_untold[5]": ("passed", 1.0),
    }


def test_tests_come_in_the_order_of_their_numbers(run: RunSuite) -> None:
    """Numbers sort as numbers, part by part, over all files; tests without one come last, in their own order."""
    names = ["1.10", "1.9", "2", "1", "1.9.1", "10.1", "3a", ""]
    tests = "\n".join(f"@number({name!r})\ndef test_{index}(): pass" for index, name in enumerate(names))
    suite = run(test_b=tests, test_a="def test_z(): pass\ndef test_a(): pass\n@number('1.95')\ndef test_x(): pass")
    assert [test.number for test in suite.declared] == [
        "1",
        "1.9",
        "1.9.1",
        "1.10",
        "1.95",
        "2",
        "3a",
        "10.1",
        "",
        "",
        "",
    ]
    assert [test.name for test in suite.declared[-3:]] == ["test_z", "test_a", "test_7"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("@visibility('sometimes')\ndef test_a(): pass", "visibility 'sometimes'; use one of visible, hidden"),
        ("@weight(-1)\ndef test_a(): pass", "weight -1; use a finite number"),
        ("@weight(float('nan'))\ndef test_a(): pass", "weight nan"),
        ("@weight(float('inf'))\ndef test_a(): pass", "weight inf"),
        ("@weight('2')\ndef test_a(): pass", "weight '2'"),
        ("@leaderboard('x', 'up')\ndef test_a(): pass", "order 'up'; use 'asc' or 'desc'"),
        ("async def test_a(): pass", "is an `async def`"),
        ("def helper(): pass", "holds no test"),
        ("def test_a(:", "could not be collected: test_suite.py"),
        ("import not_there", "No module named 'not_there'"),
        ("1 / 0", "ZeroDivisionError"),
        ("pytest.skip('later', allow_module_level=True)", "skips itself as a whole"),
        ("pytest.importorskip('not_there')", "skips itself as a whole"),
        ("@pytest.mark.parametrize('x', [1])\ndef test_a(): pass", "could not be collected"),
    ],
)
def test_a_suite_that_cannot_be_declared_is_the_suites_fault(run: RunSuite, source: str, words: str) -> None:
    """What is wrong with a suite as a whole, a syntax error or a mark, raises SuiteError and says where."""
    with pytest.raises(SuiteError) as caught:
        run(test_suite=source)
    assert words in str(caught.value)
    with pytest.raises(SuiteError):
        run(test_suite=source, test_other="@weight(3)\ndef test_b(): pass" if "no test" not in words else "x = 1")


def test_a_conftest_that_fails_is_the_suites_fault(run: RunSuite) -> None:
    """A broken conftest raises SuiteError too."""
    with pytest.raises(SuiteError, match="could not be run"):
        run("def test_a(): pass", conftest="1 / 0")


def test_an_error_while_declaring_comes_out_as_it_is(tmp_path: Path) -> None:
    """What the pipeline raises when it hears the declared tests reaches whoever runs the suite, and no test runs."""
    (tmp_path / "test_it.py").write_text("def test_a():\n    raise SystemExit\n", encoding="utf-8")

    def declared(_tests: object) -> bool:
        raise MachineError("No memory.")

    judged: list[TestResult] = []
    plugin = GradePlugin(declared, judged.append, lambda _test: pytest.fail("opened"), len, time.monotonic() + 100)
    with pytest.raises(MachineError, match="No memory"):
        run_suite(tmp_path, plugin, 60.0)
    assert judged == []


# ---- judging: whose fault it is


ENDS: dict[str, tuple[str, str, str]] = {
    "passes": ("assert student.one() == 1", "passed", ""),
    "fails by check": ("check.fail('Expected A, got B.', 'Do C.')", "failed", "Expected A, got B.\n\nDo C."),
    "fails by assert": ("assert student.one() == 2", "failed", "This check did not hold."),
    "fails by assert with words": ("assert student.one() == 2, 'Two *was* wanted.'", "failed", r"Two \*was\* wanted."),
    "fails by pytest.fail": ("pytest.fail('Two was wanted.')", "failed", "Two was wanted."),
    "fails by pytest.raises": ("with pytest.raises(ValueError): pass", "failed", "DID NOT RAISE"),
    "fails by student code": ("student.wrong()", "failed", "Your code raised ValueError."),
    "fails by a hang": ("student.hang()", "failed", "Your code did not finish."),
    "skips": ("pytest.skip('not today')", "not_graded", "This test was skipped: not today"),
    "skips as unittest does": ("raise unittest.SkipTest('not today')", "not_graded", "skipped: not today"),
    "is expected to fail within": ("pytest.xfail('known')", "passed", "Expected to fail: known"),
    "machine": ("student.machine()", "not_graded", "The disk is full"),
    "suite raises": ("{}['key']", "not_graded", "The test itself failed (KeyError: 'key')"),
    "suite exits": ("raise SystemExit(3)", "not_graded", "SystemExit"),
    "suite says so": ("raise SuiteError('No reference.')", "not_graded", "No reference"),
    "pytest-timeout": ("pytest.fail('Timeout (>1.0s) from pytest-timeout.')", "not_graded", "Timeout"),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("form", ["function", "case"])
def test_how_a_test_ends_decides_whose_fault_it_is(run: RunSuite, name: str, form: str) -> None:
    """Failures that the submission caused lose the points; the suite's, the machine's and skips are not graded."""
    body, outcome, output = ENDS[name]
    if form == "function":
        suite = run(f"@weight(3)\ndef test_it(student):\n    {body}\n@weight(1)\ndef test_next(): pass")
        test = suite["test_it"]
    else:
        suite = run(
            "class TestIt(unittest.TestCase):\n"
            "    @pytest.fixture(autouse=True)\n    def _student(self, student): self.student = student\n"
            f"    @weight(3)\n    def test_it(self):\n        student = self.student\n        {body}\n"
            "@weight(1)\ndef test_next(): pass"
        )
        test = suite["TestIt::test_it"]
    assert (test.outcome, test.score, test.max_score) == (outcome, 3.0 if outcome == "passed" else 0.0, 3.0)
    assert output in test.output.replace("\\_", "_")
    assert "assert student" not in test.output
    assert suite.judged[-1].outcome == "passed"


MARKS = {
    "skip": ("@pytest.mark.skip(reason='broken')", "pass", "not_graded"),
    "skipif": ("@pytest.mark.skipif(True, reason='broken')", "pass", "not_graded"),
    "unittest's skip": ("@unittest.skip('broken')", "pass", "not_graded"),
    "xfail that fails": ("@pytest.mark.xfail(reason='broken')", "assert False", "passed"),
    "xfail that passes": ("@pytest.mark.xfail(reason='broken')", "pass", "passed"),
    "strict xfail that fails": ("@pytest.mark.xfail(reason='broken', strict=True)", "assert False", "passed"),
    "strict xfail that passes": ("@pytest.mark.xfail(reason='broken', strict=True)", "pass", "failed"),
    "xfail that never runs": ("@pytest.mark.xfail(reason='broken', run=False)", "assert False", "passed"),
    "xfail of another error": ("@pytest.mark.xfail(raises=KeyError)", "assert False", "failed"),
    "xfail when the machine fails": ("@pytest.mark.xfail", "raise MachineError('No disk.')", "not_graded"),
}


@pytest.mark.parametrize("name", MARKS)
def test_marked_tests_keep_their_points(run: RunSuite, name: str) -> None:
    """A test that is skipped or expected to fail is declared and judged with its points like any other."""
    mark, body, outcome = MARKS[name]
    suite = run(f"{mark}\n@weight(3)\ndef test_it():\n    {body}\n@weight(2)\ndef test_next(): pass")
    assert suite.outcomes == {"test_it": (outcome, 3.0 if outcome == "passed" else 0.0), "test_next": ("passed", 2.0)}
    if name in ("skip", "xfail that fails"):
        assert "broken" in suite["test_it"].output


FIXTURES = {
    "setup": ("raise ValueError('no file')\n    yield", "not_graded", "no file"),
    "setup by assert": ("assert False\n    yield", "not_graded", "AssertionError"),
    "setup by student code": ("student.wrong()\n    yield", "failed", "Your code raised"),
    "setup by check": ("check.fail('Expected a model.')\n    yield", "failed", "Expected a model."),
    "setup by skip": ("pytest.skip('no data')\n    yield", "not_graded", "no data"),
    "teardown": ("yield\n    raise ValueError('no file')", "not_graded", "no file"),
    "teardown by the machine": ("yield\n    student.machine()", "not_graded", "The disk is full"),
    "no such fixture": ("yield\n@pytest.fixture\ndef more(nothing): pass", "not_graded", "nothing"),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_errors_of_fixtures_are_judged_by_fault_too(run: RunSuite, name: str) -> None:
    """An error before or after the test's own body takes no points from the student, unless student code caused it."""
    body, outcome, output = FIXTURES[name]
    more = "def more(student)" if "def more" not in body else "def unused(student)"
    suite = run(
        f"@pytest.fixture\n{more}:\n    {body}\n@weight(3)\ndef test_it(more): pass\n@weight(1)\ndef test_next(): pass"
    )
    assert suite.outcomes == {"test_it": (outcome, 0.0), "test_next": ("passed", 1.0)}
    assert output in suite["test_it"].output


def test_an_error_after_a_failure_does_not_hide_it(run: RunSuite) -> None:
    """Where the test failed and its teardown breaks as well, the failure stands."""
    suite = run(
        "@pytest.fixture\ndef f():\n    yield\n    1 / 0\n@weight(1)\ndef test_it(f):\n    check.fail('Wrong.')"
    )
    assert suite["test_it"].output == "Wrong."
    assert suite["test_it"].outcome == "failed"


def test_shared_fixtures_that_break_lose_nobodys_points(run: RunSuite) -> None:
    """An error in a module's or class's setup leaves each of their tests not graded, one by one."""
    suite = run(
        "class TestA(unittest.TestCase):\n"
        "    @classmethod\n    def setUpClass(cls): raise ValueError('no file')\n"
        "    @weight(1)\n    def test_a(self): pass\n    @weight(2)\n    def test_b(self): pass\n",
        test_b="def setup_module(): raise ValueError('no file')\n@weight(4)\ndef test_c(): pass\n",
    )
    assert suite.outcomes == {
        "TestA::test_a": ("not_graded", 0.0),
        "TestA::test_b": ("not_graded", 0.0),
        "test_c": ("not_graded", 0.0),
    }
    assert sum(test.max_score for test in suite.judged) == 7


def test_test_cases_are_judged(run: RunSuite) -> None:
    """TestCase methods have marks, setup, skips, expected failures and subtests as functions have."""
    suite = run(
        '''
class TestOld(unittest.TestCase):
    def setUp(self):
        self.ready = True

    @weight(1)
    @number("2.1")
    @tags("old")
    def test_good(self):
        """It is ready."""
        self.assertTrue(self.ready)

    @weight(2)
    def test_bad(self):
        self.assertEqual(1, 2, "One is not two.")

    @weight(3)
    @unittest.expectedFailure
    def test_expected(self):
        self.fail("known")

    @weight(4)
    def test_parts(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertNotEqual(n, 1)

    @weight(5)
    @unittest.skip("later")
    def test_skipped(self):
        pass

@unittest.skip("all of it")
class TestSkipped(unittest.TestCase):
    @weight(6)
    def test_never(self):
        pass
'''
    )
    good = suite["TestOld::test_good"]
    assert (good.name, good.number, good.tags) == ("It is ready.", "2.1", ("old",))
    assert suite.outcomes == {
        "TestOld::test_good": ("passed", 1.0),
        "TestOld::test_bad": ("failed", 0.0),
        "TestOld::test_expected": ("passed", 3.0),
        "TestOld::test_parts": ("failed", 0.0),
        "TestOld::test_skipped": ("not_graded", 0.0),
        "TestSkipped::test_never": ("not_graded", 0.0),
    }
    assert "One is not two." in suite["TestOld::test_bad"].output


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="this pytest has no subtests fixture")
def test_a_failed_subtest_fails_its_test(run: RunSuite) -> None:
    """With pytest's own subtests, one part that fails costs the test its points, and is what the student reads."""
    suite = run(
        "@weight(4)\ndef test_it(subtests):\n    for n in range(3):\n        with subtests.test(n=n):\n"
        "            check.that(n != 1, f'{n} is wrong.')\n"
    )
    assert suite.outcomes == {"test_it": ("failed", 0.0)}
    assert suite["test_it"].output == "1 is wrong."


# ---- time


def test_past_the_deadline_no_test_starts(run: RunSuite) -> None:
    """Once the run's time is up every test left is not reached, with its points, and no student process is opened."""
    suite = run("@weight(3)\ndef test_a(student): pass\n@weight(2)\n@pytest.mark.skip\ndef test_b(): pass", seconds=-1)
    assert [(test.outcome, test.score) for test in suite.judged] == [("not_reached", 0.0)] * 2
    assert "time" in suite["test_a"].output
    assert suite.opened == []


def test_a_call_cut_short_by_the_runs_deadline_is_no_failure(run: RunSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the run's own time ends in the middle of a call, the test was not reached, and did not fail."""
    now = [0.0]
    monkeypatch.setattr("autograder.suite.plugin.time.monotonic", lambda: now[0])

    def hang(_student: FakeStudent) -> None:
        now[0] = 5.0
        raise StudentStopped("Too long.", timed_out=True)

    monkeypatch.setattr(FakeStudent, "hang", hang)
    suite = run("@weight(3)\ndef test_a(student): student.hang()\n@weight(2)\ndef test_b(): pass", seconds=4.0)
    assert {test.outcome for test in suite.judged} == {"not_reached"}
    now[0] = 0.0
    assert run("@weight(3)\ndef test_a(student): student.hang()", seconds=6.0)["test_a"].outcome == "failed"


# ---- gradescope-utils' other decorators


PARTIAL = {
    "part": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(4.5)", "failed", 4.5),
    "none of it": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(0)", "failed", 0.0),
    "all": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(10)", "passed", 10.0),
    "more": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(12)", "passed", 12.0),
    "the last counts": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(9); set_score(2)", "failed", 2.0),
    "with a default": ("@partial_credit(10)\ndef test_it(set_score=None):\n    set_score(4)", "failed", 4.0),
    "by keyword": ("@partial_credit(10)\ndef test_it(**kwargs):\n    kwargs['set_score'](4)", "failed", 4.0),
    "with a fixture": ("@partial_credit(10)\ndef test_it(student, set_score):\n    set_score(4)", "failed", 4.0),
    "under marks": (
        "@number('1')\n@tags('a')\n@partial_credit(10)\ndef test_it(set_score):\n    set_score(4)",
        "failed",
        4.0,
    ),
    "over marks": ("@partial_credit(10)\n@tags('a')\ndef test_it(set_score):\n    set_score(4)", "failed", 4.0),
    "under a decorator": (
        "@logged\n@partial_credit(10)\ndef test_it(set_score):\n    set_score(4)",
        "failed",
        4.0,
    ),
    "under a leaderboard": (
        "@leaderboard('x')\n@partial_credit(10)\ndef test_it(set_score, set_leaderboard_value):\n    set_score(4)",
        "failed",
        4.0,
    ),
    "then fails": (
        "@partial_credit(10)\ndef test_it(set_score):\n    set_score(4)\n    check.fail('Wrong.')",
        "failed",
        4.0,
    ),
    "fails before": ("@partial_credit(10)\ndef test_it(set_score):\n    check.fail('Wrong.')", "failed", 0.0),
    "then breaks": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(4)\n    1 / 0", "not_graded", 0.0),
    "then skips": (
        "@partial_credit(10)\ndef test_it(set_score):\n    set_score(4)\n    pytest.skip()",
        "not_graded",
        0.0,
    ),
    "never given": ("@partial_credit(10)\ndef test_it(set_score):\n    pass", "not_graded", 0.0),
    "never given, default": ("@partial_credit(10)\ndef test_it(set_score=None):\n    pass", "not_graded", 0.0),
    "never given, keyword": ("@partial_credit(10)\ndef test_it(**kwargs):\n    pass", "not_graded", 0.0),
    "NaN": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(math.nan)", "not_graded", 0.0),
    "infinite": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(math.inf)", "not_graded", 0.0),
    "negative": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(-1)", "not_graded", 0.0),
    "no number": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score('all')", "not_graded", 0.0),
    "None": ("@partial_credit(10)\ndef test_it(set_score):\n    set_score(None)", "not_graded", 0.0),
    "a tensor": (
        "import torch\n@partial_credit(10)\ndef test_it(set_score):\n    set_score(torch.tensor(4.0))",
        "failed",
        4.0,
    ),
    "no credit to give": ("@weight(10)\ndef test_it(set_score):\n    set_score(1)", "not_graded", 0.0),
    "many": (
        "import torch\n@partial_credit(10)\ndef test_it(set_score):\n    set_score(torch.ones(2))",
        "not_graded",
        0.0,
    ),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_credit_is_what_the_suite_gave(run: RunSuite, name: str) -> None:
    """`set_score` decides the points wherever the decorator stands; a score missing or senseless is the suite's fault."""
    source, outcome, score = PARTIAL[name]
    suite = run(source)
    assert suite.outcomes == {"test_it": (outcome, score)}
    assert suite["test_it"].max_score == 10.0


def test_partial_credit_works_in_a_test_case(run: RunSuite) -> None:
    """`partial_credit` on a TestCase method gives what the method gave."""
    suite = run(
        "class TestA(unittest.TestCase):\n    @partial_credit(10)\n    def test_a(self, set_score=None):\n        set_score(3)\n"
        "    @partial_credit(5)\n    def test_b(self, set_score=None): pass\n"
    )
    assert suite.outcomes == {"TestA::test_a": ("failed", 3.0), "TestA::test_b": ("not_graded", 0.0)}


def test_a_score_does_not_reach_the_next_case(run: RunSuite) -> None:
    """What one parametrised case was given, score or leaderboard entry, is not the next one's."""
    suite = run(
        "@leaderboard('n')\n@partial_credit(10)\n@pytest.mark.parametrize('n', [9, 0, 7])\n"
        "def test_it(n, set_score, set_leaderboard_value):\n    if n:\n        set_score(n)\n        set_leaderboard_value(n)\n"
    )
    assert suite.outcomes == {
        "test_it[9]": ("failed", 9.0),
        "test_it[0]": ("not_graded", 0.0),
        "test_it[7]": ("failed", 7.0),
    }
    assert [entry.value for entry in suite.leaderboard] == [9, 7]


def test_the_leaderboard_takes_numbers_and_text(run: RunSuite) -> None:
    """Entries have name, value and order; one that no results.json can hold is left out, and staff are told."""
    suite = run(
        "import torch\n"
        "@leaderboard('loss', 'asc')\ndef test_a(set_leaderboard_value): set_leaderboard_value(0.25)\n"
        "@weight(1)\n@leaderboard('name')\ndef test_b(set_leaderboard_value=None): set_leaderboard_value('fast')\n"
        "@leaderboard('tensor')\ndef test_c(set_leaderboard_value): set_leaderboard_value(torch.tensor(2))\n"
        "@weight(1)\n@leaderboard('nan')\ndef test_d(set_leaderboard_value): set_leaderboard_value(math.nan)\n"
        "@leaderboard('object')\ndef test_e(set_leaderboard_value): set_leaderboard_value(object())\n"
        "@leaderboard('silent')\ndef test_f(set_leaderboard_value): pass\n"
    )
    assert suite.leaderboard == [
        Leaderboard(name="loss", value=0.25, order="asc"),
        Leaderboard(name="name", value="fast", order="desc"),
        Leaderboard(name="tensor", value=2.0, order="desc"),
    ]
    assert {test.outcome for test in suite.judged} == {"passed"}
    assert "nan" in suite["test_d"].staff["leaderboard"]
    assert suite["test_f"].staff == {}


def test_hidden_errors_are_for_staff(run: RunSuite) -> None:
    """With `hide_errors` a student reads its words, and staff what they replace; a pass has neither."""
    suite = run(
        "@hide_errors('Not quite.')\n@weight(2)\ndef test_bad(student): student.wrong()\n"
        "@hide_errors('Not quite.')\n@weight(2)\ndef test_good(student): pass\n"
    )
    bad, good = suite["test_bad"], suite["test_good"]
    assert (bad.output, bad.staff) == ("Not quite.", {"hidden_output": "Your code raised ValueError."})
    assert (good.output, good.staff, good.score) == ("", {}, 2.0)


# ---- the fixtures and the run


def test_each_test_has_a_student_and_a_seed_of_its_own(run: RunSuite) -> None:
    """The fixtures are made from the test's own id, a case's too, and closed after the test, failed or not."""
    suite = run(
        "@pytest.mark.parametrize('n', [1, 22])\ndef test_it(student, seed, n):\n    check.fail(str(seed))\ndef test_none(): pass"
    )
    assert suite.opened == ["test_suite.py::test_it[1]", "test_suite.py::test_it[22]"]
    assert [test.output for test in suite.judged[:2]] == [str(len(test)) for test in suite.opened]


def test_a_student_that_cannot_be_opened_is_judged_by_fault(tmp_path: Path) -> None:
    """Where opening fails, the error's own class says whether the student or the machine is at fault."""
    (tmp_path / "test_opening.py").write_text(
        "def test_a(student): pass\ndef test_b(student): pass\n", encoding="utf-8"
    )
    judged: list[TestResult] = []

    def open_student(test: str) -> Any:
        raise StudentError("It exits.") if test.endswith("a") else MachineError("No memory.")

    plugin = GradePlugin(lambda _tests: True, judged.append, open_student, len, time.monotonic() + 100)
    run_suite(tmp_path, plugin, 60.0)
    assert [test.outcome for test in judged] == ["failed", "not_graded"]


def test_suites_run_one_after_another_do_not_mix(run: RunSuite) -> None:
    """A second suite whose files and helpers have the names of the first one's gets its own."""
    for value in (1, 2):
        suite = run(f"import my_helper\ndef test_it(): assert my_helper.value == {value}", my_helper=f"value = {value}")
        assert suite.outcomes == {"test_it": ("passed", 0.0)}


def test_what_a_suite_prints_is_not_the_graders_output(run: RunSuite, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither pytest's own report nor what a suite prints reaches the terminal."""
    run("print('at import')\ndef test_it():\n    print('in a test')\n    assert False")
    assert capfd.readouterr() == ("", "")


def test_no_configuration_but_the_suites_own_counts(run: RunSuite, tmp_path: Path) -> None:
    """A pytest.ini above the suite changes nothing about how it is collected."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npython_functions = check_*\naddopts = -k nothing\n", encoding="utf-8"
    )
    assert run("def test_it(): pass").outcomes == {"test_it": ("passed", 0.0)}
