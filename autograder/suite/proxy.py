"""Layer 3: the `student` proxy. A suite is written as if the student's module were here; every call crosses the wall.

What comes back is data: plain tensors whose bytes were counted and whose values are finite, plain numbers and strings,
or a `Handle` on an object that stays on the other side.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from autograder.confined import wire
from autograder.errors import StudentError, StudentForged, StudentRaised, StudentStopped
from autograder.suite.hints import hint
from autograder.text import elide, escape, fence

__all__ = ["Budget", "Channel", "Handle", "OnDevice", "Script", "Student", "raised", "tensor_in"]

# What the confined side says is a claim: these bound what is worked on and shown when it is forged.
_MAX_DEPTH = 32
_MAX_DIMENSIONS = 16
_MAX_MESSAGE = 2000
_MAX_LINES = 6
_DEVICE = re.compile(r"[a-z]{1,16}(:\d{1,3})?")


class Channel(Protocol):
    """A line to the process that serves one test; `grade.py` opens it and hands it over."""

    def request(self, message: wire.ToChild, seconds: float) -> wire.Done | wire.Raised:
        """Ask, and wait this long for the answer."""


class Script(Protocol):
    """The student's files, as far as messages need them."""

    def place(self, file: str, line: int) -> str:
        """Where a line is, in the student's words: "submission.py, line 7"."""

    def line(self, file: str, line: int) -> str:
        """The line's text."""

    def calls(self, name: str) -> frozenset[str]:
        """What the definition of this name calls or builds on, as full names such as "torch.nn.functional.dropout"."""


class Budget:
    """How long calls may take. What ran into its limit gets less time again: a loop costs seconds, not minutes.

    Only the student's class or function that hung is cut short: the others keep the whole limit.
    """

    def __init__(self, seconds: float, least: float = 1.0) -> None:
        self._seconds = seconds
        self._least = min(least, seconds)
        self._hung: dict[str, int] = {}

    def seconds(self, name: str) -> float:
        """How long a call to what `name` made may take."""
        return max(self._least, self._seconds * math.pow(0.5, self._hung.get(name, 0)))

    def hung(self, name: str) -> None:
        """Note that a call to what `name` made ran into its limit."""
        self._hung[name] = self._hung.get(name, 0) + 1


class Handle:
    """An object on the other side. It answers like the module that it is; unknown names are methods called over there.

    Attributes:
        kind: The object's class name over there: a claim, but always an identifier or "?".
    """

    def __init__(self, student: "Student", ref: wire.Ref, name: str) -> None:
        self._student = student
        self._ref = ref
        self._name = name
        self.kind = ref.kind if ref.kind.isidentifier() and len(ref.kind) <= 100 else "?"
        self.is_module = ref.is_module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object, as `model(images)` does."""
        return self._student.call(self._ref.ref, "", args, kwargs, name=self._name)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self._student.call(self._ref.ref, method, args, kwargs, name=self._name)

    def get(self, attribute: str) -> Any:
        """The value of an attribute, such as "training"."""
        return self._student.call(self._ref.ref, attribute, (), {}, get=True, name=self._name)

    def verb(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """One of the confined side's own operations (`autograder/confined/verbs.py`) on this object."""
        return self._student.verb(verb, self, *args, name=self._name, **kwargs)

    def train(self, mode: bool = True) -> "Handle":
        """Put the module in train mode."""
        self._student.call(self._ref.ref, "train", (mode,), {}, name=self._name)
        return self

    def eval(self) -> "Handle":
        """Put the module in eval mode."""
        self._student.call(self._ref.ref, "eval", (), {}, name=self._name)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "Handle":
        """Move the module."""
        self._student.call(self._ref.ref, "to", args, kwargs, name=self._name)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The module's registered tensors by name."""
        return self._tensors("state_dict")

    def named_parameters(self) -> dict[str, torch.Tensor]:
        """The module's parameters by name."""
        return self._tensors("named_parameters")

    def named_buffers(self) -> dict[str, torch.Tensor]:
        """The module's buffers by name."""
        return self._tensors("named_buffers")

    def _tensors(self, method: str) -> dict[str, torch.Tensor]:
        found = self._student.call(self._ref.ref, method, (), {}, name=self._name)
        pairs = found.items() if isinstance(found, dict) else found
        try:
            tensors = {str(key): value for key, value in pairs}
        except (TypeError, ValueError):
            raise StudentError(f"`{method}()` of your {self._name} does not give names and tensors.") from None
        for key, value in tensors.items():
            if not isinstance(value, torch.Tensor):
                shown = escape(repr(key[:100]))
                raise StudentError(f"`{method}()` of your {self._name} holds {shown}, which is not a tensor.")
        return tensors


