"""A student's network as this suite holds it: built over there, its tensors told apart by shape, never by name."""

import dataclasses
from typing import Any

import torch
from cnn_reference import LINEAR, REFERENCE, ROLES, Block, Weights, block_output, logits, variants_of

from autograder.errors import StudentRaised
from autograder.suite import check
from autograder.suite.proxy import Handle, OnDevice, Student


@dataclasses.dataclass(frozen=True, eq=False)  # tensors do not compare to one truth
class Held:
    """One tensor that a student's module holds.

    Attributes:
        path: Where it is kept.
        kind: "parameter", "buffer", or "loose": somewhere torch does not see it.
        tensor: Its value.
    """

    path: str
    kind: str
    tensor: torch.Tensor


def held(model: Handle) -> list[Held]:
    """Every tensor the module holds, registered ones first."""
    return [Held(*entry) for entry in model.verb("tensors")]


def build(student: Student, name: str, *args: Any, p: float, **kwargs: Any) -> Handle:
    """`Name(..., p=p)`; without `p` where the student's does not take it, as only the tests of `p` are about that."""
    make = getattr(student, name)
    try:
        model = make(*args, p=p, **kwargs)
    except StudentRaised as error:
        if error.kind != "TypeError" or "'p'" not in str(error):
            raise
        model = make(*args, **kwargs)
    if not isinstance(model, Handle) or not model.is_module:
        check.fail(
            f"Expected `{name}(p={p})` to give an nn.Module, got {getattr(model, 'kind', type(model).__name__)}."
        )
    return model


def layer_name(names: list[str]) -> str:
    """The first of torch's class names, as students write it: "torch.nn.modules.conv.Conv2d" is "nn.Conv2d"."""
    return f"nn.{names[0].rpartition('.')[2]}" if names else ""


def squeezed(shape: Any) -> tuple[int, ...]:
    """A shape without its dimensions of length 1."""
    return tuple(int(length) for length in shape if length != 1)


class Net:
    """A ModuleCNN or a FunctionalCNN."""

    def __init__(self, student: Student, name: str, p: float = 0.0) -> None:
        self.name = name
        self.model = build(student, name, p=p)
        self.roles = find_roles(self.model)

    def weights(self) -> Weights:
        """The values the network holds, by role (float64); those it lacks are absent."""
        found = find_roles(self.model)
        return {role: _as_role(role, entry.tensor) for role, entry in found.items()}

    def need(self) -> None:
        """Fail unless the network holds the tensors without which nothing can be computed."""
        missing = [role for role in ROLES if role not in self.roles and len(ROLES[role]) > 1]
        if missing:
            role = missing[0]
            self._wrong_width(role)
            check.fail(
                f"Your `{self.name}` holds no tensor of shape {ROLES[role]} (the {role}), so its output cannot be compared.",
                "Create every weight in `__init__` and keep it on `self`; what is made anew in `forward` never learns.",
            )

    def _wrong_width(self, role: str) -> None:
        """Say what a linear layer of another width points to."""
        widths = [
            entry.tensor.shape for entry in held(self.model) if entry.tensor.dim() == 2 and 10 in entry.tensor.shape
        ]
        if role == LINEAR and widths:
            features = max(widths[0])
            check.fail(
                f"Your `{self.name}`'s linear layer takes {features} features instead of 512, so its output cannot be compared.",
                "Two 5×5 convolutions without padding, each followed by a 2×2 max-pool, leave 32 × 4 × 4 = 512.",
            )

    def answer(self, batch: torch.Tensor, when: str = "in eval mode") -> torch.Tensor:
        """The network's logits for a batch, in the mode it is in."""
        return logits_of(self.model(batch), len(batch), f"the output of your `{self.name}` {when}")

    def assign(self, weights: Weights) -> Weights:
        """Set the network's tensors in place, wherever they are kept; what it lacks counts as zero.

        Returns:
            The weights as the reference is to use them.
        """
        self.need()
        self.model.verb("assign", {entry.path: self.shaped(role, weights[role]) for role, entry in self.roles.items()})
        return {role: weights[role] if role in self.roles else torch.zeros_like(weights[role]) for role in weights}

    def shaped(self, role: str, value: torch.Tensor) -> torch.Tensor:
        """A role's value in the shape the student keeps it in."""
        shape = tuple(self.roles[role].tensor.shape)
        if role == LINEAR and squeezed(shape) == ROLES[LINEAR][::-1]:
            value = value.T
        return value.float().reshape(shape)


