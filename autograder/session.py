"""Layer 5: start a worker, hand it jobs, and keep what it reports, so that a result survives whatever happens to it."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from autograder import ahead, errors
from autograder.confined import wire
from autograder.job import Failed, Finished, Job, Outcome
from autograder.report import Report

__all__ = ["Session"]

_GRACE_SECONDS = 20.0
"""How far past its own limit a run may get before it is ended from here: starting torch on half a CPU takes several seconds."""


class Session:
    """A worker process. A context manager: leaving it ends the worker, its zygote, and all that they started."""

    def __init__(self) -> None:
        self._sock, self._process = ahead.take()
        self._folder = tempfile.mkdtemp(prefix="autograder-")
        Path(self._folder).chmod(0o711)  # a submission's own user passes through, and reads nothing here

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The zygote sees its line close and kills what it started; so the worker goes first, and is waited for.
        self._sock.close()
        try:
            self._process.wait(5 if error is None else 0.1)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def grade(self, job: Job, publish: Callable[[Report], None] = lambda _report: None) -> Report:
        """Grade one submission.

        Args:
            job: What to grade.
            publish: Called with the report so far, first with every test declared and none judged.

        Returns:
            The complete report, or, where the worker died or hung, what it had reported with the rest not graded.

        Raises:
            AutograderError: No test could be declared; which error says whose fault that is.
        """
        latest: Report | None = None
        deadline = time.monotonic() + job.seconds + _GRACE_SECONDS
        try:
            wire.send(self._sock, msgspec.structs.replace(job, folder=self._folder), deadline=deadline)
            while True:
                outcome, _ = wire.receive(self._sock, Outcome, deadline)
                if isinstance(outcome, Finished):
                    return outcome.report
                if isinstance(outcome, Failed):
                    return self._salvage(latest, outcome.sentence, getattr(errors, outcome.error), outcome.trace)
                latest = outcome.report
                publish(latest)
        except TimeoutError:
            return self._salvage(latest, f"The grader did not end within {job.seconds + _GRACE_SECONDS:g} seconds.")
        except (EOFError, OSError, wire.FrameError):
            return self._salvage(latest, f"The grader died while grading ({self._how_it_ended()}); grade again.")

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        if code is None:
            return "its connection broke"
        return f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"

    def _salvage(
        self,
        latest: Report | None,
        sentence: str,
        kind: type[errors.AutograderError] = errors.MachineError,
        trace: str = "",
    ) -> Report:
        """What was judged stays; what was not is not graded, and nobody's fault but ours."""
        if latest is None:
            error = kind(sentence)
            error.trace = trace
            raise error
        tests = tuple(
            msgspec.structs.replace(test, outcome="not_graded", output=sentence)
            if test.outcome == "not_reached"
            else test
            for test in latest.tests
        )
        return msgspec.structs.replace(latest, tests=tests, problems=(sentence, *latest.problems), complete=True)
