"""First step of intake: what a folder or a single file holds. Names only; bytes are read on request, up to a limit."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from autograder.errors import MachineError, SubmissionError
from autograder.intake.submission import Limits
from autograder.intake.wording import listed

__all__ = ["Listing", "is_junk", "open_file", "open_folder", "without_environments"]

_JUNK = frozenset(
    {"__macosx", "__pycache__", "venv", "env", "site-packages", "node_modules", "thumbs.db", "desktop.ini"}
)
_ENVIRONMENT = "pyvenv.cfg"  # every virtual environment holds one at its root, whatever its name


class Listing(msgspec.Struct, frozen=True):
    """What an upload holds.

    Attributes:
        names: POSIX relative paths of its regular files, junk left out, sorted.
        read: Returns a file's first bytes, at most as many as asked for.
        notes: Sentences about what was left out.
    """

    names: tuple[str, ...]
    read: Callable[[str, int], bytes]
    notes: tuple[str, ...] = ()


def is_junk(name: str) -> bool:
    """Tell whether a path is made by a tool: hidden files, caches, virtual environments, macOS's doubles."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in name.split("/"))


def without_environments(names: Iterable[str]) -> list[str]:
    """Leave out the files of every virtual environment; returns the rest, sorted."""
    names = sorted(names)
    roots = tuple(name.removesuffix(_ENVIRONMENT) for name in names if name.endswith("/" + _ENVIRONMENT))
    return [name for name in names if not name.startswith(roots)] if roots else names


@contextmanager
def open_file(path: Path) -> Iterator[Listing]:
    """List a single file, by its own name.

    Raises:
        MachineError: The file cannot be read.
    """

    def read(name: str, limit: int) -> bytes:
        return _read_beneath(path.parent, name, limit)

    yield Listing((path.name,), read)


@contextmanager
def open_folder(root: Path, limits: Limits) -> Iterator[Listing]:
    """List a folder's regular files; links, devices, sockets and pipes are left out with a note.

    Raises:
        SubmissionError: It holds too much.
        MachineError: It cannot be read.
    """
    names: list[str] = []
    odd: list[str] = []
    try:
        for folder, folders, files, descriptor in os.fwalk(root, onerror=_stop, follow_symlinks=False):
            inside = Path(folder).relative_to(root)
            if _ENVIRONMENT in files and inside.parts:
                folders.clear()
                continue
            for name in files + folders:
                where = (inside / name).as_posix()
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                if is_junk(where) or stat.S_ISDIR(mode):
                    continue
                (names if stat.S_ISREG(mode) else odd).append(where)
            folders[:] = sorted(name for name in folders if not is_junk(name))
            if len(inside.parts) >= limits.depth:
                folders.clear()
            if len(names) + len(odd) > limits.listed:
                raise SubmissionError(
                    f"The submission holds more than {limits.listed} files: hand in your Python files alone."
                )
    except OSError as error:
        raise MachineError(f"Cannot list the folder {root}: {error.strerror}.") from error
    notes = (
        (f"Left out, because only regular files are read (no links, pipes or devices): {listed(sorted(odd))}.",)
        if odd
        else ()
    )
    yield Listing(tuple(sorted(names)), lambda name, limit: _read_beneath(root, name, limit), notes)


def _stop(error: OSError) -> None:
    raise error


def _read_beneath(root: Path, name: str, limit: int) -> bytes:
    """Read up to `limit` bytes of a regular file below `root`, following no link on the way."""
    *folders, last = name.split("/")
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(folder, flags, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        opened.append(os.open(last, flags, dir_fd=opened[-1]))
        if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
            raise SubmissionError(f"{listed([name])} is not a regular file: hand in the file itself.")
        with os.fdopen(opened.pop(), "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise MachineError(f"Cannot read {listed([name])} in {root}: {error.strerror}.") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
