"""Layer 4: the pipeline, one submission to one `Report`. Read this first.

    read the assignment ─► read the submission ─► collect the suite: every test is declared, with its points
        ─► build the walls ─► import the student's code behind them ─► judge each test in a child of its own ─► report

This runs in the trusted process. The zygote was forked from it before any of the above was read, so nothing secret exists on the other
side: see `worker.py`, which starts both.
"""

import contextlib
import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from autograder import __version__
from autograder.assignment import read_assignment
from autograder.confined import wire
from autograder.errors import MachineError, StudentError, SubmissionError, SuiteError
from autograder.intake import Submission, read_submission
from autograder.intake.script import Script
from autograder.job import Job
from autograder.report import Report, TestResult
from autograder.sandbox import walls
from autograder.sandbox.launch import Channel, Confinement, Sandbox
from autograder.sandbox.policy import Limits
from autograder.suite.plugin import GradePlugin
from autograder.suite.proxy import Budget, Student, raised
from autograder.suite.run import run_suite
from autograder.text import escape

__all__ = ["grade"]

_ENFORCING = {"uid", "landlock", "seccomp"}
"""The walls of which at least one must stand: the others limit what student code uses, not what it sees."""

_COULD_NOT_RUN = "Your submission could not be run; the reason stands at the top of this report."


def grade(job: Job, sandboxes: Sequence[Sandbox], publish: Callable[[Report], None]) -> Report:
    """Grade one submission.

    Args:
        job: What to grade.
        sandboxes: The zygotes that confine it: one, or two to judge in two lanes.
        publish: Called with the report so far: first with every test declared and none judged, then as tests end.

    Returns:
        The complete report. Whatever the submission did is in it.

    Raises:
        SuiteError: The suite or the assignment is wrong, and no test could be declared.
        UsageError: There is no such assignment or submission.
        MachineError: The machine failed before any test was declared.
    """
    run = _Run(job, sandboxes, publish)
    try:
        with contextlib.ExitStack() as stack:
            run.judge(stack)
    except (MachineError, SuiteError) as error:
        if not run.tests:
            raise
        run.problems.append(str(error))
    return run.finish()