def logits_of(output: Any, count: int, what: str) -> torch.Tensor:
    """The output itself, once it is known to be a tensor of shape (count, 10)."""
    check.shape(output, (count, 10), what)
    return torch.as_tensor(output)


def find_roles(model: Handle) -> dict[str, Held]:
    """Which of a network's tensors plays which role, by its shape; registered ones win over loose ones."""
    found: dict[str, Held] = {}
    for entry in held(model):
        shape = squeezed(entry.tensor.shape)
        for role, expected in ROLES.items():
            fits = shape == squeezed(expected) or (role == LINEAR and shape == expected[::-1])
            if fits and role not in found:
                found[role] = entry
                break
    return found


def _as_role(role: str, tensor: torch.Tensor) -> torch.Tensor:
    if role == LINEAR and squeezed(tensor.shape) == ROLES[LINEAR][::-1]:
        return tensor.reshape(ROLES[LINEAR][::-1]).T.double()
    return tensor.reshape(ROLES[role]).double()


def explain(output: torch.Tensor, batch: torch.Tensor, weights: Weights, right: Any = REFERENCE) -> Any:
    """The network or block, right or with a known mistake, that gives this output; None if there is none.

    A mistake costs points once, where it is judged. Every other test goes on with what the student's network does compute.
    """
    compute = block_output if isinstance(right, Block) else logits
    for variant in variants_of(right):
        expected, margin = compute(variant, batch, weights)
        if check.matches(output, expected, margin):
            return variant
    return None


def judge(output: Any, batch: torch.Tensor, weights: Weights, what: str, right: Any = REFERENCE) -> None:
    """Fail unless the output is the right network's; name the known mistake that gives it, if there is one."""
    compute = block_output if isinstance(right, Block) else logits
    expected, margin = compute(right, batch, weights)
    causes = [
        (
            f"your output matches the reference, but {variant.words}",
            lambda variant=variant: compute(variant, batch, weights)[0],
        )
        for variant in variants_of(right)[1:]
    ]
    check.close(
        output,
        expected,
        what,
        tolerance=margin,
        causes=causes,
        help="It matches none of the well-known mistakes; compare each step of `forward` with the assignment's table.",
    )


# ---- dropout


FALSE_ALARM_SIGMAS = 6.5
"""A binomial count leaves this many standard deviations about once in 10 billion; each run makes under ten such tests."""


def check_rate(kept: int, count: int, p: float, what: str) -> None:
    """Fail unless about `1 - p` of `count` values were kept; a right answer fails with probability below 1e-10."""
    rate = 1 - kept / count
    margin = FALSE_ALARM_SIGMAS * (p * (1 - p) / count) ** 0.5
    if abs(rate - p) <= margin:
        return
    help = "Is `p` passed on to dropout?"  # noqa: A001
    if rate == 0:
        help = "Nothing is dropped in train mode; is dropout applied at all, and with `training=self.training`?"  # noqa: A001
    elif abs(rate - (1 - p)) <= margin:
        help = "`p` is the probability of dropping a value; it is kept with probability 1 - p."  # noqa: A001
    elif abs(rate - 0.5) <= margin:
        help = "It drops half of the values: is `p` passed on, or is dropout's default of 0.5 used?"  # noqa: A001
    check.fail(f"Expected {what} to drop {p:.0%} of the values in train mode, got {rate:.1%} of {count}.", help)


# ---- the GPU


def on_gpu(batch: torch.Tensor) -> OnDevice:
    """A batch that arrives on the GPU."""
    return OnDevice(batch, "cuda")


def check_moved(model: Handle) -> None:
    """Fail unless every registered tensor is on the GPU."""
    for entry in held(model):
        place = getattr(entry.tensor, "claimed_device", "")
        check.that(
            entry.kind == "loose" or place.startswith("cuda"),
            f"Expected every tensor to move with `.to(device)`; `{entry.path}` stayed on {place}.",
        )
