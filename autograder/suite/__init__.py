"""Layer 3: what authors of hidden suites use: the `student` fixture and, from here, `check`.

    from autograder.suite import check
"""

from autograder.suite import check

__all__ = ["check"]
