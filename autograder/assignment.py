"""Layer 1: `assignment.toml`, what is fixed about an assignment before anything runs.

It lies at `assignments/<name>/assignment.toml`; the hidden suite at `tests/<name>/` and the reference solution at `solutions/<name>/`
stand beside `assignments/`.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from autograder.errors import SuiteError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Assignment", "Limits", "read_assignment"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one submission may use. Seconds are wall time unless they say CPU.

    The defaults suit Gradescope's smallest container, half a CPU and 0.75 GB, where a test of the `cnn` suite takes about 0.1 s.
    """

    test_seconds: float = 8.0
    import_seconds: float = 20.0
    total_seconds: float = 540.0
    cpu_seconds: int = 20
    memory_mb: int = 384
    processes: int = 32
    file_mb: int = 64


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One assignment.

    Attributes:
        name: Its folder's name, such as "cnn".
        title: What people call it.
        entry: Name of the student's main file, without its ending.
        names: What the student's module must define.
        points: What the hidden suite's points must add up to.
        limits: See `Limits`.
        folder: Where its `assignment.toml` lies.
    """

    name: str
    title: str
    entry: str = "submission"
    names: tuple[str, ...] = ()
    points: float
    limits: Limits = Limits()
    folder: Path

    @property
    def suite(self) -> Path:
        """The hidden suite's folder."""
        return self.folder.parent.parent / "tests" / self.name

    @property
    def solution(self) -> Path:
        """The reference solution's folder."""
        return self.folder.parent.parent / "solutions" / self.name


def _roots() -> list[Path]:
    """Where an assignment's name is looked up: the working directory, then the checkout this package lies in."""
    return [Path.cwd(), Path(__file__).resolve().parent.parent]


def read_assignment(name_or_folder: str) -> Assignment:
    """Find and read an assignment.

    Args:
        name_or_folder: "cnn", or the folder that holds `assignment.toml`.

    Raises:
        UsageError: There is no such assignment.
        SuiteError: Its `assignment.toml` is wrong.
    """
    tried = [Path(name_or_folder), *(root / "assignments" / name_or_folder for root in _roots())]
    folder = next((path.resolve() for path in tried if (path / "assignment.toml").is_file()), None)
    if folder is None:
        known = sorted({path.parent.name for root in _roots() for path in root.glob("assignments/*/assignment.toml")})
        raise UsageError(
            f"There is no assignment {name_or_folder!r}; "
            + (f"known here: {', '.join(known)}." if known else "give the folder that holds its assignment.toml.")
        )
    path = folder / "assignment.toml"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert({**data, "name": folder.name, "folder": folder}, Assignment)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path} cannot be used: {error}; correct it and grade again.") from error
