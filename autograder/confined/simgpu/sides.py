"""Layer 1, confined: on which simulated device a tensor is. Everything else in this package reads and writes it here.

The mark lies on the tensor's storage, because a device is where memory is: views, `.data`, `detach()`, a `Parameter`
made of a tensor and the pieces of autograd all share the storage, and so agree without being told.
"""

from typing import Any, Final

import torch

__all__ = [
    "CPU",
    "CUDA",
    "EITHER",
    "mark",
    "mark_storage",
    "same_device_error",
    "side_named",
    "side_of",
    "side_of_storage",
]

CPU: Final = "cpu"
CUDA: Final = "cuda:0"
# Made inside an operator from the options of a tensor that really is on the CPU, so its side cannot be known:
# it takes that of the first tensor it meets.
EITHER: Final = "either"

_MARK = "_simulated_side"
_base: Any = torch._C.TensorBase  # noqa: SLF001  # the class that holds torch's own, unpatched methods


def _holder(tensor: torch.Tensor) -> Any:
    """The storage; for a tensor that has none (sparse, or a wrapper of torch.func) the tensor itself."""
    try:
        # The unbound method, under the guard, so that this never calls back into the modes or the patched methods.
        with torch._C.DisableTorchFunction():  # noqa: SLF001  # has no public name
            return _base.untyped_storage(tensor)
    except (NotImplementedError, RuntimeError):
        return tensor


def side_of(tensor: torch.Tensor) -> str:
    """Where the simulation has a tensor: `CPU`, `CUDA` or `EITHER`."""
    return getattr(_holder(tensor), _MARK, CPU)


def side_of_storage(storage: Any) -> str:
    """Where the simulation has a storage, typed or untyped."""
    return getattr(getattr(storage, "_untyped_storage", storage), _MARK, CPU)


def mark(tensor: torch.Tensor, side: str) -> None:
    """Put a tensor, and all that shares its memory, on a side."""
    mark_storage(_holder(tensor), side)


def mark_storage(storage: Any, side: str) -> None:
    """Put a storage, typed or untyped, on a side."""
    holder = getattr(storage, "_untyped_storage", storage)
    if side != CPU:
        setattr(holder, _MARK, side)
    elif hasattr(holder, _MARK):
        delattr(holder, _MARK)


def side_named(device: Any) -> str | None:
    """The side that a device argument names; None for a device that is not simulated, such as "meta".

    Raises:
        RuntimeError: The device is a CUDA device that a machine with one GPU has not, or no device at all.
    """
    if isinstance(device, int) and not isinstance(device, bool):
        kind, index = "cuda", device
    else:
        named = torch.device(device)  # torch's own error for what is no device
        kind, index = named.type, named.index or 0
    if kind == "cpu":
        return CPU
    if kind != "cuda":
        return None
    if index != 0:
        raise _ordinal_error()
    return CUDA


def _ordinal_error() -> RuntimeError:
    message = (
        "CUDA error: invalid device ordinal\nGPU device may be out of range, do you have enough GPUs?\n"
        "(The simulated machine has one GPU, cuda:0.)"
    )
    kind: Any = getattr(torch, "AcceleratorError", None)
    # 101 is cudaErrorInvalidDevice, as on a GPU.
    return RuntimeError(message) if kind is None else kind(message, 101)


def same_device_error(name: str, on_cuda: list[torch.Tensor], on_cpu: list[torch.Tensor]) -> RuntimeError:
    """Torch's sentence for tensors of two devices in one operator, with the operator and the shapes."""
    cuda_shapes, cpu_shapes = (", ".join(str(tuple(t.shape)) for t in side) for side in (on_cuda, on_cpu))
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"(in {name}: shape {cuda_shapes} on cuda:0, shape {cpu_shapes} on cpu)"
    )
