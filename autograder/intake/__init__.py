"""Layer 3: an untrusted file, zip or folder in; a clean `Submission` out. Nothing of it is run, or written to disk."""

from autograder.intake.read import read_submission
from autograder.intake.script import Script
from autograder.intake.submission import Limits, Submission

__all__ = ["Limits", "Script", "Submission", "read_submission"]
