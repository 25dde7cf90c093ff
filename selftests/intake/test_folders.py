"""Files and folders: which file is the main one, what goes with it, and what is never read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.errors import SubmissionError, UsageError
from autograder.intake import Limits, Submission, read_submission

SOURCE = b"class Model:\n    pass\n"


def fill(folder: Path, *names: str, **contents: bytes) -> Path:
    """Write a valid source under each name, or the given contents under `<key>.py`."""
    for name, data in {**dict.fromkeys(names, SOURCE), **{f"{key}.py": data for key, data in contents.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def refusal(path: Path, limits: Limits | None = None) -> str:
    """Return the sentence with which a path is refused."""
    with pytest.raises(SubmissionError) as caught:
        read_submission(path, limits=limits or Limits())
    return str(caught.value)


@pytest.mark.parametrize("name", ["submission.py", "my_work.py", "my work-2.py", "torch.py", "WORK.PY"])
def test_single_file_is_main_whatever_its_name(tmp_path: Path, name: str) -> None:
    """One file given is the main module under the entry's name, and nothing beside it is read."""
    fill(tmp_path, name, "helper.py")
    submission = read_submission(tmp_path / name)
    assert (submission.module, submission.main, submission.files) == (
        "submission",
        "submission.py",
        {"submission.py": SOURCE},
    )
    assert submission.place(7) == f"{name}, line 7"
    assert submission.source() == SOURCE.decode()
    assert not submission.tolerant


def test_entry_names_the_module(tmp_path: Path) -> None:
    """Another entry name gives another module and wins against other files."""
    fill(tmp_path, "hw1.py", "submission.py")
    submission = read_submission(tmp_path, "hw1")
    assert (submission.module, submission.main) == ("hw1", "hw1.py")
    assert set(submission.files) == {"hw1.py", "submission.py"}


def test_place_without_given_name_uses_main() -> None:
    """A `Submission` made by hand names its main file."""
    assert Submission("submission", {"submission.py": SOURCE}, "submission.py").place(7) == "submission.py, line 7"


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("submission.py", "other.py"), "submission.py"),
        (("submission.py", "other.ipynb"), "submission.py"),
        (("Submission.py", "other.py"), "Submission.py"),
        (("submission.py", "SUBMISSION.py"), "submission.py"),
        (("my_work.py", "layers/conv.py"), "my_work.py"),
        (("hw 2 (copy)/submission.py", "hw 2 (copy)/other.py", "readme.txt"), "submission.py"),
        (("__init__.py", "work.py"), "work.py"),
    ],
)
def test_main_file_in_folder(tmp_path: Path, names: tuple[str, ...], given: str) -> None:
    """The entry's name wins, then its name in other case, then the only candidate; one wrapping folder is opened."""
    submission = read_submission(fill(tmp_path, *names))
    assert submission.given == given
    assert submission.main == "submission.py"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ["No submission.py or submission.ipynb"]),
        (("readme.txt",), ["No submission.py or submission.ipynb"]),
        (("a/one.py", "b/two.py"), ["No submission.py", "a/one.py and b/two.py"]),
        (("submission.py", "submission.ipynb"), ["2 candidates", "submission.ipynb and submission.py", "one of them"]),
        (("Submission.py", "SUBMISSION.ipynb"), ["2 candidates", "one of them"]),
        (("one.py", "two.py"), ["2 candidates", "one.py and two.py", "submission.py"]),
        (("one.py", "two.ipynb"), ["2 candidates", "one.py and two.ipynb"]),
    ],
)
def test_nothing_or_two_candidates(tmp_path: Path, names: tuple[str, ...], words: list[str]) -> None:
    """Without exactly one candidate, the sentence names what was found and what to do."""
    message = refusal(fill(tmp_path, *names))
    assert [word for word in words if word not in message] == []


def test_helpers_keep_their_bytes_and_folders(tmp_path: Path) -> None:
    """Helpers that Python can import are kept beside the main file, byte for byte; others are named in a note."""
    names = ("submission.py", "layers/__init__.py", "layers/deep/conv.py", "my-helper.py", "class.py", "a.b/c.py")
    fill(tmp_path, *names, "data.csv", "old.ipynb", "submission/__init__.py", crlf=b"\xef\xbb\xbfx = 1\r\n")
    submission = read_submission(tmp_path)
    assert set(submission.files) == {"submission.py", "layers/__init__.py", "layers/deep/conv.py", "crlf.py"}
    assert submission.files["crlf.py"] == b"\xef\xbb\xbfx = 1\r\n"
    notes = " ".join(submission.notes)
    left_out = ("my-helper.py", "class.py", "a.b/c.py", "data.csv", "old.ipynb", "submission/__init__.py")
    assert [name for name in left_out if name not in notes] == []


