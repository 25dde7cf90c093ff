"""Layer 1, confined: the optimizer that students' training functions are handed.

A plain stochastic gradient descent, and a true `torch.optim.Optimizer`. The ones that torch ships import the whole of
`torch._dynamo` when the first is constructed, a second or more in which nothing is graded. What calls for that is a set
of wrappers that keep `torch.compile` away from the optimizer's own methods; in here nothing is ever compiled
(`TORCHDYNAMO_DISABLE=1`), so the methods themselves are what those wrappers would return. A student who constructs
another optimizer gets torch's own, import and all.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SGD", "skip_dynamo"]


def skip_dynamo() -> None:
    """Answer for `torch._dynamo` what the `_disable_dynamo` wrappers on `Optimizer` ask of it: the method itself."""
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            # setattr with a string, as a plain assignment in a class body would have its name mangled
            setattr(inner, "__dynamo_disable", inner)


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent, `p -= lr * grad`, with classical momentum: `torch.optim.SGD`, fewer options.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Learning rate.
        momentum: Momentum factor; 0 for none.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if group["momentum"]:
                    state = self.state[parameter]
                    if "momentum_buffer" in state:
                        state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                    else:
                        state["momentum_buffer"] = update.clone()
                    update = state["momentum_buffer"]
                parameter.add_(update, alpha=-group["lr"])
        return loss
