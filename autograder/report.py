"""Layer 0: what grading one submission came to. Frozen data that every reporter reads and none changes."""

from typing import Any, Literal

import msgspec

__all__ = ["Leaderboard", "Outcome", "Report", "TestResult", "Visibility"]

Outcome = Literal["passed", "failed", "not_graded", "not_reached"]
"""How a test ended.

passed       judged, full marks (an expected failure, pytest's xfail, counts as passed)
failed       judged, and the submission is at fault; `score` holds any partial credit
not_graded   could not be judged: the suite or the machine is at fault, or the test skipped itself; never the student's loss
not_reached  declared, but no verdict yet (or the run ended before it)
"""

Visibility = Literal["visible", "hidden", "after_due_date", "after_published"]


class TestResult(msgspec.Struct, frozen=True, kw_only=True):
    """One declared test and its verdict.

    Attributes:
        id: pytest's node id, relative to the suite's folder: `test_module_cnn.py::test_shape[3]`.
        name: The sentence that a student reads as the test's name.
        number: Gradescope's number, such as "1.3"; empty where the suite gave none.
        score: Points given, finite, in [0, max_score] except for extra credit.
        max_score: Points declared before student code ran, finite, >= 0.
        outcome: See `Outcome`.
        output: What the student reads below the name, Markdown; empty for a plain pass.
        tags: The suite's tags: first the part, then the aspect.
        visibility: Gradescope's visibility of this test.
        seconds: Wall time the test took.
        staff: Data for staff only (what the confined side did, how it ended); JSON-able.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    id: str
    name: str
    max_score: float
    number: str = ""
    score: float = 0.0
    outcome: Outcome = "not_reached"
    output: str = ""
    tags: tuple[str, ...] = ()
    visibility: Visibility = "visible"
    seconds: float = 0.0
    staff: dict[str, Any] = {}


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """One leaderboard entry, as gradescope-utils' `@leaderboard` declares it."""

    name: str
    value: float | str
    order: Literal["asc", "desc"] = "desc"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What grading one submission came to, complete or so far.

    Attributes:
        assignment: The assignment's name, such as "cnn".
        tests: Every declared test, in the order students see them.
        problems: Sentences shown first, above all tests: why a submission could not be read, what was not graded.
        notes: Sentences of lesser weight shown after the problems (an import that is missing here, a cell left out).
        leaderboard: Leaderboard entries.
        printed: What the submission printed while it was imported, cut; shown to staff.
        seconds: Wall time of the whole run.
        staff: Data for staff only: seed, walls that stood, versions, device; JSON-able.
        complete: False while tests are still being judged.
    """

    assignment: str
    tests: tuple[TestResult, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    leaderboard: tuple[Leaderboard, ...] = ()
    printed: str = ""
    seconds: float = 0.0
    staff: dict[str, Any] = {}
    complete: bool = True

    @property
    def score(self) -> float:
        """Points given, summed over the tests."""
        return round(sum(test.score for test in self.tests), 6)

    @property
    def max_score(self) -> float:
        """Points declared, summed over the tests."""
        return round(sum(test.max_score for test in self.tests), 6)

    @property
    def ungraded(self) -> tuple[TestResult, ...]:
        """The tests that hold no verdict: not the student's loss, and for staff to look at."""
        return tuple(test for test in self.tests if test.outcome in ("not_graded", "not_reached"))
