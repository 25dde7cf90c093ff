"""Zips: nothing in them is believed, nothing is written to disk, and every refusal is one sentence."""

import io
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from autograder.errors import SubmissionError
from autograder.intake import Limits, read_submission
from autograder.intake.archive import open_zip

SOURCE = b"class Model:\n    pass\n"


def zipped(*names: str, data: bytes = SOURCE, mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip in which each name holds the same data."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns about a name written twice
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, method)
    return buffer.getvalue()


def refusal(folder: Path, data: bytes, limits: Limits | None = None) -> str:
    """Return the sentence with which a zip is refused."""
    path = folder / "handed_in.zip"
    path.write_bytes(data)
    with pytest.raises(SubmissionError) as caught:
        read_submission(path, limits=limits or Limits())
    return str(caught.value)


def test_zip_with_wrapping_folder_helpers_and_junk(tmp_path: Path) -> None:
    """One wrapping folder, helpers and macOS's additions come out as from a folder."""
    names = ("hw/", "hw/submission.py", "hw/layers/conv.py", "__MACOSX/hw/._submission.py", "./hw/readme.md")
    (tmp_path / "x.zip").write_bytes(zipped(*names, "hw/env9/pyvenv.cfg", "hw/env9/lib/thing.py"))
    submission = read_submission(tmp_path / "x.zip")
    assert submission.files == {"submission.py": SOURCE, "layers/conv.py": SOURCE}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


def test_folder_that_holds_just_a_zip(tmp_path: Path) -> None:
    """The one zip in a folder is read, but a zip inside that zip is not."""
    (tmp_path / "work.ZIP").write_bytes(zipped("submission.py"))
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert read_submission(tmp_path).files == {"submission.py": SOURCE}
    (tmp_path / "work.ZIP").write_bytes(zipped("inner.zip", data=zipped("submission.py")))
    with pytest.raises(SubmissionError, match=r"No submission\.py"):
        read_submission(tmp_path)


def test_zip_beside_python_files_is_not_read(tmp_path: Path) -> None:
    """A zip beside a submission is one of the files that are not read."""
    (tmp_path / "work.zip").write_bytes(b"not even a zip")
    (tmp_path / "submission.py").write_bytes(SOURCE)
    assert any("work.zip" in note for note in read_submission(tmp_path).notes)


@pytest.mark.parametrize(
    "name", ["/etc/submission.py", "../submission.py", "a/../../b.py", "a\\submission.py", "C:/submission.py", "c:x.py"]
)
def test_member_names_that_leave_the_zip(tmp_path: Path, name: str) -> None:
    """Absolute paths, climbing paths, backslashes and drive letters are refused."""
    assert "not a plain relative path" in refusal(tmp_path, zipped("submission.py", name))


def test_null_byte_in_a_member_name(tmp_path: Path) -> None:
    """A name that zipfile would cut at a null byte is refused."""
    data = zipped("submission.pyX.txt").replace(b"submission.pyX", b"submission.py\0")
    assert "not a plain relative path" in refusal(tmp_path, data)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip(tmp_path: Path, mode: int) -> None:
    """A member that is a link or a device is refused."""
    assert "a link or a device" in refusal(tmp_path, zipped("submission.py", mode=mode, data=b"/etc/passwd"))


def test_links_inside_junk_do_not_matter(tmp_path: Path) -> None:
    """A virtual environment's links cost nothing, for it is not read."""
    buffer = io.BytesIO(zipped("submission.py"))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo(".venv/bin/python")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, b"/usr/bin/python3")
    (tmp_path / "x.zip").write_bytes(buffer.getvalue())
    assert set(read_submission(tmp_path / "x.zip").files) == {"submission.py"}


def test_duplicate_members(tmp_path: Path) -> None:
    """Two members of one name are refused, also where the names differ in form only."""
    assert "twice" in refusal(tmp_path, zipped("submission.py", "submission.py"))
    assert "twice" in refusal(tmp_path, zipped("submission.py", "./submission.py"))


def test_encrypted_member(tmp_path: Path) -> None:
    """A member that is marked encrypted is refused with the remedy."""
    data = bytearray(zipped("submission.py"))
    data[data.find(b"PK\x01\x02") + 8] |= 1
    assert "without a password" in refusal(tmp_path, bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression(tmp_path: Path, method: int) -> None:
    """Compression that cannot be undone within a bound on memory is refused."""
    assert "unusual compression" in refusal(tmp_path, zipped("submission.py", method=method))


@pytest.mark.parametrize("cut", [0, 1, 30, 60, -1, -23])
def test_truncated_zip(tmp_path: Path, cut: int) -> None:
    """A zip that was cut off is not readable, wherever it was cut."""
    assert "not a readable zip" in refusal(tmp_path, zipped("submission.py", data=SOURCE * 50)[:cut])


def test_every_flipped_byte_is_read_or_refused(tmp_path: Path) -> None:
    """Whatever byte of a zip is broken, it is read or refused with a sentence, and never raises anything else."""
    whole = zipped("submission.py", "a.py")
    path = tmp_path / "x.zip"
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :])
        try:
            read_submission(path)
        except SubmissionError as error:
            assert str(error).isprintable()  # noqa: PT017  # some are read, so that `raises` does not fit


def test_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A tiny zip that would unpack to 256 MiB is refused at the limit, and so is one with many large members."""
    assert "larger than 256 KiB" in refusal(tmp_path, zipped("submission.py", data=b"#" * 2**28))
    many = zipped("submission.py", *(f"m{index}.py" for index in range(50)), data=b"#" * 2**17)
    assert "larger than 4096 KiB together" in refusal(tmp_path, many)


def test_decompression_stops_at_the_limit() -> None:
    """A member is decompressed as far as asked for, not whole."""
    with open_zip(zipped("submission.py", data=b"#" * 10_000), "x.zip", Limits()) as listing:
        assert len(listing.read("submission.py", 10)) == 10


def test_lying_headers(tmp_path: Path) -> None:
    """Sizes that the directory states are not believed: a member that is longer is refused as broken."""
    data = bytearray(zipped("submission.py", data=b"#" * 1000))
    at = data.find(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    assert "not a readable zip" in refusal(tmp_path, bytes(data))


def test_too_many_members(tmp_path: Path) -> None:
    """The number of members is limited before zipfile reads the directory, and so is the zip's size."""
    data = zipped("submission.py", *(f"{index}.txt" for index in range(20)))
    assert "too large" in refusal(tmp_path, data, Limits(listed=20))
    assert "too large" in refusal(tmp_path, data, Limits(zip_bytes=100))
    assert "over the limit of 200" in refusal(
        tmp_path, zipped(*(f"m{index}.py" for index in range(200)), "submission.py")
    )


def test_syntax_error_inside_a_zip(tmp_path: Path) -> None:
    """The main file's syntax error is reported with its file and line."""
    assert "submission.py, line 2: " in refusal(tmp_path, zipped("submission.py", data=b"x = 1\ny = = 2\n"))
