"""The frames: what goes in comes out, and nothing that the other side writes is more than an error with a name."""

import ast
import contextlib
import os
import socket
import struct
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.confined import wire

TENSOR = wire.Tensor("float32", [2, 1], b"\x00\x01\x02\x03\x04\x05\x06\x07", "cuda:0", True, True)
NESTED = wire.NestedList([None, True, -1, 2**63 - 1, 1.5, "é", TENSOR, wire.NestedList([]), wire.Device("cuda")])
MESSAGES: list[tuple[Any, Any]] = [
    (wire.Load("/a", "submission", 7, True), wire.ToTemplate),
    (wire.Fork(), wire.ToTemplate),
    (wire.Reap(12), wire.ToTemplate),
    (wire.Begin(2**63 - 1, 5), wire.ToChild),
    (wire.Call(wire.MODULE, "a.b", [NESTED], {"p": 0.5}, True), wire.ToChild),
    (wire.Verb("assign", [wire.Ref(3, "Net", True)], {}), wire.ToChild),
    (wire.Done(wire.Mapping(["a", "b"], [TENSOR, None])), wire.Reply),
    (wire.Raised("ValueError", "no", [("submission.py", 3, "f")], "numpy"), wire.Reply),
    (wire.Loaded(["A"], ["numpy"], [wire.Raised("NameError", "x", [])]), wire.Reply),
]
KINDS = [wire.ToTemplate, wire.ToChild, wire.Reply]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def soon() -> float:
    """A deadline that a test which works never meets."""
    return time.monotonic() + 30


@pytest.mark.parametrize(("message", "kind"), MESSAGES, ids=lambda value: type(value).__name__)
def test_every_message_comes_out_as_it_went_in(pair: Pair, message: Any, kind: types.UnionType) -> None:
    """A message of each kind crosses a socket unchanged, with no descriptor where none was sent."""
    wire.send(pair[0], message, deadline=soon())
    assert wire.receive(pair[1], kind, soon()) == (message, [])


def test_messages_follow_one_another(pair: Pair) -> None:
    """Frames sent together are read one at a time, in their order, and the end after them is an EOFError."""
    for message, _ in MESSAGES[6:]:
        wire.send(pair[0], message)
    pair[0].close()
    for message, kind in MESSAGES[6:]:
        assert wire.receive(pair[1], kind, soon())[0] == message
    with pytest.raises(EOFError):
        wire.receive(pair[1], wire.Reply, soon())


def test_descriptors_pass_along(pair: Pair) -> None:
    """A descriptor sent with a frame arrives as an open descriptor of the same file."""
    read, write = os.pipe()
    wire.send(pair[0], wire.Fork(), (write,), soon())
    os.close(write)
    message, fds = wire.receive(pair[1], wire.ToTemplate, soon(), max_fds=1)
    os.write(fds[0], b"through")
    os.close(fds[0])
    assert (message, os.read(read, 20), os.read(read, 20)) == (wire.Fork(), b"through", b"")
    os.close(read)


@pytest.mark.parametrize("rest", [b"\x00\x00", b"\x05\x00\x00\x00garba", b"\xff\xff\xff\xff"])
def test_descriptors_of_a_bad_frame_are_closed(pair: Pair, rest: bytes) -> None:
    """Whoever sends descriptors with frames that are refused cannot use up the reader's."""
    read, write = os.pipe()
    socket.send_fds(pair[0], [rest], [write])
    os.close(write)
    pair[0].close()
    with pytest.raises(wire.FrameError):
        wire.receive(pair[1], wire.ToTemplate, soon(), max_fds=1)
    assert os.read(read, 1) == b""
    os.close(read)


