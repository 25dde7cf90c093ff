"""Layer 0: everything that can go wrong, sorted by whose fault it is.

AutograderError
├── StudentError      the submission is at fault: it loses points, with the reason shown to the student
│   ├── SubmissionError   the submission cannot be read at all: nothing found, two candidates, a syntax error
│   ├── StudentRaised     student code raised an exception
│   ├── StudentStopped    the student's process ended, or was ended at a limit, instead of answering
│   └── StudentForged     an answer came that the student's process could only have made up
├── SuiteError        the hidden suite or the assignment is at fault: tests become "not graded"
├── MachineError      this machine is at fault (no memory, no disk, a dead grader): tests become "not graded"
└── UsageError        the command line is at fault: exit code 2

Every message is one sentence: what was wrong, with the value, and what to do about it.
"""

__all__ = [
    "AutograderError",
    "MachineError",
    "StudentError",
    "StudentForged",
    "StudentRaised",
    "StudentStopped",
    "SubmissionError",
    "SuiteError",
    "UsageError",
]


class AutograderError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        trace: The traceback of the process in which it was raised, where that was another one.
    """

    trace: str = ""


class StudentError(AutograderError):
    """The submission did something it should not have done, or did not do what it should."""


class SubmissionError(StudentError):
    """The submission as a whole cannot be read: every declared test scores 0 and this sentence comes first."""


class StudentRaised(StudentError):
    """Student code raised an exception; the message holds the student's own lines and no others.

    Attributes:
        kind: The exception's class name, such as "RuntimeError".
        missing: The module that is not installed here, where that is the cause; else "".
    """

    def __init__(self, message: str, kind: str = "", missing: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.missing = missing


class StudentStopped(StudentError):
    """The student's process ended, or was ended at a limit, instead of answering.

    Attributes:
        timed_out: Whether a time limit was what ended it.
    """

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class StudentForged(StudentError):
    """An answer came that is not what the protocol says: only student code writing to the wire makes such."""


class SuiteError(AutograderError):
    """The hidden suite or `assignment.toml` is wrong: no student may lose points for it."""


class MachineError(AutograderError):
    """The machine failed while grading: no student may lose points for it."""


class UsageError(AutograderError):
    """The command was given something it cannot work with."""
