"""What crosses: live objects to wire values and back, and what is refused on the way."""

import collections
import fractions
import itertools
import types
from typing import Any

import numpy as np
import pytest
import torch

from autograder.confined import wire
from autograder.confined.values import Objects, from_wire, to_wire


def there_and_back(thing: Any) -> Any:
    """The thing after it crossed as bytes."""
    objects = Objects()
    frame = wire.decode(wire.encode(wire.Done(to_wire(thing, objects))), wire.Reply)
    return from_wire(frame.value, objects)


def crossed(thing: Any) -> Any:
    """The wire value of a thing."""
    return to_wire(thing, Objects())


TENSORS = {
    "0-dim": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "one": torch.ones(1, 1, 1),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "strided": torch.arange(10)[::3],
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "negative, contiguous": torch._neg_view(torch.ones(3)),
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "not finite": torch.tensor([float("inf"), -float("inf"), 0.0]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_every_layout_cross_by_value(name: str) -> None:
    """However a tensor lies in memory, its shape, dtype and values arrive."""
    back = there_and_back(TENSORS[name])
    assert back.dtype == TENSORS[name].dtype
    assert back.shape == TENSORS[name].shape
    assert torch.equal(back, TENSORS[name].resolve_conj())


@pytest.mark.parametrize("name", wire.DTYPES)
def test_tensors_of_every_dtype_cross_by_value(name: str) -> None:
    """Each dtype of the protocol crosses with all its values, and counts the bytes that the protocol says."""
    dtype = getattr(torch, name)
    tensor = (
        torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype) if name == "bool" else torch.arange(6).to(dtype).reshape(2, 3)
    )
    assert torch.equal(there_and_back(tensor), tensor)
    assert there_and_back(tensor).dtype == dtype
    assert len(crossed(tensor).data) == 6 * wire.DTYPES[name]


def test_a_tensor_says_what_it_is_on_this_side() -> None:
    """Whether it needs a gradient, is a parameter and where it lives cross beside the values."""
    plain, leaf = torch.zeros(2), torch.zeros(2, requires_grad=True)
    facts = [
        (t.device, t.requires_grad, t.is_parameter) for t in map(crossed, (plain, leaf, torch.nn.Parameter(plain)))
    ]
    assert facts == [("cpu", False, False), ("cpu", True, False), ("cpu", True, True)]
    assert (leaf * 2).requires_grad
    assert crossed(leaf * 2).requires_grad


def test_what_is_handed_over_is_a_leaf_of_its_own() -> None:
    """A tensor that arrives can be written to and differentiated, and shares no memory with the one that was sent."""
    sent = torch.ones(3, requires_grad=True)
    back = there_and_back(sent)
    (back * 2).sum().backward()
    assert back.grad.tolist() == [2.0, 2.0, 2.0]
    plain = there_and_back(torch.ones(3))
    plain[0] = 7
    assert not plain.requires_grad
    assert sent.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(2).to_sparse(), torch.ones(2).to(torch.float8_e5m2)],
    ids=["sparse", "of 8 bits"],
)
def test_tensors_that_are_not_plain_are_refused(tensor: torch.Tensor) -> None:
    """A tensor whose bytes are not its values is a TypeError, not an answer."""
    with pytest.raises(TypeError, match="cannot be compared"):
        crossed(tensor)


def test_a_tensor_too_large_for_a_frame_is_refused() -> None:
    """A tensor's size is judged by its shape, before its bytes are copied: one expanded to gigabytes costs nothing."""
    with pytest.raises(ValueError, match=r"shape \(100000, 100000\)"):
        crossed(torch.zeros(1).expand(100_000, 100_000))


PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -(2**63),
    2**63 - 1,
    1.5,
    "",
    "naïve ✓",
    [],
    [1, [2.0, "x"]],
    {"a": {"b": None}},
]


@pytest.mark.parametrize("thing", PLAIN, ids=repr)
def test_plain_data_crosses_as_it_is(thing: Any) -> None:
    """None, booleans, numbers, text, lists and dicts arrive equal, and of the same type."""
    back = there_and_back(thing)
    assert back == thing
    assert type(back) is type(thing)


