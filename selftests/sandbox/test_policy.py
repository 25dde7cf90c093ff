"""The nouns of a policy refuse what their author cannot have meant, and cross to the zygote unchanged."""

import msgspec
import pytest

from autograder.sandbox.policy import LAYERS, Limits, Policy


def test_builds_every_layer_unless_told_otherwise() -> None:
    """A policy that names no layers has all five."""
    assert set(Policy(scratch="/s").layers) == {"descriptors", "rlimits", "uid", "landlock", "seccomp"} == set(LAYERS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scratch": "/s", "layers": ("landlok",)}, "landlok"),
        ({"scratch": "/s", "uid": 0}, "uid 0"),
        ({"scratch": "s"}, "'s'"),
        ({"scratch": "/s", "readable": ("../tests",)}, "'../tests'"),
    ],
)
def test_refuses_a_policy_that_would_confine_less(arguments: dict[str, object], words: str) -> None:
    """A misspelt layer, root's uid or a relative path is an error that names it."""
    with pytest.raises(ValueError, match=words):
        Policy(**arguments)  # type: ignore[arg-type]


def test_crosses_the_wire_unchanged() -> None:
    """The zygote decodes the policy that the grader encoded, checks included."""
    policy = Policy(scratch="/s", readable=("/r",), uid=7, limits=Limits(memory_mb=1), layers=("uid",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy) == policy
    with pytest.raises(msgspec.ValidationError, match="uid 0"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"scratch": "/s", "uid": 0}), type=Policy)
