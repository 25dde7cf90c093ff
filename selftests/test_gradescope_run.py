"""The whole way on Gradescope, for real: zip, setup.sh once, run_autograder per submission, results.json.

The platform is laid out in a scratch folder: source/ unpacked from the zip, run_autograder copied beside it,
submission/ and results/ made anew for each run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autograder.bundle import bundle
from autograder.reporters.gradescope import validate

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "solutions" / "cnn" / "submission.py"
METADATA = {
    "id": 41,
    "created_at": "2025-02-03T10:00:00.000000-08:00",
    "submission_method": "upload",
    "users": [{"id": 7, "email": "ada@example.com", "name": "Ada", "sid": "", "assignment": {"late_due_date": None}}],
    "assignment_id": None,
    "assignment": {"id": 3, "title": "CNN", "total_points": "100.0", "group_submission": False, "outline": []},
    "previous_submissions": [{"id": 40, "score": "20.0", "autograder_error": False, "results": None}],
}

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"),
    reason="Gradescope runs setup.sh and run_autograder as root",
)

Run = Callable[[str], dict[str, Any]]


def environment(**more: str) -> dict[str, str]:
    """This session's environment, without what would lead a script into this session's own virtual environment."""
    return {**{key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}, **more}


@pytest.fixture(scope="module")
def platform() -> Iterator[Path]:
    """`/autograder` in a scratch folder after setup.sh; that folder is readable by all, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="gradescope-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        autograder = scratch / "autograder"
        source = autograder / "source"
        source.mkdir(parents=True)
        bundle(ROOT, "cnn", scratch / "cnn.zip")
        with zipfile.ZipFile(scratch / "cnn.zip") as archive:
            archive.extractall(source)
        shutil.copyfile(source / "run_autograder", autograder / "run_autograder")
        (autograder / "run_autograder").chmod(0o755)
        done = subprocess.run(
            ["/bin/bash", source / "setup.sh"],
            env=environment(AUTOGRADER_VENV=str(scratch / "venv")),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("autograder ")
        yield autograder


@pytest.fixture
def run(platform: Path) -> Run:
    """Grades one submission.py, given its text, and gives back the content of results.json."""

    def grade(submission: str) -> dict[str, Any]:
        for name in ("submission", "results"):
            shutil.rmtree(platform / name, ignore_errors=True)
            (platform / name).mkdir()
        (platform / "submission" / "submission.py").write_text(submission)
        (platform / "submission_metadata.json").write_text(json.dumps(METADATA))
        done = subprocess.run(
            [platform / "run_autograder"],
            env=environment(AUTOGRADER_VENV=str(platform.parent / "venv"), TIMEOUT_SECONDS="600"),
            cwd=platform,
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, done.stderr)  # noqa: T201  # pytest shows it where a test fails
        path = platform / "results" / "results.json"
        assert path.stat().st_mode & 0o077 == 0, "student code could read the results"
        assert [entry.name for entry in path.parent.iterdir()] == ["results.json"], done.stderr
        results: dict[str, Any] = json.loads(path.read_bytes())
        validate(results)
        return results

    return grade


def test_setup_locks_the_suite_and_leaves_the_grader_readable(platform: Path) -> None:
    """Nobody but root may read source/; the confined user can read the virtual environment that it runs from."""
    source = platform / "source"
    open_to_others = [path for path in (source, *source.rglob("*")) if path.stat().st_mode & 0o077]
    assert open_to_others == []
    package = next((platform.parent / "venv" / "lib").glob("python*/site-packages/autograder"))
    assert not package.is_symlink()
    assert package.stat().st_mode & 0o005 == 0o005
    assert not any("test_" in path.name for path in package.rglob("*.py"))


def test_the_reference_gets_full_marks(run: Run) -> None:
    """The reference solution scores 100 with every declared test passed, and staff see which attempt it was."""
    results = run(REFERENCE.read_text())
    assert [test["name"] for test in results["tests"] if test["status"] != "passed"] == [], results["output"]
    assert results["score"] == 100
    assert sum(test["max_score"] for test in results["tests"]) == 100
    assert results["extra_data"]["submission"]["attempt"] == 2


def test_a_syntax_error_costs_every_test_and_hides_none(run: Run) -> None:
    """A submission that does not parse gets every declared test at 0, and the reason first."""
    results = run("def broken(:\n")
    assert results["score"] == 0
    assert sum(test["max_score"] for test in results["tests"]) == 100
    assert {test["status"] for test in results["tests"]} == {"failed"}
    assert results["output"].startswith("**Problem:** ")
    assert "line 1" in results["output"]


def test_a_grader_that_cannot_start_still_leaves_results(platform: Path, tmp_path: Path) -> None:
    """Without the virtual environment, run_autograder itself writes valid results that blame no student."""
    shutil.copy(platform / "run_autograder", tmp_path / "run_autograder")
    done = subprocess.run(
        [tmp_path / "run_autograder"],
        env=environment(AUTOGRADER_VENV=str(tmp_path / "gone")),
        cwd="/",
        capture_output=True,
        check=False,
    )
    results = json.loads((tmp_path / "results" / "results.json").read_bytes())
    validate(results)
    assert results["score"] == 0
    assert "not the fault of your submission" in results["output"]
    assert done.returncode != 0
