"""The proxy: what a suite writes becomes requests, and what the other side claims is checked first."""

import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from autograder.confined import wire
from autograder.errors import StudentError, StudentForged, StudentRaised, StudentStopped
from autograder.suite.proxy import Budget, Handle, OnDevice, Student, raised, tensor_in

FORGED = "Your code sent the grader"


class Script:
    """A submission of three lines."""

    def place(self, file: str, line: int) -> str:
        """As the real one says it."""
        return f"{file}, line {line}"

    def line(self, file: str, line: int) -> str:
        """The line's text."""
        del file
        return {1: "import torch", 7: "return x.view(-1, 512)"}.get(line, "")

    def calls(self, name: str) -> frozenset[str]:
        """What a definition calls."""
        return frozenset({f"torch.{name}"})


class Channel:
    """Answers with what it was given, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.asked: list[Any] = []
        self.limits: list[float] = []

    def request(self, message: wire.ToChild, seconds: float) -> wire.Done | wire.Raised:
        """The next answer, after a round trip of both."""
        self.asked.append(wire.decode(wire.encode(message), wire.ToChild))
        self.limits.append(seconds)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        reply = answer if isinstance(answer, wire.Raised) else wire.Done(answer)
        reply = wire.decode(wire.encode(reply), wire.Reply)
        assert isinstance(reply, wire.Done | wire.Raised)
        return reply


def student_of(channel: Channel, budget: Budget | None = None, seconds: float = 1000.0) -> Student:
    """A student's module with `Net` and `f`, at the end of that channel."""
    return Student(
        lambda: channel,
        Script(),
        frozenset({"Net", "f"}),
        lambda name: f"`{name}` is not defined.",
        budget or Budget(8.0),
        time.monotonic() + seconds,
    )


def floats(*values: float, shape: list[int] | None = None, **facts: Any) -> wire.Tensor:
    """A wire tensor of float32."""
    return wire.Tensor(
        "float32", [len(values)] if shape is None else shape, struct.pack(f"<{len(values)}f", *values), **facts
    )


# ---- what is asked


def test_nothing_is_opened_before_the_first_call() -> None:
    """A test that never asks the student's code anything costs no process; one that does opens one line."""
    opened: list[int] = []
    channel = Channel(1, 2)

    def open_channel() -> Channel:
        opened.append(1)
        return channel

    student = Student(open_channel, Script(), frozenset({"f"}), str, Budget(1), time.monotonic() + 9)
    assert opened == []
    assert (student.f(), student.f(), opened) == (1, 2, [1])


def test_calls_become_requests() -> None:
    """Functions, objects, methods, attributes, verbs and torch itself are asked for by number and path."""
    ref = wire.Ref(4, "Net", True)
    channel = Channel(ref, floats(1.0), None, None, None, wire.NestedList([1]), True, "x", wire.Ref(5, "Linear", True))
    student = student_of(channel)
    model = student.Net(3, p=0.2)
    model(torch.zeros(1))
    assert model.train() is model
    assert model.eval() is model
    assert model.to("cpu") is model
    assert model.children() == [1]
    assert model.get("training") is True
    model.verb("assign", {"a": 1})
    assert isinstance(student.torch.nn.Linear(4, 3), Handle)
    zero = wire.Tensor("float32", [1], b"\x00" * 4)
    assert channel.asked == [
        wire.Call(wire.MODULE, "Net", [3], {"p": 0.2}),
        wire.Call(4, "", [zero], {}),
        wire.Call(4, "train", [True], {}),
        wire.Call(4, "eval", [], {}),
        wire.Call(4, "to", ["cpu"], {}),
        wire.Call(4, "children", [], {}),
        wire.Call(4, "training", [], {}, get=True),
        wire.Verb("assign", [ref, wire.Mapping(["a"], [1])], {}),
        wire.Call(wire.TORCH, "nn.Linear", [4, 3], {}),
    ]