def test_helper_named_like_the_standard_library_is_noted(tmp_path: Path) -> None:
    """A helper that shares its name with a module of Python's own is kept, with a note."""
    submission = read_submission(fill(tmp_path, "submission.py", "random.py"))
    assert "random.py" in submission.files
    assert any("random" in note and "Python's own" in note for note in submission.notes)


def test_junk_is_ignored_without_a_word(tmp_path: Path) -> None:
    """Caches, hidden files, macOS's doubles and virtual environments are neither read nor mentioned."""
    junk = ["__MACOSX/._submission.py", "._submission.py", ".DS_Store", "__pycache__/submission.cpython-311.pyc"]
    junk += [".ipynb_checkpoints/submission-checkpoint.ipynb", ".git/hooks/hook.py", "venv/lib/thing.py"]
    junk += ["my_env/pyvenv.cfg", "my_env/lib/thing.py", "node_modules/x/setup.py"]
    submission = read_submission(fill(tmp_path, "submission.py", *junk))
    assert submission.files == {"submission.py": SOURCE}
    assert submission.notes == ()


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    """Linked files and folders are left out with a note, whatever they lead to."""
    secret = fill(tmp_path / "secret", "solution.py", "package/__init__.py")
    folder = fill(tmp_path / "handed_in", "submission.py")
    (folder / "solution.py").symlink_to(secret / "solution.py")
    (folder / "package").symlink_to(secret / "package")
    (folder / "gone.py").symlink_to(tmp_path / "nowhere")
    submission = read_submission(folder)
    assert set(submission.files) == {"submission.py"}
    assert any("gone.py, package and solution.py" in note for note in submission.notes)


def test_linked_main_file_is_refused(tmp_path: Path) -> None:
    """A link named submission.py counts as nothing handed in, and the sentence says so."""
    (tmp_path / "real").write_bytes(SOURCE)
    folder = tmp_path / "handed_in"
    folder.mkdir()
    (folder / "submission.py").symlink_to(tmp_path / "real")
    message = refusal(folder)
    assert "No submission.py" in message
    assert "regular files" in message


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_linked_path_is_refused(tmp_path: Path, kind: str) -> None:
    """A path that is a link is refused: among students' folders it could lead to the solution."""
    fill(tmp_path, "real/submission.py")
    link = tmp_path / "link.py"
    link.symlink_to(tmp_path / ("real/submission.py" if kind == "file" else "real"))
    with pytest.raises(UsageError, match="is a link"):
        read_submission(link)


def test_pipe_in_a_folder_is_not_opened(tmp_path: Path) -> None:
    """A pipe is left out with a note; opening it would wait for ever."""
    os.mkfifo(fill(tmp_path, "submission.py") / "helper.py")
    submission = read_submission(tmp_path)
    assert set(submission.files) == {"submission.py"}
    assert any("helper.py" in note for note in submission.notes)


def test_path_that_is_no_submission(tmp_path: Path) -> None:
    """A missing path and a pipe are the caller's mistake; a file of another kind is the student's."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    for name, word in (("missing.py", "does not exist"), ("pipe.py", "neither a file nor a folder")):
        with pytest.raises(UsageError, match=word):
            read_submission(tmp_path / name)
    assert "report.pdf is not a .py, .ipynb or .zip file" in refusal(tmp_path / "report.pdf")


def test_limits_on_a_folder(tmp_path: Path) -> None:
    """Too many files, too large a main file and too much in all are refused; a large helper is left out."""
    fill(tmp_path, "submission.py", "a.py", "b.py", large=b"#" * 101)
    assert "over the limit of 3" in refusal(tmp_path, Limits(files=3))
    assert "more than 3 files" in refusal(tmp_path, Limits(listed=3))
    assert "together" in refusal(tmp_path, Limits(sources_bytes=120))
    assert "submission.py is larger" in refusal(tmp_path, Limits(source_bytes=len(SOURCE) - 1))
    submission = read_submission(tmp_path, limits=Limits(source_bytes=100))
    assert set(submission.files) == {"submission.py", "a.py", "b.py"}
    assert any("large.py" in note for note in submission.notes)


def test_names_cannot_disturb_a_sentence(tmp_path: Path) -> None:
    """File names with line breaks, colour codes or undecodable bytes are shown escaped, and short."""
    fill(tmp_path, "submission.py", "a\nb\x1b[31m.csv", "x" * 200 + ".csv")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    notes = " ".join(read_submission(tmp_path).notes)
    assert notes.isprintable()
    assert len(notes) < 300
    assert r"a\nb\x1b[31m.csv" in notes


def test_libraries_for_notebooks_are_imported_only_for_notebooks(tmp_path: Path) -> None:
    """Reading a .py file imports neither nbformat nor IPython, which take long to import."""
    fill(tmp_path, "submission.py")
    code = (
        "import sys; from pathlib import Path; from autograder.intake import read_submission; "
        f"read_submission(Path({str(tmp_path)!r})); print(sorted({{'nbformat', 'IPython'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
