"""Layer 1: what a session asks of its worker, and what the worker answers. Frames between two trusted processes of ours."""

import msgspec

from autograder.report import Report

__all__ = ["Failed", "Finished", "Job", "Outcome", "Progress"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to grade, and how.

    Attributes:
        assignment: Its name or folder.
        submission: Absolute path of a .py, .ipynb, .zip or folder.
        seed: The secret seed that every value a test draws is derived from; 0 <= seed < 2**63.
        seconds: Wall time that the whole run may take.
        layers: The walls to build; None for all.
        unsafe: Grade even where no wall stands.
        folder: Where files may be laid out while grading; the session makes it, and removes it whatever happens to the worker.
    """

    assignment: str
    submission: str
    seed: int
    seconds: float
    layers: tuple[str, ...] | None = None
    unsafe: bool = False
    folder: str = ""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """The report so far."""

    report: Report


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The complete report."""

    report: Report


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Grading did not get as far as a report: the error's class in `errors.py`, its sentence, and the traceback for --debug."""

    error: str
    sentence: str
    trace: str


Outcome = Progress | Finished | Failed