def test_arguments_of_every_kind_cross() -> None:
    """Tensors go by value, on their device if one is named, devices as devices, and functions not at all."""
    channel = Channel(*[None] * 9)
    student = student_of(channel)
    tensor = torch.arange(6.0).reshape(2, 3).t()
    grad = torch.ones(1, requires_grad=True)
    student.f(tensor, OnDevice(tensor, "cuda", requires_grad=True), torch.device("cuda:0"), grad, torch.zeros(0, 2))
    student.f([1, (2.5, None)], {"a": [True]}, torch.tensor([True, False]), torch.tensor(7))
    data = struct.pack("<6f", 0, 3, 1, 4, 2, 5)
    assert channel.asked[0].args == [
        wire.Tensor("float32", [3, 2], data),
        wire.Tensor("float32", [3, 2], data, "cuda", True),
        wire.Device("cuda:0"),
        wire.Tensor("float32", [1], struct.pack("<f", 1)),
        wire.Tensor("float32", [0, 2], b""),
    ]
    assert channel.asked[1].args == [
        wire.NestedList([1, wire.NestedList([2.5, None])]),
        wire.Mapping(["a"], [wire.NestedList([True])]),
        wire.Tensor("bool", [2], b"\x01\x00"),
        wire.Tensor("int64", [], struct.pack("<q", 7)),
    ]
    with pytest.raises(TypeError, match="a function cannot cross"):
        student.f(lambda: None)


def test_a_name_that_is_not_defined_is_the_students_failure() -> None:
    """A name that the module lacks is told in the words of whoever read it, and nothing is asked."""
    channel = Channel()
    with pytest.raises(StudentError, match="`Other` is not defined"):
        student_of(channel).Other  # noqa: B018
    assert channel.asked == []
    with pytest.raises(AttributeError):
        student_of(channel)._private  # noqa: B018


# ---- what comes back


def test_tensors_come_back_as_they_are() -> None:
    """A tensor arrives with its shape, dtype and values, writable, and with what was claimed of it beside it."""
    tensor = student_of(
        Channel(floats(1, 2, 3, 4, shape=[2, 2], device="cuda:0", requires_grad=True, is_parameter=True))
    ).f()
    assert torch.equal(tensor, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert not tensor.requires_grad
    assert (tensor.claimed_device, tensor.claimed_requires_grad, tensor.is_parameter) == ("cuda:0", True, True)
    tensor[0, 0] = 5


@pytest.mark.parametrize("name", wire.DTYPES)
def test_every_dtype_comes_back(name: str) -> None:
    """Each dtype of the protocol is read as itself, single values and empty tensors too."""
    dtype = getattr(torch, name)
    for shape in ([], [3], [0, 2]):
        tensor = torch.ones(shape).to(dtype)
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        back = tensor_in(wire.Tensor(name, shape, data), "f")
        assert (back.dtype, back.shape) == (dtype, tensor.shape)
        assert torch.equal(back, tensor)


def test_values_and_containers_come_back_as_plain_data() -> None:
    """Numbers, text and None arrive as they are, containers with their items, objects as handles that can be called."""
    value = wire.Mapping(["a", "b"], [wire.NestedList([1, None, "x", floats(2.0)]), wire.Ref(3, "Net", True)])
    channel = Channel(value, 7)
    back = student_of(channel).f()
    assert back["a"][:3] == [1, None, "x"]
    assert back["a"][3].tolist() == [2.0]
    assert (back["b"].kind, back["b"].is_module, back["b"]()) == ("Net", True, 7)
    assert channel.asked[1] == wire.Call(3, "", [], {})


FORGERIES = {
    "too few bytes": wire.Tensor("float32", [2], b"1234"),
    "too many bytes": wire.Tensor("float32", [1], b"12345678"),
    "bytes and no elements": wire.Tensor("float32", [0], b"1234"),
    "elements and no bytes": wire.Tensor("float32", [3], b""),
    "negative": wire.Tensor("float32", [-1], b"1234"),
    "negative twice": wire.Tensor("float32", [-1, -1], b"1234"),
    "negative and empty": wire.Tensor("float32", [0, -5], b""),
    "unknown dtype": wire.Tensor("float8", [1], b"1"),
    "an attribute of torch": wire.Tensor("Tensor", [1], b"1"),
    "no dtype": wire.Tensor("", [0], b""),
    "huge": wire.Tensor("int8", [2**63 - 1], b"1"),
    "huge product that wraps": wire.Tensor("int8", [2**32, 2**32], b""),
    "huge and empty": wire.Tensor("int8", [2**63 - 1, 0], b""),
    "large and empty": wire.Tensor("int8", [*[2**26] * 10, 0], b""),
    "a million dimensions": wire.Tensor("int8", [1] * 1_000_000, b"1"),
    "a million huge dimensions": wire.Tensor("int8", [2**62] * 1_000_000, b""),
    "a device of markup": floats(1.0, device="<b>cuda</b>"),
    "an endless device": floats(1.0, device="c" * 100_000),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_tensor_is_refused(name: str) -> None:
    """Bytes that do not fit, shapes and dtypes that cannot be: each is told as forged, with no other error."""
    with pytest.raises(StudentForged, match=FORGED) as caught:
        student_of(Channel(FORGERIES[name])).f()
    assert len(str(caught.value)) < 200


def test_a_forged_truth_counts_once() -> None:
    """A bool of another byte than 0 and 1 is true, and is not summed as the number that it holds."""
    assert int(tensor_in(wire.Tensor("bool", [3], b"\xff\x00\x02"), "f").sum()) == 2


def deep(depth: int) -> wire.NestedList:
    """Lists inside one another."""
    value = wire.NestedList([])
    for _ in range(depth):
        value = wire.NestedList([value])
    return value


def test_forged_containers_are_refused() -> None:
    """Names without values, and lists deeper than any answer, are told as forged."""
    for value in (wire.Mapping(["a", "b"], [1]), wire.Mapping([], [1]), deep(40), wire.Mapping(["a"], [deep(33)])):
        with pytest.raises(StudentForged, match="not an answer"):
            student_of(Channel(value)).f()
    assert student_of(Channel(deep(3))).f() == [[[[]]]]


@pytest.mark.parametrize("kind", ["<b>", "**x**", "a b", "", "x" * 1000, "os.system('x')"])
def test_a_forged_class_name_is_not_shown(kind: str) -> None:
    """A handle's kind is an identifier that may stand in a message, or a question mark."""
    assert student_of(Channel(wire.Ref(0, kind))).f().kind == "?"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (floats(1.0, float("nan"), float("nan")), "shape (3,) from your f holds 2 NaN and 0 infinite"),
        (floats(float("inf"), float("-inf")), "0 NaN and 2 infinite"),
        (wire.Tensor("complex64", [1], struct.pack("<2f", float("nan"), 0)), "1 NaN"),
        (wire.Tensor("float16", [1], b"\x00\x7c"), "1 infinite"),
    ],
)
def test_what_is_not_finite_is_the_students_failure(tensor: wire.Tensor, words: str) -> None:
    """NaN and infinity are told with shape and count, wherever in an answer they are."""
    for answer in (tensor, wire.NestedList([1, tensor])):
        with pytest.raises(StudentError) as caught:
            student_of(Channel(answer)).f()
        assert not isinstance(caught.value, StudentForged)
        assert words in str(caught.value)


