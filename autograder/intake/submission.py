"""What intake hands on: the `Submission`, and the `Limits` under which it is read."""

import importlib.util

import msgspec

__all__ = ["Limits", "Submission"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an untrusted upload is read.

    Attributes:
        listed: Entries of any kind in a folder or zip, junk included.
        files: Python files kept.
        depth: Folders inside each other.
        source_bytes: Bytes of one Python source, or of all code cells of a notebook together.
        sources_bytes: Bytes of all Python sources together.
        notebook_bytes: Bytes of a notebook; more than a source, for plots are stored in it.
        notebook_brackets: JSON objects and lists in a notebook: what its size in memory depends on.
        zip_bytes: Bytes of the zip itself.
    """

    listed: int = 50_000
    files: int = 200
    depth: int = 12
    # Python's syntax tree takes up to 900 bytes of memory per byte of source: 1 MiB would not fit a small container.
    source_bytes: int = 256 * 1024
    sources_bytes: int = 4 * 1024**2
    notebook_bytes: int = 16 * 1024**2
    notebook_brackets: int = 300_000
    zip_bytes: int = 64 * 1024**2


class Submission(msgspec.Struct, frozen=True):
    """One student's code, read and checked but never run.

    Attributes:
        module: The main module's import name, such as "submission".
        files: POSIX relative path to bytes of Python source: the main file and helpers, subpackages included. A .py
            file keeps its original bytes, so that Python itself reads byte order mark, line ends and coding line.
        main: The main file's key in `files`, such as "submission.py".
        tolerant: True for a notebook: the loader goes on after a top-level statement that raises.
        notes: Sentences for the student: what was left out, and why.
        origin: For a notebook, the place of each line of the generated main source, such as "cell 3, line 5". Cells are
            counted from 1 among the code cells; text cells are not counted. Empty for a .py file.
        given: The main file's name as the student gave it, such as "my_work.ipynb"; empty means `main`.
    """

    module: str
    files: dict[str, bytes]
    main: str
    tolerant: bool = False
    notes: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    given: str = ""

    def source(self) -> str:
        """Return the main file's text, decoded as Python decodes it."""
        return importlib.util.decode_source(self.files[self.main])

    def place(self, line: int) -> str:
        """Say where a line of the main source stands, in the student's terms.

        Args:
            line: Line number, counted from 1.

        Returns:
            "submission.py, line 7", or "submission.ipynb, cell 3, line 5"; the file alone for a line that a notebook
            does not have.
        """
        name = self.given or self.main
        if not self.tolerant:
            return f"{name}, line {line}"
        return f"{name}, {self.origin[line - 1]}" if 0 < line <= len(self.origin) else name