@pytest.mark.parametrize(
    ("thing", "value"),
    [
        ((1, 2), [1, 2]),
        (torch.Size([3, 4]), [3, 4]),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({1: "one"}, {"1": "one"}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ((x * x for x in range(3)), [0, 1, 4]),
        (iter({"a": 1}.items()), [["a", 1]]),
        (torch.float32, "torch.float32"),
        (torch.device("cuda", 0), "cuda:0"),
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (np.int64(3), 3),
        (fractions.Fraction(1, 4), 0.25),
        ("\ud800 and after", "? and after"),
        ({"\ud800": 1}, {"?": 1}),
    ],
)
def test_what_is_like_plain_data_crosses_as_plain_data(thing: Any, value: Any) -> None:
    """Tuples, mappings, iterators, numpy's numbers, dtypes and text that no frame can hold arrive as what they mean."""
    back = there_and_back(thing)
    assert back == value
    assert type(back) is type(value)


def test_a_mapping_keeps_its_order() -> None:
    """The names of a state_dict arrive in the model's order."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    assert list(there_and_back(model.state_dict())) == list(model.state_dict())
    assert [name for name, _ in there_and_back(model.named_parameters())] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


def nested(depth: int) -> list[Any]:
    """Lists inside one another."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def wide(depth: int) -> list[Any]:
    """Few objects that come to 100 ** depth items when written out."""
    inner: list[Any] = [0] * 100
    for _ in range(depth - 1):
        inner = [inner] * 100
    return inner


def looped() -> dict[str, Any]:
    """A dict that holds itself."""
    outer: dict[str, Any] = {}
    outer["self"] = outer
    return outer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nested(17), "deep"),
        (looped, "deep"),
        (itertools.count, "items"),
        (lambda: range(10**9).__iter__(), "items"),
        (lambda: [0] * 100_001, "items"),
        (lambda: wide(8), "items"),
        (lambda: {str(key): 0 for key in range(100_001)}, "items"),
    ],
    ids=["deep", "looped", "endless", "long iterator", "long list", "wide", "large dict"],
)
def test_what_does_not_end_is_refused(make: Any, words: str) -> None:
    """An answer too deep or too long is a ValueError that says which, in finite time and memory."""
    with pytest.raises(ValueError, match=words):
        crossed(make())


def test_what_is_just_within_bounds_crosses() -> None:
    """The bounds themselves are allowed."""
    assert there_and_back(nested(16)) == nested(16)
    assert len(there_and_back([0] * 100_000)) == 100_000


def test_anything_else_stays_and_gets_a_number() -> None:
    """Objects stay here and cross as numbers; the number gives the very object back."""
    objects = Objects()
    model, other = torch.nn.Linear(2, 3), object()
    refs = [to_wire(thing, objects) for thing in (model, other, 2**64)]
    assert refs == [wire.Ref(0, "Linear", True), wire.Ref(1, "object"), wire.Ref(2, "int")]
    decoded = [wire.decode(wire.encode(wire.Done(ref)), wire.Reply).value for ref in refs]
    assert from_wire(decoded[0], objects) is model
    assert from_wire(wire.NestedList([decoded[1]]), objects)[0] is other


def test_an_objects_kind_is_always_text() -> None:
    """An object whose class lies about its name crosses all the same, under text that a frame can hold."""

    class Meta(type):
        __name__ = property(lambda _: "\ud800")

    class Odd(metaclass=Meta):
        pass

    assert wire.decode(wire.encode(wire.Done(crossed(Odd()))), wire.Reply).value.kind == "?"


def test_a_number_that_was_never_given_is_an_error() -> None:
    """An object's number that this side did not give raises, rather than naming another object."""
    with pytest.raises(IndexError):
        from_wire(wire.Ref(5), Objects())


def test_a_device_arrives_as_one() -> None:
    """A device crosses to this side as `torch.device`, not as text."""
    assert from_wire(wire.Device("cuda"), Objects()) == torch.device("cuda")
