"""The optimizer that students' training functions get: torch's arithmetic, without its slow import."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autograder.confined.optimizer import SGD

ROOT = Path(__file__).resolve().parent.parent.parent

Params = list[torch.nn.Parameter]


def parameters() -> Params:
    """A matrix and a vector to fit, always the same, and one that no gradient reaches."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((4, 3), (4,), (2,))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def loss_of(params: Params) -> torch.Tensor:
    """A loss with curvature, so that each step's gradient differs."""
    matrix, vector, _ = params
    return ((matrix.sum(1) - vector) ** 4).mean() + (vector**2).sum()


def fit(params: Params, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The losses of so many steps."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=False)  # in place, as what an optimizer keeps must not be the gradient itself
        loss = loss_of(params)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.filterwarnings("default")  # what torch._dynamo warns of while it is imported is not ours
def test_each_step_is_torchs_own() -> None:
    """With and without momentum, five steps give the parameters that `torch.optim.SGD` gives, to the bit."""
    for momentum in (0.0, 0.9):
        ours, theirs = parameters(), parameters()
        our_losses = fit(ours, SGD(ours, 0.01, momentum), 5)
        torchs = torch.optim.SGD(theirs, 0.01, momentum, foreach=False)
        assert our_losses == fit(theirs, torchs, 5)
        assert our_losses[-1] < our_losses[0]
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)


def test_it_is_an_optimizer() -> None:
    """Student code that checks for, lists or clears what an optimizer has finds it."""
    params = parameters()
    optimizer = SGD(params, 0.1, 0.9)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    fit(params, optimizer, 2)
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)
    copy = SGD(parameters(), 0.5)
    copy.load_state_dict(optimizer.state_dict())
    assert copy.param_groups[0]["momentum"] == 0.9
    assert len(copy.state) == 2


def test_a_parameter_without_gradient_stays() -> None:
    """What no gradient reached is left alone, momentum or not."""
    params = parameters()
    before = params[2].clone()
    fit(params, SGD(params, 0.1, 0.9), 2)
    assert torch.equal(params[2], before)


def test_a_scheduler_sets_its_rate() -> None:
    """`StepLR` halves the rate that the next step uses."""
    param = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = SGD([param], 0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    for _ in range(3):
        param.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        seen.append(float(param.detach()))
    assert seen == [0.5, 0.25, 0.125]


def test_groups_have_rates_of_their_own() -> None:
    """Parameter groups are stepped each at its own rate."""
    one, other = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = SGD([{"params": [one], "lr": 1.0}, {"params": [other]}], 0.25)
    one.grad = other.grad = torch.ones(1)
    optimizer.step()
    assert (float(one.detach()), float(other.detach())) == (-1.0, -0.25)


def test_a_closure_is_run_with_gradients() -> None:
    """`step(closure)` computes the loss with gradients on, steps by it and hands it back."""
    params = parameters()
    optimizer = SGD(params, 0.01)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = params[0].clone()
    assert optimizer.step(closure) == loss_of([torch.nn.Parameter(before), *parameters()[1:]])
    assert not torch.equal(params[0], before)


_FRESH = """
import sys, torch
from autograder.confined.optimizer import SGD, skip_dynamo
skip_dynamo()
model = torch.nn.Linear(2, 1)
optimizer = SGD(model.parameters(), 0.1, 0.9)
torch.optim.lr_scheduler.StepLR(optimizer, 1)
for _ in range(2):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
optimizer.state_dict()
print("torch._dynamo" in sys.modules)
"""


def test_what_is_skipped_is_the_import_of_dynamo() -> None:
    """A fresh process that builds, schedules and steps ours has not imported `torch._dynamo`."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FRESH],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    assert ran.stdout.strip() == "False"
