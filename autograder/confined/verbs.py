"""Layer 1, confined: what a suite asks of a student's model beyond calling it. `VERBS` holds the protocol's verbs.

They report; they do not judge. All that they return is a claim, made in a process that student code controls.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from autograder.confined import simgpu
from autograder.confined.optimizer import SGD

__all__ = [
    "VERBS",
    "Watched",
    "assign",
    "calm",
    "calmly",
    "gradients",
    "input_after",
    "modes",
    "seen",
    "sgd",
    "structure",
    "tensors",
    "trace",
    "watch",
]

_MAX_DEPTH = 4


_MODULES_OWN = frozenset(vars(torch.nn.Module()))
"""Attributes that every module has: where torch keeps what is registered."""


def _loose_tensors(owner: object, path: str, depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors kept where torch does not register them: attributes, lists, dicts, and class attributes."""
    if isinstance(owner, torch.Tensor):
        if owner.is_floating_point():
            yield path, owner
        return
    if depth > _MAX_DEPTH:
        return
    items: list[tuple[Any, Any]] = []
    if isinstance(owner, list | tuple):
        items = list(enumerate(owner))
    elif isinstance(owner, dict):
        items = list(owner.items())
    elif isinstance(owner, torch.nn.Module):
        items = [(name, value) for name, value in vars(owner).items() if name not in _MODULES_OWN]
        items += [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False), *owner.named_children()]
        for kind in type(owner).__mro__:
            if not kind.__module__.startswith("torch."):
                items += [(name, value) for name, value in vars(kind).items() if not name.startswith("__")]
    for name, value in items:
        yield from _loose_tensors(value, f"{path}.{name}" if path else str(name), depth + 1)


def _all_tensors(model: torch.nn.Module) -> list[tuple[str, str, torch.Tensor]]:
    found: list[tuple[str, str, torch.Tensor]] = []
    found += [(name, "parameter", tensor) for name, tensor in model.named_parameters()]
    found += [(name, "buffer", tensor) for name, tensor in model.named_buffers()]
    seen = {id(tensor) for _, _, tensor in found}
    for path, tensor in _loose_tensors(model, ""):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found.append((path, "loose", tensor))
    return found


def tensors(model: torch.nn.Module) -> list[list[Any]]:
    """Every floating tensor of the model, as [path, "parameter" | "buffer" | "loose", tensor]; and integer buffers."""
    return [list(entry) for entry in _all_tensors(model)]


def assign(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Copy values into the model's tensors in place, by the paths that `tensors` gave."""
    held = {path: tensor for path, _, tensor in _all_tensors(model)}
    with torch.no_grad():
        for path, value in values.items():
            held[path].copy_(value)


def gradients(
    model: torch.nn.Module,
    images: torch.Tensor,
    cotangent: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Forward, a loss, backward: cross-entropy where labels are given, else the output times `cotangent`, summed."""
    model.zero_grad()
    output = model(images)
    if labels is not None:
        loss = torch.nn.functional.cross_entropy(output, labels)
    else:
        loss = (output * (cotangent if cotangent is not None else 1.0)).sum()
    if not loss.requires_grad:
        return {"output": output, "loss": loss, "grads": None}
    loss.backward()  # type: ignore[no-untyped-call]
    return {"output": output, "loss": loss, "grads": {path: tensor.grad for path, _, tensor in _all_tensors(model)}}


def structure(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Each submodule, the model first: its path, its class's bases inside torch, and the tensors it owns itself."""
    return [
        {
            "path": path,
            "bases": [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__ if _is_torch(kind)],
            "parameters": [name for name, value in module._parameters.items() if value is not None],  # noqa: SLF001
            "buffers": [name for name, value in module._buffers.items() if value is not None],  # noqa: SLF001
        }
        for path, module in model.named_modules()
    ]


def _is_torch(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


_DROPOUTS = {
    getattr(owner, name)
    for owner in (torch, torch.nn.functional)
    for kind in (
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "feature_alpha_dropout",
    )
    for name in (kind, f"{kind}_")  # torch's in-place form
    if hasattr(owner, name)
}


class _Calm(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


def calm(_model: object = None) -> None:
    """From here on, in this child, dropout of every kind hands its input back, so that the rest can be judged."""
    _Calm().__enter__()  # type: ignore[no-untyped-call]  # never left: the child ends with its test


def calmly(model: Callable[[torch.Tensor], Any], images: torch.Tensor) -> Any:
    """The model's answer with dropout taken out for this one call."""
    with _Calm():
        return model(images)


def input_after(model: Callable[[torch.Tensor], Any], images: torch.Tensor) -> torch.Tensor:
    """The images as the model left them."""
    model(images)
    return images


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[list[Any]] = []
        self._depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Only what student code calls itself, not what torch's functions call inside.
        self._depth += 1
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._depth -= 1
        if self._depth == 0 and len(self.operations) < 1000:
            shape = list(result.shape) if isinstance(result, torch.Tensor) else None
            self.operations.append([resolve_name(func) or getattr(func, "__name__", str(func)), shape])
        return result


def trace(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """One forward pass: which torch functions ran with what result shape, and which `torch.nn` layers were called."""
    layers: list[str] = []

    def note(module: torch.nn.Module, _inputs: Any) -> None:
        # a student's subclass of a layer counts as that layer
        bases = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__ if _is_torch(kind))
        layers.append(next(bases))

    recorder = _Recorder()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with recorder:
            output = model(images)
    finally:
        hook.remove()
    return {"output": output, "operations": recorder.operations, "layers": layers}


class Watched(torch.nn.Module):
    """Wraps a model and notes, at each forward, the mode it is in and where its input lives."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[dict[str, Any]] = []

    def forward(self, images: torch.Tensor) -> Any:
        """The inner model's answer."""
        if len(self.seen) < 1000:
            self.seen.append(
                {
                    "training": self.inner.training,
                    "grad": torch.is_grad_enabled(),
                    "device": simgpu.device_of(images),
                    "count": len(images),
                }
            )
        return self.inner(images)


def watch(model: torch.nn.Module) -> Watched:
    """The model, wrapped so that what happens to it can be asked for with `seen`."""
    return Watched(model)


def seen(watched: Watched) -> list[dict[str, Any]]:
    """What a watched model noted, call by call."""
    return watched.seen


def sgd(model: torch.nn.Module, lr: float, momentum: float = 0.0) -> SGD:
    """An optimizer over the model's parameters."""
    return SGD(model.parameters(), lr, momentum)


def modes(model: torch.nn.Module) -> list[bool]:
    """`training` of the model and each of its submodules."""
    return [module.training for module in model.modules()]


VERBS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (tensors, assign, calm, calmly, input_after, gradients, structure, trace, watch, seen, sgd, modes)
}
