"""The checks: each fails for what it says and for nothing else, in words a student can act on."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from autograder.suite import check
from autograder.suite.check import Failure

NAN, INF = float("nan"), float("inf")


def words(failing: Callable[[], object]) -> str:
    """The message of a check that must fail."""
    with pytest.raises(Failure) as caught:
        failing()
    assert isinstance(caught.value, AssertionError)
    assert caught.value.rationale in str(caught.value)
    return str(caught.value)


def test_a_failure_holds_what_came_and_what_to_do() -> None:
    """A failure keeps its rationale and help apart, and its text holds both, a blank line between."""
    with pytest.raises(Failure) as caught:
        check.fail("Expected A, got B.", "Do C.")
    assert (caught.value.rationale, caught.value.help) == ("Expected A, got B.", "Do C.")
    assert str(caught.value) == "Expected A, got B.\n\nDo C."
    assert words(lambda: check.fail("Only this.")) == "Only this."


def test_that_fails_unless_its_condition_holds() -> None:
    """`that` passes what is true and fails what is not."""
    check.that(True, "never said")
    assert words(lambda: check.that(False, "Not so.", "Try.")) == "Not so.\n\nTry."


NO_TENSORS: list[tuple[Any, str]] = [
    (None, "None (is a `return` missing?)"),
    ([1, 2], "a list or tuple of 2 items"),
    ((1,), "a list or tuple of 1 items"),
    ({"a": 1}, "a dict of 1 items"),
    (3, "int 3"),
    (True, "bool True"),
    (2.5, "float 2.5"),
    (NAN, "the number nan"),
    ("x", "str 'x'"),
    (object(), "an object of type object"),
]


@pytest.mark.parametrize(("actual", "kind"), NO_TENSORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["shape", "close", "dtype"])
def test_what_is_no_tensor_fails_and_says_what_it_is(name: str, actual: Any, kind: str) -> None:
    """None, lists, numbers and objects in a tensor's place are the student's failure, told by kind."""
    checks: dict[str, Callable[[], object]] = {
        "shape": lambda: check.shape(actual, (2, 3), "the logits"),
        "close": lambda: check.close(actual, torch.zeros(2, 3), "the logits", tolerance=1),
        "dtype": lambda: check.dtype(actual, torch.float32, "the logits"),
    }
    message = words(checks[name])
    assert message.startswith("Expected the logits to be a tensor of ")
    assert message.endswith(f", got {kind}.")


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (), (0, 3)])
def test_a_wrong_shape_is_told_with_both(shape: tuple[int, ...]) -> None:
    """A shape that is not exactly the expected one fails, with both shapes, in `shape` and in `close`."""
    wanted = f"Expected the output to have shape (2, 3), got {shape}."
    assert words(lambda: check.shape(torch.zeros(shape), (2, 3))) == wanted
    assert words(lambda: check.close(torch.zeros(shape), torch.zeros(2, 3), tolerance=9)) == wanted
    check.shape(torch.zeros(2, 3), [2, 3])


def test_a_wrong_dtype_is_told_with_both() -> None:
    """A dtype that differs fails with both; integers and complex numbers never count as close."""
    check.dtype(torch.zeros(1))
    assert "dtype torch.float32, got torch.float64" in words(lambda: check.dtype(torch.zeros(1).double()))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        actual = torch.zeros(1, dtype=dtype)
        assert f"got {dtype}" in words(lambda actual=actual: check.close(actual, torch.zeros(1), tolerance=1))  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_close_passes_in_every_float_dtype(dtype: torch.dtype) -> None:
    """Values within the tolerance pass, whatever the precision of either side; empty tensors and single values too."""
    actual = torch.tensor([[1.0, -2.0]], dtype=dtype)
    check.close(actual, torch.tensor([[1.0 + 1e-6, -2.0]], dtype=torch.float64), tolerance=1e-5)
    check.close(actual[:0], torch.zeros(0, 2), tolerance=0)
    check.close(actual[0, 0], torch.tensor(1.0), tolerance=0)


def test_the_tolerance_is_absolute_and_inclusive() -> None:
    """A difference of exactly the tolerance passes, and one above it fails, on either side and in a single value."""
    expected = torch.tensor([100.0, 0.0])
    check.close(expected + 0.5, expected, tolerance=0.5)
    for offset in (0.75, -0.75, torch.tensor([0.0, 0.75])):
        words(lambda offset=offset: check.close(expected + offset, expected, tolerance=0.5))  # type: ignore[misc]


def test_a_difference_is_told_with_its_size_and_place() -> None:
    """The largest difference, its index, both values there and the share of values that differ are told."""
    expected = torch.zeros(2, 3, 4)
    actual = expected.clone()
    actual[0, 1, 2], actual[1, 2, 3] = 0.5, -2.0
    message = words(lambda: check.close(actual, expected, "the logits", tolerance=0.1, help="Look again."))
    assert "the logits" in message
    assert "the largest difference is 2 at index [1, 2, 3]: expected 0, got -2" in message
    assert f"({2 / 24:.0%} of the values differ)" in message
    assert message.endswith("\n\nLook again.")
    assert "difference is 1: expected 1, got 2" in words(
        lambda: check.close(torch.tensor(2.0), torch.tensor(1.0), tolerance=0.5)
    )


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    """One NaN or infinity fails at any tolerance, even where the reference has the same."""
    actual = torch.tensor([1.0, bad, 2.0])
    message = words(lambda: check.close(actual, actual, tolerance=math.inf))
    assert ("1 NaN and 0 infinite" if math.isnan(bad) else "0 NaN and 1 infinite") in message
    assert "among 3" in message
    assert not check.matches(actual, torch.tensor([1.0, NAN, 2.0]), math.inf)


def test_a_reference_with_nan_matches_nothing() -> None:
    """A reference that is NaN somewhere, a fault of the suite, never passes a submission."""
    words(lambda: check.close(torch.zeros(2), torch.tensor([0.0, NAN]), tolerance=1e9))
    assert not check.matches(torch.zeros(2), torch.tensor([0.0, NAN]), 1e9)


def test_matching_needs_one_shape() -> None:
    """Tensors that only broadcast to each other do not match."""
    assert check.matches(torch.zeros(2, 1), torch.zeros(2, 1), 0)
    assert not check.matches(torch.zeros(2, 1), torch.zeros(2, 3), 1)
    assert not check.matches(torch.zeros(2), torch.ones(2), 0.5)
    assert check.matches(torch.zeros(0), torch.zeros(0), 0)


def test_the_first_known_cause_that_fits_is_named() -> None:
    """A cause is named if what it would have given is what came; the help is for when none fits."""
    expected, actual = torch.zeros(3), torch.full((3,), 2.0)
    causes = {
        "of another shape": lambda: torch.full((1,), 2.0),
        "off by one": lambda: torch.ones(3),
        "off by two": lambda: torch.full((3,), 2.0),
        "off by two again": lambda: torch.full((3,), 2.0),
    }
    for form in (causes, list(causes.items()), iter(causes.items())):
        message = words(lambda form=form: check.close(actual, expected, tolerance=0.1, causes=form, help="H."))  # type: ignore[misc]
        assert message.endswith("\n\nLikely cause: off by two.")
    assert words(lambda: check.close(actual + 1, expected, tolerance=0.1, causes=causes, help="H.")).endswith("\n\nH.")


def test_causes_cost_nothing_where_the_answer_is_right() -> None:
    """What a mistake would give is computed only once the answer is known to be wrong."""
    check.close(torch.zeros(1), torch.zeros(1), tolerance=0, causes=[("x", lambda: pytest.fail("computed"))])


def test_a_reference_under_autograd_is_compared_as_it_is() -> None:
    """A reference that needs gradients is compared without a warning."""
    words(lambda: check.close(torch.zeros(2), torch.ones(2, requires_grad=True), tolerance=0.1))


@pytest.mark.parametrize(
    ("actual", "expected", "told"),
    [
        (None, 3, "to be 3, got None (is a `return` missing?)."),
        ([1, 2], [1, 3], r"to be \[1, 3\], got \[1, 2\]."),
        ("loose", "parameter", "to be 'parameter', got 'loose'."),
        (NAN, NAN, "to be nan, got nan."),
        (torch.zeros(2), 0, "to be 0, got a tensor of shape (2,)."),
        (torch.tensor(3), 3, "to be 3, got a tensor of shape ()."),
        ("x" * 500, "y", "characters left out"),
        ("*[a](http://b)*<b>", "y", r"\*\[a\](http://b)\*&lt;b&gt;"),
    ],
    ids=str,
)
def test_unequal_values_are_told_with_both(actual: Any, expected: Any, told: str) -> None:
    """What differs is told with both values, cut short, and with no markup that the student's value could bring in."""
    assert told in words(lambda: check.equal(actual, expected, "the count"))


def test_equal_values_pass() -> None:
    """Plain values that Python calls equal pass."""
    for value in (3, [1, {"a": None}], "x", None, True):
        check.equal(value, value, "it")
