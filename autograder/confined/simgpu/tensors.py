"""Layer 1, confined: what replaces the methods of `torch.Tensor` that speak of devices.

They are set on the class and not left to a mode: a mode is off while it handles a call, and torch's Python functions
read `x.device` and call `x.to(...)` from within one.
"""

from typing import Any

import torch

from autograder.confined.simgpu.sides import CPU, CUDA, mark, side_named, side_of

__all__ = ["REPLACEMENTS", "move", "real_device"]

# As torch has them: taken here, at import, so before anything is replaced.
_base: Any = torch._C.TensorBase  # noqa: SLF001  # the class that holds torch's own methods
_to, _type, _numpy, _clone, _device = _base.to, _base.type, _base.numpy, _base.clone, _base.device.__get__


def _real(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a method of torch's own; unguarded, torch looks it up by name for the mode, and hands it our replacement."""
    with torch._C.DisableTorchFunction():  # noqa: SLF001  # has no public name
        return method(*args, **kwargs)


class _ToCopy(torch.autograd.Function):
    """A copy to the other device, whose gradient goes back the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, side: str) -> torch.Tensor:
        ctx.source = side_of(tensor)
        return _copy(tensor, side)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return move(grads[0], ctx.source), None


def _copy(tensor: torch.Tensor, side: str) -> torch.Tensor:
    copy: torch.Tensor = _real(_clone, tensor)
    mark(copy, side)
    return copy


def move(tensor: torch.Tensor, side: str) -> torch.Tensor:
    """The tensor itself if it is on that side, else a copy there that autograd sees through."""
    if side_of(tensor) == side:
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        moved: torch.Tensor = _ToCopy.apply(tensor, side)  # type: ignore[no-untyped-call]
        return moved
    return _copy(tensor, side)


def real_device(tensor: torch.Tensor) -> torch.device:
    """The device that torch itself has a tensor on."""
    device: torch.device = _real(_device, tensor)
    return device


def _simulated_device(self: torch.Tensor) -> torch.device:
    return torch.device("cuda", 0) if side_of(self) == CUDA else real_device(self)


def _is_cuda(self: torch.Tensor) -> bool:
    return _simulated_device(self).type == "cuda"


def _is_cpu(self: torch.Tensor) -> bool:
    return _simulated_device(self).type == "cpu"


def _get_device(self: torch.Tensor) -> int:
    device = _simulated_device(self)
    return -1 if device.index is None else device.index


def _simulated_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """All signatures of `Tensor.to`: the device is taken out, torch does the rest, the copy follows."""
    if "tensor" in kwargs:
        args = (kwargs.pop("tensor"), *args)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device = kwargs.get("device")
    if args and not isinstance(args[0], torch.dtype):
        device = args[0]
    side = None if device is None else side_named(device)
    if side is not None and "device" in kwargs:
        kwargs["device"] = CPU
    elif side is not None:
        args = (CPU, *args[1:])
    result: torch.Tensor = _real(_to, self, *args, **kwargs)
    return result if side is None else move(result, side)


def _cuda(self: torch.Tensor, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
    side = side_named("cuda" if device is None else device)
    if side != CUDA:
        raise RuntimeError("Invalid device, must be cuda device")
    return _simulated_to(self, "cuda", non_blocking=non_blocking, **kwargs)


def _cpu(self: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return _simulated_to(self, "cpu", **kwargs)


def _type_as(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return _simulated_to(self, other)


def _simulated_type(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """`x.type()` names the device ("torch.cuda.FloatTensor"), and `x.type(name)` goes there."""
    if dtype is None:
        name: str = _real(_type, self)
        return name.replace("torch.", "torch.cuda.", 1) if side_of(self) == CUDA else name
    if isinstance(dtype, torch.dtype):
        return _simulated_to(self, dtype, non_blocking=non_blocking)
    name = f"{dtype.__module__}.{dtype.__name__}" if isinstance(dtype, type) else str(dtype)
    result = _real(_type, self, name.replace("torch.cuda.", "torch."))
    return move(result, CUDA if name.startswith("torch.cuda.") else CPU)


def _simulated_numpy(self: torch.Tensor, *, force: bool = False) -> Any:
    if side_of(self) == CUDA and not force:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )
    return _real(_numpy, self, force=force)


def _pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    del device
    if side_of(self) == CUDA:
        raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
    return self


REPLACEMENTS: dict[str, Any] = {
    "device": property(_simulated_device),
    "is_cuda": property(_is_cuda),
    "is_cpu": property(_is_cpu),
    "get_device": _get_device,
    "to": _simulated_to,
    "cuda": _cuda,
    "cpu": _cpu,
    "type": _simulated_type,
    "type_as": _type_as,
    "numpy": _simulated_numpy,
    "pin_memory": _pin_memory,
    "record_stream": lambda _self, _stream: None,
}