class _Run:
    """The state of one run."""

    def __init__(self, job: Job, sandboxes: Sequence[Sandbox], publish: Callable[[Report], None]) -> None:
        self.job = job
        self.assignment = read_assignment(job.assignment)
        self.tests: dict[str, TestResult] = {}
        self.problems: list[str] = []
        self._notes: list[str] = []
        self._missing: dict[str, str] = {}
        self._names: frozenset[str] = frozenset()
        self._sandboxes = sandboxes
        self._publish = publish
        self._confinement: Confinement | None = None
        self._second: Confinement | None = None
        self._script: Script | None = None
        self._budget = Budget(self.assignment.limits.test_seconds)
        self._started = time.monotonic()
        self._deadline = self._started + job.seconds
        self._plugin = GradePlugin(
            self._declare,
            self._judged,
            self._open_student,
            self._seed,
            self._deadline,
            self._enter_lane if len(sandboxes) > 1 else None,
        )

    # ---- the stages

    def judge(self, stack: contextlib.ExitStack) -> None:
        """Everything from reading the submission to the last test."""
        try:
            submission = read_submission(Path(self.job.submission), self.assignment.entry)
        except SubmissionError as error:
            self.problems.append(str(error))
        else:
            self._notes += submission.notes
            self._script = Script(submission)
            confinements = [stack.enter_context(self._confine(submission, sandbox)) for sandbox in self._sandboxes]
            self._confinement, self._second = confinements[0], confinements[-1]
            # built while the suite is collected; the student's code is imported only after that
            self._confinement.prepare()
        run_suite(self.assignment.suite, self._plugin, self.assignment.limits.test_seconds)

    def _confine(self, submission: Submission, sandbox: Sandbox) -> Confinement:
        limits = self.assignment.limits
        return Confinement(
            sandbox,
            submission.files,
            wire.Load("", submission.module, self._seed("import"), submission.tolerant),
            Limits(
                cpu_seconds=int(self.job.seconds) + 1,
                memory_mb=limits.memory_mb,
                processes=limits.processes,
                file_mb=limits.file_mb,
            ),
            limits.import_seconds,
            self.job.folder,
            self.job.layers,
        )

    def _declare(self, tests: tuple[TestResult, ...]) -> bool:
        """Every test exists, with its points; only now is the student's code imported. Says whether it can be judged."""
        total = sum(test.max_score for test in tests)
        if abs(total - self.assignment.points) > 1e-9:
            raise SuiteError(
                f"The points of the suite in {self.assignment.suite} add up to {total:g}, but its assignment.toml says "
                f"{self.assignment.points:g}; correct one of them."
            )
        self.tests = {test.id: test for test in tests}
        self._publish(self._report(complete=False))
        if self._confinement is not None and self._script is not None:
            self._import(self._confinement, self._script)
        if self.problems:
            self.tests = {
                test.id: msgspec.structs.replace(test, outcome="failed", output=_COULD_NOT_RUN) for test in tests
            }
        return not self.problems

    def _import(self, confinement: Confinement, script: Script) -> None:
        confinement.enter()
        if not _ENFORCING & set(confinement.layers) and not self.job.unsafe:
            raise MachineError(
                "No wall stands on this machine (no uid of its own, no Landlock, no seccomp), so student code could read "
                "and change everything here; grade on Linux, or say --unsafe if you trust this submission."
            )
        try:
            loaded = confinement.load()
        except StudentError as error:
            self.problems.append(str(error))
            return
        if isinstance(loaded, wire.Raised):
            self.problems.append(str(raised(loaded, script, "Importing your file")))
            return
        self._names = frozenset(loaded.names)
        self._notes += [
            f"`{escape(name)}` is not installed in the grader; only what uses it is affected."
            for name in loaded.missing[:20]
        ]
        self._notes += [str(raised(error, script, "A cell of your notebook")) for error in loaded.raised[:5]]
        self._missing = {
            name: script.explain_missing(name, self._names) for name in self.assignment.names if name not in self._names
        }

    def _judged(self, result: TestResult) -> None:
        self.tests[result.id] = result
        self._publish(self._report(complete=False))

    def _open_student(self, test: str) -> tuple[Student, Callable[[], None]]:
        confinement, script = self._confinement, self._script
        if confinement is None or script is None:
            raise MachineError("a test ran although no submission was started; please report this")
        opened: list[Channel] = []
        limits = self.assignment.limits

        def open_channel() -> Channel:
            opened.append(confinement.open_test(self._seed(f"confined {test}"), limits.cpu_seconds))
            return opened[-1]

        def close() -> None:
            for channel in opened:
                channel.close()

        student = Student(
            open_channel,
            script,
            self._names,
            lambda name: self._missing.get(name) or script.explain_missing(name, self._names),
            self._budget,
            min(self._deadline, time.monotonic() + 3 * limits.test_seconds),
        )
        return student, close

    def _enter_lane(self) -> Callable[[], None]:
        """In a forked copy of this process: go on with the second confinement, which nobody else touches; how to leave it."""
        walls.die_with_parent()
        if self._second is None:
            raise MachineError("a second lane was opened without a second zygote; please report this")
        self._confinement = self._second
        return self._second.end

    def _seed(self, purpose: str) -> int:
        """A seed for one purpose (56 bits), from which the run's own seed cannot be found."""
        key = self.job.seed.to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(purpose.encode(), key=key, digest_size=7).digest(), "little")

    # ---- the report

    def finish(self) -> Report:
        """The complete report; what holds no verdict says so, and that it costs the student nothing."""
        ungraded = [test for test in self.tests.values() if test.outcome in ("not_graded", "not_reached")]
        if ungraded:
            points = sum(test.max_score for test in ungraded)
            self.problems.append(
                f"{len(ungraded)} of {len(self.tests)} tests ({points:g} points) could not be graded; "
                "this is no verdict on your work, and staff should grade it again."
            )
        return self._report(complete=True)

    def _report(self, *, complete: bool) -> Report:
        confinement = self._confinement
        return Report(
            assignment=self.assignment.name,
            tests=tuple(self.tests.values()),
            problems=(*self.problems, *self._missing.values()),
            notes=tuple(self._notes),
            leaderboard=tuple(self._plugin.leaderboard),
            printed=confinement.printed if confinement else "",
            seconds=round(time.monotonic() - self._started, 3),
            complete=complete,
            staff={
                "seed": self.job.seed,
                "walls": dict(confinement.layers) if confinement else {},
                "autograder": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
        )
