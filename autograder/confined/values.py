"""Layer 1, confined: live objects to wire values and back."""

import collections.abc
import numbers
from typing import Any

import torch

from autograder.confined import simgpu, wire

__all__ = ["Objects", "from_wire", "to_wire"]

_MAX_DEPTH = 16
_MAX_ITEMS = 100_000
"""Items of one answer, all its containers together; and characters of one string."""
_TORCH_DTYPES = {getattr(torch, name): name for name in wire.DTYPES}


class Objects:
    """The objects of one child that the other side knows by number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def keep(self, thing: Any) -> wire.Ref:
        """Keep an object and give it a number."""
        self._objects.append(thing)
        return wire.Ref(len(self._objects) - 1, _text(type(thing).__name__), isinstance(thing, torch.nn.Module))

    def __getitem__(self, ref: int) -> Any:
        return self._objects[ref]


def _tensor_to_wire(tensor: torch.Tensor) -> wire.Tensor:
    dtype = _TORCH_DTYPES.get(tensor.dtype)
    if dtype is None or tensor.layout is not torch.strided:
        raise TypeError(f"a tensor of dtype {tensor.dtype} and layout {tensor.layout} cannot be compared here")
    size = tensor.numel() * wire.DTYPES[dtype]
    if size > wire.MAX_FRAME // 2:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} takes {size} bytes, more than can be an answer")
    # Read before anything is moved: what the other side compares is where the student's tensor lives.
    device, requires_grad = simgpu.device_of(tensor), tensor.requires_grad
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = plain.view(torch.uint8).numpy().tobytes() if size else b""
    return wire.Tensor(dtype, list(tensor.shape), data, device, requires_grad, isinstance(tensor, torch.nn.Parameter))


def _text(text: Any) -> str:
    # a str that msgspec can encode: no lone surrogates, and of no subclass with methods of its own
    return str.encode(str(text), "utf-8", "replace").decode()[:_MAX_ITEMS]


def to_wire(thing: Any, objects: Objects) -> wire.Value:
    """A live object as a wire value: tensors and plain data by value, containers item by item, anything else by number.

    Raises:
        TypeError, ValueError: The object cannot cross (a sparse tensor, a container nested too deep or too long).
    """
    return _Answer(objects).value(thing, 0)


class _Answer:
    """One answer on its way out, and how many items it has come to."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._items = 0

    def value(self, thing: Any, depth: int) -> wire.Value:
        if isinstance(thing, torch.Tensor):
            return _tensor_to_wire(thing)
        if isinstance(thing, collections.abc.Mapping | list | tuple | collections.abc.Iterator):
            return self._container(thing, depth)
        if thing is None or isinstance(thing, bool):
            return thing
        if isinstance(thing, str | torch.dtype | torch.device):
            return _text(thing)
        return self._number(thing)

    def _number(self, thing: Any) -> wire.Value:
        # the abstract kinds, as numpy's numbers are of those alone
        if isinstance(thing, numbers.Integral):
            number = int(thing)
            return number if -(2**63) <= number < 2**63 else self._objects.keep(thing)
        if isinstance(thing, numbers.Real):
            return float(thing)
        return self._objects.keep(thing)

    def _container(self, thing: Any, depth: int) -> wire.Value:
        if depth > _MAX_DEPTH:
            raise ValueError(f"an answer nested more than {_MAX_DEPTH} deep cannot be compared")
        if isinstance(thing, collections.abc.Mapping):
            pairs = [(_text(key), self._item(item, depth)) for key, item in thing.items()]
            return wire.Mapping([key for key, _ in pairs], [item for _, item in pairs])
        return wire.NestedList([self._item(item, depth) for item in thing])

    def _item(self, thing: Any, depth: int) -> wire.Value:
        self._items += 1
        if self._items > _MAX_ITEMS:
            raise ValueError(f"an answer of more than {_MAX_ITEMS} items cannot be compared")
        return self.value(thing, depth + 1)


def from_wire(value: wire.Value, objects: Objects) -> Any:
    """A wire value as a live object: a fresh tensor on its device, or the object of that number."""
    if isinstance(value, wire.Tensor):
        dtype = getattr(torch, value.dtype)
        # bytearray: torch warns about read-only memory, and the student may write to what is handed over
        flat = torch.frombuffer(bytearray(value.data), dtype=dtype) if value.data else torch.empty(0, dtype=dtype)
        tensor = flat.reshape(value.shape)
        if value.device != "cpu":
            tensor = tensor.to(value.device)
        return tensor.requires_grad_() if value.requires_grad else tensor
    if isinstance(value, wire.Ref):
        return objects[value.ref]
    if isinstance(value, wire.Device):
        return torch.device(value.name)
    if isinstance(value, wire.NestedList):
        return [from_wire(item, objects) for item in value.items]
    if isinstance(value, wire.Mapping):
        return {key: from_wire(item, objects) for key, item in zip(value.keys, value.values, strict=True)}
    return value
