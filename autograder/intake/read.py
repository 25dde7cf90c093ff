"""Layer 3: `read_submission`, the whole of intake as one list of steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autograder.errors import SubmissionError, UsageError
from autograder.intake.archive import open_zip
from autograder.intake.choose import Choice, choose, is_python, only_zip
from autograder.intake.listing import Listing, open_file, open_folder
from autograder.intake.submission import Limits, Submission
from autograder.intake.syntax import problem
from autograder.intake.wording import listed, shown

__all__ = ["read_submission"]


def read_submission(path: Path, entry: str = "submission", *, limits: Limits = Limits()) -> Submission:  # noqa: B008  # frozen
    """Read untrusted code into a clean `Submission`. Runs nothing, writes nothing to disk.

    Args:
        path: A .py file, an .ipynb notebook, a .zip, or a folder. Links inside a folder are not followed.
        entry: Import name that the main module gets, whatever its file is called.
        limits: How much to read.

    Raises:
        SubmissionError: It cannot be read: nothing found, two candidates, a syntax error, a broken file, too large.
        UsageError: There is no such path, or it is a link.
        MachineError: The file system failed.
    """
    path = Path(path)
    if path.is_symlink():
        # Among many students' folders, a link could lead to the reference solution.
        raise UsageError(f"{path} is a link: give the file or folder itself.")
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a .py, .ipynb or .zip file, or a folder.")
    with _opened(path, limits) as listing:
        if path.is_file() and is_python(path.name):
            choice = Choice(path.name, {})
        else:
            try:
                choice = choose(listing.names, entry, shown(path.name) or "the folder")
            except SubmissionError as error:
                raise SubmissionError(" ".join((str(error), *listing.notes))) from None
        return _assemble(listing, choice, entry, limits)


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[Listing]:
    """List the path: a file, a folder, a zip, or a folder that holds nothing but a zip."""
    if path.is_dir():
        with open_folder(path, limits) as listing:
            inner = only_zip(listing.names)
            if inner is None:
                yield listing
                return
            data = listing.read(inner, limits.zip_bytes + 1)
        with open_zip(data, inner, limits) as listing:
            yield listing
    elif not path.is_file():
        raise UsageError(f"{path} is neither a file nor a folder: give a .py, .ipynb or .zip file, or a folder.")
    elif is_python(path.name):
        with open_file(path) as listing:
            yield listing
    elif path.suffix.lower() == ".zip":
        with open_file(path) as listing:
            data = listing.read(path.name, limits.zip_bytes + 1)
        with open_zip(data, path.name, limits) as listing:
            yield listing
    else:
        raise SubmissionError(f"{shown(path.name)} is not a .py, .ipynb or .zip file: hand in one of these.")


def _assemble(listing: Listing, choice: Choice, entry: str, limits: Limits) -> Submission:
    """Read the chosen files, check them, and turn a notebook into Python."""
    files, notes = _helpers(listing, choice, limits)
    notes = [*listing.notes, *choice.notes, *notes]
    given, main = choice.main.rpartition("/")[2], f"{entry}.py"
    origin: tuple[str, ...] = ()
    tolerant = given.lower().endswith(".ipynb")
    most = limits.notebook_bytes if tolerant else limits.source_bytes
    data = listing.read(choice.main, most + 1)
    if len(data) > most:
        raise SubmissionError(
            f"{shown(given)} is larger than {most >> 10} KiB: hand in your own code without data in it."
        )
    if tolerant:
        from autograder.intake.notebook import convert  # noqa: PLC0415  # its libraries are slow to import

        woven = convert(data, shown(given), frozenset(key.split("/")[0].removesuffix(".py") for key in files), limits)
        data, origin = woven.source.encode(), woven.origin
        notes += woven.notes
    elif clause := problem(data, given):
        raise SubmissionError(f"{clause}.")
    elif given != main:
        notes.append(f"{shown(given)} is graded as {main}.")
    return Submission(entry, {main: data, **files}, main, tolerant, tuple(notes), origin, shown(given))


def _helpers(listing: Listing, choice: Choice, limits: Limits) -> tuple[dict[str, bytes], list[str]]:
    """Read the helpers; one that Python cannot read, or a large one, costs itself alone."""
    if len(choice.helpers) >= limits.files:
        raise SubmissionError(
            f"The submission holds {len(choice.helpers) + 1} Python files, over the limit of {limits.files}: "
            "hand in only those that you wrote for it."
        )
    files: dict[str, bytes] = {}
    notes: list[str] = []
    large: list[str] = []
    total = 0
    for key, name in choice.helpers.items():
        data = listing.read(name, limits.source_bytes + 1)
        total += len(data)
        if total > limits.sources_bytes:
            raise SubmissionError(
                f"The submission's Python files are larger than {limits.sources_bytes >> 10} KiB together: "
                "hand in only those that you wrote for it."
            )
        if len(data) > limits.source_bytes:
            large.append(key)
            continue
        files[key] = data
        if len(notes) < 5 and (clause := problem(data, key)):
            notes.append(f"{clause}; importing it will fail.")
    if large:
        notes.append(f"Not read, because larger than {limits.source_bytes >> 10} KiB: {listed(large)}.")
    return files, notes