class _Torch:
    """`torch` on the other side: `student.torch.nn.Linear(4, 3)` builds a layer there."""

    def __init__(self, student: "Student", path: str = "") -> None:
        self._student = student
        self._path = path

    def __getattr__(self, name: str) -> "_Torch":
        return _Torch(self._student, f"{self._path}.{name}" if self._path else name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._student.call(wire.TORCH, self._path, args, kwargs, name=self._path)


class Student:
    """The student's module, on the other side of the wall. `student.ModuleCNN(p=0.2)` builds one over there.

    Attributes:
        torch: torch over there, for building what a test needs beside the student's code.
        notes: Sentences that the student reads with this test's result, passed or not.
    """

    def __init__(  # grade.py alone makes one
        self,
        open_channel: Callable[[], Channel],
        script: Script,
        names: frozenset[str],
        explain_missing: Callable[[str], str],
        budget: Budget,
        deadline: float,
    ) -> None:
        self._open = open_channel
        self._channel: Channel | None = None
        self._script = script
        self._names = names
        self._explain_missing = explain_missing
        self._budget = budget
        self._deadline = deadline
        self.torch = _Torch(self)
        self.notes: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise StudentError(self._explain_missing(name))
        return lambda *args, **kwargs: self.call(wire.MODULE, name, args, kwargs, name=name)

    def use_gpu(self) -> str:
        """Have a CUDA device over there from here on, real where there is one, else simulated; says which, to the student too.

        Objects made before stay as they were; the student's module is imported anew for the simulated one.
        """
        where = escape(str(self.verb("use_gpu", name="import")))
        self.notes.append(f"This test ran on {where}.")
        return where

    def calls_in_source(self, name: str) -> frozenset[str]:
        """What the source of a definition calls or builds on, as full names; for style, where code cannot run."""
        return self._script.calls(name)

    def call(
        self, target: int, path: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, name: str, get: bool = False
    ) -> Any:
        """Call something over there; `name` is whose time it takes."""
        request = wire.Call(target, path, [_out(a) for a in args], {k: _out(v) for k, v in kwargs.items()}, get)
        return self._ask(request, name)

    def verb(self, verb: str, *args: Any, name: str, **kwargs: Any) -> Any:
        """Have one of the confined side's own operations done."""
        return self._ask(wire.Verb(verb, [_out(a) for a in args], {k: _out(v) for k, v in kwargs.items()}), name)

    def _ask(self, request: wire.ToChild, name: str) -> Any:
        if self._channel is None:
            self._channel = self._open()
        limit = self._budget.seconds(name)
        left = self._deadline - time.monotonic()
        try:
            reply = self._channel.request(request, max(0.05, min(limit, left)))
        except StudentStopped as error:
            if error.timed_out:
                self._budget.hung(name)
                raise StudentStopped(f"{error} `{name}` may loop for ever.", timed_out=True) from None
            raise
        if isinstance(reply, wire.Raised):
            raise raised(reply, self._script)
        return self._in(reply.value, name)

    def _in(self, value: wire.Value, name: str, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise StudentForged("Your code sent the grader something that is not an answer.")
        if isinstance(value, wire.Tensor):
            return tensor_in(value, name)
        if isinstance(value, wire.Ref):
            return Handle(self, value, name)
        if isinstance(value, wire.NestedList):
            return [self._in(item, name, depth + 1) for item in value.items]
        if isinstance(value, wire.Mapping):
            if len(value.keys) != len(value.values):
                raise StudentForged("Your code sent the grader something that is not an answer.")
            return {key: self._in(item, name, depth + 1) for key, item in zip(value.keys, value.values, strict=True)}
        return value


def tensor_in(value: wire.Tensor, name: str) -> torch.Tensor:
    """A wire tensor as a plain, finite-checked tensor.

    The attributes `claimed_device`, `claimed_requires_grad` and `is_parameter` say what the other side said of it.

    Raises:
        StudentForged: Its bytes do not fit its shape and dtype.
        StudentError: It holds NaN or infinity.
    """
    size = wire.DTYPES.get(value.dtype)
    # Each length first, so that the product stays small whatever shape is claimed.
    plausible = len(value.shape) <= _MAX_DIMENSIONS and all(0 <= length <= wire.MAX_FRAME for length in value.shape)
    if size is None or not plausible or math.prod(value.shape) * size != len(value.data):
        raise StudentForged("Your code sent the grader a tensor whose bytes do not fit its shape.")
    if not _DEVICE.fullmatch(value.device):
        raise StudentForged("Your code sent the grader a tensor on a device that does not exist.")
    tensor = _tensor(value)
    if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
        nans = int(torch.isnan(tensor).sum())
        what = f"{nans} NaN and {int(torch.isinf(tensor).sum())} infinite values"
        raise StudentError(
            f"A tensor of shape {tuple(tensor.shape)} from your {name} holds {what}; all must be finite."
        )
    tensor.claimed_device = value.device  # type: ignore[attr-defined]
    tensor.claimed_requires_grad = value.requires_grad  # type: ignore[attr-defined]
    tensor.is_parameter = value.is_parameter  # type: ignore[attr-defined]
    return tensor


def _tensor(value: wire.Tensor) -> torch.Tensor:
    dtype = getattr(torch, value.dtype)
    if not value.data:
        try:
            return torch.empty(value.shape, dtype=dtype)
        except RuntimeError:
            raise StudentForged("Your code sent the grader an empty tensor of an impossible shape.") from None
    return torch.frombuffer(bytearray(value.data), dtype=dtype).reshape(value.shape)


def _out(thing: Any) -> wire.Value:  # noqa: PLR0911  # one line for each kind that crosses
    """A trusted-side value for the other side: tensors by value, handles by number."""
    if isinstance(thing, OnDevice):
        plain = _out(thing.tensor)
        if isinstance(plain, wire.Tensor):
            return wire.Tensor(plain.dtype, plain.shape, plain.data, thing.device, thing.requires_grad)
    if isinstance(thing, torch.Tensor):
        data = thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if thing.numel() else b""
        return wire.Tensor(str(thing.dtype).removeprefix("torch."), list(thing.shape), data)
    if isinstance(thing, Handle):
        return thing._ref  # noqa: SLF001  # a handle's number is for this module alone
    if isinstance(thing, torch.device):
        return wire.Device(str(thing))
    if isinstance(thing, Mapping):
        return wire.Mapping([str(key) for key in thing], [_out(value) for value in thing.values()])
    if isinstance(thing, list | tuple):
        return wire.NestedList([_out(value) for value in thing])
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise TypeError(
        f"a {type(thing).__name__} cannot cross to the student's side; send tensors, numbers, strings or handles"
    )


class OnDevice:
    """A tensor that is to arrive on a device over there: `OnDevice(images, "cuda")`."""

    def __init__(self, tensor: torch.Tensor, device: str = "cpu", *, requires_grad: bool = False) -> None:
        self.tensor = tensor
        self.device = device
        self.requires_grad = requires_grad


def raised(reply: wire.Raised, script: Script, subject: str = "Your code") -> StudentRaised:
    """What student code raised, as an error whose message holds the student's own lines and none of the grader's."""
    steps = []
    lines, kind, message = reply.lines[-_MAX_LINES:], reply.kind[:200], elide(reply.message, _MAX_MESSAGE)
    for file, line, function in lines:
        inside = "" if function == "<module>" else f", in {function}"
        text = script.line(file, line)
        steps.append(elide(f"{script.place(file, line)}{inside}", 300) + (f"\n    {text}" if text else ""))
    trace = "\n".join([*steps, f"{kind}: {message}"])
    place = f" at {escape(elide(script.place(*lines[-1][:2]), 200))}" if lines else ""
    likely = hint(kind, message)
    told = f"{subject} raised {escape(kind)}{place}.\n\n{fence(trace)}" + (f"\n\n{likely}" if likely else "")
    return StudentRaised(told, kind, reply.missing[:200])
