"""autograder grades PyTorch homework: confined code runs it, a hidden pytest suite on the other side of a wall judges it.

Start reading in `grade.py`: the pipeline from one submission to one `Report`.
"""

__version__ = "0.1.0"
