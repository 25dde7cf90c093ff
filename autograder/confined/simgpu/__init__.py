"""Layer 1, confined: a CUDA device that is not there, so that device mistakes show on machines without a GPU.

Every tensor stays on the CPU with its real values; beside it is kept where the program put it. `sides` keeps that,
`operators` has the rules by which a GPU refuses tensors of two devices, `modes` watches what runs, `tensors` and
`library` answer in torch's place.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch

from autograder.confined.simgpu.library import replaced
from autograder.confined.simgpu.modes import Calls, Operators
from autograder.confined.simgpu.sides import CUDA, side_of
from autograder.confined.simgpu.tensors import real_device

__all__ = ["device_of", "simulated_cuda"]

_entered = threading.local()


def device_of(tensor: torch.Tensor) -> str:
    """Where a tensor is: "cuda:0" if the simulation has it there, else what torch says."""
    return CUDA if side_of(tensor) == CUDA else str(real_device(tensor))


@contextlib.contextmanager
def simulated_cuda() -> Iterator[None]:
    """Make this process one with a single GPU, `cuda:0`, that computes on the CPU; entered again inside, do nothing.

    Meant for a process that is thrown away: leaving restores torch, but tensors made inside keep their mark.
    """
    if getattr(_entered, "yes", False):
        yield
        return
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001
    with replaced(_modes), _modes():
        try:
            yield
        finally:
            if getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is not default:  # noqa: SLF001
                torch.set_default_device(None if default is None else default.device)


@contextlib.contextmanager
def _modes() -> Iterator[None]:
    operators = Operators()
    with Calls(operators), operators:
        _entered.yes = True
        try:
            yield
        finally:
            _entered.yes = False
