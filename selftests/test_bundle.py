"""The Gradescope zip: what must be in it, what must never be, and the same bytes each time."""

import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from autograder.bundle import bundle
from autograder.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with one assignment, and everything that must stay out of a zip."""
    root = tmp_path / "checkout"
    files = {
        "setup.sh": "#!/usr/bin/env bash\r\ntrue\r\n",
        "run_autograder": "#!/usr/bin/env bash\n",
        "tools/install-torch": "#!/usr/bin/env bash\n",
        "pyproject.toml": "",
        "README.md": "",
        "Makefile": "",
        ".git/config": "",
        "autograder/__init__.py": "",
        "autograder/reporters/gradescope.schema.json": "{}",
        "autograder/__pycache__/x.cpython-310.pyc": "",
        "autograder/notes.txt": "",
        "assignments/cnn/assignment.toml": "",
        "assignments/cnn/submission.py": "",
        "assignments/rnn/assignment.toml": "",
        "tests/cnn/test_a.py": "x = '\r\n'",
        "tests/cnn/conftest.py": "",
        "tests/cnn/helper.py": "",
        "tests/cnn/data/digits.npz": "",
        "tests/cnn/.DS_Store": "",
        "tests/cnn/test_a.py~": "",
        "tests/cnn/__pycache__/x.pyc": "",
        "tests/rnn/test_secret.py": "",
        "solutions/cnn/submission.py": "",
        "selftests/test_a.py": "",
        "docs/a.md": "",
        "benchmarks/a.py": "",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return root


def test_holds_the_include_list_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    """The zip holds the grader and one hidden suite: no solution, no other assignment, no leftovers."""
    out = tmp_path / "cnn.zip"
    expected = [
        "README.md",
        "assignments/cnn/assignment.toml",
        "autograder/__init__.py",
        "autograder/reporters/gradescope.schema.json",
        "pyproject.toml",
        "run_autograder",
        "setup.sh",
        "tests/cnn/conftest.py",
        "tests/cnn/data/digits.npz",
        "tests/cnn/helper.py",
        "tests/cnn/test_a.py",
        "tools/install-torch",
    ]
    assert list(bundle(checkout, "cnn", out)) == expected
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == expected
    assert out.stat().st_mode & 0o777 == 0o600


def test_the_scripts_can_be_executed(checkout: Path, tmp_path: Path) -> None:
    """Scripts carry the run bit and LF line ends, also from a Windows checkout; other files come as they are."""
    bundle(checkout, "cnn", tmp_path / "cnn.zip")
    with zipfile.ZipFile(tmp_path / "cnn.zip") as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            assert stat.S_ISREG(mode)
            script = info.filename in ("setup.sh", "run_autograder", "tools/install-torch")
            assert bool(mode & 0o111) == script
        assert archive.read("setup.sh") == b"#!/usr/bin/env bash\ntrue\n"
        assert archive.read("tests/cnn/test_a.py") == b"x = '\r\n'"


def test_the_same_sources_give_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    """Neither a file's time, nor its mode, nor the place of the checkout changes the zip."""
    bundle(checkout, "cnn", tmp_path / "one.zip")
    other = tmp_path / "elsewhere"
    shutil.copytree(checkout, other)
    for path in other.rglob("*"):
        path.chmod(0o700)
    os.utime(other / "setup.sh", (1_000_000_000, 1_000_000_000))
    bundle(other, "cnn", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("name", ["mlp", "../cnn", "", "."])
def test_an_unknown_assignment_is_a_usage_error(checkout: Path, tmp_path: Path, name: str) -> None:
    """The sentence names the assignments that exist, and no zip is written."""
    with pytest.raises(UsageError, match="it has cnn, rnn"):
        bundle(checkout, name, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("missing", ["setup.sh", "tools/install-torch", "pyproject.toml", "tests/cnn/test_a.py"])
def test_a_missing_file_is_a_usage_error(checkout: Path, tmp_path: Path, missing: str) -> None:
    """A zip that could not run is not made, and one that was made before stays."""
    out = tmp_path / "cnn.zip"
    out.write_bytes(b"older")
    (checkout / missing).unlink()
    with pytest.raises(UsageError, match=r"setup\.sh|install-torch|pyproject|test_\*\.py"):
        bundle(checkout, "cnn", out)
    assert out.read_bytes() == b"older"


def test_an_unwritable_place_is_a_usage_error(checkout: Path, tmp_path: Path) -> None:
    """A folder that does not exist is one sentence."""
    with pytest.raises(UsageError, match="choose a folder that exists"):
        bundle(checkout, "cnn", tmp_path / "gone" / "cnn.zip")


@pytest.mark.parametrize("script", ["setup.sh", "run_autograder", "tools/install-torch"])
def test_our_scripts_are_what_the_platform_can_execute(script: str) -> None:
    """Each script of this repository has a shebang, LF line ends, the run bit, and parses."""
    path = ROOT / script
    content = path.read_bytes()
    assert content.startswith(b"#!/usr/bin/env bash\n")
    assert b"\r" not in content
    assert path.stat().st_mode & 0o111
    subprocess.run(["/bin/bash", "-n", path], check=True)
