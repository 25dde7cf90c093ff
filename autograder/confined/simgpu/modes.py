"""Layer 1, confined: the two torch modes that watch all that runs on the simulated machine.

`Operators` sees every aten operator, those of backward as well, checks that its tensors are on one device and marks
its results. `Calls` stands above it and sees torch's functions as the student calls them: what `device=` or the default
device asks for.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _device as default_device
from torch.utils._python_dispatch import TorchDispatchMode

from autograder.confined.simgpu.operators import flat_tensors, settle_mixed
from autograder.confined.simgpu.sides import CPU, CUDA, EITHER, mark, side_named, side_of
from autograder.confined.simgpu.tensors import move

__all__ = ["Calls", "Operators"]

_REAL_CPU = torch.device("cpu")
_base: Any = torch._C.TensorBase  # noqa: SLF001  # the class that holds torch's own attributes
_SET_GRAD = _base.grad.__set__
_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray})
_ALIASING = frozenset({torch.as_tensor, torch.asarray})
_LIKE_SELF = frozenset(
    getattr(torch.Tensor, name)
    for name in ("new", "new_tensor", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")
)
# The sparse constructors take the device of their tensors, which Operators sees.
_CONSTRUCTORS = frozenset(
    function
    for function in default_device._device_constructors()  # noqa: SLF001  # torch's own list of what the default device is for
    if "sparse" not in getattr(function, "__name__", "")
)


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Checks and marks every aten operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside_call = False
        self.left_open = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from wrapping `__torch_dispatch__`: the wrapper's first call imports torch._dynamo (seconds)."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Calls may be active here (in backward it is), and would see each of our own questions as a student's call.
        with torch._C.DisableTorchFunction():  # noqa: SLF001  # has no public name
            device = kwargs.get("device")
            if device is not None and device.type == "cuda":
                side: dict[int, str] | str = side_named(device) or CPU
                kwargs = {**kwargs, "device": _REAL_CPU}
            else:
                side = self._side_of_results(func, args, kwargs)
            result = func(*args, **kwargs)
            self._mark(result, side)
            return result

    def _side_of_results(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, str] | str:
        tensors = [*flat_tensors(args), *flat_tensors(*kwargs.values())] if kwargs else list(flat_tensors(args))
        if not tensors:
            # A tensor made from nothing. By the student, in a call that Calls misses (`torch.Tensor(3)`): on the CPU.
            # By an operator or a gradient formula: like some tensor that we cannot see from here.
            unseen = self.inside_call or torch._C._current_autograd_node() is not None  # noqa: SLF001  # has no public name
            return EITHER if unseen else CPU
        sides = {side_of(tensor) for tensor in tensors}
        if len(sides) == 1:
            return sides.pop()
        if CUDA in sides:
            return settle_mixed(func, args, kwargs)
        if all(tensor.dim() == 0 for tensor in tensors if side_of(tensor) == CPU):
            return EITHER
        for tensor in tensors:
            mark(tensor, CPU)
        return CPU

    def _mark(self, result: Any, side: dict[int, str] | str) -> None:
        if side == CPU:
            return  # fresh memory is on the CPU, and what shares memory with an argument is where that is
        results = list(flat_tensors(result))
        if isinstance(side, str):
            side = dict.fromkeys(range(len(results)), side)
        for position, tensor in enumerate(results):
            if position in side:
                mark(tensor, side[position])
                self.left_open |= side[position] == EITHER


class Calls(TorchFunctionMode):
    """Turns what the student asks for by `device=` or by the default device into marks."""

    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs) if kwargs else {}
        if func == _SET_GRAD:
            _check_grad(*args)
        wanted = _take_wanted(func, args, kwargs)
        kwargs.pop("pin_memory", None)  # only a machine with an accelerator pins, and it changes no value
        if kwargs.get("generator") is not None:
            _check_generator(wanted, args, kwargs["generator"])
        result = self._call(func, args, kwargs)
        if wanted is not None:
            return _place(func, result, wanted)
        if self._operators.left_open:
            self._close(result, args, kwargs)
        return result

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = self._operators.inside_call
        self._operators.inside_call = True
        try:
            return func(*args, **kwargs)
        finally:
            self._operators.inside_call = before

    def _close(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Where a call's result met no tensor that decided its side, the call's arguments do."""
        self._operators.left_open = False
        for tensor in flat_tensors(result):
            if side_of(tensor) == EITHER:
                given = flat_tensors(args, list(kwargs.values()))
                mark(tensor, CUDA if any(side_of(argument) == CUDA for argument in given) else CPU)


def _take_wanted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Which side a call's result must be on, None if its arguments decide; `device=` becomes the real CPU."""
    device = kwargs.get("device")
    if kwargs.get("out") is not None:
        wanted = None  # the memory is there already
    elif device is not None:
        wanted = side_named(device)
    elif func in _LIKE_SELF:
        wanted = side_of(args[0])
    elif func not in _CONSTRUCTORS:
        return None
    elif default_device.CURRENT_DEVICE is not None:
        # torch's own mode for this stands below ours, where it would ask the real torch for a CUDA tensor.
        wanted = side_named(default_device.CURRENT_DEVICE)
        device = default_device.CURRENT_DEVICE
    elif func in _FROM_DATA and args and isinstance(args[0], torch.Tensor):
        wanted = side_of(args[0])
    else:
        wanted = CPU
    if device is not None and wanted is not None:
        kwargs["device"] = _REAL_CPU
    return wanted


def _place(func: Any, result: Any, wanted: str) -> Any:
    if func in _ALIASING:
        return move(result, wanted)  # its memory may be that of an array or tensor that stays where it is
    for tensor in flat_tensors(result):
        mark(tensor, wanted)
    return result


def _check_grad(tensor: torch.Tensor, grad: torch.Tensor | None) -> None:
    if isinstance(grad, torch.Tensor) and {side_of(tensor), side_of(grad)} == {CPU, CUDA}:
        raise RuntimeError("assigned grad has data located on a different device")


def _check_generator(wanted: str | None, args: tuple[Any, ...], generator: torch.Generator) -> None:
    side = wanted or (CUDA if any(side_of(tensor) == CUDA for tensor in flat_tensors(args)) else CPU)
    expected, found = side.partition(":")[0], generator.device.type
    if expected != found:
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")
