"""A second lane: what it sends arrives, and its end, however it comes, is only its own."""

import os
import time
from collections.abc import Callable

import pytest

from autograder.report import Leaderboard, TestResult
from autograder.suite.lane import Lane

Send = Callable[[TestResult], None]
Enter = Callable[[Leaderboard], None]


def _result(name: str) -> TestResult:
    return TestResult(id=name, name=name, max_score=1.0)


def test_what_a_lane_sends_arrives_in_order() -> None:
    """Results and leaderboard entries come out as they were sent, and the lane's process is gone at its end."""

    def work(send: Send, enter: Enter) -> None:
        send(_result("one"))
        enter(Leaderboard(name="speed", value=2.0))
        send(_result("two"))

    lane = Lane(work)
    heard = list(lane.results(time.monotonic() + 10))
    lane.end()
    assert heard == [_result("one"), Leaderboard(name="speed", value=2.0), _result("two")]
    with pytest.raises(ChildProcessError):
        os.waitpid(lane._pid, 0)


def test_a_lane_is_another_process() -> None:
    """What a lane changes stays in the lane."""
    seen: list[str] = []

    def work(send: Send, _enter: Enter) -> None:
        seen.append("there")
        send(_result(str(os.getpid())))

    lane = Lane(work)
    (result,) = lane.results(time.monotonic() + 10)
    lane.end()
    assert isinstance(result, TestResult)
    assert result.id != str(os.getpid())
    assert seen == []


def test_a_lane_that_dies_keeps_what_it_sent() -> None:
    """Results sent before a crash are heard; the crash itself ends only the lane."""

    def work(send: Send, _enter: Enter) -> None:
        send(_result("before"))
        raise RuntimeError("in the lane")

    lane = Lane(work)
    assert list(lane.results(time.monotonic() + 10)) == [_result("before")]
    lane.end()


def test_a_lane_that_hangs_is_not_waited_for() -> None:
    """Hearing ends at its deadline, and the process is killed."""
    lane = Lane(lambda _send, _enter: time.sleep(600))
    assert list(lane.results(time.monotonic() + 0.2)) == []
    lane.end()
    with pytest.raises(ChildProcessError):
        os.waitpid(lane._pid, 0)


def test_nothing_sent_is_nothing_heard_and_no_waiting() -> None:
    """Without a deadline only what is there is read."""
    lane = Lane(lambda _send, _enter: time.sleep(600))
    assert list(lane.results()) == []
    lane.end()
