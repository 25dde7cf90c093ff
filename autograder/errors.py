"""Layer 0: everything that can go wrong, sorted by whose fault it is.

AutograderError
├── StudentError      the submission is at fault: it loses points, with the reason shown to the student
│   └── SubmissionError   the submission cannot be read at all: nothing found, two candidates, a syntax error
├── SuiteError        the hidden suite or the assignment is at fault: tests become "not graded"
├── MachineError      this machine is at fault (no memory, no disk, a dead grader): tests become "not graded"
└── UsageError        the command line is at fault: exit code 2

Every message is one sentence: what was wrong, with the value, and what to do about it.
"""

__all__ = ["AutograderError", "MachineError", "StudentError", "SubmissionError", "SuiteError", "UsageError"]


class AutograderError(Exception):
    """Base of every error this package raises on purpose."""


class StudentError(AutograderError):
    """The submission did something it should not have done, or did not do what it should."""


class SubmissionError(StudentError):
    """The submission as a whole cannot be read: every declared test scores 0 and this sentence comes first."""


class SuiteError(AutograderError):
    """The hidden suite or `assignment.toml` is wrong: no student may lose points for it."""


class MachineError(AutograderError):
    """The machine failed while grading: no student may lose points for it."""


class UsageError(AutograderError):
    """The command was given something it cannot work with."""
