"""Layer 3: what authors of hidden suites use: the `student` fixture and, imported from here, `check`."""

from autograder.suite import check

__all__ = ["check"]
