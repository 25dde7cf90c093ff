"""How long grading one submission takes from a cold start, as a ratio to what no PyTorch grader can avoid: `import torch`.

    .venv/bin/python benchmarks/cold.py [--runs 5]

Runs `autograder grade cnn` on the reference solution and `python -c "import torch"` in turn, as whole processes, and prints the median of
the ratios pair by pair: a ratio holds on a machine whose speed drifts, an absolute time does not.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds(command: list[str]) -> float:
    """Wall time of one whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--submission", default="solutions/cnn/submission.py")
    options = parser.parse_args()
    bare = [sys.executable, "-c", "import torch"]
    whole = [sys.executable, "-m", "autograder", "grade", "cnn", options.submission]
    seconds(bare), seconds(whole)  # the page cache, once for both
    pairs = [(seconds(whole), seconds(bare)) for _ in range(options.runs)]
    ratios = [graded / imported for graded, imported in pairs]
    for graded, imported in pairs:
        print(f"autograder grade {graded:.2f} s   import torch {imported:.2f} s   ratio {graded / imported:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (of {len(ratios)}; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
