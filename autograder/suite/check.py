"""Layer 3: comparisons that fail with a message for the student: what was expected, what came, and the likely cause.

Each raises `Failure`, an AssertionError, so that pytest counts it as one. A suite may use plain `assert` as well.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from autograder.text import elide, escape

__all__ = ["Failure", "close", "dtype", "equal", "fail", "matches", "shape", "tensor", "that"]


class Failure(AssertionError):  # pytest's word: a failure is a verdict, an error is a fault
    """A check that the submission did not pass.

    Attributes:
        rationale: What was expected and what came.
        help: The likely cause, or what to do; may be empty.
    """

    def __init__(self, rationale: str, help: str = "") -> None:  # noqa: A002  # check50's word for it
        super().__init__(rationale if not help else f"{rationale}\n\n{help}")
        self.rationale = rationale
        self.help = help


def fail(rationale: str, help: str = "") -> NoReturn:  # noqa: A002
    """Fail the test with this rationale and help."""
    raise Failure(rationale, help)


def that(condition: bool, rationale: str, help: str = "") -> None:  # noqa: A002
    """Fail unless the condition holds."""
    if not condition:
        fail(rationale, help)


def shape(actual: Any, expected: Sequence[int], what: str = "the output", help: str = "") -> None:  # noqa: A002
    """Fail unless `actual` is a tensor of exactly this shape."""
    if not isinstance(actual, torch.Tensor):
        fail(f"Expected {what} to be a tensor of shape {tuple(expected)}, got {_kind(actual)}.", help)
    if tuple(actual.shape) != tuple(expected):
        fail(f"Expected {what} to have shape {tuple(expected)}, got {tuple(actual.shape)}.", help)


def tensor(actual: Any, what: str = "the output") -> torch.Tensor:
    """`actual` itself; fail unless it is a tensor."""
    if not isinstance(actual, torch.Tensor):
        fail(f"Expected {what} to be a tensor, got {_kind(actual)}.")
    return actual


def dtype(actual: Any, expected: torch.dtype = torch.float32, what: str = "the output") -> None:
    """Fail unless `actual` is a tensor of this dtype."""
    if not isinstance(actual, torch.Tensor):
        fail(f"Expected {what} to be a tensor of dtype {expected}, got {_kind(actual)}.")
    if actual.dtype != expected:
        fail(f"Expected {what} to have dtype {expected}, got {actual.dtype}.", "Leave the dtype as the input has it.")


def equal(actual: Any, expected: Any, what: str, help: str = "") -> None:  # noqa: A002
    """Fail unless the two plain values are equal; a tensor equals no plain value."""
    if isinstance(actual, torch.Tensor) or actual != expected:
        fail(f"Expected {what} to be {_shown(expected)}, got {_shown(actual)}.", help)


def matches(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors of one shape agree everywhere within an absolute tolerance, all finite."""
    if actual.shape != expected.shape:
        return False
    difference = (actual.double() - expected.double()).abs()
    # max() of NaN is NaN, and NaN <= tolerance is False: what is not finite never matches
    return not difference.numel() or bool(difference.max() <= tolerance)


def close(
    actual: Any,
    expected: torch.Tensor,
    what: str = "the output",
    *,
    tolerance: float,
    causes: Iterable[tuple[str, Callable[[], torch.Tensor]]] | Mapping[str, Callable[[], torch.Tensor]] = (),
    help: str = "",  # noqa: A002
) -> None:
    """Fail unless `actual` agrees with `expected` everywhere; shape, dtype and finiteness come first.

    Args:
        actual: What the student's code gave.
        expected: The reference, of any floating dtype.
        what: Words for `actual` in the message.
        tolerance: Largest absolute difference allowed.
        causes: Known mistakes: what to say, and what that mistake would have given. The first that matches is named.
        help: What to say when no known mistake matches.
    """
    expected = expected.detach()
    shape(actual, tuple(expected.shape), what)
    if not actual.dtype.is_floating_point:
        fail(f"Expected {what} to have dtype torch.float32, got {actual.dtype}.")
    if not bool(torch.isfinite(actual).all()):
        fail(f"Expected {what} to be finite, got {_not_finite(actual)}.")
    if matches(actual, expected, tolerance):
        return
    pairs = causes.items() if isinstance(causes, Mapping) else causes
    cause = next((words for words, variant in pairs if matches(actual, variant(), tolerance)), "")
    fail(_difference(actual, expected, what), f"Likely cause: {cause}." if cause else help)


def _difference(actual: torch.Tensor, expected: torch.Tensor, what: str) -> str:
    difference = (actual.double() - expected.double()).abs()
    flat = int(difference.argmax())
    where = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), difference.shape))
    here, there = float(actual.reshape(-1)[flat]), float(expected.reshape(-1)[flat])
    place = f" at index {list(where)}" if where else ""
    share = float((difference > 1e-3 * (1 + expected.double().abs())).double().mean())
    return (
        f"Expected {what} to equal the reference; the largest difference is {float(difference.max()):.3g}{place}: "
        f"expected {there:.5g}, got {here:.5g} ({share:.0%} of the values differ)."
    )


def _not_finite(tensor: torch.Tensor) -> str:
    nans, count = int(torch.isnan(tensor).sum()), tensor.numel()
    return f"{nans} NaN and {int(torch.isinf(tensor).sum())} infinite values among {count}"


def _shown(thing: Any) -> str:
    # Escaped: what a student's code returned is text that the student chose.
    if isinstance(thing, bool | int | float):
        return repr(thing)
    if isinstance(thing, str | list | tuple | dict):
        return escape(elide(repr(thing[:200] if isinstance(thing, str) else thing), 200))
    return _kind(thing)


def _kind(thing: Any) -> str:  # noqa: PLR0911  # one line for each kind
    if thing is None:
        return "None (is a `return` missing?)"
    if isinstance(thing, torch.Tensor):
        return f"a tensor of shape {tuple(thing.shape)}"
    if isinstance(thing, list | tuple):
        return f"a list or tuple of {len(thing)} items"
    if isinstance(thing, dict):
        return f"a dict of {len(thing)} items"
    if isinstance(thing, float) and not math.isfinite(thing):
        return f"the number {thing}"
    if isinstance(thing, bool | int | float | str):
        return f"{type(thing).__name__} {_shown(thing)}"
    return f"an object of type {getattr(thing, 'kind', type(thing).__name__)}"
