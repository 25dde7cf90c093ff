"""Layer 3: a second lane: a forked copy of the grader that judges half of the tests beside it, where there are two processors.

Both lanes are the grader: trusted, each with a line of its own to the submission. Only results come back.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator

import msgspec

from autograder.confined import wire
from autograder.report import Leaderboard, TestResult

__all__ = ["Lane"]


class _Judged(msgspec.Struct, frozen=True):
    """What a lane has to say: a result, or a leaderboard entry."""

    result: TestResult | None = None
    entry: Leaderboard | None = None


class Lane:
    """A forked copy of this process that does some work, and what it sends.

    Args:
        work: Done in the copy, with two functions to send results and leaderboard entries by; then the copy ends.
    """

    def __init__(self, work: Callable[[Callable[[TestResult], None], Callable[[Leaderboard], None]], None]) -> None:
        self._sock, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._sock.close()
                work(
                    lambda result: wire.send(theirs, _Judged(result=result)),
                    lambda entry: wire.send(theirs, _Judged(entry=entry)),
                )
            finally:
                # whatever happened: a copy must not go on as if it were the grader
                os._exit(0)
        theirs.close()

    def results(self, deadline: float | None = None) -> Iterator[TestResult | Leaderboard]:
        """What has been sent and not been read yet; with a deadline, all that is sent until the lane ends, or until then."""
        while True:
            try:
                if deadline is None and not wire.waiting(self._sock):
                    return
                judged, _ = wire.receive(self._sock, _Judged, deadline or time.monotonic() + 5.0)
            except (EOFError, OSError, wire.FrameError):
                return
            if judged.result is not None:
                yield judged.result
            if judged.entry is not None:
                yield judged.entry

    def end(self) -> None:
        """Wait for the lane's process; one that does not end by itself is killed."""
        self._sock.close()
        for _ in range(100):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