class Counting:
    """A socket's end that says how much was read of it and asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, 0

    def settimeout(self, _seconds: float | None) -> None:
        """Accept any."""

    def recv(self, count: int) -> bytes:
        """The next bytes."""
        self.asked = max(self.asked, count)
        piece, self.data = self.data[:count], self.data[count:]
        return piece


def test_a_length_over_the_limit_is_refused_unread() -> None:
    """Of a frame that claims too much, nothing past the length is read, nor room made for it."""
    end: Any = Counting(struct.pack("<I", wire.MAX_FRAME + 1) + b"x" * 100)
    with pytest.raises(wire.FrameError, match="over the limit"):
        wire.receive(end, wire.Reply)
    assert (len(end.data), end.asked) == (100, 4)


def test_a_claimed_length_reserves_no_memory() -> None:
    """A frame that claims all that it may and sends nothing makes the reader ask for a megabyte at most."""
    end: Any = Counting(struct.pack("<I", wire.MAX_FRAME))
    with pytest.raises(wire.FrameError, match="closed after 0 of"):
        wire.receive(end, wire.Reply)
    assert end.asked <= 1 << 20


def test_the_reader_can_set_a_smaller_limit(pair: Pair) -> None:
    """A frame over the limit that the reader named is refused though it is below the largest of all."""
    wire.send(pair[0], wire.Done("x" * 200))
    with pytest.raises(wire.FrameError, match="limit of 100"):
        wire.receive(pair[1], wire.Reply, soon(), limit=100)


def test_what_is_too_long_is_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender refuses a message over the limit before a byte of it leaves."""
    monkeypatch.setattr(wire, "MAX_FRAME", 100)
    with pytest.raises(wire.FrameError, match="over the limit of 100"):
        wire.send(pair[0], wire.Done("x" * 200))
    pair[0].close()
    with pytest.raises(EOFError):
        wire.receive(pair[1], wire.Reply, soon())


BODY = wire.encode(wire.Done("some words"))
WHOLE = struct.pack("<I", len(BODY)) + BODY


@pytest.mark.parametrize("count", range(len(WHOLE)))
@pytest.mark.parametrize("max_fds", [0, 1])
def test_a_frame_cut_short_is_an_error_of_its_own(pair: Pair, count: int, max_fds: int) -> None:
    """An end between frames is EOFError; an end anywhere inside one, in its length too, is FrameError."""
    pair[0].sendall(WHOLE[:count])
    pair[0].close()
    with pytest.raises(wire.FrameError if count else EOFError):
        wire.receive(pair[1], wire.Reply, soon(), max_fds=max_fds)


def deep(count: int, opening: bytes, innermost: bytes = b"\xc0") -> bytes:
    """Msgpack nested `count` deep."""
    return opening * count + innermost


DONE = b"\x92\xa4Done"
GARBAGE = {
    "nothing": b"",
    "zeros": b"\x00" * 100,
    "no msgpack": b"\xc1" * 100,
    "text": b"HTTP/1.1 200 OK\r\n\r\n",
    "100k arrays": deep(100_000, b"\x91"),
    "100k arrays in a value": DONE + deep(100_000, b"\x91"),
    "100k maps": deep(100_000, b"\x81\xa1a"),
    "100k lists": DONE + deep(100_000, b"\x92\xaaNestedList\x91"),
    "100k mappings": DONE + deep(100_000, b"\x93\xa7Mapping\x91\xa1a\x91"),
    "array that claims 4 billion": DONE + b"\xdd\xff\xff\xff\xff",
    "bytes that claim 4 billion": b"\x92\xa6Tensor\xc6\xff\xff\xff\xff",
    "tag unknown": b"\x92\xa4Evil\xc0",
    "tag of another direction": msgspec.msgpack.encode(["Job", 1]),
    "tag missing": b"\x90",
    "tag not a string": b"\x92\x01\xc0",
    "fields missing": b"\x91\xa4Done",
    "text not Unicode": DONE + b"\xa2\xff\xfe",
    "tag not Unicode": b"\x92\xa4D\xff\xfee\xc0",
    "a timestamp": DONE + b"\xd6\xff\x00\x00\x00\x00",
    "an extension": DONE + b"\xc7\x05\x01abcde",
    "bytes as a value": DONE + b"\xc4\x02ab",
    "a map as a value": DONE + b"\x81\xa1a\x01",
    "a tensor of wrong types": DONE + msgspec.msgpack.encode(["Tensor", 1, "shape", "data"]),
    "a shape of text": DONE + msgspec.msgpack.encode(["Tensor", "float32", ["1"], b""]),
    "a shape of floats": DONE + msgspec.msgpack.encode(["Tensor", "float32", [1.5], b""]),
    "a tensor nobody tagged": DONE + msgspec.msgpack.encode(["float32", [1], b"1234"]),
    "a line that is no line": msgspec.msgpack.encode(["Raised", "E", "m", [["a"]], ""]),
    "more than one message": BODY + BODY,
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("kind", KINDS, ids=["ToTemplate", "ToChild", "Reply"])
def test_garbage_is_a_frame_error_and_nothing_else(name: str, kind: types.UnionType) -> None:
    """Whatever bytes come, however deep, the reader raises FrameError with a short message, or reads a message."""
    with pytest.raises(wire.FrameError) as caught:
        wire.decode(GARBAGE[name], kind)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, -(2**63)])
