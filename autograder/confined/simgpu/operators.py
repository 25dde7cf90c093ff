"""Layer 1, confined: the device rules of operators, asked by modes.py when one operator sees tensors of both sides."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from autograder.confined.simgpu.sides import CPU, CUDA, EITHER, mark, same_device_error, side_of

__all__ = ["flat_tensors", "settle_mixed"]

# Copies cross devices; the others only read metadata or, as pack_padded_sequence does, want one argument on the CPU.
# Their first result is where their first argument is.
_CROSSING = frozenset(
    {
        "copy_",
        "_foreach_copy_",
        "_has_compatible_shallow_copy_type",
        "_pack_padded_sequence",
        "is_same_size",
        "is_set_to",
        "result_type",
    }
)
_INDEXING = frozenset({"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"})
# On a GPU a 0-dimensional CPU tensor may stand where a number may. These have no such place: every tensor counts.
_STRICT = frozenset({"stack", "cat", "equal"})


class _Rule(NamedTuple):
    name: str
    written: frozenset[int | str]  # positions, or names of keyword-only arguments, that the operator writes to


@functools.cache
def _rule(func: Any) -> _Rule:
    schema = getattr(func, "_schema", None)
    if schema is None:
        return _Rule(str(func), frozenset())
    written = {
        argument.name if argument.kwarg_only else position
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    return _Rule(schema.name.rpartition("::")[2], frozenset(written))


def flat_tensors(*groups: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or results, in order, also those in lists and tuples."""
    for group in groups:
        if isinstance(group, torch.Tensor):
            yield group
        elif isinstance(group, list | tuple):
            yield from flat_tensors(*group)


def settle_mixed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[int, str] | str:
    """Decide about an operator that saw CUDA tensors beside others, as a GPU would.

    Returns:
        The side of all results, or a side for some of them by position (the others keep the side of their memory).

    Raises:
        RuntimeError: A GPU would refuse these tensors together.
    """
    rule = _rule(func)
    if rule.name.startswith(("_foreach_", "_fused_", "_amp_foreach_")) and rule.name not in _CROSSING:
        return _settle_columns(rule, args, kwargs)
    for tensor in flat_tensors(args, list(kwargs.values())):
        if side_of(tensor) == EITHER:
            mark(tensor, CUDA)
    if rule.name in _CROSSING:
        return {0: side_of(args[0])} if isinstance(args[0], torch.Tensor) else {}
    if rule.name in _INDEXING:
        return _settle_indexing(rule, args)
    written = [argument for place, argument in _placed(args, kwargs) if place in rule.written]
    _check(rule.name, list(flat_tensors(args, list(kwargs.values()))), list(flat_tensors(written)))
    return CUDA


def _placed(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(args)
    yield from kwargs.items()


def _check(name: str, tensors: list[torch.Tensor], written: list[torch.Tensor]) -> None:
    """Raise torch's error if a CPU tensor stands beside a CUDA tensor where a GPU does not allow it."""
    on_cuda = [tensor for tensor in tensors if side_of(tensor) == CUDA]
    on_cpu = [
        tensor
        for tensor in tensors
        if side_of(tensor) == CPU
        and (tensor.dim() > 0 or name in _STRICT or any(tensor is target for target in written))
    ]
    if on_cuda and on_cpu:
        raise same_device_error(name, on_cuda, on_cpu)


def _settle_indexing(rule: _Rule, args: Sequence[Any]) -> str:
    """`x[i]` and `x[i] = y`: CPU indices go with any `x`, CUDA indices with a CUDA `x` alone."""
    target, indices, values = args[0], list(flat_tensors(args[1])), list(flat_tensors(args[2:]))
    if side_of(target) == CPU and any(side_of(index) == CUDA for index in indices):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    foreign = [value for value in values if side_of(value) != side_of(target) and value.dim() > 0]
    if foreign:
        pair = ([target], foreign) if side_of(target) == CUDA else (foreign, [target])
        raise same_device_error(rule.name, *pair)
    return side_of(target)


def _settle_columns(rule: _Rule, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[int, str]:
    """An operator over lists works on the first tensors of all lists, then on the second ones: check each alone."""
    lists = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, list | tuple)]
    single = list(flat_tensors([argument for argument in args if isinstance(argument, torch.Tensor)]))
    sides: dict[int, str] = {}
    for position in range(max((len(items) for items in lists), default=0)):
        column = [*flat_tensors([items[position] for items in lists if position < len(items)]), *single]
        if any(side_of(tensor) == CUDA for tensor in column):
            for tensor in column:
                if side_of(tensor) == EITHER:
                    mark(tensor, CUDA)
            _check(rule.name, column, column[:1] if 0 in rule.written else [])
            sides[position] = CUDA
    return sides