def test_named_tensors_come_as_a_dict() -> None:
    """`state_dict`, `named_parameters` and `named_buffers` give names and tensors, from a dict or from pairs."""
    pairs = wire.NestedList([wire.NestedList(["w", floats(1.0)]), wire.NestedList(["b", floats(2.0)])])
    for method in ("state_dict", "named_parameters", "named_buffers"):
        for answer in (wire.Mapping(["w", "b"], [floats(1.0), floats(2.0)]), pairs):
            found = getattr(Handle(student_of(Channel(answer)), wire.Ref(0), "Net"), method)()
            assert {name: tensor.tolist() for name, tensor in found.items()} == {"w": [1.0], "b": [2.0]}


@pytest.mark.parametrize(
    "answer",
    [None, 3, "ab", wire.NestedList([1]), wire.Mapping(["*w*"], [3]), wire.NestedList([wire.NestedList(["w", None])])],
)
def test_named_tensors_that_are_none_are_the_students_failure(answer: Any) -> None:
    """A `state_dict` of their own that gives something else is the student's failure, told without markup."""
    with pytest.raises(StudentError, match=r"`state_dict\(\)` of your Net") as caught:
        Handle(student_of(Channel(answer)), wire.Ref(0), "Net").state_dict()
    assert "*w*" not in str(caught.value)


# ---- time


