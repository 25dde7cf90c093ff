"""First step of intake for a zip: check every member's name and kind, decompress in memory, up to a limit."""

import io
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from autograder.errors import SubmissionError
from autograder.intake.listing import Listing, is_junk, without_environments
from autograder.intake.submission import Limits
from autograder.intake.wording import shown

__all__ = ["open_zip"]

_MEMBER = b"PK\x01\x02"  # begins each entry of a zip's directory
_ENCRYPTED = 0x1


@contextmanager
def open_zip(data: bytes, name: str, limits: Limits) -> Iterator[Listing]:
    """List a zip that lies in memory; its headers are believed in nothing.

    Args:
        data: The zip's bytes.
        name: Its file name, for sentences.
        limits: How much to accept.

    Raises:
        SubmissionError: It is broken, holds too much, or a member is not a plain file with a plain relative name.
    """
    name = shown(name)
    # zipfile takes half a kilobyte of memory per entry before it lets us count them.
    if len(data) > limits.zip_bytes or data.count(_MEMBER) > limits.listed:
        raise SubmissionError(
            f"{name} is too large to be read (over {limits.zip_bytes >> 20} MiB or {limits.listed} files): "
            "hand in your Python files or notebook alone."
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile lets struct's, codecs' and its own errors through
        raise _broken(name, error) from error
    with archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            where = _checked(info, name)
            if not where or info.is_dir() or is_junk(where):
                continue
            _check_kind(info, name)
            if where in members:
                raise SubmissionError(f"{name} holds {shown(where)} twice: make the zip again, with each file once.")
            members[where] = info

        def read(where: str, limit: int) -> bytes:
            try:
                with archive.open(members[where]) as file:
                    return file.read(limit)
            except Exception as error:  # as above, and zlib's
                raise _broken(name, error) from error

        yield Listing(tuple(without_environments(members)), read)


def _broken(name: str, error: Exception) -> SubmissionError:
    return SubmissionError(
        f"{name} is not a readable zip ({shown(str(error) or type(error).__name__)}): make it again."
    )


def _checked(info: zipfile.ZipInfo, archive: str) -> str:
    """Return a member's normalised relative path, or refuse its name."""
    name = info.orig_filename
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise SubmissionError(
            f"{archive} holds {shown(name)!r}, which is not a plain relative path: zip your folder anew."
        )
    return "/".join(parts)


def _check_kind(info: zipfile.ZipInfo, archive: str) -> None:
    name = shown(info.filename)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise SubmissionError(f"{archive} holds {name}, which is a link or a device: put the file itself into the zip.")
    if info.flag_bits & _ENCRYPTED:
        raise SubmissionError(f"{archive} holds {name} encrypted: make the zip without a password.")
    # Of the other methods, bzip2 and LZMA cannot be decompressed with a bound on memory.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SubmissionError(f"{archive} holds {name} in an unusual compression: make an ordinary zip.")
