"""The command line as a person meets it: whole processes, their output and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selftests.conftest import ROOT

SOLUTION = ROOT / "solutions" / "cnn" / "submission.py"


def _run(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "autograder", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


def test_grade_prints_and_writes_the_report(tmp_path: Path) -> None:
    """The reference gets 100 of 100 on screen and in results.json, and the seed is recorded for staff."""
    results = tmp_path / "results.json"
    done = _run("grade", "cnn", str(SOLUTION), "--results", str(results), "--seed", "11")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Total 100 of 100")
    written = json.loads(results.read_text())
    assert written["score"] == 100
    assert sum(test["max_score"] for test in written["tests"]) == 100
    assert str(written["extra_data"]["seed"]) == "11"


def test_a_wrong_answer_is_graded_with_exit_code_0(tmp_path: Path) -> None:
    """A submission that loses points is graded all the same: exit code 0, its failures on screen."""
    source = SOLUTION.read_text(encoding="utf-8").replace("class ModuleDropout", "class ModuleDropOut")
    path = tmp_path / "submission.py"
    path.write_text(source, encoding="utf-8")
    done = _run("grade", "cnn", str(path))
    assert done.returncode == 0
    assert "does not define `ModuleDropout`" in " ".join(done.stdout.split())
    assert "Total 95 of 100" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("grade", "rnn", str(SOLUTION)), 2, "no assignment 'rnn'"),
        (("grade", "cnn", "/nowhere/submission.py"), 2, "/nowhere/submission.py"),
        (("grade", "cnn", str(SOLUTION), "--results", "/nowhere/results.json"), 2, "no folder /nowhere"),
        (("grade", "cnn"), 2, "Missing argument"),
        (("bundle", "rnn"), 2, "no assignment 'rnn'"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...], code: int, words: str) -> None:
    """Usage errors name the value, show no traceback, and exit with 2."""
    done = _run(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    """The version is printed."""
    assert _run("--version").stdout.startswith("autograder 0.")
