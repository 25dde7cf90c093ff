"""Layer 1: the frames that cross the wall, read and written. Of `confined`, the trusted side imports this alone.

A frame is a 4-byte little-endian length and that many bytes of msgpack, decoded by msgspec into the structs below and
nothing else. Never pickle. Whoever reads caps the length before it allocates and sets a deadline before it waits.
"""

import array
import contextlib
import socket
import struct
import time
import types
from typing import Any, TypeVar, overload

import msgspec

__all__ = [
    "DTYPES",
    "MAX_FRAME",
    "MODULE",
    "TORCH",
    "Begin",
    "Call",
    "Device",
    "Done",
    "Fork",
    "FrameError",
    "Load",
    "Loaded",
    "Mapping",
    "NestedList",
    "Raised",
    "Reap",
    "Ref",
    "Reply",
    "Tensor",
    "ToChild",
    "ToTemplate",
    "Value",
    "Verb",
    "decode",
    "encode",
    "receive",
    "send",
    "waiting",
]

MAX_FRAME = 16 << 20
"""Bytes: the largest frame either side reads. A batch of 64 images is 0.2 MB; a ModuleCNN's weights are 0.07 MB."""

DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "complex64": 8,
    "complex128": 16,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element of every dtype that may cross."""

_LENGTH = struct.Struct("<I")


class FrameError(Exception):
    """A frame was too long, cut short, or not what the protocol says."""


class Tensor(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A tensor by value: raw little-endian bytes in C order, with what the other side says of where it lives."""

    dtype: str
    shape: list[int]
    data: bytes
    device: str = "cpu"
    requires_grad: bool = False
    is_parameter: bool = False


class Ref(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An object that stays on the confined side, by number."""

    ref: int
    kind: str = ""
    is_module: bool = False


class Device(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A torch.device, by name."""

    name: str


class NestedList(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A list or tuple of values."""

    items: "list[Value]"


class Mapping(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A dict with string keys, in order."""

    keys: list[str]
    values: "list[Value]"


Value = None | bool | int | float | str | Tensor | Ref | Device | NestedList | Mapping


class Load(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the template: import the submission's main module; `tolerant` (notebooks) goes on after what raises."""

    folder: str
    module: str
    seed: int
    tolerant: bool = False


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the template: fork a child that serves the socket sent along with this frame; the answer is its pid."""


class Reap(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the template: say how child `pid` ended, as a `waitpid` status, or None while it lives."""

    pid: int


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a child: a test begins; seed every generator and allow this much CPU time."""

    seed: int
    cpu_seconds: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a child: call the attribute `path` of `target` with these arguments; with `get`, the attribute is the answer.

    `target` is an object's number, or `MODULE` for the student's module, or `TORCH` for torch itself. An empty path is
    the target.
    """

    target: int
    path: str
    args: list[Value]
    kwargs: dict[str, Value]
    get: bool = False


MODULE, TORCH = -1, -2


class Verb(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a child: one of the confined side's own operations (`confined/verbs.py`), by name."""

    name: str
    args: list[Value]
    kwargs: dict[str, Value]


ToTemplate = Load | Fork | Reap
ToChild = Begin | Call | Verb


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The request was carried out, with this value."""

    value: Value


class Raised(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Student code raised. `lines` are the student's own frames, innermost last: (file, line number, function)."""

    kind: str
    message: str
    lines: list[tuple[str, int, str]]
    missing: str = ""


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The module was imported: its names, the imports this machine lacks, and what raised on the way (notebooks)."""

    names: list[str]
    missing: list[str]
    raised: list[Raised]


Reply = Loaded | Done | Raised

_T = TypeVar("_T")


def encode(message: object) -> bytes:
    """A message as msgpack bytes, without the length."""
    return msgspec.msgpack.encode(message)


@overload
def decode(data: bytes | bytearray, kind: type[_T]) -> _T: ...


@overload
def decode(data: bytes | bytearray, kind: types.UnionType) -> Any: ...


def decode(data: bytes | bytearray, kind: Any) -> Any:
    """Bytes back into a message of the given kind.

    Raises:
        FrameError: The bytes are not such a message.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise FrameError(f"a frame of {len(data)} bytes is not what the protocol says: {str(error)[:120]}") from None


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def send(sock: socket.socket, message: object, fds: tuple[int, ...] = (), deadline: float | None = None) -> None:
    """Write one frame, with descriptors passed along if any.

    Args:
        sock: A connected AF_UNIX stream socket.
        message: Anything msgspec encodes.
        fds: Descriptors to pass with the frame's first byte.
        deadline: `time.monotonic()` seconds by which it must be written; None waits for ever.

    Raises:
        FrameError: The message is larger than `MAX_FRAME`.
        TimeoutError: The deadline passed.
        OSError: The other side is gone.
    """
    body = encode(message)
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME} bytes")
    data = memoryview(_LENGTH.pack(len(body)) + body)
    if fds:
        sock.settimeout(_remaining(deadline))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        data = data[sock.sendmsg([data], rights) :]
    while data:
        sock.settimeout(_remaining(deadline))
        data = data[sock.send(data) :]


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytearray:
    # Grown as bytes come: a claimed length alone must not make this side allocate.
    data = bytearray()
    while len(data) < count:
        sock.settimeout(_remaining(deadline))
        chunk = sock.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise FrameError(f"the other side closed after {len(data)} of {count} bytes")
        data += chunk
    return data


def _body(sock: socket.socket, head: bytes, deadline: float | None, limit: int) -> bytearray:
    head += _exactly(sock, _LENGTH.size - len(head), deadline)
    length: int = _LENGTH.unpack(head)[0]
    if length > limit:
        raise FrameError(f"a frame of {length} bytes is over the limit of {limit} bytes")
    return _exactly(sock, length, deadline)


@overload
def receive(
    sock: socket.socket, kind: type[_T], deadline: float | None = None, max_fds: int = 0, limit: int = MAX_FRAME
) -> tuple[_T, list[int]]: ...


@overload
def receive(
    sock: socket.socket, kind: types.UnionType, deadline: float | None = None, max_fds: int = 0, limit: int = MAX_FRAME
) -> tuple[Any, list[int]]: ...


def receive(
    sock: socket.socket, kind: Any, deadline: float | None = None, max_fds: int = 0, limit: int = MAX_FRAME
) -> tuple[Any, list[int]]:
    """Read one frame, and the descriptors that came with it.

    Args:
        sock: A connected AF_UNIX stream socket.
        kind: The struct, or union of structs, to decode into.
        deadline: `time.monotonic()` seconds by which the whole frame must be there; None waits for ever.
        max_fds: How many descriptors may come along.
        limit: The longest body to read, in bytes.

    Returns:
        The message and the descriptors, which the caller owns.

    Raises:
        EOFError: The other side closed between frames.
        FrameError: The frame is too long, cut short or malformed.
        TimeoutError: The deadline passed.
        OSError: The connection broke.
    """
    fds: list[int] = []
    sock.settimeout(_remaining(deadline))
    if max_fds:
        head, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, max_fds)
    else:
        head = sock.recv(_LENGTH.size)
    if not head:
        raise EOFError
    try:
        return decode(_body(sock, head, deadline, limit), kind), fds
    except BaseException:
        for fd in fds:
            with contextlib.suppress(OSError):
                socket.close(fd)
        raise


def waiting(sock: socket.socket) -> bool:
    """Whether something has come that was not read yet; at once, and without reading it.

    Raises:
        OSError: The connection broke.
    """
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
