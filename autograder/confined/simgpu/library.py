"""Layer 1, confined: what stands in for `torch.cuda`, `torch.accelerator` and others that ask for a GPU."""

import contextlib
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autograder.confined.simgpu import tensors
from autograder.confined.simgpu.sides import CUDA, mark_storage, side_named, side_of_storage

__all__ = ["replaced"]

_NAME = "simulated GPU"
_MEMORY = 16 * 2**30
_QUIET = (
    "_lazy_init",
    "empty_cache",
    "init",
    "ipc_collect",
    "manual_seed",
    "manual_seed_all",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_per_process_memory_fraction",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "synchronize",
)
_ZERO = (
    "current_device",
    "initial_seed",
    "max_memory_allocated",
    "max_memory_reserved",
    "memory_allocated",
    "memory_reserved",
    "utilization",
)
# Names that modules imported from torch.overrides. See `_let_modes_see_inside`.
_OVERRIDE_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_ASKING_MODULES: tuple[Any, ...] = (torch._tensor, torch.functional, torch.nn.functional, torch.autograd)  # noqa: SLF001
_Generator = torch._C.Generator  # noqa: SLF001  # the class itself, whatever torch.Generator is by then


class _Event:
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self._at = 0.0

    def record(self, _stream: Any = None) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, end: "_Event") -> float:
        return (end._at - self._at) * 1000  # noqa: SLF001  # milliseconds, of its own class

    def query(self) -> bool:
        return True

    def wait(self, _stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Stream:
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.device = torch.device("cuda", 0)

    def __enter__(self) -> "_Stream":  # Self is not in Python 3.10, and nobody derives from this
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def record_event(self, event: _Event | None = None) -> _Event:
        event = event or _Event()
        event.record()
        return event

    def is_capturing(self) -> bool:
        return False

    def query(self) -> bool:
        return True

    def wait_event(self, _event: Any) -> None:
        pass

    def wait_stream(self, _stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _AnyGenerator(type(_Generator)):  # type: ignore[misc]  # the C class has a metaclass of its own
    """Generators made before, and torch's default one, are instances of `torch.Generator` still."""

    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, _Generator)


class _SimulatedGenerator(_Generator, metaclass=_AnyGenerator):
    """A CPU generator that says it is where it was asked to be."""

    def __new__(cls, device: Any = "cpu") -> "_SimulatedGenerator":  # as above
        generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]  # as C has it, not the stub
        generator._simulated = torch.device("cuda", 0) if side_named(device) == CUDA else torch.device("cpu")  # type: ignore[attr-defined]
        return generator

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        found: torch.device = self._simulated  # type: ignore[attr-defined]
        return found


# These two make a new function for each name: torch._dynamo, which optimizers import, refuses one under two names.


def _selecting() -> Callable[..., Any]:
    """For `torch.cuda.device(...)` and `set_device(...)`: there is one device to choose, nothing to enter or leave."""

    def selected(device: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        if device is not None and device != -1:
            side_named(device)
        return contextlib.nullcontext()

    return selected


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: value


def _cuda_names() -> dict[str, Any]:
    properties = types.SimpleNamespace(name=_NAME, major=8, minor=0, total_memory=_MEMORY, multi_processor_count=1)
    return {
        **{name: _always(None) for name in _QUIET},
        **{name: _always(0) for name in _ZERO},
        "is_available": _always(True),
        "is_initialized": _always(True),
        "is_bf16_supported": _always(True),
        "is_current_stream_capturing": _always(False),
        "device_count": _always(1),
        "get_device_name": _always(_NAME),
        "get_device_capability": _always((8, 0)),
        "get_device_properties": _always(properties),
        "mem_get_info": _always((_MEMORY, _MEMORY)),
        "memory_stats": lambda *_args, **_kwargs: {},
        "memory_summary": _always(_NAME),
        "get_rng_state": lambda *_args: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_device": _selecting(),
        "device": _selecting(),
        "device_of": _always(contextlib.nullcontext()),
        "stream": _always(contextlib.nullcontext()),
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": lambda *_args: _Stream(),
        "default_stream": lambda *_args: _Stream(),
    }


def _accelerator_names() -> dict[str, Any]:
    shared = ("empty_cache", "set_stream", "synchronize", "is_available", "device_count", "current_stream", *_ZERO)
    return {
        **{name: value for name, value in _cuda_names().items() if name in shared},
        "current_accelerator": lambda *_args, **_kwargs: torch.device("cuda"),
        "current_device_index": _always(0),
        "current_device_idx": _always(0),
        "set_device_index": _selecting(),
        "set_device_idx": _selecting(),
    }


def _module_to() -> Callable[..., Any]:
    to = torch.nn.Module.to

    def module_to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        # A bare number is a CUDA device; a torch without CUDA cannot read it.
        if args and isinstance(args[0], int) and not isinstance(args[0], bool):
            args = (f"cuda:{args[0]}", *args[1:])
        return to(self, *args, **kwargs)

    return module_to


def _serialization_names() -> dict[str, Any]:
    """`torch.save` writes down the device of each storage, `torch.load` reads it or is told another."""
    location_tag: Any = torch.serialization.location_tag
    restore: Any = torch.serialization.default_restore_location

    def simulated_tag(storage: Any) -> str:
        return CUDA if side_of_storage(storage) == CUDA else location_tag(storage)

    def simulated_restore(storage: Any, location: str) -> Any:
        if not str(location).startswith("cuda"):
            return restore(storage, location)
        mark_storage(storage, side_named(location) or CUDA)
        return storage

    return {"location_tag": simulated_tag, "default_restore_location": simulated_restore}


def _thread_run(modes: Callable[[], contextlib.AbstractContextManager[None]]) -> Callable[..., None]:
    run = threading.Thread.run

    def simulated_run(self: threading.Thread) -> None:
        with modes():  # torch's modes belong to one thread each
            run(self)

    return simulated_run


def _let_modes_see_inside() -> Iterator[tuple[Any, str, Any]]:
    """Torch's functions written in Python hand themselves to the mode, and run while it is off. These never do."""
    for module in _ASKING_MODULES:
        for name in _OVERRIDE_QUESTIONS:
            if hasattr(module, name):
                yield module, name, _always(False)


def _table(modes: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[tuple[Any, str, Any]]:
    groups: tuple[tuple[Any, dict[str, Any]], ...] = (
        (torch.Tensor, tensors.REPLACEMENTS),
        (torch.cuda, _cuda_names()),
        (getattr(torch, "accelerator", None), _accelerator_names()),
        (torch.serialization, _serialization_names()),
        (torch.nn.Module, {"to": _module_to()}),
        (torch, {"Generator": _SimulatedGenerator}),
        # RNNs ask it about CUDA weights, and are warned when torch has no cuDNN.
        (torch.backends.cudnn, {"is_acceptable": _always(False)}),
        (threading.Thread, {"run": _thread_run(modes)}),
    )
    for owner, names in groups:
        for name, value in names.items():
            if hasattr(owner, name):
                yield owner, name, value
    yield from _let_modes_see_inside()


@contextlib.contextmanager
def replaced(modes: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """Put the stand-ins in place, and take them out again in reverse order.

    Args:
        modes: Enters the torch modes of this package, for threads that start inside.
    """
    with contextlib.ExitStack() as undo:
        for owner, name, value in _table(modes):
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:
                undo.callback(delattr, owner, name)  # inherited: what was there shows again
            setattr(owner, name, value)
        yield