def test_huge_numbers_are_numbers(number: int) -> None:
    """The largest integers that msgpack holds are read as they are, in a value and in a shape."""
    assert wire.decode(wire.encode(wire.Done(number)), wire.Reply) == wire.Done(number)
    tensor = wire.Tensor("int8", [number], b"")
    assert wire.decode(wire.encode(wire.Done(tensor)), wire.Reply) == wire.Done(tensor)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", DONE, b"\x92\xa4Done\x97\xa6Tensor", b"\x95\xa6Raised"]))
def test_random_bytes_give_a_message_or_a_frame_error(data: bytes, start: bytes) -> None:
    """Random bytes, alone or after a good beginning, never raise anything but FrameError."""
    for kind in KINDS:
        with contextlib.suppress(wire.FrameError):
            wire.decode(start + data, kind)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sampled_from(MESSAGES), st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_gives_a_message_or_a_frame_error(entry: tuple[Any, Any], place: int, byte: int) -> None:
    """A good frame with one byte changed never raises anything but FrameError."""
    message, kind = entry
    data = bytearray(wire.encode(message))
    data[place % len(data)] = byte
    with contextlib.suppress(wire.FrameError):
        wire.decode(data, kind)


@pytest.mark.parametrize("max_fds", [0, 1])
def test_a_silent_peer_times_out(pair: Pair, max_fds: int) -> None:
    """Where nothing comes, reading ends at the deadline."""
    with pytest.raises(TimeoutError):
        wire.receive(pair[1], wire.Reply, time.monotonic() + 0.05, max_fds=max_fds)


def test_a_deadline_that_has_passed_reads_nothing(pair: Pair) -> None:
    """Past the deadline even what has come already is left."""
    pair[0].sendall(WHOLE)
    with pytest.raises(TimeoutError):
        wire.receive(pair[1], wire.Reply, time.monotonic() - 1)
    assert pair[1].recv(1000) == WHOLE


def test_a_peer_that_drips_cannot_extend_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that sends a byte a second is cut off at the deadline, each wait being only for what is left of it."""
    clock = [100.0]
    waits: list[float | None] = []

    class Dripping(Counting):
        def settimeout(self, seconds: float | None) -> None:
            waits.append(seconds)

        def recv(self, count: int) -> bytes:
            clock[0] += 1
            return super().recv(min(count, 1))

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    end: Any = Dripping(struct.pack("<I", 10_000) + b"x" * 100)
    with pytest.raises(TimeoutError):
        wire.receive(end, wire.Reply, 110.0)
    assert waits == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_a_peer_that_does_not_read_times_out(pair: Pair) -> None:
    """Where the other side reads nothing, writing ends at the deadline."""
    with pytest.raises(TimeoutError):
        wire.send(pair[0], wire.Done("x" * (8 << 20)), deadline=time.monotonic() + 0.05)


def test_a_peer_that_is_gone_is_an_os_error(pair: Pair) -> None:
    """Writing to a closed connection raises OSError, and no signal ends the process."""
    pair[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        wire.send(pair[0], wire.Done("x"))


def test_annotations_can_be_resolved_by_python_3_10() -> None:
    """No struct's annotation hides a name inside a builtin generic, as in `list["Value"]`: Python 3.10 never resolves it."""
    source = Path(wire.__file__).read_text(encoding="utf-8")
    hidden = [
        ast.unparse(part)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign)
        for part in ast.walk(node.annotation)
        if isinstance(part, ast.Subscript)
        for inner in ast.walk(part.slice)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    ]
    assert hidden == []


def test_waiting_tells_without_reading() -> None:
    """What has come is told at once and left to be read; nothing having come, and the other side having left, is told as nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not wire.waiting(ours)
        wire.send(theirs, wire.Done(7))
        assert wire.waiting(ours)
        assert wire.receive(ours, wire.Reply, time.monotonic() + 5)[0] == wire.Done(7)
        theirs.close()
        assert not wire.waiting(ours)
