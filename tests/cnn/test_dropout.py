"""Part `dropout`: the two dropout modules on their own. 10 points."""

import pytest
import torch
from cnn_student import build, check_rate
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.suite import check
from autograder.suite.proxy import Student

both = pytest.mark.parametrize("name", ["ModuleDropout", "FunctionalDropout"])


def _values(seed: int, *shape: int) -> torch.Tensor:
    """Values away from zero, so that a dropped one can be told."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) + 0.5


@weight(0.5)
@number("3.1")
@tags("dropout", "shape")
@both
def test_shape(student: Student, seed: int, name: str) -> None:
    """Dropout keeps the shape and dtype of what it is given."""
    model = build(student, name, p=0.5)
    for shape in ((7,), (3, 10), (2, 4, 5, 6)):
        output = model(_values(seed, *shape))
        check.shape(output, shape)
        check.dtype(output)


@weight(1)
@number("3.2")
@tags("dropout", "values")
@both
def test_values(student: Student, seed: int, name: str) -> None:
    """In train mode dropout zeroes values and scales the others so that the mean stays; its input is left unchanged."""
    model = build(student, name, p=0.5).train()
    values = _values(seed, 200, 100)
    output = model(values)
    check.shape(output, (200, 100))
    ratio = output.double() / values.double()
    kept = ratio.abs() > 1e-6
    check.that(
        bool(kept.any()),
        "Expected some values to be kept in train mode; all are zero.",
    )
    factors = ratio[kept]
    share = float(kept.double().mean())
    check.that(
        float(factors.max() - factors.min()) < 1e-4 and abs(float(factors.mean()) * share - 1) < 0.06,
        f"Expected what is kept ({share:.0%} of the values) to be scaled by {1 / max(share, 1e-9):.3g}, got factors from "
        f"{float(factors.min()):.4g} to {float(factors.max()):.4g}.",
        "Dropout scales what it keeps by 1 / (1 - p) in train mode, so that nothing need change in eval mode.",
    )
    after = model.verb("input_after", values)
    check.that(
        bool(torch.equal(after, values)),
        f"Expected `{name}` to leave its input unchanged; it wrote into it.",
        "Do not use `inplace=True` here.",
    )


@weight(1)
@number("3.3")
@tags("dropout", "dropout")
@both
def test_eval_mode(student: Student, seed: int, name: str) -> None:
    """In eval mode dropout gives back what it is given, also after train mode."""
    model = build(student, name, p=0.5)
    values = _values(seed, 50, 40)
    for _ in range(2):
        check.close(
            model.eval()(values),
            values.double(),
            "the output in eval mode",
            tolerance=1e-6,
            help="Dropout must be silent in eval mode: `F.dropout(x, self.p, training=self.training)`.",
        )
        model.train()(values)


@weight(1.5)
@number("3.4")
@tags("dropout", "dropout")
@both
def test_rate(student: Student, seed: int, name: str) -> None:
    """In train mode dropout drops at rate p, anew on every call."""
    values = _values(seed, 100, 100)
    for p in (0.5, 0.2):
        model = build(student, name, p=p).train()
        output, again = model(values), model(values)
        check.shape(output, (100, 100))
        check_rate(int((output != 0).sum()), output.numel(), p, f"your `{name}(p={p})`")
        check.that(
            not bool(torch.equal(output, again)),
            "Expected other values to be dropped on each call; the same ones were.",
            "Is the generator seeded in `forward`?",
        )


@weight(1)
@number("3.5")
@tags("dropout", "style")
def test_module_style(student: Student, seed: int) -> None:
    """ModuleDropout goes through nn.Dropout."""
    ran = build(student, "ModuleDropout", p=0.5).train().verb("trace", _values(seed, 4, 4))
    check.that(
        any(".dropout." in layer for layer in ran["layers"]),
        f"Expected `forward` to call an nn.Dropout layer; it called {_listed(ran['layers'][1:])}.",
        "Make `nn.Dropout(p)` in `__init__` and call it in `forward`.",
    )


@weight(1)
@number("3.6")
@tags("dropout", "style")
def test_functional_style(student: Student, seed: int) -> None:
    """FunctionalDropout goes through F.dropout, without an nn.Dropout."""
    model = build(student, "FunctionalDropout", p=0.5).train()
    ran = model.verb("trace", _values(seed, 4, 4))
    owned = [base for part in model.verb("structure") for base in part["bases"]]
    layers = [name for name in (*ran["layers"], *owned) if ".dropout." in name]
    check.that(not layers, f"Expected no nn.Dropout in functional style; there is `{layers[0] if layers else ''}`.")
    names = [operation for operation, _ in ran["operations"]]
    check.that(
        any(operation.rsplit(".", 1)[-1] == "dropout" for operation in names),
        f"Expected `forward` to call `F.dropout`; it called {_listed(names)}.",
        "Call `F.dropout(x, self.p, training=self.training)`.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:5]) or "nothing"