def test_only_what_hung_gets_less_time() -> None:
    """Each time a name runs into its limit its next calls get half, down to a second; other names keep theirs."""
    hung = StudentStopped("Your code did not finish within 8 seconds.", timed_out=True)
    ended = StudentStopped("Your code's process exited.")
    budget = Budget(8.0)
    limits = []
    for _ in range(5):
        channel = Channel(hung)
        with pytest.raises(StudentStopped, match="`f` may loop for ever") as caught:
            student_of(channel, budget).f()
        assert caught.value.timed_out
        limits += channel.limits
    assert limits == [8.0, 4.0, 2.0, 1.0, 1.0]
    channel = Channel(wire.Ref(0, "Net", True), ended, None)
    net = student_of(channel, budget).Net()
    with pytest.raises(StudentStopped, match="process exited"):
        net()
    net()
    assert channel.limits == [8.0, 8.0, 8.0]


def test_an_objects_calls_take_the_time_of_what_made_it() -> None:
    """A method that hangs costs the class that the object came from, and what that method's results do."""
    budget = Budget(8.0)
    hung = StudentStopped("Too long.", timed_out=True)
    student = student_of(Channel(wire.Ref(0, "Net", True), hung, hung), budget)
    net = student.Net()
    for ask in (net.eval, lambda: net.verb("tensors")):
        with pytest.raises(StudentStopped, match="`Net` may"):
            ask()
    assert (budget.seconds("Net"), budget.seconds("f")) == (2.0, 8.0)


def test_a_call_gets_no_more_than_the_test_has_left() -> None:
    """Near its deadline a test's calls get what is left, and past it next to nothing."""
    channel = Channel(1, 2)
    student_of(channel, seconds=3.0).f()
    student_of(channel, seconds=-5.0).f()
    assert channel.limits[0] <= 3.0
    assert channel.limits[1] == 0.05


def test_a_small_limit_is_not_raised() -> None:
    """A limit below a second stays what it is, after a hang too."""
    budget = Budget(0.5)
    budget.hung("f")
    assert budget.seconds("f") == 0.5


# ---- what student code raised


def test_an_error_shows_the_students_own_lines() -> None:
    """The message has the place, the lines, the exception and its words, in a block that they cannot close."""
    lines = [("submission.py", 1, "<module>"), ("submission.py", 7, "forward")]
    reply = wire.Raised("RuntimeError", "shape is ``` invalid", lines, "")
    with pytest.raises(StudentRaised) as caught:
        student_of(Channel(reply)).f()
    told = str(caught.value)
    assert told.startswith("Your code raised RuntimeError at submission.py, line 7.\n\n````\n")
    assert "submission.py, line 1\n    import torch\n" in told
    assert "submission.py, line 7, in forward\n    return x.view(-1, 512)\n" in told
    assert "RuntimeError: shape is ``` invalid\n````" in told
    assert (caught.value.kind, caught.value.missing) == ("RuntimeError", "")


def test_an_error_without_lines_is_told() -> None:
    """An error that no line of the student's is part of is told by its class and words."""
    error = raised(wire.Raised("ModuleNotFoundError", "`x` is used", [], "x"), Script(), "Importing your file")
    assert str(error) == "Importing your file raised ModuleNotFoundError.\n\n```\nModuleNotFoundError: `x` is used\n```"
    assert error.missing == "x"


def test_what_is_forged_about_an_error_is_bounded() -> None:
    """An error forged to be huge comes to a message of a few thousand characters, without markup outside its block."""
    lines = [("**bold**" * 100_000, 2**62, "f" * 100_000)] * 100_000
    error = raised(wire.Raised("<img>*" * 100_000, "m" * 10_000_000, lines, "x" * 100_000), Script())
    assert len(str(error)) < 10_000
    heading = str(error).split("\n")[0]
    assert "<img>" not in heading
    assert "**" not in heading
    assert len(error.kind) <= 200
    assert len(error.missing) <= 200


def test_style_is_read_from_the_source() -> None:
    """What a definition calls is read on this side, and the student's code is not asked."""
    channel = Channel()
    assert student_of(channel).calls_in_source("f") == {"torch.f"}
    assert channel.asked == []


def test_use_gpu_says_which() -> None:
    """The device that the other side has from here on is told by its words."""
    channel = Channel("a simulated CUDA device")
    assert student_of(channel).use_gpu() == "a simulated CUDA device"
    assert channel.asked == [wire.Verb("use_gpu", [], {})]
