"""Layer 5: one assignment -> the zip that Gradescope unpacks into /autograder/source; from an include list."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from autograder.atomic import write_atomic
from autograder.errors import UsageError

__all__ = ["bundle"]

# Executed by the platform or by setup.sh: the run bit, and LF line ends even from a Windows checkout.
_SCRIPTS = ("setup.sh", "run_autograder", "tools/install-torch")
_BUILD = ("pyproject.toml", "README.md")
_PACKAGE_SUFFIXES = (".py", ".json")
# The zip format's first moment: the same sources give the same bytes.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_FILE, _EXECUTABLE = 0o100644, 0o100755


def bundle(root: Path, name: str, out: Path) -> tuple[str, ...]:
    """Writes the Gradescope zip of one assignment: what runs the grader and the hidden suite, and nothing else.

    Solutions, handouts, selftests, docs and version control are not on the list. The same sources give the same zip.

    Args:
        root: The repository's root.
        name: The assignment's name, such as "cnn".
        out: The zip to write; replaced whole or not at all, readable by its owner alone.

    Returns:
        The names of the zip's members, sorted.

    Raises:
        UsageError: There is no such assignment, a file of the list is missing, or `out` cannot be written.
    """
    members = _members(root, name)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member in members:
            executable = member in _SCRIPTS
            info = zipfile.ZipInfo(member, _TIMESTAMP)
            info.create_system = _UNIX
            info.external_attr = (_EXECUTABLE if executable else _FILE) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            data = (root / member).read_bytes()
            archive.writestr(info, data.replace(b"\r\n", b"\n") if executable else data)
    try:
        write_atomic(out, content.getvalue())
    except OSError as error:
        raise UsageError(
            f"The zip could not be written to {out} ({error.strerror}); choose a folder that exists."
        ) from error
    return members


def _members(root: Path, name: str) -> tuple[str, ...]:
    """Returns the names of the zip's members, relative to the root, sorted."""
    known = sorted(path.parent.name for path in root.glob("assignments/*/assignment.toml"))
    if name not in known:
        raise UsageError(
            f"There is no assignment {name!r} under {root / 'assignments'}; it has {', '.join(known) or 'none'}: "
            "give one of these names, or add the folder with its assignment.toml."
        )
    suite = root / "tests" / name
    if not any(suite.glob("test_*.py")):
        raise UsageError(f"The assignment {name!r} has no hidden suite: {suite} holds no test_*.py; add one.")
    members = [*_SCRIPTS, *_BUILD, f"assignments/{name}/assignment.toml"]
    for member in members:
        if not (root / member).is_file():
            raise UsageError(f"The zip needs {member}, which {root} does not hold; bundle from a whole checkout.")
    package = (path for path in _files(root / "autograder") if path.suffix in _PACKAGE_SUFFIXES)
    members += [path.relative_to(root).as_posix() for path in (*package, *_files(suite))]
    return tuple(sorted(members))


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder, without hidden ones and what Python and its tools leave behind."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(
            part.startswith((".", "__pycache__")) or part.endswith(("~", ".pyc")) for part in parts
        ):
            yield path
